"""Many runs one after the other: the memory of scheduler, workers and storage stays flat.

`python -m tools.many_runs --runs 10000` is the long form; the test suite runs a short one.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.support.clusters import StorageCluster
from tests.support.netcat import object_of
from tests.support.nodes import ROOT, NodeProcess, free_port

KEYS = 100
WINDOW = 50
"""Runs that go on at the same time."""
CHAIN = "CounterOperator IncrementOperator ReaderOperator"
KEPT = 500
"""Runs whose outcome the scheduler keeps."""


class ManyRuns:
    """Two storage nodes, two workers, a scheduler, and runs that read and write."""

    def __init__(self, folder: Path) -> None:
        self.cluster = StorageCluster(folder, 2)
        self.workers = {f"w{number}": self._node(folder, "dida-worker", f"w{number}") for number in (1, 2)}
        named = [f"--worker={id}=http://127.0.0.1:{node.port}" for id, node in self.workers.items()]
        options = ("--keep-runs", str(KEPT), *named, *self.cluster.members)
        self.scheduler = self._node(folder, "dida-scheduler", "sc", *options)
        for node in (*self.workers.values(), self.scheduler):
            node.wait_ready()
        with self.cluster.nodes[1].connect() as storage:
            for key in range(KEYS):
                assert storage.ask(f"write {key} 0").startswith("ok ")
        self.cluster.wait_equal(1, 2)

    @staticmethod
    def _node(folder: Path, command: str, id: str, *options: str) -> NodeProcess:
        port = free_port()
        extra = ("--operators", str(ROOT / "operators")) if command == "dida-worker" else ()
        names = ("--id", id, "--url", f"http://127.0.0.1:{port}")
        return NodeProcess(command, *names, *extra, *options, folder=folder, port=port)

    def run(self, count: int) -> float:
        """Execute so many runs to their ends; return runs a second."""
        begun = time.monotonic()
        with self.scheduler.connect(60) as scheduler:
            for start in range(0, count, WINDOW):
                numbers = range(start, min(start + WINDOW, count))
                for number in numbers:
                    scheduler.send(f"#t run {number % KEYS} {CHAIN}")
                runs = [scheduler.line().split()[-1] for _ in numbers]
                for run in runs:
                    scheduler.send(f'#t result {run} {{"timeout": 60}}')
                for _ in runs:
                    reply = scheduler.line()
                    assert reply.startswith("#t ok done "), reply
        return count / (time.monotonic() - begun)

    def memory(self) -> dict[str, float]:
        """Return the resident memory of each process, in MiB."""
        nodes = {"scheduler": self.scheduler, **self.workers}
        nodes |= {f"s{number}": node for number, node in self.cluster.nodes.items()}
        return {id: _resident(node.pid) for id, node in nodes.items()}

    def remembered(self) -> int:
        """Return how many replies to update ids a storage node keeps."""
        return max(int(node.status()["executed"]) for node in self.cluster.nodes.values())

    def loads(self) -> int:
        """Return how many operators the scheduler counts as executing."""
        return sum(each["active"] for each in object_of(self.scheduler.ask("workers"))["workers"])

    def end(self) -> None:
        for node in (self.scheduler, *self.workers.values()):
            node.end()
        self.cluster.end()


def _resident(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 2**20


def main() -> int:
    """The long form."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--runs", type=int, default=10_000)
    given = options.parse_args()
    out = sys.stdout.write
    with tempfile.TemporaryDirectory() as folder:
        many = ManyRuns(Path(folder))
        try:
            many.run(given.runs // 5)  # until all tables have the size that they keep
            memory = [many.memory()]
            for _ in range(4):
                rate = many.run(given.runs // 5)
                memory.append(many.memory())
                out(f"{rate:.0f} runs/s, MiB: " + ", ".join(f"{id} {mib:.1f}" for id, mib in memory[-1].items()) + "\n")
            first, last = memory[0], memory[-1]
            grown = {id: round(last[id] - first[id], 1) for id in last}
            out(f"grown in the last {given.runs * 4 // 5:,} runs, MiB: {grown}; {many.remembered()} answers kept\n")
        finally:
            many.end()
    return 0 if all(last[id] < first[id] * 1.1 for id in last) else 1


if __name__ == "__main__":
    sys.exit(main())
