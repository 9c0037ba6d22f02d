"""The other programs: what they need, made ready once, and run by their contract.

A peer is a folder of bench/peers: `peer.toml` says what it is and how it is tuned, `prepare FOLDER` fetches and builds
into target/bench, and `run BROKER TOPIC GROUP RECORDS TASK` prints `messages ms`, measured from the first message to the
last in its own process, and for the task `latency` a line `latency p50 p99 p99.9 count` in µs. A task that writes has its
topic in BENCH_OUT; its last message is the last acknowledged one.
"""

import hashlib
import re
import secrets
import shutil
import tomllib

from . import process
from .process import Failed, Process
from .settings import PLACE, ROOT

FOLDER = ROOT / "bench/peers"
TOLD = re.compile(r"^(\d+) (\d+)$", re.MULTILINE)
LATENCY = re.compile(r"^latency (\d+) (\d+) (\d+) \d+$", re.MULTILINE)


class Peer:
    def __init__(self, name):
        self.name = name
        self.folder = FOLDER / name
        about = tomllib.loads((self.folder / "peer.toml").read_text())
        self.title = about["title"]
        self.version = about["version"]
        self.tuning = about["tuning"]
        self.tasks = about["tasks"]
        self.records = about["records"]
        # Of tasks that it does far more slowly.
        self.records_of = about.get("records_of", {})
        self.needs = about["needs"]
        self.prepared = PLACE / "peers" / name
        # Why it cannot be measured.
        self.missing = None

    def prepare(self, library):
        """Fetches and builds, unless that was done from the same sources before."""
        lacks = [need for need in self.needs if need != "c-library" and not shutil.which(need)]
        if lacks:
            raise Failed(f"this machine has no {', '.join(lacks)}")
        if "c-library" in self.needs and library is None:
            raise Failed("the librdkafka of a release build is not there: `cargo build --release` first")
        digest = hashlib.sha256(repr(library).encode())
        sources = [file for file in sorted(self.folder.rglob("*")) if file.is_file()]
        for file in [*sources, *sorted((ROOT / "bench/tools").glob("*.h"))]:
            digest.update(file.name.encode() + file.read_bytes())
        stamp = self.prepared / ".sources"
        if stamp.exists() and stamp.read_text() == digest.hexdigest():
            return
        shutil.rmtree(self.prepared, ignore_errors=True)
        self.prepared.mkdir(parents=True)
        process.run([self.folder / "prepare", self.prepared], PLACE / "peers" / f"{self.name}.log",
                    env=library.environment() if library else None)
        stamp.write_text(digest.hexdigest())

    def start(self, broker, topic, records, task, out=""):
        return Process([self.folder / "run", broker, topic, f"bench-{secrets.token_hex(4)}", records, task],
                       PLACE / "peers" / f"{self.name}.run.log", {"BENCH_PREPARED": self.prepared, "BENCH_OUT": out},
                       self.prepared)

    def finish(self, running, seconds):
        running.wait(seconds)
        text = running.text()
        told = TOLD.findall(text)
        if running.code or not told:
            last = (text.strip().splitlines() or ["it said nothing"])[-1]
            raise Failed(f"ended with {running.code}: {last[:200]}")
        latency = LATENCY.search(text)
        return running.figure(int(told[-1][0]), int(told[-1][1]),
                              tuple(int(figure) for figure in latency.groups()) if latency else None)


def all_peers():
    return {entry.name: Peer(entry.name) for entry in sorted(FOLDER.iterdir()) if (entry / "peer.toml").exists()}
