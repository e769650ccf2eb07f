"""The story of a run, as people read it."""

from __future__ import annotations

from dida.chains.records import Step
from dida.console.run_report import Outcome, run_report
from dida.interfaces import Access
from dida.versions import Version


def touch(how: str, key: str, version: str) -> Access:
    return Access(how, key, Version.parse(version))


STEPS = (
    Step(
        *("AddOperator", "w1", "12", 7.93, 1785340800.125, 1, "least-active: w1 0, w2 0"),
        (touch("read", "23", "1.1"), touch("read", "24", "1.1"), touch("written", "23", "2.2")),
    ),
    Step("UpdateAndChainOperator", "w2", "", 108.1, 1785340800.135, 2, "least-active: w2 0; not w1"),
)


def test_a_run_that_is_done() -> None:
    """Step by step: operator, worker, why that one, start, milliseconds, attempt, output, records with versions."""
    outcome = Outcome(run="r1-x", input="23", steps=STEPS, ms=131.24, rounds=1)
    assert run_report("done", "", outcome) == [
        "run      r1-x  done, 131.2 ms",
        "  input     23",
        '  output    ""',
        "  went back once, for updates were lost with a storage node",
        "     operator                worker  start ms  took ms  attempt  output",
        "  0  AddOperator             w1          +0.0      7.9        1  12",
        "      why       least-active: w1 0, w2 0",
        "      read      23 1.1, 24 1.1",
        "      written   23 2.2",
        '  1  UpdateAndChainOperator  w2         +10.0    108.1        2  ""',
        "      why       least-active: w2 0; not w1",
    ]


def test_first_attempts() -> None:
    """Where no step was tried again, the column of attempts has nothing to say: there is more room for the output."""
    lines = run_report("done", "12", Outcome(run="r1-x", input="23", steps=STEPS[:1], ms=8.0), 60)
    assert lines[3:5] == [
        "     operator     worker  start ms  took ms  output",
        "  0  AddOperator  w1          +0.0      7.9  12",
    ]


def test_a_run_that_failed() -> None:
    """The reason stands before the steps that were executed; nothing is longer than the terminal is wide."""
    reason = "AddOperator at position 0 on w1 failed: no-such-record: " + "nobody " * 20
    lines = run_report("failed", reason, Outcome(run="r2-x", input="x" * 5000 + "\x1b[2J"), 80)
    assert lines[0] == "run      r2-x  failed, 0.0 ms"
    assert lines[-1] == "  no step was executed"
    assert any(line.startswith("  reason    AddOperator at position 0") for line in lines)
    assert all(len(line) <= 80 and "\x1b" not in line for line in lines)
    assert len(lines) < 40, "a text is cut at 2,000 characters"
    many = Step("A", "w1", "o" * 300, 1.0, records=tuple(touch("read", "k" * 100, f"{n}.1") for n in range(1, 50)))
    assert all(len(line) <= 80 for line in run_report("done", "o", Outcome(run="r3-x", steps=(many,))))
    assert len(run_report("done", "o" * 300, Outcome(run="r3-x", steps=(many,)), None)) == 6


def test_what_was_printed() -> None:
    """What operators printed stands with the step, and with the reason of the one that failed, in bounds."""
    step = Step("A", "w1", "o", 1.0, printed="one\ntwo\x1b[2J\n" + "x" * 5000)
    lines = run_report("failed", "why", Outcome(run="r1-x", input="i", steps=(step,), printed="last words\n"), 80)
    assert lines[3].startswith("  printed   last words")
    (begin,) = [number for number, line in enumerate(lines) if line.startswith("      printed   one")]
    assert len(lines) - begin < 40
    assert all(len(line) <= 80 and "\x1b" not in line for line in lines)
