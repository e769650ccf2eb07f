"""`ReportQueue`: a worker's words to a scheduler arrive, in their order, however often they must be said."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from dida import errors
from dida.addresses import Address
from dida.chains.messages import Adopt, Ended, Execute, Returned
from dida.chains.records import Assignment, Meta
from dida.errors import Unavailable
from dida.protocols.link_pool import ConnectionPool
from dida.wire.messages import Error, Ok, Reply, Request
from dida.worker import reports as module
from dida.worker.reports import ReportQueue

HERE = Address("127.0.0.1", 2000)
STEP = Assignment("Shout", 0, "w1", "127.0.0.1", 4001)
RUN = Execute(
    meta=Meta(run="r1", scheduler=str(HERE)), input="13", next=0, size=1, chain=(STEP,), left=10.0, deadline=5.0
)


class Scheduler:
    """Who is told, and the test that answers for it."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.asked: list[tuple[Request, Deferred[Reply]]] = []
        self.idle = 0
        self.reports = ReportQueue(self.clock, cast(ConnectionPool, self), self._on_idle, choose_timeout=2.0)

    def _on_idle(self) -> None:
        self.idle += 1

    def ask(self, host: str, port: int, request: Request, timeout: float) -> Deferred[Reply]:
        """As `ConnectionPool.ask`."""
        answer: Deferred[Reply] = Deferred()
        self.asked.append((request, answer))
        return answer

    def tell(self, *numbers: int, soon: bool = True) -> None:
        """Reports that can be told apart by their round."""
        for number in numbers:
            self.reports.tell(HERE, Returned(run="r1", position=0, round=number, reason=""), RUN, soon=soon)

    def heard(self) -> list[int]:
        """The numbers of what was asked and has no answer."""
        return [request.round for request, _ in self.asked if isinstance(request, Returned)]

    def answer(self, reply: Any = None) -> None:
        """To all that was asked until now."""
        asked, self.asked = self.asked, []
        for _, answer in asked:
            if isinstance(reply, Exception):
                answer.errback(reply)
            else:
                answer.callback(Ok() if reply is None else reply)


@pytest.fixture
def scheduler() -> Scheduler:
    return Scheduler()


def test_an_outcome_says_how_long_ago_it_was(scheduler: Scheduler) -> None:
    """A duration, counted anew each time that it is told, and with the request of a run that is to be adopted."""
    scheduler.reports.tell(HERE, Ended(run="r1", chain=(STEP,)), RUN)
    assert [message for message, _ in scheduler.asked] == [Ended(run="r1", chain=(STEP,))]
    scheduler.clock.advance(5.0)
    scheduler.answer(Unavailable("gone"))
    scheduler.clock.advance(0.05)
    assert [message for message, _ in scheduler.asked] == [Ended(run="r1", chain=(STEP,), ago=5.05)]
    scheduler.answer(Error(errors.NO_SUCH_RUN))
    assert [message for message, _ in scheduler.asked] == [Adopt(request=RUN, ago=5.05)]
    scheduler.clock.advance(100_000.0)
    scheduler.answer()
    last = [Ended(run="r1", chain=(STEP,), ago=86_400.0)]
    assert [message for message, _ in scheduler.asked] == last, "no more than can be said"
    scheduler.answer()
    scheduler.clock.advance(1.0)
    scheduler.reports.tell_outcomes(HERE, "life")
    assert [message for message, _ in scheduler.asked] == last, "from when it was, not from when it was taken"


def test_what_can_wait_goes_with_the_turn(scheduler: Scheduler) -> None:
    """It is sent when the turn is over, or before something that can't wait."""
    scheduler.tell(1, 2, soon=False)
    assert scheduler.heard() == []
    scheduler.clock.advance(0)
    assert scheduler.heard() == [1, 2]
    scheduler.answer()
    scheduler.tell(3, soon=False)
    scheduler.tell(4)
    assert scheduler.heard() == [3, 4]
    scheduler.clock.advance(0)
    scheduler.answer()
    assert scheduler.reports.waiting == 0 and not scheduler.asked


def test_a_scheduler_that_is_away_is_told_in_order(scheduler: Scheduler) -> None:
    """What failed is said again after a pause, before what was told meanwhile; and with longer pauses each time."""
    scheduler.tell(1, 2, 3)
    for pause in (*module.PAUSES, module.PAUSES[-1]):
        first, *others = scheduler.asked
        scheduler.asked = [*others, first]
        scheduler.answer(Unavailable("away"))
        scheduler.clock.advance(pause * 0.9)
        assert scheduler.heard() == []
        scheduler.clock.advance(pause * 0.1001)
        assert scheduler.heard() == [1, 2, 3]
    scheduler.tell(4, soon=False)
    assert scheduler.heard() == [1, 2, 3]
    scheduler.answer()
    assert scheduler.heard() == [4]
    scheduler.answer()
    assert not scheduler.reports.waiting and not scheduler.clock.getDelayedCalls()


def test_one_answer_is_enough_for_the_others(scheduler: Scheduler) -> None:
    """A scheduler that answers one report is there: those that failed before are not held back any longer."""
    scheduler.tell(1, 2)
    (_, first), (_, second) = scheduler.asked
    scheduler.asked = []
    first.errback(Unavailable("away"))
    second.callback(Ok())
    assert scheduler.heard() == [1] and not scheduler.clock.getDelayedCalls()


@pytest.mark.parametrize("left", [0, 1, 7])
def test_as_many_at_once_as_may_be(scheduler: Scheduler, left: int) -> None:
    """The others follow as answers come."""
    scheduler.reports.at_once = 5
    scheduler.tell(*range(5 + left))
    assert scheduler.heard() == [0, 1, 2, 3, 4]
    scheduler.answer()
    assert scheduler.heard() == list(range(5, 5 + min(left, 5)))


def test_the_oldest_is_dropped_for_a_newer_one(scheduler: Scheduler) -> None:
    """So what waits is bounded, also while the scheduler is away."""
    scheduler.reports.max_waiting = 3
    scheduler.tell(1)
    scheduler.answer(Unavailable("away"))
    scheduler.tell(2, 3, 4, 5)
    assert scheduler.reports.waiting == 3 and scheduler.reports.undelivered == 2
    scheduler.clock.advance(module.PAUSES[0])
    assert scheduler.heard() == [3, 4, 5]


def test_all_that_was_told_is_dropped(scheduler: Scheduler) -> None:
    """A pause at whose end nothing is left to be said holds up nothing that is told later."""
    scheduler.reports.max_waiting = 1
    scheduler.tell(1)
    scheduler.answer(Unavailable("away"))
    elsewhere = Address("127.0.0.1", 2001)
    scheduler.reports.tell(elsewhere, Ended(run="r1", chain=()), RUN)  # which drops the report for the other
    scheduler.clock.advance(module.PAUSES[0])
    scheduler.tell(2)
    assert scheduler.heard() == [2]


def test_a_run_that_is_not_known_is_adopted(scheduler: Scheduler) -> None:
    """The run's request comes first, then the report once more."""
    scheduler.tell(1)
    scheduler.answer(Error(errors.NO_SUCH_RUN, ("r1",)))
    ((adopt, _),) = scheduler.asked
    assert adopt == Adopt(request=RUN)
    scheduler.answer()
    assert scheduler.heard() == [1]
    scheduler.answer()
    assert scheduler.idle == 1


@pytest.mark.parametrize("begin", [lambda s: s.tell(1, soon=False), lambda s: s.tell(1) or s.answer(Unavailable(""))])
def test_stop(scheduler: Scheduler, begin: Callable[[Scheduler], None]) -> None:
    """Nothing is said any more, and no timer is left."""
    begin(scheduler)
    scheduler.tell(2)
    scheduler.reports.stop()
    scheduler.answer(Unavailable("stopped"))
    assert not scheduler.clock.getDelayedCalls() and scheduler.reports.waiting == 0


def test_a_step_in_hand_says_since_when(scheduler: Scheduler) -> None:
    """What a worker has in hand is told with its age, which counts from when it came, not from when it is told."""
    scheduler.clock.advance(10.0)
    scheduler.reports.tell(HERE, Adopt(request=RUN), RUN, at=7.0)
    ((told, _),) = scheduler.asked
    assert isinstance(told, Adopt)
    assert told.ago == 3.0
    scheduler.answer()
