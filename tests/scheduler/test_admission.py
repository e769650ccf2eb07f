"""Chains with operators that workers have, lack, or do not say."""

from collections.abc import Mapping
from pathlib import Path

import pytest_twisted
from attrs import evolve
from twisted.internet.defer import Deferred

from dida.addresses import NodeAddress
from dida.chains.messages import ListOperators
from dida.protocols.lines import Answer, ok
from dida.wire.messages import Error, Ok, Reply
from tests.support.fakes import the_reactor, until
from tests.support.schedulers import TIMING, Silent, System

reactor = the_reactor()
OPERATOR = """
class {name}:
    def configure_storage(self, storage):
        pass

    def process_record(self, meta, input, previous_output):
        return previous_output + "{name} "
"""


class Telling(Silent):
    """A worker that has the operators that the test says, and counts how often it is asked."""

    def __init__(self, *operators: str) -> None:
        super().__init__()
        self.operators: Mapping[str, str] | None = dict.fromkeys(operators, "file.py")
        self.asked = 0
        self.waiting: list[Deferred[Reply]] = []

    def cmd_operators(self, request: ListOperators) -> Answer:
        self.asked += 1
        if self.operators is not None:
            return ok(operators=self.operators)
        self.waiting.append(Deferred())
        return self.waiting[-1]

    def close(self) -> None:
        """Say at last that there is none."""
        for each in self.waiting:
            if not each.called:
                each.callback(Ok())


def worker_with(system: System, folder: Path, id: str, operator: str) -> NodeAddress:
    """A worker with that operator alone."""
    folder.mkdir()
    (folder / "file.py").write_text(OPERATOR.format(name=operator))
    system.folder = str(folder)
    return system.worker(id)


def refused(reply: Reply, name: str) -> str:
    """The hint of a refusal for that operator."""
    assert isinstance(reply, Error), reply
    assert (reply.code, reply.words[0]) == ("no-such-operator", name)
    return reply.words[1]


@pytest_twisted.ensureDeferred
async def test_a_misspelled_operator(system: System) -> None:
    """The chain is refused before its first step, with what may have been meant; nothing is written."""
    scheduler = system.start()
    hint = refused(await system.ask("run 13 IncrementOperator AdOperator"), "AdOperator")
    assert hint == "did you mean AddOperator?"
    assert (scheduler.runs.started, system.storage.group.records["13"][0][1]) == (0, "1")
    refused(await system.ask('run 13 AdOperator {"id":"x"}'), "AdOperator")
    assert (await system.run_line('run 13 ReaderOperator {"id":"x"}')).words == ("done", "1"), "its id was not used"


@pytest_twisted.ensureDeferred
async def test_a_file_that_was_just_added(system: System) -> None:
    """An operator that no worker had before is found by the next run, without a restart."""
    system.start()
    refused(await system.ask("run 13 FreshOperator"), "FreshOperator")
    (Path(system.folder) / "fresh.py").write_text(OPERATOR.format(name="FreshOperator"))
    assert (await system.run("13 FreshOperator")).words == ("done", "FreshOperator ")


@pytest_twisted.ensureDeferred
async def test_an_operator_by_a_base_from_elsewhere(system: System) -> None:
    """A class whose methods come from another module is not taken for missing."""
    text = "from importlib import import_module\n\nclass MyOperator(import_module('base_of_mine').Base):\n    pass\n"
    (Path(system.folder) / "mine.py").write_text(text)
    system.start(1)
    result = await system.run("13 MyOperator")
    assert "base_of_mine" in result.words[1], "it was begun, and is told why it can't be loaded"


@pytest_twisted.ensureDeferred
async def test_workers_with_different_operators(system: System, tmp_path: Path) -> None:
    """Each step goes to a worker that has its operator."""
    system.start(0, tuple(worker_with(system, tmp_path / id, id, name) for id, name in (("a", "A"), ("b", "B"))))
    for _ in range(3):
        result = await system.run("13 A B B A")
        assert result.words == ("done", "A B B A ")
        assert [step["worker"] for step in result.object["steps"]] == ["a", "b", "b", "a"]
    assert refused(await system.ask("run 13 A C"), "C").startswith("the workers have A, B")


@pytest_twisted.ensureDeferred
async def test_nobody_is_asked_about_what_is_known(system: System) -> None:
    """A run of operators that some worker is known to have costs no question; a refusal asks all, once for many."""
    one, two = Telling("A", "B"), Telling("B", "C")
    scheduler = system.start(0, (system.node("w1", one), system.node("w2", two)))
    await until(lambda: scheduler.runs.catalog.all_found(["A", "C"], scheduler.workers.reachable))
    for _ in range(5):
        assert isinstance(await system.ask("run 13 A B C"), Ok)
    assert (one.asked, two.asked) == (1, 1)
    for reply in [system.ask("run 13 A D") for _ in range(50)]:
        refused(await reply, "D")
    assert one.asked == two.asked <= 3


@pytest_twisted.ensureDeferred
async def test_a_worker_that_does_not_say(system: System) -> None:
    """It may have any operator; the others are not asked to execute what they lack."""
    telling, silent = Telling("A"), Telling()
    silent.operators = None
    workers = (system.node("w1", telling), system.node("w2", silent))
    system.start(0, workers, timing=evolve(TIMING, ask_timeout=0.2))
    began = reactor.seconds()
    run = await system.ask("run 13 B B A")
    assert isinstance(run, Ok)
    assert reactor.seconds() - began < 1.0
    await until(lambda: silent.requests)
    assert [step.worker for step in silent.requests[0].chain[:2]] == ["w2", "w2"]
    silent.operators = {}
    refused(await system.ask("run 13 B"), "B")
    silent.close()


@pytest_twisted.ensureDeferred
async def test_a_list_that_was_right_before(system: System) -> None:
    """What was added at one worker is found there, though the scheduler had another list of it."""
    one, two = Telling("A"), Telling("A")
    scheduler = system.start(0, (system.node("w1", one), system.node("w2", two)))
    await until(lambda: scheduler.runs.catalog.all_found(["A"], scheduler.workers.reachable))
    two.operators = {"A": "a.py", "B": "b.py"}
    for _ in range(3):
        assert isinstance(await system.ask("run 13 B"), Ok)
    assert (len(one.requests), len(two.requests)) == (0, 3)
