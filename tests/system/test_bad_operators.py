"""Operators that do whatever an operator must not do, on real workers."""

from __future__ import annotations

import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.clusters import StorageCluster
from tests.support.netcat import object_of
from tests.support.nodes import TWISTD, NodeProcess, environment, free_port, until

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

DEADLINE = 20.0
OPERATORS = """
import os
import sys
import subprocess
import sys
import time

from twisted.internet.defer import Deferred


class Base:
    def configure_storage(self, storage):
        self.storage = storage


class GoodOperator(Base):
    def process_record(self, meta, input, previous_output):
        self.storage.write(input, "good")
        return self.storage.read(input).value


class SleepsOperator(Base):
    timeout = 1.0

    def process_record(self, meta, input, previous_output):
        time.sleep(1e6)  # it never returns


class AwaitsOperator(Base):
    timeout = 1.0

    async def process_record(self, meta, input, previous_output):
        await Deferred()


class RaisesOperator(Base):
    def process_record(self, meta, input, previous_output):
        raise ValueError("no good\\nat all")


class LeavesOperator(Base):
    def process_record(self, meta, input, previous_output):
        sys.exit(3)


class ExitsOperator(Base):
    isolation = "process"

    def process_record(self, meta, input, previous_output):
        os._exit(3)


class KillsOperator(Base):
    def process_record(self, meta, input, previous_output):
        os._exit(3)


class NumberOperator(Base):
    def process_record(self, meta, input, previous_output):
        return 5


class LongOperator(Base):
    def process_record(self, meta, input, previous_output):
        return "x" * 10_000_000


class WritesOperator(Base):
    def process_record(self, meta, input, previous_output):
        self.storage.write(input, "x" * 10_000_000)
        return "written"


class HalfOperator:
    def configure_storage(self, storage):
        pass


class AsyncWritesOperator(Base):
    async def process_record(self, meta, input, previous_output):
        await self.storage.write(input, "x" * 10_000_000)
        return "written"
"""
REASONS = {
    "SleepsOperator": "did not return within 1.0 s, the limit is its class's timeout;"
    " its thread can't be stopped and goes on",
    "AwaitsOperator": "did not return within 1.0 s, the limit is its class's timeout",
    "RaisesOperator": "raised ValueError: no good at all",
    "LeavesOperator": "raised SystemExit: 3",
    "ExitsOperator": "ended its process with exit status 3",
    "NumberOperator": "returned int, not a string",
    "LongOperator": "returned 10000000 bytes, more than the 524288 of an output: write it into the storage",
    "WritesOperator": "failed: line-too-long: 10004099 bytes are more than a line may have (1048576)",
    "AsyncWritesOperator": "failed: line-too-long: 10004099 bytes are more than a line may have (1048576)",
    "HalfOperator": "could not be loaded: HalfOperator in ",
}


class System:
    """One storage node, a scheduler, and workers."""

    def __init__(self, folder: Path, workers: int) -> None:
        operators = folder / "operators"
        operators.mkdir()
        (operators / "bad.py").write_text(OPERATORS)
        self.storage = StorageCluster(folder, 1)

        def node(command: str, id: str, *options: str) -> NodeProcess:
            port = free_port()
            names = ("--id", id, "--url", f"http://127.0.0.1:{port}")
            return NodeProcess(command, *names, *options, folder=folder, port=port)

        ids = [f"w{number + 1}" for number in range(workers)]
        self.workers = [node("dida-worker", id, "--threads", "4", "--operators", str(operators)) for id in ids]
        named = [f"--worker={id}=http://127.0.0.1:{each.port}" for id, each in zip(ids, self.workers, strict=True)]
        options = ("--run-deadline", str(DEADLINE), *named, *self.storage.members)
        self.scheduler = node("dida-scheduler", "sc1", *options)
        for each in (*self.workers, self.scheduler):
            each.wait_ready()

    def end(self) -> None:
        for each in (self.scheduler, *self.workers):
            each.end()
        self.storage.end()


def test_each_says_what_it_has_done_and_harms_nobody(tmp_path: Path) -> None:
    """Each fails its own run with one clear reason, at the client, within the deadline; the worker serves on."""
    system = System(tmp_path, 1)
    try:
        with system.scheduler.connect(DEADLINE + 10) as client:
            began = time.monotonic()
            runs = {
                name: [client.ask(f"run key {chain}").split()[1] for chain in (f"GoodOperator {name}", "GoodOperator")]
                for name in REASONS
            }
            for name, reason in REASONS.items():
                bad, good = runs[name]
                told = client.ask(f'result {bad} {{"timeout": {DEADLINE + 5}}}')
                assert told.startswith(f'ok failed "{name} at position 1 on w1 {reason}'), told
                assert object_of(told)["position"] == 1
                assert [step["output"] for step in object_of(told)["steps"]] == ["good"]
                assert client.ask(f'result {good} {{"timeout": {DEADLINE + 5}}}').startswith("ok done good ")
            assert time.monotonic() - began < DEADLINE
            after = client.ask("run key GoodOperator").split()[1]
            assert client.ask(f"result {after}").startswith("ok done good ")
        (worker,) = system.workers
        until("the scheduler has confirmed the last report", lambda: worker.status()["reports"] == 0)
        status = worker.status()
        assert (status["pid"], status["active"]) == (worker.pid, 0)
        assert status["stuck_threads"] == 1
        assert "Traceback" not in system.storage.nodes[1].output + system.scheduler.output
    finally:
        system.end()


def test_what_kills_its_worker_kills_no_second_one(tmp_path: Path) -> None:
    """A plain operator that ends its worker's process is executed in a process of its own then, and fails its run."""
    system = System(tmp_path, 2)
    try:
        with system.scheduler.connect(DEADLINE + 10) as client:
            runs = [client.ask(f"run key {name}").split()[1] for name in ("KillsOperator", "GoodOperator")]
            told, good = (client.ask(f'result {run} {{"timeout": {DEADLINE + 5}}}') for run in runs)
            assert told.startswith("ok failed "), told
            assert "KillsOperator at position 0 on w2 ended its process with exit status 3" in told
            assert good.startswith("ok done good ")
            after = client.ask("run key GoodOperator").split()[1]
            assert client.ask(f"result {after}").startswith("ok done good ")
        assert [worker.process.poll() for worker in system.workers] == [3, None]
    finally:
        system.end()


PRINTING = """
import logging
import multiprocessing


class Prints:
    def configure_storage(self, storage):
        self.storage = storage

    def process_record(self, meta, input, previous_output):
        print("printed")
        logging.getLogger("op").info("logged")
        return previous_output + "!"


class Isolated(Prints):
    isolation = "process"


def double(number):
    return 2 * number


class Forks(Prints):
    def process_record(self, meta, input, previous_output):
        with multiprocessing.get_context(input).Pool(2) as pool:
            print(sum(pool.map(double, range(10))))
        return super().process_record(meta, input, previous_output)
"""


def test_a_log_whose_disk_is_full(tmp_path: Path) -> None:
    """Operators print, log and start processes as ever when the worker's output can't be written; `result` has what
    they printed."""
    folder = tmp_path / "operators"
    folder.mkdir()
    (folder / "printing.py").write_text(PRINTING)
    port = free_port()
    arguments = ("--id", "w1", "--url", f"http://127.0.0.1:{port}", "--operators", str(folder))
    storage = StorageCluster(tmp_path, 1)
    with open("/dev/full", "wb") as full:
        command = [*TWISTD, "-n", "dida-worker", *arguments]
        worker = subprocess.Popen(
            command, cwd=tmp_path, env=environment(), stdin=subprocess.DEVNULL, stdout=full, stderr=full
        )
    scheduler = NodeProcess(
        "dida-scheduler", "--id", "sc1", "--url", f"http://127.0.0.1:{(at := free_port())}",
        f"--worker=w1=http://127.0.0.1:{port}", *storage.members, folder=tmp_path, port=at,
    )  # fmt: skip
    try:
        scheduler.wait_ready()
        with scheduler.connect(40) as client:
            for method, total in (("fork", "90\n"), ("spawn", "90\n")):
                run = client.ask(f"run {method} Prints Isolated Forks").split()[1]
                told = client.ask(f'result {run} {{"timeout": 35}}')
                assert told.startswith("ok done !!! "), told
                steps = object_of(told)["steps"]
                assert [each["printed"] for each in steps] == [
                    "printed\nlogged\n", "printed\nlogged\n", f"{total}printed\nlogged\n"
                ]  # fmt: skip
        assert worker.poll() is None
    finally:
        scheduler.end()
        storage.end()
        worker.terminate()
        worker.wait(10)


LEAKS = """
class Reads:
    def configure_storage(self, storage):
        self.storage = storage

    def process_record(self, meta, input, previous_output):
        self.storage.write(input, "x")
        with open(__file__) as file:
            return file.read(5)


class Isolated(Reads):
    isolation = "process"
"""


def test_a_worker_without_descriptors(tmp_path: Path) -> None:
    """A worker whose descriptors are used up passes what it is given to another one: no run fails, and its log is
    short."""
    folder = tmp_path / "operators"
    folder.mkdir()
    (folder / "leaks.py").write_text(LEAKS)
    storage = StorageCluster(tmp_path, 3)
    nodes: dict[str, NodeProcess] = {}
    try:
        for id, limit in (("w1", 48), ("w2", None)):
            port = free_port()
            options = ("--id", id, "--url", f"http://127.0.0.1:{port}", "--operators", str(folder))
            nodes[id] = NodeProcess("dida-worker", *options, folder=tmp_path, port=port, descriptors=limit)
        port = free_port()
        named = [f"--worker={id}=http://127.0.0.1:{node.port}" for id, node in nodes.items()]
        whole = ("--id", "sc1", "--url", f"http://127.0.0.1:{port}", *named, *storage.members)
        nodes["sc1"] = NodeProcess("dida-scheduler", *whole, folder=tmp_path, port=port)
        for node in nodes.values():
            node.wait_ready()
        with ExitStack() as idle, nodes["sc1"].connect(40) as client:
            for _ in range(60):
                idle.enter_context(nodes["w1"].connect())
            until("w1 takes no more", lambda: "no more file descriptors (ulimit -n)" in nodes["w1"].output)
            chains = ["Reads", "Isolated", "Reads Reads"] * 4 + ["Reads"] * 40
            runs = [client.ask(f"run k{number} {chain}").split()[1] for number, chain in enumerate(chains)]
            for run in runs:
                told = client.ask(f'result {run} {{"timeout": 35}}')
                assert told.startswith("ok done "), told
        assert len(nodes["w1"].output) < 2000, nodes["w1"].output
    finally:
        for node in nodes.values():
            node.end()
        storage.end()
