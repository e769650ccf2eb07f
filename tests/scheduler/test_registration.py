"""Workers that register themselves at schedulers, and runs without storage nodes."""

from typing import Any

import pytest_twisted
from attrs import evolve
from twisted.logger import ILogObserver, LogEvent, LogLevel, globalLogPublisher
from zope.interface import provider

from dida.addresses import Address
from dida.scheduler.node import SchedulerNode
from dida.scheduler.workers import Timing
from dida.wire.messages import Error, Ok
from dida.worker.timing import Timing as WorkerTiming
from tests.support.fakes import refused, the_reactor, until
from tests.support.schedulers import TIMING, System

reactor = the_reactor()


async def listed(system: System) -> dict[str, bool]:
    """The workers that the scheduler lists, and whether each gets operators."""
    reply = await system.ask("workers")
    assert isinstance(reply, Ok)
    return {each["id"]: each["reachable"] for each in reply.object["workers"]}


async def registered(scheduler: SchedulerNode, *ids: str) -> None:
    """Until these workers get operators."""
    await until(lambda: set(scheduler.workers.reachable) == set(ids))


QUICK = WorkerTiming(register_every=0.05)


@pytest_twisted.ensureDeferred
async def test_a_scheduler_that_knows_no_workers(system: System) -> None:
    """Workers come by themselves, before the scheduler or after it, and execute its runs."""
    here = refused()
    system.worker("w1", schedulers=[here])
    scheduler = system.start(0, here=here)
    waiting = system.ask("run 13 ReaderOperator CounterOperator")
    system.worker("w2", schedulers=[here, here])
    run = await waiting
    assert isinstance(run, Ok), "it waited for a worker"
    assert (await system.ask(f"result {run.words[0]}")).words == ("done", "2")
    await registered(scheduler, "w1", "w2")
    assert (await system.ask("status")).object["ready"]
    assert [node.registration.states for node in system.workers] == [{str(here): "registered"}] * 2


@pytest_twisted.ensureDeferred
async def test_a_scheduler_that_is_started_anew(system: System) -> None:
    """It is found again, and a run that goes on, or has ended, is known before anybody is told otherwise."""
    here = refused()
    system.worker("w1", schedulers=[here])
    first = system.start(0, here=here)
    await registered(first, "w1")
    going_on = (await system.ask("run 13 NapOperator")).words[0]
    ended = (await system.run("13 ReaderOperator")).object["run"]
    second = await system.start_again(timing=Timing())
    results = [await system.ask(f"result {run}") for run in (going_on, ended)]
    assert [result.words[0] for result in results] == ["done", "done"]
    assert second.runs.adopted == 2


@pytest_twisted.ensureDeferred
async def test_several_schedulers(system: System) -> None:
    """A worker registers at each; one that is not there is no harm."""
    other = refused()
    here = refused()
    system.worker("w1", schedulers=[other, here])
    scheduler = system.start(0, here=here)
    await registered(scheduler, "w1")
    assert system.workers[0].registration.states == {str(other): "not reached", str(here): "registered"}


@pytest_twisted.ensureDeferred
async def test_two_workers_with_one_id(system: System) -> None:
    """The second one is refused, with what to do; when the first one has gone it takes its place."""
    here = refused()
    scheduler = system.start(0, here=here)
    first = system.worker("w1", schedulers=[here], timing=QUICK)
    await registered(scheduler, "w1")
    first_node, first_port = system.workers[0], system.ports.pop("w1")
    second = system.worker("w1", schedulers=[here], timing=QUICK)
    second_node = system.workers[1]
    problem = f"w1 is the id of the worker at {first.address}: start this one with another --id"
    await until(lambda: second_node.registration.states == {str(here): f"refused: {problem}"})
    assert await listed(system) == {"w1": True}
    assert scheduler.workers["w1"].address == first.address
    system.nodes.remove(first_node)
    first_node.stop()
    await first_port.close()
    await until(lambda: scheduler.workers["w1"].address == second.address)
    await registered(scheduler, "w1")
    assert second_node.registration.states == {str(here): "registered"}


@pytest_twisted.ensureDeferred
async def test_who_can_not_register(system: System) -> None:
    """The URL of another worker, what is no URL and what is no id are refused, and nothing is changed."""
    scheduler = system.start(1)
    await until(lambda: scheduler.workers["w1"].name)
    address = scheduler.workers["w1"].address
    for line, why in (
        (f"register w2 {address}", f"{address} is the address of w1"),
        ("register w2 nowhere", "invalid URL 'nowhere'"),
        (f"register w1 {refused()}", "start this one with another --id"),
        (f'register "" {address}', "ID"),
    ):
        reply = await system.ask(line)
        assert isinstance(reply, Error), line
        assert (reply.code, why in reply.words[0]) == ("bad-request", True), reply
    assert await listed(system) == {"w1": True}


@pytest_twisted.ensureDeferred
async def test_who_has_ended_is_forgotten(system: System) -> None:
    """One that left in order at once, one that died after a while; one that was named stays in the list."""
    here = refused()
    scheduler = system.start(1, here=here, timing=evolve(TIMING, gone_for=0.6))
    for id in ("leaves", "dies"):
        system.worker(id, schedulers=[here], timing=QUICK)
    await registered(scheduler, "w1", "leaves", "dies")
    _, leaves, dies = system.workers
    await leaves.leave()
    assert not scheduler.workers["leaves"].reachable
    for node, id in ((leaves, "leaves"), (dies, "dies"), (system.workers[0], "w1")):
        system.nodes.remove(node)
        node.stop()
        await system.ports.pop(id).close()
    await until(lambda: "leaves" not in {worker.id for worker in scheduler.workers})
    await until(lambda: not scheduler.workers["w1"].there)
    assert "dies" in await listed(system)
    await until(lambda: "dies" not in {worker.id for worker in scheduler.workers})
    assert await listed(system) == {"w1": False}
    assert list(scheduler.runs.policy.loads) == ["w1"]


@pytest_twisted.ensureDeferred
async def test_a_worker_that_can_not_be_called_back(system: System) -> None:
    """One that gave a URL at which nobody listens gets nothing, and holds up nobody."""
    here = refused()
    scheduler = system.start(0, here=here)
    assert await system.ask(f"register ghost {refused()}") == Ok()
    system.worker("w1", schedulers=[here])
    await registered(scheduler, "w1")
    assert (await system.run("13 ReaderOperator")).words == ("done", "1")


@pytest_twisted.ensureDeferred
async def test_a_scheduler_without_storage(system: System) -> None:
    """It says so, and a run that uses the storage fails at once with what to do; told of a node, both are well."""
    warned: list[str] = []

    @provider(ILogObserver)
    def observe(event: LogEvent) -> None:
        if event["log_level"] is LogLevel.warn and "note" in event:
            warned.append(event["note"])

    globalLogPublisher.addObserver(observe)
    try:
        system.start(1, storage=())
        await until(lambda: warned)
    finally:
        globalLogPublisher.removeObserver(observe)
    notes: list[Any] = (await system.ask("status")).object["notes"]
    assert notes == warned
    assert "--storage R=ID@URL" in notes[0]
    began = reactor.seconds()
    result = await system.run("13 ReaderOperator")
    assert reactor.seconds() - began < 5.0
    assert result.words[0] == "failed"
    assert "start it with --storage R=ID@URL" in result.words[1]
    assert (await system.run("13 NapOperator")).words == ("done", ""), "who does not use it is well"
    for each in system.storage.addresses:
        assert await system.ask(f"storage {each.replica} {each.id} {each.address}") == Ok()
    assert (await system.run("13 ReaderOperator")).words == ("done", "1")
    assert (await system.ask("status")).object["notes"] == []
    await until(lambda: system.workers[0].storage_client.replicas.views)
    second = await system.start_again(storage=())
    await until(lambda: second.storage_client.replicas.living == tuple(system.storage.addresses))
    assert (await system.run("13 ReaderOperator")).words == ("done", "1"), "the worker knew it from before"


def test_where_to_register() -> None:
    """The address of a scheduler is told apart by host and port alone."""
    assert Address.parse("http://localhost:2000") == Address.parse("localhost:2000")
