"""`make bench`: measure rows, print the table, keep the raw data. `python -m benchmarks --help` lists the options."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from attrs import evolve

from benchmarks import report, rows
from benchmarks.load import LoadFailed, NoCompiler
from benchmarks.nodes import end_what_was_started
from benchmarks.report import Row
from tests.support.nodes import ROOT

FULL = {"seconds": 3.0, "turns": 5}
"""The values that `--full` stands for, unless options override them."""


def main(words: Sequence[str]) -> int:
    """Run the command; return 1 if a target is missed, 2 if something could not be measured."""
    options = argparse.ArgumentParser(prog="make bench", description=__doc__.partition("`python")[0])
    options.add_argument(
        "--rows", default="", help=f"groups of rows: {', '.join(rows.GROUPS)} (default: all with a target)"
    )
    options.add_argument(
        "--full", action="store_true", help="measure longer, with more turns, and rows without a target"
    )
    options.add_argument("--seconds", type=float, help="length of one measurement in seconds (default 1, full 3)")
    options.add_argument("--turns", type=int, help="number of measurements of each side (default 3, full 5)")
    options.add_argument("--writes", type=int, help="number of writes of the memory row (default 1,000,000)")
    options.add_argument("--no-peers", action="store_true", help="leave out Redis, etcd, Celery, Dask and Ray")
    options.add_argument("--peers-python", default="", help="interpreter that has Celery, Dask and Ray")
    options.add_argument("--json", type=Path, default=ROOT / "build" / "bench.json", help="file for the raw data")
    given = options.parse_args(words)
    names = [name for name in given.rows.replace(",", " ").split() if name]
    unknown = [name for name in names if name not in rows.GROUPS]
    if unknown:
        options.error(f"there are no rows {unknown[0]!r}: choose some of {', '.join(rows.GROUPS)}")
    bench = rows.Bench(with_peers=not given.no_peers, peers_python=given.peers_python)
    chosen = {name: value for name in FULL if (value := getattr(given, name)) is not None}
    bench = evolve(bench, **(FULL | chosen if given.full else chosen))
    groups = names or list(rows.GROUPS if given.full else rows.TARGETED)
    return measure(bench, groups, given.json)


def measure(bench: rows.Bench, groups: Sequence[str], target: Path) -> int:
    """Measure these groups of rows, each shown as it comes; write the raw data."""
    begun = report.machine()
    loads = ", ".join(f"{load:.1f}" for load in begun["load_average"])
    packages = ", ".join(f"{name} {version}" for name, version in begun["packages"].items())
    print(f"{begun['date']}  commit {begun['commit']}  {begun['cores']} cores of {begun['cpu']}")
    print(f"Python {begun['python']}, {packages}; load average {loads}\n")
    print(report.heading())
    found: list[Row] = []
    failed = False
    for name in groups:
        if sys.stdout.isatty():
            print(f"measuring {name} …", end="\r", flush=True)
        try:
            for row in rows.GROUPS[name](bench):
                print(report.table([row]), flush=True)
                found.append(row)
        except NoCompiler as problem:
            bench.note(problem)
        except (LoadFailed, AssertionError) as problem:
            failed = True
            bench.note(f"{name} was not measured: {problem}")
    if any(not beside.measured for row in found for beside in row.beside):
        bench.note("* was not measured here: it is the published figure, from another machine")
    print("\n".join(["", *(f"note: {note}" for note in bench.notes)]))
    report.save(target, report.raw(found, bench.notes, begun))
    missed = [row.what for row in found if row.reached is False]
    print(f"\n{len(found)} rows, {len(missed)} targets missed; raw data in {target}")
    return 2 if failed else int(bool(missed))


if __name__ == "__main__":
    end_what_was_started()
    sys.exit(main(sys.argv[1:]))
