"""The results: rows of a table for people, and the raw data with machine, versions and commit."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import attrs
from attrs import field, frozen

from tests.support.nodes import ROOT

WIDTHS = (42, 12, 30, 6)
"""Characters of the columns: what, DIDA, beside, ratio; the target follows."""
PACKAGES = ("twisted", "attrs", "msgspec", "mmh3", "zope.interface")


@frozen
class Figure:
    """A number and its unit; `values` are what it is the median of."""

    value: float
    unit: str
    values: tuple[float, ...] = ()

    def __str__(self) -> str:
        number = f"{self.value:,.0f}" if self.value >= 100 else f"{self.value:.3g}"
        return f"{number} {self.unit}".rstrip()


@frozen
class Beside:
    """The figure of another system; `measured` in this run, or else taken from the published list of targets."""

    who: str
    figure: Figure
    measured: bool = True


@frozen
class Target:
    """A target: a figure, or a ratio to the first other system, at least or at most."""

    limit: float
    least: bool
    ratio: bool
    unit: str = ""

    def __str__(self) -> str:
        return f"{'≥' if self.least else '≤'} {self.limit:g}{' ' + self.unit if self.unit else ''}"


@frozen(kw_only=True)
class Row:
    """One measurement."""

    group: str
    what: str
    dida: Figure
    beside: tuple[Beside, ...] = ()
    target: Target | None = None
    more: str = ""
    """Further text, on a separate line."""
    raw: dict[str, Any] = field(factory=dict)

    @property
    def ratio(self) -> float | None:
        """DIDA's figure relative to the first other system."""
        return self.dida.value / self.beside[0].figure.value if self.beside else None

    @property
    def reached(self) -> bool | None:
        """True if the target is reached; None if there is none."""
        if self.target is None:
            return None
        value = self.ratio if self.target.ratio else self.dida.value
        if value is None:
            return False
        return value >= self.target.limit if self.target.least else value <= self.target.limit

    def lines(self) -> list[str]:
        """Return the row, and a line for each further system."""
        first = self.beside[0] if self.beside else None
        verdict = "" if self.reached is None else f"{self.target}  {'yes' if self.reached else 'NO'}"
        lines = [_columns(self.what, str(self.dida), *_said(first, self.dida), verdict)]
        lines += [_columns("", "", *_said(other, self.dida), "") for other in self.beside[1:]]
        if self.more:
            lines.append(f"  {self.more}")
        return lines


def _said(beside: Beside | None, dida: Figure) -> tuple[str, str]:
    if beside is None:
        return "", ""
    mark = "" if beside.measured else "*"
    ratio = dida.value / beside.figure.value
    return f"{beside.who}{mark} {beside.figure}", f"{ratio:.2f}" if ratio < 100 else f"{ratio:.0f}"


def _columns(what: str, dida: str, beside: str, ratio: str, target: str) -> str:
    a, b, c, d = WIDTHS
    return f"{what:{a}}{dida:>{b}}  {beside:{c}}{ratio:>{d}}  {target}".rstrip()


def heading() -> str:
    """The names of the columns."""
    return _columns("what", "DIDA", "beside", "ratio", "target")


def table(rows: Iterable[Row]) -> str:
    """The rows, aligned, some 100 columns wide."""
    return "\n".join(line for row in rows for line in row.lines())


def machine() -> dict[str, Any]:
    """Return the machine, and the versions of what was used."""
    model = next((line for line in _text("/proc/cpuinfo").splitlines() if line.startswith("model name")), "")
    memory = next((line for line in _text("/proc/meminfo").splitlines() if line.startswith("MemTotal")), "")
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "cpu": model.partition(": ")[2],
        "cores": len(os.sched_getaffinity(0)),
        "memory": memory.partition(":")[2].strip(),
        "load_average": os.getloadavg(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "commit": _commit(),
    }


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _commit() -> str:
    """Return the commit of this source tree, with a + if files were changed since."""
    try:
        words = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=12", "--dirty=+"]
        return subprocess.run(words, check=True, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def raw(rows: Iterable[Row], notes: Sequence[str], begun: dict[str, Any]) -> dict[str, Any]:
    """Return the content of the JSON file; `begun` is the machine when it began."""
    said = [{**attrs.asdict(row), "ratio": row.ratio, "reached": row.reached} for row in rows]
    return {"machine": begun, "load_average_at_end": os.getloadavg(), "rows": said, "notes": list(notes)}


def save(path: Path, found: Any) -> None:
    """Write JSON for people and programs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
