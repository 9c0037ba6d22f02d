"""What machine and which versions the figures belong to."""

import os
import platform
import re
import subprocess

from .settings import ROOT


def first_line(*command):
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    except OSError:
        return "missing"
    return (done.stdout or done.stderr).strip().partition("\n")[0]


def proc(file, name):
    with open(f"/proc/{file}") as text:
        found = re.search(rf"^{name}\s*:\s*(.*)$", text.read(), re.MULTILINE)
    return found.group(1) if found else "unknown"


def facts(binary, library, broker, load):
    memory = int(proc("meminfo", "MemTotal").split()[0]) / 2**20
    return {
        "processor": f"{proc('cpuinfo', 'model name')}, {os.cpu_count()} cores",
        "memory": f"{memory:.0f} GiB",
        "system": f"{platform.freedesktop_os_release().get('PRETTY_NAME', '')}, Linux {platform.release()}",
        "load when it began": f"{load:.2f}" + (" (**busy: do not trust the figures**)" if load > 1 else ""),
        "Moontide": f"{first_line(binary, '--version')}, revision {first_line('git', 'describe', '--always', '--dirty')}",
        "librdkafka": library.version(),
        "Kafka": f"{broker.version}, one broker on the same machine, heap of 768 MiB",
        "Java": first_line("java", "-version"),
        "Node.js": first_line("node", "--version"),
        "Go": first_line("go", "version"),
        "Python": first_line("python3", "--version"),
        "C compiler": first_line("cc", "--version"),
    }
