"""The storage's simulation as part of the tests: seeds that pass, one trace a seed, and bugs that are found."""

from __future__ import annotations

import subprocess
import sys

import pytest

from dida.replication.failpoints import FAILPOINTS
from dida.simulate.__main__ import main
from dida.simulate.scenario import Simulation, plan_of
from tests.support.nodes import ROOT, environment
from tools.bugs import BUGS, seeds_needed

QUICK = (
    "timestamp table says what was sent",
    "client answered before all have prepared",
    "prepared though it has a newer version",
    "PREPARE without the outcome before it",
    "nothing prepared is committed",
    "the fast path forgets the lease",
)
"""Bugs that a few seeds find; `make bugs` takes all."""


@pytest.mark.long
@pytest.mark.timeout(300)
def test_two_hundred_seeds() -> None:
    """Under all faults of 200 seeds every promise is kept; what fails is printed with its seed and plan."""
    words = [sys.executable, "-m", "dida.simulate", "--seeds", "0-199"]
    done = subprocess.run(words, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=290, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "200 in" in done.stdout


def test_one_seed_one_trace() -> None:
    """The same seed gives the same trace, whatever the hash seed of the interpreter."""

    def printed(seed: int, hash_seed: str) -> str:
        words = [sys.executable, "-m", "dida.simulate", "--seed", str(seed), "--fingerprint"]
        there = {**environment(), "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(words, cwd=ROOT, env=there, capture_output=True, text=True, timeout=60, check=True)
        return done.stdout.split()[0]

    assert len({printed(3, "0"), printed(3, "1"), printed(3, "77")}) == 1
    assert printed(3, "0") != printed(4, "0")


@pytest.mark.parametrize("name", QUICK)
def test_a_bug_is_found(name: str) -> None:
    """The simulator finds a deliberate bug within a few seeds, and without it is content with the same seeds."""
    (bug,) = [bug for bug in BUGS if bug.name == name]
    found = seeds_needed(bug, 60)
    assert found is not None
    assert Simulation(found[0] - 1, plan=plan_of(found[0] - 1, bug.plan)).run() == []


def test_there_are_failpoints_at_every_step() -> None:
    """Every verb between storage nodes can be broken at four steps, and the plans do break them."""
    assert len(FAILPOINTS) >= 30
    assert any(plan_of(seed).armed for seed in range(20))


def test_plain_requests_take_the_fast_path() -> None:
    """Plain requests are served by the fast path and keep every promise; a plan may have none."""
    simulation = Simulation(2, plan=plan_of(2, {"plain": "1"}))
    assert simulation.run() == []
    assert simulation.cluster.fast > 0
    none = Simulation(2, plan=plan_of(2, {"plain": "0"}))
    assert none.run() == []
    assert none.cluster.fast == 0


def test_options_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    """Options override the plan; an invalid one is refused in one line; a trace is readable."""
    assert main(["--seed", "1", "--replicas", "3", "--faults", "0.2"]) == 0
    assert main(["--seed", "1", "--replicas", "3", "--faults", "0.2", "--trace"]) == 0
    said = capsys.readouterr().out
    assert "s3 STARTS as 3:1" in said
    with pytest.raises(SystemExit) as ended:
        main(["--seed", "1", "--replicas", "many"])
    assert ended.value.code == 2
    assert "invalid --replicas many: expected a number" in capsys.readouterr().err
