"""`make compare WITH=FOLDER`: the code of another clone (old) and this code (new), measured in alternating turns.

Each side is measured by a separate process, in its clone and with that clone's environment. Each row has requests (or
runs) per second, and the CPU seconds that all nodes together take for 100,000 of them, which depend less on what else
the machine does. The figures are medians of the turns; a ratio is new by old.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

REQUESTS = {
    "read": (1, 1, "read key%d"),
    "read-pipelined": (1, 16, "read key%d"),
    "write": (4, 1, "write key%d v"),
    "updateif": (4, 1, "updateif key%d v v"),
}
"""Rows of requests: storage nodes, requests in flight on each of 50 connections, line."""
CHAINS = {
    "chain-async": (1, "AsyncOperator", 1500),
    "chain-plain": (1, "PlainOperator", 1500),
    "chain-state": (4, "ReadWriteOperator", 500),
}
"""Rows of chains of three: storage nodes, operator, number of runs for each second of `--seconds`."""
ROWS = (*REQUESTS, *CHAINS)
HERE = Path(__file__).resolve().parent.parent


def nodes_cpu() -> float:
    """Return the CPU seconds, user and system, that this process's children have taken, without those that ended."""
    ticks = 0
    for child in Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split():
        ticks += sum(map(int, Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def measured(load: Callable[[], tuple[float, float]]) -> dict[str, float]:
    """Return rate and CPU seconds per 100,000 requests of a load, which returns (number of requests, rate)."""
    before = nodes_cpu()
    requests, rate = load()
    return {"rate": rate, "cpu": (nodes_cpu() - before) / requests * 100_000}


def one_turn(rows: Sequence[str], seconds: float) -> Iterator[tuple[str, dict[str, float]]]:
    """Measure each of these rows once, in the clone that this process runs in."""
    from benchmarks.load import closed_loop
    from benchmarks.nodes import chains, populate, storage

    def closed(port: int, form: tuple[int, int], line: str) -> tuple[float, float]:
        begun = time.monotonic()
        rate = closed_loop(port, *form, seconds, line).rate
        return rate * min(seconds, time.monotonic() - begun), rate

    for row in rows:
        if row in REQUESTS:
            replicas, in_flight, line = REQUESTS[row]
            with storage(replicas) as cluster:
                port = cluster.ports[1]
                populate(port)
                yield row, measured(lambda: closed(port, (50, in_flight), line))  # noqa: B023
        else:
            replicas, operator, rate = CHAINS[row]
            with chains(replicas) as system:
                system.one_by_one(20, *[operator] * 3)
                runs = int(rate * seconds)
                yield row, measured(lambda: (runs, system.at_once(runs, [operator] * 3)))  # noqa: B023


def turn_of(clone: Path, python: str, rows: Sequence[str], seconds: float) -> dict[str, dict[str, float]]:
    """Return one turn of a clone, measured by its own code."""
    words = [python, "-P", __file__, "--one-turn", "--seconds", str(seconds)]
    words += ["--rows", *rows]
    done = subprocess.run(
        words, cwd=clone, env=os.environ | {"PYTHONPATH": str(clone)}, check=True, capture_output=True, text=True
    )
    found: dict[str, dict[str, float]] = json.loads(done.stdout)
    return found


def main(words: Sequence[str]) -> int:
    """Run the command; return 1 if a limit is passed."""
    options = argparse.ArgumentParser(prog="make compare", description=__doc__)
    options.add_argument("--with", dest="other", type=Path, help="clone with the old code, whose .venv is ready")
    options.add_argument("--python", help="interpreter of the old side (default: .venv/bin/python of that clone)")
    options.add_argument("--turns", type=int, default=7, help="number of turns of each side (default 7)")
    options.add_argument("--seconds", type=float, default=2.0, help="length of one load in seconds (default 2)")
    options.add_argument("--most", type=float, default=1.05, help="limit of the CPU seconds, new by old (default 1.05)")
    options.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS, help=f"some of {', '.join(ROWS)}")
    options.add_argument("--one-turn", action="store_true", help="print one turn of the clone in $PWD as JSON")
    given = options.parse_args(words)
    if given.one_turn:
        print(json.dumps(dict(one_turn(given.rows, given.seconds))))
        return 0
    if given.other is not None:
        given.other = given.other.resolve()
        given.python = given.python or str(given.other / ".venv" / "bin" / "python")
    if given.other is None or not Path(given.python).exists():
        options.error(
            f"missing environment in {given.other}: expected --with FOLDER, a clone where `make check` has run"
        )
    old: list[dict[str, dict[str, float]]] = []
    new: list[dict[str, dict[str, float]]] = []
    for _ in range(given.turns):
        old.append(turn_of(given.other, given.python, given.rows, given.seconds))
        new.append(turn_of(HERE, sys.executable, given.rows, given.seconds))
    print(f"{'row':<15} {'old /s':>9} {'new /s':>9} {'ratio':>6} {'old CPU s':>10} {'new CPU s':>10} {'ratio':>6}")
    passed = []
    for row in given.rows:
        rates, cpus = (
            [statistics.median(turn[row][what] for turn in side) for side in (old, new)] for what in ("rate", "cpu")
        )
        ratio = cpus[1] / cpus[0]
        print(
            f"{row:<15} {rates[0]:>9,.0f} {rates[1]:>9,.0f} {rates[1] / rates[0]:>6.2f}"
            f" {cpus[0]:>10.2f} {cpus[1]:>10.2f} {ratio:>6.2f}"
        )
        passed += [row] if ratio > given.most else []
    print(
        f"CPU seconds per 100,000 requests; limit {given.most}" + (f", passed by {', '.join(passed)}" if passed else "")
    )
    return int(bool(passed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
