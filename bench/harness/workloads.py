"""The table of workloads.toml, checked."""

import tomllib
from dataclasses import dataclass, field
from pathlib import Path

TABLE = Path(__file__).resolve().parents[1] / "workloads.toml"


@dataclass
class Topic:
    name: str
    records: int = 2_000_000
    partitions: int = 1
    size: int = 200
    # Distinct keys; 0 for messages without one.
    keys: int = 0
    codec: str = "none"
    # "random" bytes, or "json".
    kind: str = "random"
    # How many topics of that form share the records.
    topics: int = 1

    def names(self):
        return [self.name] if self.topics == 1 else [f"{self.name}-{number}" for number in range(self.topics)]


@dataclass
class Moontide:
    """How Moontide is set up for a workload."""
    handler: str
    name: str = "Moontide"
    topic: str | None = None
    workers: int = 1
    # At most so many messages of the topic, where it is slower than the others.
    records: int | None = None
    # Lines of TOML, as a user would write them.
    listener: str = ""
    consumer: str = ""
    producer: str = ""
    http: str = ""
    sql: str = ""
    # Lines of TOML of a consumer that emits every message to another topic first; the handler has those of that topic.
    through: str | None = None
    # The p99 that a latency may have, in ms.
    p99_max: float = 0
    # Whether it writes to the topic that the workload gives it.
    writes: bool = True
    # How often a handler is changed on disk and a reload asked for, in ms.
    reload_ms: int = 0
    # What a handler should do, where it can do several things.
    wait: str = ""
    # What it is called where memory is compared, and how many MB it may take.
    memory: str = ""
    memory_max: float = 0

    def is_exactly_once(self):
        return "exactlyOnce = true" in self.consumer


@dataclass
class Workload:
    name: str
    title: str
    topic: str
    subject: Moontide
    # "rate", "latency", "idle", "backlog" or "start"
    kind: str = "rate"
    # Whether the programs need the HTTP server, whose address is in BENCH_HTTP.
    http: bool = False
    # Whether they write each message to PostgreSQL, whose address is in BENCH_SQL.
    sql: bool = False
    # Partitions of a topic that each run gets anew, to write to; 0 for none.
    out: int = 0
    # What the peers are asked for; those that know no such task are not asked.
    task: str = "read"
    peers: list = field(default_factory=list)
    variants: list = field(default_factory=list)
    # By the name of a peer or variant: how often its rate (or for latency at most how often its p50 and p99) is wanted.
    goals: dict = field(default_factory=dict)
    # By the same: how often its CPU time a message may be taken, in workloads of the kind "rate".
    cpu_goals: dict = field(default_factory=dict)
    # At most so many messages of the topic.
    records: int | None = None
    rate: int = 0
    quick: bool = False
    compare: bool = False
    note: str = ""
    # Why it cannot be measured yet.
    missing: str = ""


def names():
    """Those of all workloads, in order."""
    return [entry["name"] for entry in tomllib.loads(TABLE.read_text())["workloads"]]


def load(scale):
    """The topics by name and the workloads in order, with numbers of messages scaled."""
    table = tomllib.loads(TABLE.read_text())
    topics = {name: Topic(name, **topic) for name, topic in table["topics"].items()}
    for topic in topics.values():
        # Each partition, each topic and each of two workers has as many messages as the next one.
        share = topic.partitions * topic.topics * max(1, topic.keys if topic.keys <= 10_000 else 1) * 2
        if topic.records:
            wanted = max(int(topic.records * scale), min(topic.records, 2 * share))
            topic.records = max(share, wanted // share * share)
    workloads = []
    for entry in table["workloads"]:
        entry["subject"] = Moontide(**entry["subject"])
        entry["variants"] = [Moontide(**{"handler": entry["subject"].handler, **variant})
                             for variant in entry.get("variants", [])]
        workload = Workload(**entry)
        for topic in [workload.topic, *(variant.topic for variant in workload.variants if variant.topic)]:
            if topic not in topics:
                raise SystemExit(f"workloads.toml: workload `{workload.name}`: there is no topic `{topic}`")
        share = topics[workload.topic].partitions * 2
        for counted in [workload, workload.subject, *workload.variants]:
            if counted.records:
                counted.records = max(share, int(counted.records * scale) // share * share)
        workloads.append(workload)
    return topics, workloads
