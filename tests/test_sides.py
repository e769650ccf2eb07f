"""Tests on two sides: who runs beside whom, and what is said in the end."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

import pytest

from tests.support.nodes import ROOT
from tests.support.turns import Room
from tools.sides import COMPUTING, closing_line, waiting


def test_who_is_alone_has_nobody_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many are in the room at once. Who wants to be alone waits until they have left, and nobody enters before that."""
    monkeypatch.setenv("TESTS_SIDE", "0")
    done: list[str] = []
    may_leave = {name: threading.Event() for name in ("alone", "late")}
    has_entered = {name: threading.Event() for name in ("alone", "late")}

    def stay(name: str) -> None:
        with Room(tmp_path / "room").entered(alone=name == "alone"):
            done.append(f"{name} in")
            has_entered[name].set()
            assert may_leave[name].wait(10)
            done.append(f"{name} out")

    with Room(tmp_path / "room").entered(alone=False):
        with Room(tmp_path / "room").entered(alone=False):
            alone = threading.Thread(target=stay, args=("alone",))
            alone.start()
        assert not has_entered["alone"].wait(0.05)
        late = threading.Thread(target=stay, args=("late",))
        late.start()
        may_leave["late"].set()
        done.append("others out")
    assert has_entered["alone"].wait(10) or "late out" in done
    may_leave["alone"].set()
    alone.join(10)
    late.join(10)
    assert "others out" in done
    at = done.index("alone in")
    assert done[at + 1] == "alone out", done


@pytest.mark.parametrize(
    ("counts", "seconds", "line"),
    [
        ({"passed": 3}, 1.5, "3 passed in 1.50s"),
        (
            {"passed": 3, "failed": 1, "error": 2, "warnings": 1},
            61.0,
            "1 failed, 3 passed, 1 warning, 2 errors in 61.00s",
        ),
        ({}, 0.0, "no tests ran in 0.00s"),
        ({"": 900, "passed": 1, "deselected": 2}, 130.25, "1 passed, 2 deselected in 130.25s (0:02:10)"),
    ],
)
def test_the_closing_line(counts: dict[str, int], seconds: float, line: str) -> None:
    """It is pytest's, of both sides together."""
    assert line in closing_line(Counter(counts), seconds)


def test_every_test_is_on_a_side() -> None:
    """A folder or file of tests that is new is on the second side; none is left out, and none is on both."""
    found = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("tests/**/test_*.py")}
    sides = (*COMPUTING, *waiting())
    on = {name: [side for side in sides if name == side or name.startswith(f"{side}/")] for name in found}
    assert {name: side for name, side in on.items() if len(side) != 1} == {}
