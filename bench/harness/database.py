"""One real PostgreSQL in a folder of its own. It refuses root, so root starts it as another user."""

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

from . import process
from .broker import free_port
from .settings import PLACE

PROGRAMS = Path("/usr/lib/postgresql")
# The disk is not what the clients differ in.
SETTINGS = {"fsync": "off", "synchronous_commit": "off", "max_connections": "200", "unix_socket_directories": "",
            "listen_addresses": "127.0.0.1"}
TABLE = "drop table if exists documents; create table documents (id bigint primary key, value bytea not null)"


def programs():
    found = sorted(PROGRAMS.glob("*/bin/postgres"), key=lambda path: int(path.parents[1].name))
    if not found:
        raise process.Failed(f"there is no PostgreSQL in {PROGRAMS}")
    return found[-1].parent


class Database:
    def __init__(self):
        self.programs = programs()
        self.as_other = []
        self.folder = Path(tempfile.mkdtemp(prefix="moontide-bench-"))
        if os.geteuid() == 0:
            other = pwd.getpwnam("nobody")
            os.chown(self.folder, other.pw_uid, other.pw_gid)
            self.as_other = ["setpriv", f"--reuid={other.pw_uid}", f"--regid={other.pw_gid}", "--clear-groups"]
        data = self.folder / "data"
        log = PLACE / "postgres.log"
        process.run([*self.as_other, self.programs / "initdb", "-U", "bench", "-A", "trust", "-D", data], log)
        port = free_port()
        self.url = f"postgres://bench@127.0.0.1:{port}/postgres"
        words = [word for name, value in SETTINGS.items() for word in ("-c", f"{name}={value}")]
        self.process = process.Process([*self.as_other, self.programs / "postgres", "-D", data, "-p", port, *words], log)
        process.wait_until("PostgreSQL listens", 60, lambda: self._says("select 1").returncode == 0)

    def _says(self, statement):
        return subprocess.run([self.programs / "psql", self.url, "-qAt", "-c", statement], capture_output=True, text=True)

    def clear(self):
        """The table anew, empty."""
        done = self._says(TABLE)
        if done.returncode:
            raise process.Failed(f"PostgreSQL: {done.stderr.strip()}")

    def count(self):
        return int(self._says("select count(*) from documents").stdout)

    def stop(self):
        self.process.end()
        shutil.rmtree(self.folder, ignore_errors=True)
