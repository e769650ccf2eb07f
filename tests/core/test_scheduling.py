"""The two policies that choose workers."""

import heapq
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dida.errors import Unavailable
from dida.scheduling import POLICIES, LeastActive, RoundRobin

WORKERS = ("w1", "w2", "w3")


def policy_with(kind: type[LeastActive]) -> LeastActive:
    policy = kind()
    for worker in WORKERS:
        policy.on_worker(worker)
    return policy


@pytest.mark.parametrize("kind", POLICIES.values())
def test_idle_workers_take_turns(kind: type[LeastActive]) -> None:
    """Both policies spread operators over workers that are equally loaded, in one and the same order."""
    policy = policy_with(kind)
    assert [policy.on_assign(WORKERS) for _ in range(6)] == ["w1", "w2", "w3", "w1", "w2", "w3"]


def test_least_active_prefers_who_has_confirmed() -> None:
    """What is not yet confirmed counts as being executed."""
    policy = policy_with(LeastActive)
    for _ in range(6):
        policy.on_assign(WORKERS)
    policy.on_confirm("w2")
    policy.on_confirm("w2")
    assert [policy.on_assign(WORKERS) for _ in range(3)] == ["w2", "w2", "w1"]


def test_round_robin_does_not_look() -> None:
    """Round robin goes on in turn, whoever is busy."""
    policy = policy_with(RoundRobin)
    for _ in range(4):
        policy.on_assign(WORKERS)
    policy.on_confirm("w1")
    assert policy.on_assign(WORKERS) == "w2"


@pytest.mark.parametrize("kind", POLICIES.values())
def test_unreachable_workers_get_nothing(kind: type[LeastActive]) -> None:
    """Only workers that can be reached are chosen; with none of them the answer is unavailable."""
    policy = policy_with(kind)
    assert {policy.on_assign({"w2", "unknown"}) for _ in range(3)} == {"w2"}
    with pytest.raises(Unavailable):
        policy.on_assign(())


@given(st.lists(st.one_of(st.none(), st.sampled_from(WORKERS))))
def test_counts_are_assignments_minus_confirmations(events: list[str | None]) -> None:
    """Whatever happens in whatever order, a load is what was assigned and not confirmed, and the least is chosen."""
    policy = policy_with(LeastActive)
    truth = dict.fromkeys(WORKERS, 0)
    for confirmed in events:
        if confirmed is None:
            chosen = policy.on_assign(WORKERS)
            assert truth[chosen] == min(truth.values())
            truth[chosen] += 1
        else:
            policy.on_confirm(confirmed)
            truth[confirmed] = max(0, truth[confirmed] - 1)
    assert {worker: load.active for worker, load in policy.loads.items()} == truth


def makespan(policy: type[LeastActive], lengths: list[float], in_flight: int = 8, workers: int = 4) -> float:
    """How long it takes to execute operators on workers that execute one at a time, so many of them in flight."""
    counted = policy()
    names = [f"w{number}" for number in range(workers)]
    for name in names:
        counted.on_worker(name)
    idle_from = dict.fromkeys(names, 0.0)
    ends: list[tuple[float, str]] = []
    now = 0.0
    for length in lengths:
        if len(ends) == in_flight:
            now, worker = heapq.heappop(ends)
            counted.on_confirm(worker)
        worker = counted.on_assign(names)
        idle_from[worker] = max(now, idle_from[worker]) + length
        heapq.heappush(ends, (idle_from[worker], worker))
    return max(idle_from.values())


@pytest.mark.parametrize("seed", range(20))
def test_least_active_is_near_the_ideal(seed: int) -> None:
    """Operators of 10 ms and 1 s, mixed by chance, take no more than 1.15 of the ideal; in turn they take longer."""
    dice = Random(seed)
    lengths = [dice.choice((0.01, 0.01, 0.01, 1.0)) for _ in range(240)]
    ideal = sum(lengths) / 4
    assert makespan(LeastActive, lengths) <= 1.15 * ideal
    assert makespan(RoundRobin, lengths) > 1.15 * ideal
