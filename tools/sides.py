"""Run the tests on two sides at once, in two processes of pytest: `make test`.

One side computes, the other one mostly waits for processes of nodes, so that two cores are used. A test that is marked
`alone` has no other one beside it (`tests.support.turns`). The first side is shown as it goes, the second one when both
are over, and in the end the closing line of both. Exit status 1 when anything failed on either side.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.support.nodes import ROOT

PURE = "chains client console protocols replication scheduler simulate wire worker"
COMPUTING = (*(f"tests/{package}" for package in PURE.split()), "tests/test_layering.py")
LIMIT = 3600.0
"""Seconds for all of it; each test has its own time-out."""
KINDS = {"failed": "failed", "passed": "passed", "skipped": "skipped", "deselected": "deselected"}
KINDS |= {"xfailed": "xfailed", "xpassed": "xpassed", "warnings": "warning", "error": "error"}
"""What pytest counts, and its word for one, in the order of its closing line."""


def waiting() -> list[str]:
    """The folders and files of tests on the second side: all that are not on the first."""
    found = [path for path in sorted((ROOT / "tests").iterdir()) if path.name.startswith("test_") or path.is_dir()]
    names = [str(path.relative_to(ROOT)) for path in found if path.is_file() or any(path.glob("test_*.py"))]
    return [name for name in names if name not in COMPUTING]


def closing_line(counts: Counter[str], seconds: float, width: int = 80) -> str:
    """The closing line as pytest says it."""
    told = [
        f"{counts[kind]} {one}{'s' * _has_plural(one, counts[kind])}" for kind, one in KINDS.items() if counts[kind]
    ]
    took = f"{seconds:.2f}s" + (f" (0:{int(seconds) // 60:02}:{int(seconds) % 60:02})" if seconds >= 60 else "")
    return f" {', '.join(told) or 'no tests ran'} in {took} ".center(width, "=")


def _has_plural(word: str, number: int) -> bool:
    return word in ("warning", "error") and number != 1


def main(words: Sequence[str]) -> int:
    """Both sides; the exit status."""
    begun = time.monotonic()
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="dida-tests-") as folder:
        shown = Path(folder) / "output"
        sides: list[subprocess.Popen[bytes]] = []
        with shown.open("wb") as output:
            for side, paths in enumerate((COMPUTING, waiting())):
                room = {**os.environ, "TESTS_ROOM": f"{folder}/room", "TESTS_SIDE": str(side)}
                command = [sys.executable, "-m", "pytest", *words, *paths]
                to = None if side == 0 else output
                sides.append(subprocess.Popen(command, cwd=ROOT, env=room, stdout=to, stderr=to))
        try:
            statuses = [side.wait(LIMIT) for side in sides]
        finally:
            for process in sides:
                process.kill()
        sys.stdout.buffer.write(shown.read_bytes())
        for side in (0, 1):
            told = Path(folder) / f"room.side{side}"
            # A side that was ended by a time-out has not told: its exit status, and its last words, are above.
            counts.update(json.loads(told.read_bytes()) if told.exists() else {"error": 1})
    sys.stdout.write(closing_line(counts, time.monotonic() - begun) + "\n")
    return int(any(statuses))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
