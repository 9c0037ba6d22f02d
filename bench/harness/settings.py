"""What a call says: NAME=VALUE words, and where things are."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
# Everything that is fetched, built or written while measuring.
PLACE = TARGET / "bench"
# The page of a whole run.
PAGE = ROOT / "docs/performance.md"

KNOWN = {
    "QUICK": "1 for a small subset of small runs, to see that everything works",
    "ROUNDS": "turns of each program, 5",
    "ONLY": "names of workloads, with commas",
    "PEERS": "names of peers, with commas; empty for none",
    "SCALE": "a factor on the number of messages",
    "LOSS": "percent of CPU time that bench/compare lets a workload lose; without it only the rate is judged, by 10",
    "MOONTIDE": "a binary that is built already",
    "OUT": "the page to write",
    "ADD": "1 to put what ONLY names into the page of the last whole run",
    "HOUR": "busy: only the goals are kept, as the columns of a busy hour",
}


def words(arguments):
    """The NAME=VALUE words of the command line, and the rest."""
    said, rest = {}, []
    for word in arguments:
        name, equals, value = word.partition("=")
        if not equals:
            rest.append(word)
        elif name in KNOWN:
            said[name] = value
        else:
            sys.exit(f"`{name}` is none of " + ", ".join(f"{name} ({what})" for name, what in KNOWN.items()))
    return said, rest


class Settings:
    def __init__(self, said):
        self.quick = said.get("QUICK", "0") not in ("", "0")
        self.rounds = int(said.get("ROUNDS", 1 if self.quick else 5))
        self.busy = said.get("HOUR") == "busy"
        self.scale = float(said.get("SCALE", 0.025 if self.quick else 1))
        self.loss = float(said["LOSS"]) if said.get("LOSS") else None
        self.only = said["ONLY"].split(",") if "ONLY" in said else None
        self.peers = [name for name in said["PEERS"].split(",") if name] if "PEERS" in said else None
        self.moontide = Path(said["MOONTIDE"]).resolve() if "MOONTIDE" in said else None
        # What was measured in part must not replace the page of a whole run.
        self.adds = said.get("ADD", "0") not in ("", "0")
        if self.adds and (self.only is None or self.quick or self.scale != 1 or "OUT" in said):
            sys.exit("ADD goes with ONLY, and with neither QUICK, SCALE nor OUT")
        self.is_whole = not (self.quick or self.only or self.scale != 1 or self.peers is not None or "OUT" in said)
        default = PAGE if self.is_whole or self.adds else PLACE / "performance.md"
        self.page = Path(said["OUT"]).resolve() if "OUT" in said else default
        # A run that takes longer gives no figure.
        self.seconds_max = 60 if self.quick else 300
        # Runs that do not count, on a broker that has just started.
        self.warm_runs = 1 if self.quick else 8
        # Seconds of a latency run that do not count, and that do; and of looking at an idle process.
        self.warm_s, self.latency_s, self.idle_s = (5, 5, 3) if self.quick else (6, 12, 15)
