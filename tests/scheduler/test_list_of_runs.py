"""`runs`: which runs it lists, page by page, and what it tells of each."""

from typing import Any

import pytest_twisted

from dida.protocols.clock import time_of_day
from dida.wire.messages import Error, Ok
from tests.support.fakes import until
from tests.support.schedulers import Silent, System


async def listed(system: System, members: str = "") -> list[str]:
    """The ids of the runs that `runs` lists, in short."""
    reply = await system.ask(f"runs {{{members}}}")
    assert isinstance(reply, Ok), reply
    return [run["run"].partition("-")[0] for run in reply.object["runs"]]


async def some_runs(system: System) -> list[dict[str, Any]]:
    """Four runs: one of a shop that is done, one that has failed, one of a bank, one that goes on; as they are told."""
    system.start(1)
    await system.run_line('run 13 ReaderOperator {"application":"shop","id":"mine:1"}')
    await system.run("nobody ReaderOperator")
    await system.run_line('run 13 ReaderOperator CounterOperator {"application":"bank"}')
    await system.ask("run 13 NapOperator")
    return list((await system.ask("runs")).object["runs"])


@pytest_twisted.ensureDeferred
async def test_what_is_told_of_a_run(system: System) -> None:
    """State, when it began, why it failed, and what its client has called it."""
    before = time_of_day()
    napping, bank, failed, shop = await some_runs(system)
    assert [run["state"] for run in (napping, bank, failed, shop)] == ["going on", "done", "failed", "done"]
    assert failed["reason"] == "ReaderOperator at position 0 on w1 failed: no-such-record: nobody"
    assert "reason" not in shop
    assert (shop["application"], shop["id"], "id" in bank) == ("shop", "mine:1", False)
    assert before - 0.001 <= shop["start"] <= failed["start"] <= napping["start"] <= time_of_day() + 0.001


@pytest_twisted.ensureDeferred
async def test_runs_are_chosen(system: System) -> None:
    """By state, operator, application and the time of their beginning, or several of these."""
    napping, bank, _, shop = await some_runs(system)
    assert await listed(system, '"state":"failed"') == ["r2"]
    assert await listed(system, '"state":"going on"') == ["r4"]
    assert await listed(system, '"state":"done"') == ["r3", "r1"]
    assert await listed(system, '"operator":"ReaderOperator"') == ["r3", "r2", "r1"]
    assert await listed(system, '"operator":"CounterOperator","state":"done"') == ["r3"]
    assert await listed(system, '"operator":"OtherOperator"') == []
    assert await listed(system, '"application":"shop"') == ["r1"]
    assert await listed(system, '"application":""') == ["r4", "r2"]
    assert await listed(system, f'"since":{napping["start"] + 1}') == []
    assert await listed(system, f'"since":{shop["start"]}') == ["r4", "r3", "r2", "r1"]
    assert "r1" not in await listed(system, f'"since":{bank["start"]}') or shop["start"] == bank["start"]


@pytest_twisted.ensureDeferred
async def test_a_list_is_read_page_by_page(system: System) -> None:
    """Each page says with which run to go on; the last one does not. Looking for few among many is bounded, too."""
    await some_runs(system)

    async def pages(members: str) -> list[list[str]]:
        found: list[list[str]] = []
        following: str | None = ""
        while following is not None:
            reply = await system.ask(f'runs {{{members},"from":"{following}"}}')
            found.append([run["run"].partition("-")[0] for run in reply.object["runs"]])
            following = reply.object.get("next")
        return found

    assert await pages('"limit":2') == [["r4", "r3"], ["r2", "r1"]]
    assert await pages('"limit":3') == [["r4", "r3", "r2"], ["r1"]]
    assert await pages('"limit":1,"state":"done"') == [["r3"], ["r1"]]
    assert await listed(system, '"from":"r2","limit":1') == ["r2"], "in short will do"
    system.scheduler.runs.max_looked = 1
    assert await pages('"limit":3,"state":"failed"') == [[], [], ["r2"], []]
    refused = await system.ask('runs {"from":"r9-x"}')
    assert refused == Error("no-such-run", ("r9-x",))


@pytest_twisted.ensureDeferred
async def test_what_is_no_choice(system: System) -> None:
    """A value that chooses nothing is refused with what is wrong with it, and nothing is listed."""
    scheduler = system.start(0, (system.node("x", Silent()),))
    await until(lambda: scheduler.ready)
    for members, why in (
        ('"state":"sate"', "going on, done, failed"),
        ('"state":7', "state"),
        ('"operator":"no class"', "class name"),
        ('"operator":""', "operator"),
        ('"application":7', "application"),
        ('"since":"yesterday"', "since"),
        ('"since":-1', "since"),
        ('"limit":0', "limit"),
        ('"limit":10001', "limit"),
        ('"from":7', "from"),
    ):
        refused = await system.ask(f"runs {{{members}}}")
        assert isinstance(refused, Error), members
        assert (refused.code, why in refused.words[0]) == ("bad-request", True), refused


@pytest_twisted.ensureDeferred
async def test_a_run_that_was_taken_over_has_a_beginning(system: System) -> None:
    """The next scheduler lists a run with the time of its beginning, as far as it can know, and its names."""
    first = system.start(1)
    await until(lambda: first.ready)
    run = (await system.ask('run 13 NapOperator {"application":"shop","id":"a"}')).words[0]
    await until(lambda: system.workers[0].steps.in_hand)
    second = await system.start_again()
    await until(lambda: second.workers.all_reported)
    (listed,) = (await system.ask("runs")).object["runs"]
    assert (listed["run"], listed["application"], listed["id"]) == (run, "shop", "a")
    assert abs(listed["start"] - first.runs[run].start) < 2.0
