"""Chains of real processes that lose workers, the scheduler and storage nodes."""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dida.interfaces import Access
from dida.simulate import checkers
from dida.wire.grammar import structure
from tests.support.clusters import StorageCluster
from tests.support.netcat import Netcat, object_of
from tests.support.nodes import NodeProcess, free_port, until

pytestmark = [pytest.mark.long, pytest.mark.system, pytest.mark.timeout(900)]

LONG = bool(os.environ.get("DIDA_LONG"))
"""Whether the long form was asked for (`make chains`)."""
RUNS = 2000 if LONG else 150
STEPS = 5
KILL_EVERY = 2.0 if LONG else 1.0
DEADLINE = 60.0
"""Seconds that a run may take."""

COUNTING = '''
import time

class CountOperator:
    """Counts at key `input` by compare-and-swap, and takes its time."""

    def configure_storage(self, storage):
        self.storage = storage

    def process_record(self, meta, input, previous_output):
        time.sleep(0.1)  # long enough for a kill to meet it
        while True:
            count = int(self.storage.read(input).value)
            if self.storage.update_if_value_is(input, str(count), str(count + 1)) is not None:
                return previous_output + "+"


class NapOperator:
    """Adds one at key `input` with a plain write, after a nap: when it is paused in it, its write is a late one."""

    def configure_storage(self, storage):
        self.storage = storage

    def process_record(self, meta, input, previous_output):
        count = int(self.storage.read(input).value)
        time.sleep(1.0)  # the nap: longer than the pauses
        self.storage.write(input, str(count + 1))
        return previous_output + "+"


class AddOperator:
    """Adds one at key `input` with a plain write."""

    def configure_storage(self, storage):
        self.storage = storage

    async def process_record(self, meta, input, previous_output):
        record = await self.storage.read(input)
        await self.storage.write(input, str(int(record.value) + 1))
        return previous_output + "+"


class MixOperator:
    """Reads, writes and compares records that other runs read and write, too."""

    def configure_storage(self, storage):
        self.storage = storage

    async def process_record(self, meta, input, previous_output):
        number = int(previous_output or input)
        a, b, c = (f"k{(number + more) % 4}" for more in (0, 1, 2))
        record = await self.storage.read(a)
        await self.storage.write(b, f"{meta.run} {number}")
        await self.storage.update_if_value_is(a if number % 2 else c, record.value, f"{meta.run} {number} if")
        await self.storage.read(c)
        await self.storage.read(a)
        return str(number + 1)
'''


class System:
    """Two storage nodes, a scheduler, and workers that are killed and replaced at the same port."""

    def __init__(self, folder: Path, workers: int, *storage_options: str, replicas: int = 2) -> None:
        self.folder = folder
        self.operators = folder / "operators"
        self.operators.mkdir()
        (self.operators / "counting.py").write_text(COUNTING)
        self.cluster = StorageCluster(folder, replicas, *storage_options)
        self.ports = {f"w{number + 1}": free_port() for number in range(workers)}
        self.workers = {id: self._worker(id) for id in self.ports}
        self.scheduler_port = free_port()
        self.scheduler = self._scheduler()
        self.scheduler.wait_ready()

    def _worker(self, id: str) -> NodeProcess:
        url = f"http://127.0.0.1:{self.ports[id]}"
        folder = self.folder / f"{id}-{len(list(self.folder.glob(f'{id}-*')))}"
        folder.mkdir()
        options = ("--id", id, "--url", url, "--operators", str(self.operators))
        return NodeProcess("dida-worker", *options, folder=folder, port=self.ports[id])

    def _scheduler(self) -> NodeProcess:
        named = [w for id, port in self.ports.items() for w in ("--worker", f"{id}=http://127.0.0.1:{port}")]
        url = f"http://127.0.0.1:{self.scheduler_port}"
        options = ("--id", "sc1", "--url", url, "--run-deadline", str(DEADLINE), *named, *self.cluster.members)
        folder = self.folder / f"sc-{len(list(self.folder.glob('sc-*')))}"
        folder.mkdir()
        return NodeProcess("dida-scheduler", *options, folder=folder, port=self.scheduler_port)

    def replace_worker(self, id: str) -> None:
        """SIGKILL, and another process in its place."""
        self.workers[id].kill()
        self.workers[id] = self._worker(id)

    def replace_scheduler(self) -> None:
        """SIGKILL, and another process in its place."""
        self.scheduler.kill()
        self.scheduler = self._scheduler()
        self.scheduler.wait_ready()

    def populate(self, keys: int) -> None:
        with self.cluster.nodes[1].connect() as storage:
            for key in range(keys):
                assert storage.ask(f"write k{key} 0").startswith("ok ")
        self.cluster.wait_equal(1, 2)

    def start(self, scheduler: Netcat, key: str, *operators: str) -> str:
        reply = scheduler.ask(f"run {key} {' '.join(operators)}")
        assert reply.startswith("ok r"), reply
        return reply.split()[1]

    def result(self, run: str) -> tuple[str, dict[str, Any], str]:
        """State, the object, and the whole reply."""
        with self.scheduler.connect(DEADLINE + 20) as scheduler:
            reply = scheduler.ask(f'result {run} {{"timeout": {DEADLINE + 10}}}')
        assert reply.startswith("ok "), reply
        return reply.split()[1], object_of(reply), reply

    def value(self, key: str) -> int:
        with self.cluster.nodes[1].connect() as storage:
            return int(storage.ask(f'read {key} {{"latest": true}}').split()[1])

    def end(self) -> None:
        self.scheduler.end()
        for worker in self.workers.values():
            worker.end()
        self.cluster.end()


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    made = System(tmp_path, 3, "--max-versions", "1000")
    yield made
    made.end()


def test_workers_are_killed(system: System) -> None:
    """Workers are killed and replaced all the time: every run ends, and each of its steps has counted once."""
    keys = 40 if LONG else 12
    system.populate(keys)
    runs: list[tuple[str, str]] = []
    dice = random.Random(4)
    next_kill = time.monotonic() + 0.5
    kills = 0
    with system.scheduler.connect() as scheduler:
        for number in range(RUNS):
            key = f"k{number % keys}"
            runs.append((key, system.start(scheduler, key, *["CountOperator"] * STEPS)))
            if number % 10 == 9:
                time.sleep(0.3)  # the runs are to spread over the kills
            if time.monotonic() >= next_kill:
                system.replace_worker(dice.choice(list(system.workers)))
                kills += 1
                next_kill = time.monotonic() + KILL_EVERY
        while (status := object_of(scheduler.ask("status")))["going_on"]:
            if time.monotonic() >= next_kill and kills < (10_000 if LONG else 8):
                system.replace_worker(dice.choice(list(system.workers)))
                kills += 1
                next_kill = time.monotonic() + KILL_EVERY
            time.sleep(0.05)  # between two looks
        loads = object_of(scheduler.ask("workers"))["workers"]
    counted = dict.fromkeys((f"k{key}" for key in range(keys)), 0)
    uncertain = dict.fromkeys(counted, 0)
    states = {"done": 0, "failed": 0}
    reasons: list[str] = []
    for key, run in runs:
        state, told, text = system.result(run)
        reasons += [text] if state == "failed" else []
        states[state] += 1
        assert told["ms"] <= DEADLINE * 1000 + 1000
        counted[key] += len(told["steps"])
        uncertain[key] += state == "failed"
    for key, count in counted.items():
        assert count <= system.value(key) <= count + uncertain[key], (key, states, status)
    assert kills >= 2
    assert states["done"] >= RUNS * 0.95, (states, reasons)
    assert all(load["active"] == 0 for load in loads), loads
    sys.stdout.write(
        f"{RUNS} runs, {kills} workers killed: {states}, {status['reassigned']} steps given to another worker\n"
    )


def test_the_scheduler_is_killed(system: System) -> None:
    """The scheduler is killed in the middle of many runs and started again: the outcome of each is known, of those
    that had ended before, too."""
    count = 200 if LONG else 60
    system.populate(10)
    with system.scheduler.connect() as scheduler:
        runs = [system.start(scheduler, f"k{number % 10}", *["CountOperator"] * STEPS) for number in range(count)]
        until("the workers have them all", lambda: _acknowledged(system, count))
        until("a third has ended", lambda: object_of(scheduler.ask("status"))["done"] >= count // 3)
        ended = object_of(scheduler.ask("status"))["done"]
        assert ended < count
    system.replace_scheduler()
    known: dict[str, str] = {}

    def all_known() -> bool:
        with system.scheduler.connect() as scheduler:
            listed = object_of(scheduler.ask("runs"))["runs"]
        known.update({run["run"]: run["state"] for run in listed if run["state"] != "going on"})
        return len(known) == count

    until("all outcomes are known", all_known, DEADLINE)
    assert set(known) == set(runs)
    assert set(known.values()) == {"done"}
    for run in runs:
        state, told, text = system.result(run)
        assert (state, len(told["steps"])) == ("done", STEPS), text
        first, last = told["steps"][0], told["steps"][-1]
        spent = (last["start"] - first["start"]) * 1000 + last["ms"]
        assert spent - 100 <= told["ms"] <= min(spent + 2000, DEADLINE * 1000), text
    assert sum(system.value(f"k{key}") for key in range(10)) == count * STEPS
    with system.scheduler.connect() as scheduler:
        status = object_of(scheduler.ask("status"))
        assert all(load["active"] == 0 for load in object_of(scheduler.ask("workers"))["workers"])
    assert status["adopted"] == count
    sys.stdout.write(f"{count} runs, {ended} had ended before the scheduler was killed; all outcomes are known\n")


def _acknowledged(system: System, count: int) -> bool:
    """Whether the first worker of each run has it."""
    done = [worker.status() for worker in system.workers.values()]
    return bool(sum(each["executed"] + each["active"] for each in done) >= count)


def test_a_worker_is_paused(tmp_path: Path) -> None:
    """A worker is paused with steps in hand, others execute them, it goes on: each step has still counted once.

    The storage gossips late, so that the replica that the paused worker asks knows of nothing.
    """
    system = System(tmp_path, 2, "--max-versions", "1000", "--gossip-delay", "1500")
    try:
        keys = 4
        system.populate(keys)
        with system.scheduler.connect() as scheduler:
            runs = [system.start(scheduler, f"k{key}", "NapOperator", "NapOperator") for key in range(keys)]
            until("it works", lambda: system.workers["w1"].status()["active"])
            system.workers["w1"].pause()
            paused = time.monotonic()
            results = [system.result(run) for run in runs]
            assert [state for state, _, _ in results] == ["done"] * keys, results
            assert time.monotonic() > paused + 3, "the runs needed the paused worker's steps"
            system.workers["w1"].resume()
            until("it has finished", lambda: not system.workers["w1"].status()["active"])
        assert [system.value(f"k{key}") for key in range(keys)] == [2] * keys
        system.cluster.wait_equal(1, 2)
        for key in range(keys):
            versions = object_of(system.cluster.nodes[1].ask(f"versions k{key}"))["versions"]
            assert len(versions) == 3, "written at first, and once by each step"
    finally:
        system.end()


def test_consistency_along_chains(tmp_path: Path) -> None:
    """Interleaved runs on the same records, over replicas that lag by two seconds: by what each run says that it
    has read and written, it sees its own writes, one version of a record, and nothing older than that implies."""
    system = System(tmp_path, 3, "--max-versions", "1000", "--gossip-delay", "2000")
    try:
        system.populate(4)
        with system.scheduler.connect() as scheduler:
            count = 200 if LONG else 24
            runs = [system.start(scheduler, str(number), *["MixOperator"] * STEPS) for number in range(count)]
        touched: dict[str, list[Access]] = {}
        for run in runs:
            state, told, text = system.result(run)
            assert state == "done", text
            touches = [structure(touch, Access) for step in told["steps"] for touch in step["records"]]
            touched[run] = list(dict.fromkeys(touches))
    finally:
        system.end()
    assert checkers.runs(touched) == []
    assert min(map(len, touched.values())) > STEPS
