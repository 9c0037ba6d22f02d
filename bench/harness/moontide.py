"""Moontide, set up for a workload, run, and ended when its handlers have told their times."""

import os
import re
import secrets
import shutil
import signal
import subprocess
import time

from .process import Failed, Process, wait_until
from .settings import PLACE, ROOT

HANDLERS = ROOT / "bench/project/handlers"
TOLD = re.compile(r"bench: (\d+) (\d+) (\d+)(?: latency (\d+) (\d+) (\d+) \d+)?")


def through(setup, topics):
    """A consumer that emits what the handler gets."""
    listeners = "\n".join(f'''[[listeners]]
name = "{topic}"
topic = "{topic}"
consumer = "copies"
handler = "copies"
subscription = {{ fromBeginning = true }}
''' for topic in topics)
    return f'''[consumers.copies]
groupId = "${{BENCH_GROUP}}-copies"
{setup.through}

{listeners}'''


def config(setup, topics, handlers, out=""):
    """The file as a user would write it."""
    before = ""
    if setup.through is not None:
        before, topics = through(setup, topics), [out]
    listeners = "\n".join(f'''[[listeners]]
name = "{topic}"
topic = "{topic}"
handler = "{setup.handler}"
subscription = {{ fromBeginning = true }}
{setup.listener}
''' for topic in topics)
    producer = f"\n[producerConfig]\n{setup.producer}\n" if setup.producer else ""
    client = f"\n[http.client]\n{setup.http}\n" if setup.http else ""
    if "BENCH_SQL" in os.environ:
        client += f'\n[sql.bench]\nurl = "${{BENCH_SQL}}"\n{setup.sql}\n'
    return f'''[kafkaConfig]
brokers = ["${{BENCH_BROKER}}"]

[consumerConfig]
groupId = "${{BENCH_GROUP}}"
{setup.consumer}
{producer}{client}
{before}
{listeners}
[lua]
handlers = "{handlers}"
workers = {setup.workers}
cpath = "{PLACE}/tools/?.so"

[log]
format = "json"

[daemon]
runtimeDirectory = "."
stateDirectory = "."
'''


class Daemon(Process):
    def __init__(self, binary, broker, setup, topics, records, out=""):
        folder = PLACE / "moontide"
        folder.mkdir(parents=True, exist_ok=True)
        self.config = folder / "config.toml"
        handlers = HANDLERS
        if setup.reload_ms:
            handlers = folder / "handlers"
            shutil.copytree(HANDLERS, handlers, dirs_exist_ok=True)
        self.config.write_text(config(setup, topics, handlers, out))
        self.handler = handlers / f"{setup.handler}.lua"
        self.reload_s = setup.reload_ms / 1000
        self.reload_at = time.monotonic() + self.reload_s
        self.workers = setup.workers
        self.records = records
        self.environment = {"BENCH_BROKER": broker, "BENCH_GROUP": f"bench-{secrets.token_hex(4)}",
                            "BENCH_RECORDS": records // setup.workers, "BENCH_WAIT": setup.wait, "BENCH_OUT": out}
        super().__init__([binary, "run", "--config", self.config], folder / "log", self.environment)

    def logged(self, text):
        if self.ended():
            raise Failed(f"Moontide ended with {self.code}: {self.text().strip().splitlines()[-1][:300]}")
        return text in self.text()

    def measure(self, seconds):
        """The figure of a whole run: from the first message of any VM to the last of all."""
        try:
            wait_until("all messages are handled", seconds, self._all_handled)
        finally:
            self.end()
        told = self._told()
        ms = max(int(one[2]) for one in told) - min(int(one[1]) for one in told)
        latency = tuple(int(figure) for figure in told[0][3:6]) if told[0][3] else None
        return self.figure(self.records, ms, latency)

    def _all_handled(self):
        if self.reload_s and time.monotonic() >= self.reload_at:
            # Before the daemon is ready nothing answers the signal but its default.
            if self.logged('"ready"'):
                with open(self.handler, "a") as handler:
                    handler.write("-- another line\n")
                os.kill(self.pid, signal.SIGHUP)
            self.reload_at = time.monotonic() + self.reload_s
        return self._told() is not None

    def _told(self):
        # The end is looked for before the text is read: what it said last is in the text then.
        ended = self.ended()
        told = TOLD.findall(self.text())
        if len(told) >= self.workers:
            return told
        if ended:
            self.logged("")
        return None


def start_up(binary, broker, setup, topics):
    """Milliseconds of `check`, and from the start until the daemon is ready."""
    daemon = Daemon(binary, broker, setup, topics, 1)
    began = time.monotonic()
    try:
        wait_until("it runs", 30, lambda: daemon.logged('"ready"'))
        ready = time.monotonic() - began
    finally:
        daemon.end()
    began = time.monotonic()
    checked = subprocess.run([binary, "check", "--config", daemon.config], capture_output=True,
                             env={name: str(value) for name, value in daemon.environment.items()})
    if checked.returncode:
        raise Failed(checked.stderr.decode().strip())
    return (time.monotonic() - began) * 1000, ready * 1000
