"""Nodes started by hand, without PCS and puppetmaster: what a person with twistd and nc sees."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.clusters import StorageCluster
from tests.support.netcat import Netcat, object_of
from tests.support.nodes import ROOT, NodeProcess, until

DATA = {"13": "1", "14": "one_ahead_of_13", "23": "11", "24": "one_ahead_of_23"}
CHAIN = "AddOperator UpdateAndChainOperator AddOperator"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[StorageCluster]:
    """Four storage nodes with the records of the evaluation."""
    found = StorageCluster(tmp_path, 4)
    with found.nodes[1].connect() as netcat:
        for key, value in DATA.items():
            assert netcat.ask(f"write {key} {value}").startswith("ok ")
    found.wait_equal(1, 2, 3, 4)
    yield found
    found.end()


@pytest.fixture
def scheduler(
    cluster: StorageCluster, start_node: Callable[..., NodeProcess], tmp_path: Path
) -> tuple[NodeProcess, Path]:
    """A scheduler and two workers over the four, and the folder of the operators."""
    folder = tmp_path / "operators"
    folder.mkdir()
    for source in (ROOT / "operators").glob("*.py"):
        (folder / source.name).write_text(source.read_text())
    from tests.support.nodes import free_port

    workers = []
    for number in (1, 2):
        port = free_port()
        start_node("dida-worker", "--id", f"w{number}", "--operators", str(folder), port=port)
        workers += ["--worker", f"w{number}=http://127.0.0.1:{port}"]
    return start_node("dida-scheduler", "--id", "sc1", *workers, *cluster.members, port=free_port()), folder


def run(scheduler: NodeProcess, words: str) -> str:
    """The result of a run, as the scheduler's port tells it."""
    with scheduler.connect(timeout=30) as netcat:
        reply = netcat.ask(f"run {words}")
        assert reply.startswith("ok "), reply
        return netcat.ask(f'result {reply.split()[1]} {{"timeout": 20, "deadline": 25}}')


def test_an_application_sent_by_netcat(scheduler: tuple[NodeProcess, Path]) -> None:
    """The baseline's chain runs by hand-typed lines, and its steps are told."""
    reply = run(scheduler[0], f"23 {CHAIN}")
    assert reply.startswith("ok done int_conversion_failed ")
    found = object_of(reply)
    assert [step["operator"] for step in found["steps"]] == CHAIN.split()
    assert [step["output"] for step in found["steps"]] == ["12", "end", "int_conversion_failed"]
    assert {step["worker"] for step in found["steps"]} == {"w1", "w2"}


def test_operators_are_found_while_the_worker_runs(scheduler: tuple[NodeProcess, Path]) -> None:
    """A missing class is refused by name; its file is found once it is added; one that raises fails with operator,
    position, worker and reason."""
    node, folder = scheduler
    assert node.ask("run 5 AddOperator HelloOperator").startswith("error no-such-operator HelloOperator ")
    (folder / "hello.py").write_text(
        "class HelloOperator:\n"
        "    def configure_storage(self, storage):\n        self.storage = storage\n"
        "    def process_record(self, meta, input, previous_output):\n        return 'hello ' + input\n"
        "class RaisingOperator(HelloOperator):\n"
        "    def process_record(self, meta, input, previous_output):\n        raise ValueError('not today')\n"
    )
    assert run(node, "5 HelloOperator").startswith('ok done "hello 5" ')
    raised = run(node, "5 HelloOperator RaisingOperator")
    assert raised.startswith("ok failed ")
    for part in ("RaisingOperator", "position 1", "ValueError", "not today"):
        assert part in raised
    assert "Traceback" not in node.output


def test_two_hundred_updateifs_from_the_same_value(cluster: StorageCluster) -> None:
    """Of 200 updateIfs of one key, sent to all replicas at once, exactly one succeeds, and all others hear
    the winner's value."""
    connections = [cluster.nodes[1 + n % 4].connect(timeout=30) for n in range(20)]
    for number in range(200):
        connections[number % 20].send(f"#{number} updateif 13 1 winner-{number}")
    replies = [connections[number % 20].line().split(" ", 1)[1].split(" {")[0].split() for number in range(200)]
    for connection in connections:
        connection.close()
    assert Counter(reply[0] for reply in replies) == {"ok": 1, "no": 199}
    (version,) = [reply[1] for reply in replies if reply[0] == "ok"]
    values = {tuple(reply[1:]) for reply in replies if reply[0] == "no"}
    assert len(values) == 1
    ((seen, value),) = values
    assert seen == version
    assert value.startswith("winner-")


def test_three_of_four_may_be_killed(cluster: StorageCluster, scheduler: tuple[NodeProcess, Path]) -> None:
    """While applications run, any three of four storage nodes are killed one after the other: reads, writes
    and updateIfs go on at the last one, no acknowledged updateIf is lost, and the applications end."""
    stop = threading.Event()
    results: list[str] = []

    def applications() -> None:
        while not stop.is_set():
            results.append(run(scheduler[0], f"23 {CHAIN}"))

    def wait_for_runs(count: int) -> None:
        enough = len(results) + count
        until("runs end", lambda: len(results) >= enough, 30)

    runner = threading.Thread(target=applications)
    runner.start()
    try:
        with cluster.nodes[3].connect() as last:
            last.ask("write counter 0")
            for value, victim in enumerate((4, 1, 2)):
                wait_for_runs(1)
                assert last.ask(f"updateif counter {value} {value + 1}").startswith("ok ")
                cluster.nodes[victim].kill()
                assert last.ask(f"updateif counter {value + 1} {value + 1}").startswith("ok ")
                assert last.ask(f"write alive {victim}").startswith("ok ")
                assert last.ask("read alive").startswith(f"ok {victim} ")
            assert last.ask('read counter {"latest": true}').startswith("ok 3 ")
        cluster.wait_members(3)
        assert set(cluster.nodes[3].status()["dead"]) == {"s1", "s2", "s4"}
        wait_for_runs(2)
    finally:
        stop.set()
        runner.join(60)
    assert all(result.startswith(("ok done ", "ok failed ")) for result in results)
    assert results[-1].startswith("ok done "), results[-1]


def test_a_worker_answers_while_an_operator_is_slow(scheduler: tuple[NodeProcess, Path]) -> None:
    """A slow operator, plain or async, never stops a worker from answering."""
    node, _ = scheduler
    with node.connect() as netcat:
        reply = netcat.ask("run 1 WaitOperator WaitOperator")
        assert reply.startswith("ok ")
        workers = netcat.ask_object("workers")["workers"]
        assert sum(worker["active"] for worker in workers) == 2
        for worker in workers:
            host, _, port = worker["url"].removeprefix("http://").rpartition(":")
            with Netcat(int(port), host, timeout=1.0) as there:
                assert there.ask("ping") == "ok"
        assert json.dumps(object_of(netcat.ask("runs")))
