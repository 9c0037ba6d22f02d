"""One real Kafka in a folder of its own, and its topics."""

import os
import re
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

from . import process
from .settings import PLACE, ROOT, TARGET

FILES = ROOT / "tests/it/support/kafka"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Broker:
    version = re.search("<kafka.version>(.*)</kafka.version>", (FILES / "pom.xml").read_text())[1]

    def __init__(self, tool):
        self.tool = tool
        self.libraries = TARGET / f"kafka-libs-bench-{self.version}"
        if not self.libraries.is_dir():
            fresh = PLACE / "kafka-libs"
            process.run(["mvn", "-q", "-B", "-f", FILES / "pom.xml", "dependency:copy-dependencies",
                         f"-DoutputDirectory={fresh}"], PLACE / "kafka-libs.log")
            fresh.rename(self.libraries)
        self.folder = Path(tempfile.mkdtemp(prefix="broker-", dir=PLACE))
        port, controller = free_port(), free_port()
        self.address = f"127.0.0.1:{port}"
        settings = (FILES / "server.properties").read_text()
        for name, value in (("BROKER", port), ("CONTROLLER", controller), ("DATA", self.folder / "data")):
            settings = settings.replace(f"@{name}@", str(value))
        properties = self.folder / "server.properties"
        properties.write_text(settings)
        classes = ["-cp", f"{self.libraries}/*"]
        process.run(["java", *classes, "kafka.tools.StorageTool", "format", "-t", "bW9vbnRpZGUtYmVuY2gtMQ",
                     "-c", properties], self.folder / "format.log")
        self.process = process.Process(
            ["java", "-Xms768m", "-Xmx768m", f"-Dlog4j2.configurationFile={FILES}/log4j2.properties", *classes,
             "kafka.Kafka", properties], self.folder / "broker.log")
        process.wait_until("the broker listens", 90, lambda: self._listens(port))
        self.topics = set()

    def _listens(self, port):
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    def _topic(self, *words):
        done = subprocess.run([self.tool, *map(str, words)], capture_output=True, text=True, env={**os.environ})
        if done.returncode:
            raise process.Failed(f"topic {' '.join(map(str, words))}: {done.stderr.strip()}")
        return done.stdout

    def create(self, name, partitions):
        self._topic("create", self.address, name, partitions)
        self.topics.add(name)

    def fill(self, topic):
        """Makes and fills a topic of the table, or the several that it stands for."""
        for name in topic.names():
            self.create(name, topic.partitions)
            if topic.records:
                self._topic("fill", self.address, name, topic.partitions, topic.records // topic.topics, topic.size,
                            topic.keys, topic.codec, topic.kind)

    def count(self, name, partitions):
        """How many records the topic has, by its offsets."""
        return int(self._topic("count", self.address, name, partitions))

    def committed(self, name, partitions):
        """How many of them readers of committed records see."""
        return int(self._topic("committed", self.address, name, partitions))

    def delete(self, names):
        for name in names:
            self._topic("delete", self.address, name)
            self.topics.discard(name)

    def pace(self, name, records, size, rate, warm):
        return process.Process([self.tool, "pace", self.address, name, 1, records, size, rate, warm],
                               self.folder / "pace.log")

    def stop(self):
        self.process.end()
        shutil.rmtree(self.folder, ignore_errors=True)
