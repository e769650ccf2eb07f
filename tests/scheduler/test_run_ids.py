"""Runs that their clients name, and questions about runs that a scheduler does not know yet."""

import json

import pytest
import pytest_twisted
from attrs import evolve
from twisted.internet.defer import Deferred

from dida.addresses import NodeAddress
from dida.chains.messages import Adopt, Ended, Execute, ReportTo
from dida.chains.records import Assignment, Mark, Meta
from dida.chains.run_ids import computed
from dida.chains.runs import SEAL
from dida.errors import DidaError
from dida.protocols.lines import Answer
from dida.wire.messages import Error, Journal, Ok, Reply
from tests.support.fakes import refused, the_reactor, until
from tests.support.schedulers import TIMING, Silent, System

reactor = the_reactor()
LINE = 'run 13 CounterOperator {"id":"me:1"}'


def named(id: object, line: str = "run 13 ReaderOperator") -> str:
    return f"{line} {json.dumps({'id': id})}"


@pytest_twisted.ensureDeferred
async def test_the_same_line_starts_one_run(system: System) -> None:
    """Over one connection or several, in one turn or later, also when it has ended: one run, and its first answer."""
    scheduler = system.start()
    lines = [system.ask(LINE) for _ in range(10)] + [system.ask(LINE, system.link_to("sc1")) for _ in range(10)]
    answers = [await line for line in lines]
    assert len(set(map(str, answers))) == 1
    run = answers[0]
    assert isinstance(run, Ok)
    result = await system.ask(f"result {run.words[0]}")
    assert result.words == ("done", "2")
    assert await system.ask(LINE) == run
    assert await system.ask(LINE.replace("}", ',"after":{"x":1},"deadline":5}')) == run, "what it waits for is no part"
    assert (scheduler.runs.started, system.storage.group.records["13"][0][1]) == (1, "2")
    assert await system.ask(f"result {run.words[0]}") == result
    assert result.object["id"] == "me:1"


@pytest_twisted.ensureDeferred
async def test_an_id_is_for_one_line(system: System) -> None:
    """With another input, chain or application a used id is refused, and nothing is started."""
    scheduler = system.start()
    first = await system.ask('run 13 ReaderOperator {"id":"x","application":"shop"}')
    assert isinstance(first, Ok)
    for line in (
        'run 14 ReaderOperator {"id":"x","application":"shop"}',
        'run 13 ReaderOperator ReaderOperator {"id":"x","application":"shop"}',
        'run 13 CounterOperator {"id":"x","application":"shop"}',
        'run 13 ReaderOperator {"id":"x","application":"bank"}',
        'run 13 ReaderOperator {"id":"x"}',
    ):
        refused = await system.ask(line)
        assert isinstance(refused, Error)
        assert (refused.code, refused.words[0]) == ("id-in-use", "x"), line
    assert await system.ask('run 13 ReaderOperator {"id":"x","application":"shop"}') == first
    assert scheduler.runs.started == 1


@pytest_twisted.ensureDeferred
async def test_what_an_id_may_be(system: System) -> None:
    """Any string of 1 to 200 characters, whatever it looks like; a run's own id is none of them."""
    system.start()
    plain = await system.run("13 ReaderOperator")
    run = plain.object["run"]
    ids = ["x", "0" * 200, "ä 漢字 🐍", "with blank", '"{[#', "\u0000", run, "r1", f"{run}:1", "me:007"]
    runs = [(await system.ask(named(id))).words[0] for id in ids]
    assert len({run, *runs}) == len(ids) + 1
    assert [run.partition("-")[0] for run in runs[-2:]] == ["r1", "r7"]
    for wrong in ("", "x" * 201, 7, ["x"], {"x": 1}, True):
        refused = await system.ask(f"run 13 ReaderOperator {json.dumps({'id': wrong})}")
        assert isinstance(refused, Error)
        assert (refused.code, "id:" in refused.words[0]) == ("bad-request", True), wrong
    assert (await system.ask("result r1")).object["run"] == run, "a number means a run of this life first"
    for name in ("r7", runs[-1][:9]):
        assert (await system.ask(f"result {name}")).object["run"] == runs[-1]


@pytest_twisted.ensureDeferred
async def test_a_line_that_waits_for_a_worker_twice(system: System) -> None:
    """Both wait, one run is started, and both are told the same."""
    scheduler = system.start(0)
    twice = [system.ask(LINE), system.ask(LINE)]
    await until(lambda: scheduler.workers.all_reported)
    assert await system.ask(f"worker w1 {system.worker('w1').address}") == Ok()
    first, second = [await each for each in twice]
    assert first == second
    assert scheduler.runs.started == 1


@pytest_twisted.ensureDeferred
async def test_the_line_is_said_to_the_next_scheduler(system: System) -> None:
    """A run in hand, and one that has ended, are known to the next scheduler by their ids, with what they were."""
    first = system.start()
    await until(lambda: first.ready)
    going_on = 'run 13 CounterOperator NapOperator {"id":"a","application":"shop"}'
    before = [await system.ask(line) for line in (going_on, LINE)]
    ended = await system.ask(f"result {before[1].words[0]}")
    second = await system.start_again()
    again = [system.ask(going_on), system.ask(LINE), system.ask(named("a"))]
    assert [await again[0], await again[1]] == before
    refused = await again[2]
    assert isinstance(refused, Error)
    assert refused.code == "id-in-use"
    assert (await system.ask(f"result {before[1].words[0]}")).words == ended.words
    result = await system.ask(f"result {before[0].words[0]}")
    assert (result.words[0], result.object["application"], result.object["id"]) == ("done", "shop", "a"), result
    assert (second.runs.started, second.runs.adopted) == (0, 2)
    assert system.storage.group.records["13"][0][1] == "3"


@pytest_twisted.ensureDeferred
async def test_a_run_that_nobody_remembers(system: System) -> None:
    """When no worker knows of it the line starts it again, with the same id: its updates count once."""
    first = system.start()
    await until(lambda: first.ready)
    run = await system.run_line(LINE)
    assert run.words == ("done", "2")
    outcomes = [node.reports._outcomes for node in system.workers]
    await until(lambda: any(outcomes))  # the worker has heard that its report was understood
    for each in outcomes:
        each.clear()
    second = await system.start_again()
    result = await system.run_line(LINE)
    assert (result.words[0], result.object["run"]) == ("done", run.object["run"])
    assert (second.runs.started, second.runs.adopted) == (1, 0)
    assert system.storage.group.records["13"][0][1] == "2"


@pytest_twisted.ensureDeferred
async def test_a_run_that_is_not_kept_any_more(system: System) -> None:
    """The same line gets its first answer and starts nothing, however long ago the run was dropped."""
    scheduler = system.start(1, keep=2)
    first = await system.run_line(LINE)
    for _ in range(3):
        await system.run("14 ReaderOperator")
    run = first.object["run"]
    assert await system.ask(LINE) == Ok((run,))
    assert await system.ask(f"result {run}") == Error("no-such-run", (run,))
    assert (scheduler.runs.started, system.storage.group.records["13"][0][1]) == (4, "2")
    other = await system.run_line('run 13 CounterOperator {"id":"me:1","application":"other"}')
    assert other.words == ("done", "3"), "the id is free for another line"


class Slow(Silent):
    """A worker that has told all it knows when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.telling: list[Deferred[Reply]] = []

    def cmd_report(self, request: ReportTo) -> Answer:
        self.telling.append(Deferred())
        return self.telling[-1]

    def tell(self) -> None:
        """That was all."""
        telling, self.telling = self.telling, []
        for each in telling:
            each.callback(Ok())


@pytest_twisted.ensureDeferred
async def test_questions_wait_for_the_reports(system: System) -> None:
    """Before all workers have told what they know an unknown run is waited for; then it is said to be none."""
    slow = Slow()
    scheduler = system.start(1, (system.node("slow", slow),))
    await until(lambda: slow.telling and scheduler.workers["w1"].reported)
    questions = [system.ask(f"{verb} r9-x") for verb in ("result", "cancel")]
    short = await system.ask('result r9-x {"timeout":0.1}')
    assert short == Error("no-such-run", ("r9-x",)), "it does not wait longer than it may"
    run = system.ask('run 13 ReaderOperator {"id":"x"}')
    answered: list[Reply] = []

    def noted(reply: Reply) -> Reply:
        answered.append(reply)
        return reply

    for each in (*questions, run):
        each.addCallback(noted)
    hasty = await system.ask('run 13 ReaderOperator {"id":"y","deadline":0.1}')
    assert isinstance(hasty, Error)
    assert hasty.code == "unavailable"
    assert isinstance(await system.ask('run 13 ReaderOperator {"id":"z","retry":false}'), Ok), "the first time it said"
    assert isinstance(await system.ask("run 13 ReaderOperator"), Ok)
    assert not answered
    slow.tell()
    for question in questions:
        assert await question == Error("no-such-run", ("r9-x",))
    assert await run == Ok((computed("x", "13", ("ReaderOperator",), ""),))


@pytest_twisted.ensureDeferred
async def test_a_worker_that_tells_nothing(system: System) -> None:
    """One that is silent is not waited for for ever, one that is not there not at all."""
    slow = Slow()
    scheduler = system.start(0, (system.node("slow", slow),), timing=evolve(TIMING, report_timeout=0.2))
    assert await system.ask("result r9-x") == Error("no-such-run", ("r9-x",))
    assert scheduler.workers["slow"].reported
    slow.tell()


@pytest_twisted.ensureDeferred
async def test_a_line_that_waits_for_its_run(system: System) -> None:
    """With `wait` the answer is the run's result when it ends by then, else its id; a known id waits for its run."""
    system.start()
    done = await system.ask('run 13 ReaderOperator {"wait":10}')
    assert done == await system.ask("result r1")
    assert done.words == ("done", "1")
    assert (await system.ask('run nobody ReaderOperator {"wait":10}')).words[0] == "failed"
    napping = 'run 13 NapOperator {"id":"x","wait":0.1}'
    started = await system.ask(napping)
    assert isinstance(started, Ok)
    assert len(started.words) == 1
    twice = [system.ask(napping.replace("0.1", "10")) for _ in range(2)]
    assert [(await each).words for each in twice] == [("done", "")] * 2
    refused = await system.ask('run 13 ReaderOperator {"id":"x","wait":10}')
    assert isinstance(refused, Error)
    assert refused.code == "id-in-use"


@pytest_twisted.ensureDeferred
async def test_nobody_is_told_too_early(system: System) -> None:
    """200 clients ask for runs that go on, or have ended, as soon as the next scheduler answers: none is told no."""
    first = system.start()
    await until(lambda: first.ready)
    runs = [(await system.ask("run 13 CounterOperator NapOperator")).words[0] for _ in range(8)]
    runs += [(await system.run("13 ReaderOperator")).object["run"] for _ in range(8)]
    await system.start_again()
    links = [system.link_to("sc1") for _ in range(20)]
    answers = [system.ask(f"result {runs[n % 16]}", links[n % 20]) for n in range(200)]
    replies = [await answer for answer in answers]
    assert not [reply for reply in replies if reply.words[0] != "done"]


@pytest_twisted.ensureDeferred
async def test_a_scheduler_that_ends_lets_go(system: System) -> None:
    """Who waits for reports when the scheduler ends is told so."""
    slow = Slow()
    scheduler = system.start(0, (system.node("slow", slow),))
    question = system.ask("result r9-x")
    line = system.ask(LINE)
    await until(lambda: len(scheduler._admission._for_reports) == 2)
    scheduler.stop()
    for each in (question, line):
        answer = await each
        assert isinstance(answer, Error)
        assert answer.code == "unavailable"
    slow.tell()


def test_the_id_is_computed() -> None:
    """The run's id is the same for the same line, everywhere and always, and another one for any other line."""
    one = computed("me:1", "13", ("A", "B"), "shop")
    assert one == "r1-" + one[3:]
    assert one == computed("me:1", "13", ["A", "B"], "shop")
    others = {
        computed("me:1", "13", ("AB",), "shop"),
        computed("me:1", "13", ("A", "B"), ""),
        computed("me:1", "1", ("3", "A", "B"), "shop"),
        computed("me:2", "13", ("A", "B"), "shop"),
        computed("me", "13", ("A", "B"), "shop"),
    }
    assert len({one, *others}) == 6
    with pytest.raises((UnicodeEncodeError, DidaError)):
        computed("\ud800", "", (), "")


def outcome_of(run: str, mark: Mark, output: str = "out") -> Ended:
    """What the last worker of an execution reports."""
    chain = (Assignment("ReaderOperator", 0, "w1", "localhost", 1, output=output, mark=mark),)
    return Ended(run=run, chain=chain)


@pytest_twisted.ensureDeferred
async def test_the_outcome_of_an_adopted_run_is_verified(system: System) -> None:
    """It counts if the storage has as many updates of the run, the last with its digest; the run is fenced for good."""
    scheduler = system.start(0, (NodeAddress("w1", refused()),))
    group = system.storage.group
    for run, mark, taken in (("r1-old", Mark(9, 1, 77), True), ("r2-old", Mark(9, 0, 0), False)):
        group.results[f"{run}:1"] = Ok(("1.1",))
        group.journals[f"{run}:1"] = "key", Journal(0, "", 1, 77, "w")
        meta = Meta(run, str(scheduler.me.address))
        request = Execute(
            meta=meta, input="in", next=0, size=1, chain=outcome_of(run, mark).chain, left=10.0, life="old"
        )
        await system.link.ask(Adopt(request=request), 5.0)
        reply = await system.link.ask(outcome_of(run, mark), 5.0)
        assert reply == (Ok() if taken else Ok(("superseded",)))
        assert group.fenced[run].number > SEAL - 1
        record = scheduler.runs[run]
        assert record.state == ("done" if taken else "going on")
        assert taken or record.epoch > group.fenced[run], "it is begun again"
