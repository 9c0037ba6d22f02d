"""One measured process: started, waited for under a deadline, and ended together with what it started."""

import atexit
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass


class Failed(Exception):
    """Why a run gave no figure."""


@dataclass
class Figure:
    messages: int
    ms: float
    cpu_s: float
    memory_mib: float
    # p50, p99 and p99.9 in µs.
    latency: tuple | None = None

    @property
    def rate(self):
        return self.messages * 1000 / max(self.ms, 1)


class Process:
    """A process in a session of its own, so that ending it ends its children; `usage` is known once it has ended."""

    running = set()

    def __init__(self, command, log, environment=None, folder=None):
        self.log = log
        with open(log, "wb") as output:
            self.popen = subprocess.Popen(
                [str(word) for word in command], stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                cwd=folder, start_new_session=True, env={**os.environ, **{k: str(v) for k, v in (environment or {}).items()}})
        self.pid = self.popen.pid
        self.code = None
        self.usage = None
        Process.running.add(self)

    def text(self):
        return self.log.read_text(errors="replace")

    def ended(self):
        """Whether it has ended by itself."""
        if self.code is None:
            pid, status, usage = os.wait4(self.pid, os.WNOHANG)
            if pid:
                self._gone(status, usage)
        return self.code is not None

    def wait(self, seconds):
        deadline = time.monotonic() + seconds
        while not self.ended():
            if time.monotonic() > deadline:
                self.end()
                raise Failed(f"not done after {seconds} s")
            time.sleep(0.01)

    def end(self, seconds=10):
        """Asks it to end, and makes it when it does not."""
        deadline = time.monotonic() + seconds
        self._signal(signal.SIGTERM)
        while not self.ended():
            if time.monotonic() > deadline:
                self._signal(signal.SIGKILL)
            time.sleep(0.01)

    def _signal(self, number):
        if self.code is None:
            os.killpg(self.pid, number)

    def _gone(self, status, usage):
        self.code = os.waitstatus_to_exitcode(status)
        self.popen.returncode = self.code
        self.usage = usage
        Process.running.discard(self)

    def figure(self, messages, ms, latency=None):
        usage = self.usage
        return Figure(messages, ms, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, latency)

    def members(self):
        """The process and its children, by /proc."""
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    with open(f"/proc/{entry}/stat") as stat:
                        fields = stat.read().rpartition(")")[2].split()
                except OSError:
                    continue
                if int(fields[3]) == self.pid:
                    yield int(entry), fields

    def cpu_s(self):
        ticks = os.sysconf("SC_CLK_TCK")
        return sum(int(fields[11]) + int(fields[12]) for _, fields in self.members()) / ticks

    def resident_mib(self):
        page = os.sysconf("SC_PAGE_SIZE")
        return sum(int(fields[21]) * page for _, fields in self.members()) / 2**20


def end_when_told():
    """A signal ends the run as an error does: nothing that was started is left behind."""
    atexit.register(end_all)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: sys.exit(128 + number))


def end_all():
    for process in list(Process.running):
        process.end(3)


def wait_until(what, seconds, true):
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise Failed(f"waited in vain for {seconds} s: {what}")
        time.sleep(0.01)


def run(command, log, **options):
    """A step of the preparation; its output is kept in `log`."""
    with open(log, "wb") as output:
        code = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=output,
                              stderr=subprocess.STDOUT, **options).returncode
    if code:
        lines = log.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
        raise Failed(f"{lines[-1].strip()[:200]} (all of it: {log})")
