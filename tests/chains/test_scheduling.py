"""The policies that choose workers."""

import heapq
import itertools
import sys
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dida.chains.run_record import RunRecord
from dida.chains.runs import Runs
from dida.chains.scheduling import POLICIES, Affinity, LeastActive, RoundRobin
from dida.errors import Unavailable

WORKERS = ("w1", "w2", "w3")


def policy_with(kind: type[LeastActive]) -> LeastActive:
    policy = kind()
    for worker in WORKERS:
        policy.on_worker(worker)
    return policy


@pytest.mark.parametrize("kind", POLICIES.values())
def test_idle_workers_take_turns(kind: type[LeastActive]) -> None:
    """All policies spread operators over workers that are equally loaded, in one and the same order."""
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


def test_what_is_executed_counts_before_what_is_planned() -> None:
    """An operator whose turn has come goes where the fewest are executed, however many are planned there."""
    policy = policy_with(LeastActive)
    for _ in range(4):
        policy.on_assign(WORKERS, due=False)
    assert policy.loads["w1"].active == 2
    for worker in ("w2", "w3"):
        policy.on_turn("", worker)
    assert policy.on_assign(WORKERS) == "w1"
    policy.on_turn("", "w1")
    assert policy.on_assign(WORKERS, due=False) == "w2"


@pytest.mark.parametrize("kind", POLICIES.values())
def test_the_plan_is_kept_unless_another_worker_is_executing_less(kind: type[LeastActive]) -> None:
    """What was planned changes by least-active only, and only when it matters, or the worker is gone."""
    policy = policy_with(kind)
    for worker in WORKERS:
        assert policy.on_assign(WORKERS, due=False) == worker
    assert policy.on_due("w2", WORKERS) == "w2", "all are idle"
    policy.on_turn("", "w1")
    policy.on_turn("", "w2")
    changed = kind is not RoundRobin
    assert policy.on_due("w2", WORKERS) == ("w3" if changed else "w2")
    counts = {worker: (load.active, load.assigned) for worker, load in policy.loads.items()}
    assert counts == {"w1": (1, 1), "w2": (0, 0) if changed else (1, 1), "w3": (2, 2) if changed else (1, 1)}
    assert policy.on_due("w3", {"w1"}) == ("w1" if changed else "w3"), "w3 can't be reached"
    assert policy.on_due("w1", ()) == "w1", "nobody can"


def test_affinity_stays_with_the_worker_before() -> None:
    """A chain is planned for one worker; each step stays with the worker before it, unless another executes fewer."""
    policy = policy_with(Affinity)
    assert [policy.on_assign(WORKERS), *(policy.on_assign(WORKERS, False, "w1") for _ in range(2))] == ["w1"] * 3
    assert policy.on_assign(WORKERS) == "w2", "a new chain goes to who executes the fewest"
    assert policy.on_assign({"w3"}, False, "w1") == "w3", "the worker before lacks the operator"
    assert policy.on_due("w1", WORKERS, "w1") == "w1", "all are idle, whatever is planned"
    policy.on_turn("", "w1")
    assert policy.on_due("w1", WORKERS, "w1") == "w2"
    assert policy.on_due("w1", WORKERS, "w2") == "w2", "it stays where it has gone"
    assert {worker: load.active for worker, load in policy.loads.items()} == {"w1": 1, "w2": 3, "w3": 1}


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


def makespan(kind: type[LeastActive], chains: list[list[float]], in_flight: int, workers: int = 4) -> float:
    """How long it takes to execute chains on workers that execute one operator at a time, so many chains in flight."""
    runs = Runs(kind(), "x", deadline=1e9)
    places = {f"w{number}": ("localhost", number) for number in range(1, workers + 1)}
    for worker in places:
        runs.policy.on_worker(worker)
    idle_from = dict.fromkeys(places, 0.0)
    ends: list[tuple[float, int, RunRecord, list[float]]] = []
    waiting = iter(chains)
    turn = itertools.count()

    def go_on(run: RunRecord, lengths: list[float], now: float) -> None:
        step = run.current
        assert step is not None
        idle_from[step.worker] = max(now, idle_from[step.worker]) + lengths[step.position]
        heapq.heappush(ends, (idle_from[step.worker], next(turn), run, lengths))

    def start(now: float) -> None:
        for lengths in itertools.islice(waiting, 1):
            go_on(runs.on_run("", ["A"] * len(lengths), {}, places, now), lengths, now)

    for _ in range(in_flight):
        start(0.0)
    while ends:
        now, _, run, lengths = heapq.heappop(ends)
        step = run.current
        assert step is not None
        if step.position + 1 == len(lengths):
            runs.on_ended(run.id, run.chain, {}, now)
            start(now)
        else:
            runs.on_completed(run.id, step.position, now, workers=places)
            go_on(run, lengths, now)
    assert all((load.active, load.executing) == (0, 0) for load in runs.policy.loads.values())
    return max(idle_from.values())


def mixed(seed: int, steps: int, operators: int = 240) -> list[list[float]]:
    """Chains of operators of 10 ms and 1 s, mixed by chance."""
    dice = Random(seed)
    return [[dice.choice((0.01, 0.01, 0.01, 1.0)) for _ in range(steps)] for _ in range(operators // steps)]


@pytest.mark.parametrize("in_flight", [4, 8, 16])
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_least_active_is_near_the_ideal(steps: int, in_flight: int) -> None:
    """Operators of 10 ms and 1 s, mixed by chance, take no more than 1.15 of the ideal, in whatever chains; in turn
    they take longer."""
    for seed in range(20):
        chains = mixed(seed, steps)
        ideal = sum(map(sum, chains)) / 4
        for kind in (LeastActive, Affinity):
            assert makespan(kind, chains, in_flight) <= 1.15 * ideal, f"{kind.name}, seed {seed}"
        assert makespan(RoundRobin, chains, in_flight) > 1.1 * ideal, f"seed {seed}"


def main() -> None:
    """The table of docs/explanation/chains.md: means over 20 seeds, as parts of the ideal."""
    for kind in POLICIES.values():
        row = []
        for steps, in_flight in [(s, n) for s in (1, 2, 4) for n in (4, 8, 16)] + [(1, 240)]:
            ratios = []
            for seed in range(20):
                chains = mixed(seed, steps)
                ratios.append(makespan(kind, chains, in_flight) * 4 / sum(map(sum, chains)))
            row.append(f"{sum(ratios) / len(ratios):.2f}")
        sys.stdout.write(f"| `{kind.name}` | {' | '.join(row)} |\n")


if __name__ == "__main__":
    main()
