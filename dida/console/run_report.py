"""The report of a run as text for people: what `result RUN` returns to programs. Pure text."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from attrs import frozen

from dida.chains.records import Step, short_id
from dida.console.style import cut, wrapped
from dida.console.tables import WIDTH, printable, table
from dida.interfaces import Access

MAX_KEY = 40
"""Longest part of a key that is shown, in characters."""
MAX_TEXT = 2000
"""Longest part of a text that is shown, in characters, over several lines."""
INDENT = "      "


@frozen(kw_only=True)
class Outcome:
    """The object of a `result` reply, as far as the report shows it."""

    run: str = ""
    input: str = ""
    steps: tuple[Step, ...] = ()
    ms: float = 0.0
    rounds: int = 0
    printed: str = ""
    """Output of the step that failed."""


def run_report(state: str, text: str, outcome: Outcome, width: int | None = WIDTH) -> list[str]:
    """Return the report of a run that has ended as `state`; `text` is its output, or the reason of the failure."""
    lines = [f"run      {short_id(outcome.run)}  {state}, {outcome.ms:.1f} ms"]
    lines += _paragraph("input", outcome.input, width)
    lines += _paragraph("output" if state == "done" else "reason", text, width)
    if outcome.printed:
        lines += _paragraph("printed", outcome.printed, width)
    if outcome.rounds:
        times = "once" if outcome.rounds == 1 else f"{outcome.rounds} times"
        lines += _paragraph("went back", f"{times}, for updates were lost with a storage node", width)
    if not outcome.steps:
        return [*lines, "  no step was executed"]
    first = outcome.steps[0].start
    again = any(step.attempt > 1 for step in outcome.steps)
    rows = [["", "operator", "worker", "start ms", "took ms", *(["attempt"] if again else []), "output"]]
    for position, step in enumerate(outcome.steps):
        start = f"+{max(0.0, step.start - first) * 1000:.1f}"
        attempt = [str(step.attempt)] if again else []
        rows.append([str(position), step.operator, step.worker, start, f"{step.ms:.1f}", *attempt, step.output or '""'])
    head, *shown = table(_right(rows, *range(3, len(rows[0]) - 1)), width)
    lines.append(head)
    for line, step in zip(shown, outcome.steps, strict=True):
        lines.append(line)
        if step.why:
            lines += _paragraph("why", step.why, width, INDENT)
        for how, touches in groupby(step.records, lambda touch: touch.how):
            lines += _paragraph(how, ", ".join(_record(touch) for touch in touches), width, INDENT)
        if step.printed:
            lines += _paragraph("printed", step.printed, width, INDENT)
    return lines


def _record(touch: Access) -> str:
    return f"{cut(touch.key, MAX_KEY) or repr('')} {touch.version}"


def _right(rows: list[list[str]], *columns: int) -> Iterable[list[str]]:
    """Return the rows with these columns aligned at the right."""
    widths = {column: max(len(row[column]) for row in rows) for column in columns}
    return [[cell.rjust(widths.get(column, 0)) for column, cell in enumerate(row)] for row in rows]


def _paragraph(name: str, text: str, width: int | None, indent: str = "  ") -> list[str]:
    """Return the text after its name, over as many lines as it needs."""
    start = f"{indent}{name:<9} "
    text = cut(printable(text) or '""', MAX_TEXT)
    if width is None:
        return [start + text]
    return wrapped(text, max(width, 40), start, " " * len(start))
