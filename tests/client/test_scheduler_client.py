"""The scheduler's client, against a scheduler that replies, refuses, or loses its replies as the test says."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from dida.addresses import Address
from dida.client import SchedulerClient
from dida.errors import NO_SUCH_RUN, TIMED_OUT, UNAVAILABLE, DidaError
from dida.protocols.links import Unreachable
from dida.wire.messages import Error, No, Ok
from dida.wire.runs import ListRuns
from tests.support.fake_pcs import FakeScheduler
from tests.support.fakes import Port, the_reactor


class Scene:
    """A client and its scheduler."""

    def __init__(self) -> None:
        self.scheduler = FakeScheduler()
        self.port = Port(the_reactor(), self.scheduler)
        self.client = SchedulerClient(the_reactor(), self.find, deadline=5.0)
        self.moved: Address | None = None

    def find(self) -> Address:
        return self.moved or self.port.address


@pytest_twisted.async_yield_fixture
async def scene() -> AsyncIterator[Scene]:
    scene = Scene()
    yield scene
    await scene.client.stop()
    await scene.port.close()


@pytest_twisted.ensureDeferred
async def test_a_run_and_its_result(scene: Scene) -> None:
    """A run is sent with an id that its client never used; its result has state, output and the other members."""
    run = await scene.client.run("5", ["AddOperator"], {"1:1": 3}, "add")
    result = await scene.client.result(run, wait=5)
    assert (result.done, result.state, result.text, result.members["ms"]) == (True, "done", "24", 12.3)
    again = await scene.client.run("5", ["AddOperator"])
    assert (run, again) == ("r1", "r2")
    first, second = scene.scheduler.runs
    assert (first.input, first.operator, first.after, first.application) == ("5", ("AddOperator",), {"1:1": 3}, "add")
    assert first.id != second.id
    assert not first.retry


@pytest_twisted.ensureDeferred
async def test_a_failed_run_is_a_result(scene: Scene) -> None:
    """The failure of a run is no error of the call."""
    scene.scheduler.outcomes["r1"] = Ok(("failed", "no such record"))
    result = await scene.client.result("r1")
    assert (result.done, result.state, result.text) == (False, "failed", "no such record")


@pytest_twisted.ensureDeferred
async def test_a_lost_reply_starts_no_second_run(scene: Scene) -> None:
    """When the reply is lost the same id is sent again, until the scheduler replies."""
    scene.scheduler.lost = [scene.port.cut, scene.port.cut]
    assert await scene.client.run("5", ["AddOperator"]) == "r1"
    assert len(scene.scheduler.runs) == 1


@pytest_twisted.ensureDeferred
async def test_a_scheduler_without_workers_is_asked_again(scene: Scene) -> None:
    """A run that the scheduler can't start yet is sent again, until it is started."""
    scene.scheduler.refusals = 2
    assert await scene.client.run("5", ["AddOperator"]) == "r1"


@pytest_twisted.ensureDeferred
async def test_the_deadline_and_hopelessness_end_the_retries(scene: Scene) -> None:
    """The last refusal is raised when the deadline has passed, or when the caller knows that retries are useless."""
    scene.scheduler.refusals = 100
    request = scene.client.request("5", ["AddOperator"])
    with pytest.raises(DidaError, match="no worker can be reached"):
        await scene.client.start(request, lambda: True)
    assert scene.scheduler.refusals == 99
    scene.client.deadline = 0.0
    with pytest.raises(DidaError) as caught:
        await scene.client.start(request)
    assert (caught.value.code, scene.scheduler.refusals) == (UNAVAILABLE, 98)


@pytest_twisted.ensureDeferred
async def test_other_errors_are_raised_at_once(scene: Scene) -> None:
    """An error reply is raised with its code and words; a `no`, which answers no request of a scheduler, too."""
    scene.scheduler.outcomes = {
        "gone": Error(NO_SUCH_RUN, ("gone",)),
        "going-on": Error(TIMED_OUT, ("ask again",)),
        "no": No(),
    }
    for run, code in (("gone", NO_SUCH_RUN), ("going-on", TIMED_OUT)):
        with pytest.raises(DidaError) as caught:
            await scene.client.result(run)
        assert caught.value.code == code
    with pytest.raises(DidaError, match="unexpected reply 'no'"):
        await scene.client.result("no")


@pytest_twisted.ensureDeferred
async def test_cancel_and_runs(scene: Scene) -> None:
    """`cancel` tells whether the run still went on; `runs` lists the newest first."""
    scene.scheduler.end_at_once = False
    run = await scene.client.run("5", ["AddOperator"])
    waiting = Deferred.fromCoroutine(scene.client.result(run, wait=5))
    assert await scene.client.cancel(run)
    scene.scheduler.time_out(run)
    with pytest.raises(DidaError, match="not ended yet"):
        await waiting
    assert not await scene.client.cancel(run)
    await scene.client.run("6", ["AddOperator"])
    assert [each["input"] for each in await scene.client.runs()] == ["6", "5"]
    assert len(await scene.client.runs(ListRuns(limit=10))) == 2


@pytest_twisted.ensureDeferred
async def test_a_scheduler_that_moves(scene: Scene) -> None:
    """Requests go to where the scheduler is now; without a scheduler nothing is sent."""
    assert await scene.client.run("5", ["AddOperator"]) == "r1"
    other = FakeScheduler()
    port = Port(the_reactor(), other)
    scene.moved = port.address
    assert await scene.client.run("6", ["AddOperator"]) == "r1"
    assert ([run.input for run in scene.scheduler.runs], [run.input for run in other.runs]) == (["5"], ["6"])
    await port.close()

    def nowhere() -> Address:
        raise Unreachable("no scheduler was started")

    with pytest.raises(Unreachable, match="no scheduler was started"):
        await SchedulerClient(the_reactor(), nowhere).result("r1")
