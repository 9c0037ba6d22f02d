"""Moontide itself, the librdkafka it is linked with, and the small tools in C."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from . import process
from .settings import PLACE, ROOT, TARGET


@dataclass
class Library:
    """librdkafka's sources and static libraries and Lua, as the release build left them."""
    sources: Path
    archives: list
    lua: Path

    def environment(self):
        libraries = [*map(str, self.archives), "-lpthread", "-ldl", "-lrt", "-lm"]
        return {**os.environ, "BENCH_LIBRDKAFKA": str(self.sources), "BENCH_C_LIBRARIES": " ".join(libraries),
                "BENCH_LUA": str(self.lua)}

    def version(self):
        for line in (self.sources / "src/rdkafka.h").read_text().splitlines():
            if line.startswith("#define RD_KAFKA_VERSION"):
                number = int(line.split()[2], 16)
                return f"{number >> 24}.{number >> 16 & 255}.{number >> 8 & 255}"
        return "unknown"


def moontide():
    subprocess.run(["cargo", "build", "--release", "--locked", "--quiet"], cwd=ROOT, check=True)
    return TARGET / "release/moontide"


def library():
    build = TARGET / "release/build"

    def newest(pattern):
        found = sorted(build.glob(pattern), key=lambda path: path.stat().st_mtime)
        return found[-1] if found else None

    archives = [newest(pattern) for pattern in (
        "rdkafka-sys-*/out/src/librdkafka.a",
        "openssl-sys-*/out/openssl-build/install/lib/libssl.a",
        "openssl-sys-*/out/openssl-build/install/lib/libcrypto.a",
        "libz-sys-*/out/lib/libz.a",
        "zstd-sys-*/out/libzstd.a")]
    lua = newest("mlua-sys-*/out/lib/liblua5.4.a")
    if None in [*archives, lua]:
        sys.exit(f"{build} lacks the libraries of a release build: `cargo build --release` first")
    return Library(archives[0].parents[1], archives, lua.parents[1])


def tools(library):
    """The program that makes and fills topics, and the C module of the handlers."""
    folder = PLACE / "tools"
    folder.mkdir(parents=True, exist_ok=True)
    here = ROOT / "bench/tools"
    process.run(["bash", "-c", f'cc -O2 -Wall -Wextra -I"$BENCH_LIBRDKAFKA/src" "{here}/topic.c" -o "{folder}/topic" '
                 "$BENCH_C_LIBRARIES"], folder / "topic.log", env=library.environment())
    process.run(["cc", "-O2", "-Wall", "-shared", "-fPIC", f"-I{library.lua}/include", here / "bench.c",
                 "-o", folder / "bench.so"], folder / "bench.log")
    process.run(["cc", "-O2", "-Wall", "-Wextra", here / "server.c", "-o", folder / "server"], folder / "server.log")
    return folder / "topic"
