"""A whole system under load while the clocks of single nodes, and of all, are stepped by an hour; then the checkers.

`python -m tools.stepping --seconds 300` is the long form (`make clocks`), the test suite runs a short one. The
storage has the clients and the judge of the torture. A scheduler, and workers that a PCS has started, execute chains
whose operators wait in the reactor, count in the storage, have separate processes, or reach their time-out.
Nobody may be removed, and no run may fail that does not have to. Exit status 1 when anything is wrong.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

from tests.support.clocks import HOUR, Clocks, library
from tests.support.netcat import Netcat, object_of
from tests.support.nodes import NodeProcess, free_port
from tools.torture import Torture

STEP_EVERY = 2.0
"""Time between two steps of a clock, in seconds."""
PATIENCE = 20.0
"""Seconds for a run, which takes some hundred milliseconds, on a busy machine."""
LIMIT = 0.3
"""Seconds that the operator which waits for an hour may take."""

OPERATORS = f'''
from twisted.internet.task import deferLater


class Operator:
    def configure_storage(self, storage):
        self.storage = storage


class NapOperator(Operator):
    """Waits in the reactor."""

    async def process_record(self, meta, input, previous_output):
        from twisted.internet import reactor

        await deferLater(reactor, 0.05)
        return previous_output


class CountOperator(Operator):
    """Adds one at key `input`."""

    async def process_record(self, meta, input, previous_output):
        count = int((await self.storage.read(input)).value)
        if await self.storage.update_if_value_is(input, str(count), str(count + 1)) is None:
            raise RuntimeError("nobody else counts there")
        return str(count + 1)


class ApartOperator(Operator):
    """Does the same in a separate process."""

    isolation = "process"

    def process_record(self, meta, input, previous_output):
        count = int(self.storage.read(input).value)
        self.storage.update_if_value_is(input, str(count), str(count + 1))
        return str(count + 1)


class StuckOperator(Operator):
    """Waits for an hour, which it is not given."""

    timeout = {LIMIT}

    async def process_record(self, meta, input, previous_output):
        from twisted.internet import reactor

        await deferLater(reactor, {HOUR})
        return "waited"
'''
KINDS = (
    ("NapOperator", "CountOperator"),
    ("CountOperator", "NapOperator", "CountOperator"),
    ("NapOperator", "ApartOperator"),
    ("StuckOperator",),
)
"""A chain for each client of the scheduler."""


class Stepping(Torture):
    """The system; what is done to it is that its clocks are stepped."""

    def __init__(
        self, folder: Path, seconds: float, nodes: int, clients: int, seed: int, library: str | None = None
    ) -> None:
        """`library` is libfaketime's path; without it only what Python asks for is stepped."""
        names = [*(f"s{n + 1}" for n in range(nodes)), "sc1", "w1", "w2", "pcs"]
        self.clocks = Clocks(folder / "clocks", names, library)
        super().__init__(folder, seconds, nodes, clients, seed, self.clocks.environment)
        self.runs = 0
        """Runs that have ended as they should."""
        self._off = dict.fromkeys(names, 0.0)
        operators = folder / "operators"
        operators.mkdir()
        (operators / "stepping.py").write_text(OPERATORS)
        self.pcs = self._start("dida-pcs", "--id", "pcs", "--quiet", "--operators", str(operators), folder=folder)
        self.pcs.wait_ready()
        workers = {id: f"http://127.0.0.1:{free_port()}" for id in ("w1", "w2")}
        for id, url in workers.items():
            assert self.pcs.ask(f"start worker {id} {url}").startswith("ok "), self.pcs.output
        named = [word for id, url in workers.items() for word in ("--worker", f"{id}={url}")]
        words = ("--id", "sc1", *named, *self.cluster.members)
        self.scheduler = self._start("dida-scheduler", *words, folder=folder)
        self.scheduler.wait_ready()
        with self.cluster.nodes[1].connect() as storage:
            for number in range(len(KINDS)):
                assert storage.ask(f"write n{number} 0").startswith("ok ")

    def _start(self, command: str, *words: str, folder: Path) -> NodeProcess:
        port = free_port()
        options = (*words, "--url", f"http://127.0.0.1:{port}")
        return NodeProcess(command, *options, folder=folder, port=port, more=self.clocks.environment)

    def _disturb(self, end: float) -> None:
        views = [node.status()["view"] for node in self.cluster.nodes.values()]
        chains = [threading.Thread(target=self._client, args=(n,), daemon=True) for n in range(len(KINDS))]
        for thread in chains:
            thread.start()
        while time.monotonic() < end:
            time.sleep(STEP_EVERY)
            self._step()
        self.chains_end = True
        for thread in chains:
            thread.join(2 * PATIENCE)
            if thread.is_alive():
                self.wrong.append("a client of the scheduler hangs")
        for number, node in self.cluster.nodes.items():
            status = node.status()
            if status["dead"] or status["view"] not in views:
                self.wrong.append(f"s{number} has removed {status['dead']}, its view is {status['view']}, not {views}")
        nodes = object_of(self.pcs.ask("nodes"))["nodes"]
        if [node["state"] for node in nodes] != ["ready"] * 2:
            self.wrong.append(f"the PCS's nodes: {nodes}")

    chains_end = False

    def _step(self) -> None:
        """The clock of a node, or those of all, an hour forward or back, or as they should be."""
        everybody = self.rng.random() < 0.5
        names = list(self._off) if everybody else [self.rng.choice(list(self._off))]
        to = self.rng.choice([hours for hours in (-HOUR, 0.0, HOUR) if hours != self._off[names[0]]])
        self.faults["all stepped" if everybody else "one stepped"] += 1
        self.clocks.step(to, *names)
        self._off.update(dict.fromkeys(names, to))

    def _client(self, number: int) -> None:
        """One run after the other, each of which has the one right outcome."""
        operators = KINDS[number]
        count = 0
        with Netcat(self.scheduler.port or 0, timeout=PATIENCE + 5) as scheduler:
            while not self.chains_end:
                begun = time.monotonic()
                run = scheduler.ask(f"run n{number} {' '.join(operators)}").split()[1]
                reply = scheduler.ask(f'result {run} {{"timeout": {PATIENCE}}}')
                count += sum(operator in ("CountOperator", "ApartOperator") for operator in operators)
                failed = f"StuckOperator at position 0 on w. did not return within {LIMIT} s"
                right = f"ok done {count} " if operators != ("StuckOperator",) else "ok failed "
                if not reply.startswith(right) or (right == "ok failed " and failed[-20:] not in reply):
                    self.wrong.append(f"{operators} after {time.monotonic() - begun:.1f} s: {reply}")
                    return
                self.runs += 1

    def end(self) -> None:
        self.scheduler.end()
        self.pcs.end()
        super().end()


def main() -> int:
    """The long form."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=float, default=300)
    options.add_argument("--nodes", type=int, default=3)
    options.add_argument("--clients", type=int, default=4)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--python", action="store_true", help="use no libfaketime even if it is installed")
    given = options.parse_args()
    found = None if given.python else library()
    out = sys.stdout.write
    out(f"clocks      stepped by {found or 'a replacement of time.time (apt-get install faketime steps C code)'}\n")
    with tempfile.TemporaryDirectory() as folder:
        stepping = Stepping(Path(folder), given.seconds, given.nodes, given.clients, given.seed, found)
        try:
            wrong = stepping.run()
        finally:
            stepping.end()
    out(f"seed        {given.seed}\nsteps       {dict(stepping.faults)}\nruns        {stepping.runs:,}\n")
    for name, count in sorted(stepping.counts.items()):
        out(f"{name:18} {count:8,}\n")
    out(f"answers/s   {stepping.rate:,.0f}\nslowest     {stepping.slowest:.2f} s\n")
    for what in wrong[:20]:
        out(f"WRONG       {what}\n")
    out("all promises kept\n" if not wrong else f"{len(wrong)} things are wrong\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(main())
