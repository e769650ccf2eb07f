"""A rolling restart under load: `python -m tools.rolling --turns 10 --nodes 5 --workers 3`.

Each storage node and each worker is stopped and started again, one after the other, by the recipe of
docs/howto/run-nodes.md, while clients write, read, compare and swap, and run chains. Nothing may be lost, and no run
may fail.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from dida.client import Client, connect
from dida.errors import DidaError
from tests.support.daemons import Daemon, end
from tests.support.netcat import Netcat
from tests.support.nodes import free_port

OPERATORS = """
class CountOperator:
    def configure_storage(self, storage):
        self.storage = storage

    def process_record(self, meta, input, previous_output):
        while True:
            old = self.storage.read(input).value
            if self.storage.update_if_value_is(input, old, str(int(old) + 1)):
                return old


class NoteOperator(CountOperator):
    async def process_record(self, meta, input, previous_output):
        await self.storage.write(f"note-{meta.run}", previous_output)
        return previous_output
"""
PAUSE = 0.01
"""Seconds between two calls of one client."""
WAIT = "60"
DEADLINE = 60.0


class Rolling:
    """The system, its clients, and the replies that they have received."""

    def __init__(self, folder: Path, nodes: int, workers: int, waits: bool) -> None:
        (folder / "operators").mkdir()
        (folder / "operators" / "counting.py").write_text(OPERATORS)
        self.daemon = Daemon(folder)
        self.waits = waits
        self.ports = {f"s{number + 1}": free_port() for number in range(nodes)}
        self.workers = {f"w{number + 1}": free_port() for number in range(workers)}
        self.scheduler = free_port()
        self.problems: list[str] = []
        self.counts = {"writes": 0, "reads": 0, "swaps": 0, "runs": 0}
        self.notes: list[str] = []
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []

    def words(self, id: str) -> list[str]:
        """The command line of a node."""
        port = {**self.ports, **self.workers, "sc1": self.scheduler}[id]
        named = [f"{n}={each}@127.0.0.1:{at}" for n, (each, at) in enumerate(self.ports.items(), 1)]
        members = [word for each in named for word in ("--storage", each)]
        common = ["--id", id, "--url", f"http://127.0.0.1:{port}"]
        if id in self.workers:
            return ["dida-worker", *common]
        if id == "sc1":
            workers = [w for each, at in self.workers.items() for w in ("--worker", f"{each}=127.0.0.1:{at}")]
            return ["dida-scheduler", *common, *members, *workers]
        return ["dida-storage", *common, "--replica", id.removeprefix("s"), *members]

    def begin(self) -> None:
        """Start all nodes, and wait until they are ready."""
        for id in [*self.ports, *self.workers]:
            self.daemon.run(*self.words(id))
        done = self.daemon.run(*self.words("sc1"), "--wait", WAIT)
        assert done.returncode == 0, done.stderr
        self.client().write("begin", "0")

    def client(self) -> Client:
        """A client of the storage."""
        return connect(*(f"{n}={id}@127.0.0.1:{port}" for n, (id, port) in enumerate(self.ports.items(), 1)))

    def restart(self, id: str) -> None:
        """The recipe, for one node."""

        os.kill(self.daemon.pid(id), signal.SIGTERM)
        done = self.daemon.run(*self.words(id), *(["--wait", WAIT] if self.waits else []))
        if done.returncode:
            self.problems.append(f"{id} did not come back: {done.stderr}")

    # --- the clients ----------------------------------------------------------------------------

    def load(self) -> None:
        """Begin the work of the clients."""
        work: list[Callable[[], None]] = [self._write, self._swap, self._swap, self._run, self._run]
        with self.client() as client:
            for key in ("counter", "chain"):
                client.write(key, "0", "all")
        self._threads = [threading.Thread(target=self._safely, args=(each,), daemon=True) for each in work]
        for thread in self._threads:
            thread.start()

    def _safely(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as problem:  # noqa: BLE001 - whatever it is, it is what this is looking for
            self.problems.append(f"{work.__name__}: {problem!r}")

    def _write(self) -> None:
        with self.client() as client:
            while not self._over.is_set():
                number = self.counts["writes"]
                client.write(f"key{number % 50}", str(number), "all" if number % 10 == 0 else 1)
                self.counts["writes"] += 1
                found = client.read(f"key{number % 50}").value
                if found != str(number):
                    self.problems.append(f"wrote {number}, read {found}")
                self.counts["reads"] += 1
                self._over.wait(PAUSE)

    def _swap(self) -> None:
        with self.client() as client:
            while not self._over.is_set():
                old = client.read("counter").value
                if client.update_if_value_is("counter", old, str(int(old) + 1)):
                    self.counts["swaps"] += 1
                self._over.wait(PAUSE)

    def _run(self) -> None:
        with Netcat(self.scheduler, timeout=DEADLINE * 3) as netcat:
            while not self._over.is_set():
                run = netcat.ask("run chain CountOperator NoteOperator CountOperator NoteOperator").split()[1]
                answer = netcat.ask(f'result {run} {{"timeout": 130, "deadline": 140}}')
                if not answer.startswith("ok done "):
                    self.problems.append(answer[:500])
                    return
                self.counts["runs"] += 1
                self.notes.append(run)
                self._over.wait(PAUSE)

    # --- the end --------------------------------------------------------------------------------

    def judge(self) -> None:
        """Stop the clients, and compare the replies that they received with what is stored."""
        self._over.set()
        for thread in self._threads:
            thread.join(DEADLINE * 3)
            if thread.is_alive():
                self.problems.append("a client hangs")
        with self.client() as client:
            self._expect("swaps", self.counts["swaps"], int(client.read("counter").value))
            self._expect("steps of chains", 2 * self.counts["runs"], int(client.read("chain").value))
            for run in self.notes:
                try:
                    client.read(f"note-{run}")
                except DidaError as problem:
                    self.problems.append(f"what run {run} has written: {problem}")
            last = self.counts["writes"] - 1
            for number in range(max(0, last - 49), last + 1):
                self._expect(f"key{number % 50}", number, int(client.read(f"key{number % 50}").value))

    def _expect(self, what: str, told: int, found: int) -> None:
        if told != found:
            self.problems.append(f"{what}: {told} were reported, {found} are there")

    def end(self) -> None:
        """Kill all nodes."""
        end(self.daemon)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--turns", type=int, default=1)
    options.add_argument("--nodes", type=int, default=3)
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--at-once", action="store_true", help="stop the next node at once, without --wait")
    options.add_argument(
        "--folder", type=Path, help="folder in which the nodes run and leave their logs (default: a temporary one)"
    )
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder: Path = given.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        rolling = Rolling(folder, given.nodes, given.workers, not given.at_once)
        try:
            rolling.begin()
            rolling.load()
            for turn in range(given.turns):
                began = time.monotonic()
                for id in [*rolling.ports, *rolling.workers]:
                    rolling.restart(id)
                sys.stdout.write(
                    f"turn {turn + 1}: {time.monotonic() - began:.1f} s {rolling.counts} {rolling.problems}\n"
                )
                sys.stdout.flush()
            rolling.judge()
        finally:
            rolling.end()
    for problem in rolling.problems:
        sys.stdout.write(f"{problem}\n")
    sys.stdout.write(f"{'lost' if rolling.problems else 'nothing lost, no run failed'}: {rolling.counts}\n")
    sys.stdout.flush()
    sys.exit(bool(rolling.problems))


if __name__ == "__main__":
    main()
