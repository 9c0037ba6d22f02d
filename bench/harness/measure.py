"""The runs of a workload: its programs in turn (A B C A B C …), each time as a new group."""

import os
import time
from statistics import median

from . import moontide
from .database import Database
from .process import Failed, Process, wait_until
from .settings import PLACE


class Program:
    """What takes turns: Moontide in one set-up, or a peer."""

    def __init__(self, title, key, setup=None, peer=None):
        self.title = title
        self.key = key
        self.setup = setup
        self.peer = peer
        self.figures = []
        self.missing = None

    def rates(self):
        return [figure.rate for figure in self.figures]

    def rate(self):
        return median(self.rates())

    def cpus_us(self):
        return [figure.cpu_s * 1e6 / figure.messages for figure in self.figures]

    def cpu_us(self):
        return median(self.cpus_us())

    def memory_mib(self):
        return max(figure.memory_mib for figure in self.figures)

    def latency(self):
        return [median(column) for column in zip(*(figure.latency for figure in self.figures))]


class Bench:
    def __init__(self, settings, broker, binary, topics, say):
        self.settings = settings
        self.broker = broker
        self.binary = binary
        self.topics = topics
        self.say = say
        # Topics that have been read since they were filled.
        self.warm = set()
        self.database = None

    def programs(self, workload, peers):
        """The subject first."""
        found = [Program(setup.name, setup.name, setup=setup) for setup in [workload.subject, *workload.variants]]
        for name in workload.peers:
            if self.settings.peers is not None and name not in self.settings.peers:
                continue
            peer = peers[name]
            program = Program(peer.title, name, peer=peer)
            program.missing = peer.missing
            found.append(program)
        return found

    def serve(self):
        """Starts the HTTP server, once. All programs have its address in their environment."""
        if "BENCH_HTTP" not in os.environ:
            server = Process([PLACE / "tools/server"], PLACE / "tools/server.run.log")
            wait_until("the HTTP server listens", 10, lambda: server.text().endswith("\n"))
            os.environ["BENCH_HTTP"] = server.text().strip()

    def open_database(self):
        """Starts PostgreSQL, once."""
        if not self.database:
            self.database = Database()
            os.environ["BENCH_SQL"] = self.database.url

    def measure(self, workload, programs):
        if workload.http:
            self.serve()
        if workload.sql:
            self.open_database()
        once = {"idle": self._idle, "backlog": self._backlog, "start": self._start}.get(workload.kind)
        every = {"rate": self.rate, "latency": self._latency}.get(workload.kind)
        rounds = 1 if workload.kind in ("idle", "backlog") else self.settings.rounds
        if workload.kind == "rate":
            self.warm_up(workload, programs)
        for number in range(rounds):
            for program in programs:
                if program.missing:
                    continue
                try:
                    figure = (once or every)(workload, program)
                    program.figures.append(figure)
                    self.say(f"  round {number + 1}: {program.title}: {told(workload, figure)}")
                except Failed as why:
                    # One bad run says that the figure is not to be had; the other programs go on.
                    program.missing = str(why)
                    self.say(f"  round {number + 1}: {program.title}: no figure: {why}")

    def warm_up(self, workload, programs):
        """A run that does not count on each topic that nobody has read: a broker that has just filled it hands it out at
        half its speed, and the first program of the first round would pay for all. On the first topic there are more:
        the broker's compiler takes up to half a processor while its code is new."""
        for program in programs:
            topic = (program.setup and program.setup.topic) or workload.topic
            if topic in self.warm:
                continue
            runs = 1 if self.warm else self.settings.warm_runs
            self.warm.add(topic)
            for _ in range(runs):
                try:
                    self.say(f"  warm-up, {topic}: {told(workload, self.rate(workload, program))}")
                except Failed as why:
                    self.say(f"  warm-up, {topic}: no figure: {why}")

    def _daemon(self, setup, names, records, out=""):
        return moontide.Daemon(self.binary, self.broker.address, setup, names, records, out)

    def rate(self, workload, program):
        if workload.sql:
            return self._written_to_database(workload, program)
        if not workload.out or program.setup and not program.setup.writes:
            return self._rate(workload, program)
        name = f"out-{time.monotonic_ns()}"
        self.broker.create(name, workload.out)
        try:
            figure = self._rate(workload, program, name)
            if program.setup and program.setup.is_exactly_once():
                # The last transaction is committed when the daemon has ended. The topic has no further messages.
                committed = self.broker.committed(name, workload.out)
                if committed != figure.messages:
                    raise Failed(f"of {figure.messages} records {committed} are committed")
                return figure
            written = self.broker.count(name, workload.out)
            if written < figure.messages:
                raise Failed(f"of {figure.messages} records {written} were written")
            return figure
        finally:
            self.broker.delete([name])

    def _written_to_database(self, workload, program):
        self.database.clear()
        figure = self._rate(workload, program)
        rows = self.database.count()
        if rows < figure.messages:
            raise Failed(f"of {figure.messages} messages {rows} are in the database")
        return figure

    def _rate(self, workload, program, out=""):
        topic = self.topics[(program.setup and program.setup.topic) or workload.topic]
        records = min(topic.records, workload.records or topic.records)
        if program.setup:
            records = min(records, program.setup.records or records)
            return self._daemon(program.setup, topic.names(), records, out).measure(self.settings.seconds_max)
        # A peer that knows no such task does less: it only takes the messages.
        task = workload.task if workload.task in program.peer.tasks else "read"
        records = min(records, program.peer.records_of.get(task, program.peer.records))
        running = program.peer.start(self.broker.address, topic.name, records, task, out)
        return program.peer.finish(running, self.settings.seconds_max)

    def _latency(self, workload, program):
        settings = self.settings
        warm = settings.warm_s * workload.rate
        records = warm + settings.latency_s * workload.rate
        name = f"latency-{time.monotonic_ns()}"
        self.broker.create(name, 1)
        out = f"{name}-out" if program.setup and program.setup.through is not None else ""
        if out:
            self.broker.create(out, 1)
        seconds = 3 * (settings.warm_s + settings.latency_s) + 30
        if program.setup:
            running = self._daemon(program.setup, [name], records, out)
        else:
            running = program.peer.start(self.broker.address, name, records, "latency")
        producer = None
        try:
            time.sleep(1)
            producer = self.broker.pace(name, records, 200, workload.rate, warm)
            return running.measure(seconds) if program.setup else program.peer.finish(running, seconds)
        finally:
            running.end()
            if producer:
                producer.end()
            self.broker.delete([name, out] if out else [name])

    def _idle(self, workload, program):
        settings = self.settings
        if program.setup:
            running = self._daemon(program.setup, [workload.topic], 2)
        else:
            running = program.peer.start(self.broker.address, workload.topic, 1, "read")
        try:
            time.sleep(2 + settings.idle_s / 2)
            if running.ended():
                raise Failed(f"ended with {running.code}")
            before = running.cpu_s()
            time.sleep(settings.idle_s)
            share = (running.cpu_s() - before) / settings.idle_s * 100
            return share, running.resident_mib()
        finally:
            running.end()

    def _backlog(self, workload, program):
        running = self._daemon(program.setup, [workload.topic], 2)
        try:
            time.sleep(self.settings.idle_s)
            return running.resident_mib()
        finally:
            running.end()

    def _start(self, workload, program):
        return moontide.start_up(self.binary, self.broker.address, program.setup, [workload.topic])


def told(workload, figure):
    """A figure in words, for those who look on."""
    if workload.kind == "idle":
        return f"{figure[0]:.2f} % of a core, {figure[1]:.1f} MiB"
    if workload.kind == "backlog":
        return f"{figure:.1f} MiB"
    if workload.kind == "start":
        return f"check {figure[0]:.1f} ms, ready after {figure[1]:.1f} ms"
    if workload.kind == "latency":
        return "p50 {} µs, p99 {} µs, p99.9 {} µs".format(*figure.latency)
    return f"{figure.rate:,.0f} messages/s"
