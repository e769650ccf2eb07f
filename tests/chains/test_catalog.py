"""Which workers have which operators, and what follows for who executes what."""

import pytest

from dida.chains.catalog import MAX_NAMES, Catalog, meant
from dida.chains.runs import Runs
from dida.chains.scheduling import POLICIES

WORKERS = {f"w{n}": ("localhost", 4000 + n) for n in (1, 2, 3)}


def catalog() -> Catalog:
    """w1 has A, w2 has B, w3 has said nothing."""
    made = Catalog()
    made.on_list("w1", ["A"], ["Helper"])
    made.on_list("w2", ["B"])
    return made


def test_who_may_have_an_operator() -> None:
    """Who has said that it has one, or has said nothing; missing is what all have said that they lack."""
    lists = catalog()
    two = {id: WORKERS[id] for id in ("w1", "w2")}
    assert set(lists.able("A", WORKERS)) == {"w1", "w3"}
    assert set(lists.able("C", WORKERS)) == {"w3"}
    assert set(lists.able("Helper", two)) == {"w1"}, "a class that only may be an operator"
    assert lists.missing(["A", "B", "C"], WORKERS) is None
    assert lists.missing(["A", "B", "C", "D"], two) == "C"
    assert lists.missing(["C"], {}) is None, "nobody has said anything"
    assert (lists.all_found(["A", "B"], two), lists.all_found(["A", "C"], WORKERS)) == (True, False)
    lists.on_unknown("w2")
    assert lists.missing(["C"], two) is None
    lists.on_list("w2", [f"C{n}" for n in range(MAX_NAMES + 1)])
    assert lists.missing(["C"], two) is None, "too many to be kept"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("Confrim", "did you mean Confirm?"),
        ("charge", "did you mean Charge?"),
        ("Ship", "did you mean ShipOperator?"),
        (
            "Zzz",
            "the workers have Charge, Confirm, ShipOperator: add its file to their folder, or correct it",
        ),
    ],
)
def test_what_was_meant(name: str, hint: str) -> None:
    """A name that is nearly right is told; else what there is."""
    assert meant(name, {"Charge", "Confirm", "ShipOperator"}) == hint


def test_what_was_meant_of_nothing_and_of_much() -> None:
    """Where there are no operators the folder is named; of many only some are shown."""
    assert "--operators" in meant("A", ())
    many = meant("Zzz", {f"Name{n:02}" for n in range(15)})
    assert many.startswith("the workers have Name00, Name01,")
    assert " and 5 more: " in many


@pytest.mark.parametrize("policy", POLICIES.values(), ids=list(POLICIES))
def test_a_step_goes_to_who_has_its_operator(policy: type) -> None:
    """Planned, chosen anew when its turn has come, and given to another worker: never to one that lacks it."""
    runs = Runs(policy(), "x")
    for worker in WORKERS:
        runs.policy.on_worker(worker)
    runs.catalog.on_list("w1", ["A"])
    runs.catalog.on_list("w2", ["A", "B"])
    runs.catalog.on_list("w3", ["B"])
    for _ in range(6):
        run = runs.on_run("13", ["A", "B", "A"], {}, WORKERS, 0.0)
        assert all(step.worker in {"A": ("w1", "w2"), "B": ("w2", "w3")}[step.operator] for step in run.chain)
        chosen = runs.on_completed(run.id, 0, 1.0, workers=WORKERS) or run.chain[1]
        assert chosen.worker in ("w2", "w3")
        other = runs.on_reassign(run.id, 1, (chosen.worker,), WORKERS, 2.0, sure=True)
        assert {chosen.worker, other.worker} == {"w2", "w3"}


def test_a_step_whose_only_worker_is_gone() -> None:
    """It stays with the worker that has its operator, which may come back, and moves when another one has it."""
    runs = Runs(POLICIES["least-active"](), "x")
    for worker in ("w1", "w2", "w3"):
        runs.policy.on_worker(worker)
    runs.catalog.on_list("w1", ["A"])
    runs.catalog.on_list("w2", ["B"])
    run = runs.on_run("13", ["B"], {}, {id: WORKERS[id] for id in ("w1", "w2")}, 0.0)
    left = {"w1": WORKERS["w1"]}
    assert runs.on_lost(run, left, 1.0) is None
    assert (run.chain[0].worker, bool(run.unsent)) == ("w2", True)
    for reachable, expected in ((left, "w2"), ({**left, "w3": WORKERS["w3"]}, "w3")):
        new = runs.on_reassign(run.id, 0, ("w2",), reachable, 2.0, sure=True)
        assert new.worker == expected
    assert {id: load.active for id, load in runs.policy.loads.items()} == {"w1": 0, "w2": 0, "w3": 1}
