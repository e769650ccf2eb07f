"""Many writes, with one member killed: the logs and tables of the living stay bounded, and memory stays flat.

`python -m tools.soak --writes 100000 --more 1000000` is the long form; the test suite runs a short one.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.support.clusters import StorageCluster
from tests.support.nodes import until

KEYS = 1000
WINDOW = 200
"""Writes in flight on one connection."""
MAX_LEFT = 1000
"""Entries that a log or table of a living node may hold when all is quiet."""


class Soak:
    """Five nodes, one of them killed half-way through the first writes."""

    def __init__(self, folder: Path) -> None:
        self.cluster = StorageCluster(folder, 5)
        self.living = (1, 2, 3, 4)

    def write(self, count: int, size: int = 1024, first: int = 0) -> float:
        """Write `count` values of `size` bytes, spread over the living; writes a second."""
        connections = [self.cluster.nodes[n].connect(timeout=60) for n in self.living]
        value = "v" * size
        begun = time.monotonic()
        for start in range(first, first + count, WINDOW):
            numbers = range(start, min(start + WINDOW, first + count))
            for number in numbers:
                name = f'{{"id": "soak:{number + 1}", "retry": false, "lowest": {start + 1}}}'
                line = f"#t write key{number % KEYS} {value} {name}"
                connections[number % len(connections)].send(line)
            for number in numbers:
                reply = connections[number % len(connections)].line()
                assert reply.startswith("#t ok "), reply
        taken = time.monotonic() - begun
        for connection in connections:
            connection.close()
        return count / taken

    def kill_one(self) -> None:
        self.cluster.nodes[5].kill()
        self.cluster.wait_members(*self.living)

    def tables(self) -> dict[str, int]:
        """Return the size of the largest log and table of any living node."""
        found: list[dict[str, Any]] = [self.cluster.nodes[n].status() for n in self.living]
        names = ("log", "held", "waiting", "transactions", "locks", "executed")
        return {name: max(status[name] for status in found) for name in names}

    def wait_quiet(self) -> None:
        """Check that within 10 s of the last write all logs and tables are small."""
        until("logs and tables are small", lambda: max(self.tables().values()) < MAX_LEFT, 10)

    def memory(self) -> float:
        """Return the resident memory of the largest living node, in MiB."""
        pages = [int(Path(f"/proc/{self.cluster.nodes[n].pid}/statm").read_text().split()[1]) for n in self.living]
        return max(pages) * 4096 / 2**20

    def end(self) -> None:
        self.cluster.end()


def main() -> int:
    """The long form."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--writes", type=int, default=100_000)
    options.add_argument("--more", type=int, default=1_000_000)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(Path(folder))
        try:
            soak.write(given.writes // 2)
            soak.kill_one()
            rate = soak.write(given.writes // 2, first=given.writes // 2)
            soak.wait_quiet()
            out = sys.stdout.write
            out(f"{given.writes:,} writes of 1 KiB, one member killed: {rate:,.0f}/s, then {soak.tables()}\n")
            memory = [soak.memory()]
            for part in range(10):
                soak.write(given.more // 10, first=given.writes + part * (given.more // 10))
                memory.append(soak.memory())
            soak.wait_quiet()
            out(f"memory in MiB over {given.more:,} more: {' '.join(f'{m:.0f}' for m in memory)}; {soak.tables()}\n")
        finally:
            soak.end()
    return 0 if memory[-1] < memory[1] * 1.1 else 1


if __name__ == "__main__":
    sys.exit(main())
