"""`make evaluate`: the report's three experiments, and what lies behind them; a table, plots, a page, the raw data.

Scripts are played in turns (A B A B …), so that a busy minute of the machine hits all of them alike. Where a run's
time goes is recorded by the operators of benchmarks/timed, which write down what each storage call took, and by the
scheduler's record of the steps.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs

from benchmarks import crashes, report, scale, scripts
from benchmarks.nodes import chains, end_what_was_started
from benchmarks.scripts import Playing
from tests.support.nodes import ROOT

TIMED = Path(__file__).with_name("timed")
REPLICAS = (1, 2, 4, 8)
GOSSIP_DELAY = 0.1
"""Seconds that a LOCK round of the baseline is held back (its nodes' option), where there is another replica."""
REPORT = {
    "baseline": 3407.0,
    "baseline_1": 3369.0,
    "worst_case_crash": 1519.0,
    "worst_case": 1249.0,
    "best_case": 2216.0,
}
"""The report's figures, in ms."""
POLICIES = ("least-active", "round-robin")
PARTS = ("operators", "reads and writes", "gossip delay", "commit", "hand-over")
"""What a run waits for: its operators' own work, the storage over the network, the delay that the node's option puts
before a LOCK round, the commit's lock and rounds, and the way from worker to worker."""


def main(words: Sequence[str]) -> int:
    options = argparse.ArgumentParser(prog="make evaluate", description=__doc__.partition("Scripts")[0])
    options.add_argument("--turns", type=int, default=3, help="number of repetitions of each experiment (default 3)")
    options.add_argument("--scale", type=float, default=90.0, help="time for the simulations in seconds (default 90)")
    options.add_argument("--folder", type=Path, default=ROOT / "build" / "evaluation", help="folder for the results")
    given = options.parse_args(words)
    if given.turns < 1:
        options.error("--turns: at least 1")
    begun, clock = report.machine(), time.monotonic()
    found: dict[str, Any] = {"machine": begun, "turns": given.turns, "report": REPORT}

    def measured(name: str, measure: Callable[[], Any]) -> None:
        print(f"{name:12} measuring", flush=True)
        since = time.monotonic()
        found[name] = measure()
        print(f"{name:12} {time.monotonic() - since:.0f} s", flush=True)

    measured("experiments", lambda: experiments(given.turns))
    measured("crashes", lambda: [attrs.asdict(crash) for crash in crash_steps(given.turns)])
    measured("policies", lambda: policies(given.turns))
    measured("scale", lambda: scaling(given.scale))
    report.save(given.folder / "evaluation.json", found)
    from benchmarks import page  # needs matplotlib, which nothing before does

    print()
    print(page.table(found))
    page.write(given.folder, found)
    print(f"\n{time.monotonic() - clock:.0f} s in all; the page: {given.folder / 'index.html'}")
    return 0


# --- the experiments --------------------------------------------------------------------------------


def experiments(turns: int) -> dict[str, Any]:
    """The scripts, and the baseline over other numbers of replicas; times in milliseconds."""
    baseline = scripts.text_of("baseline")
    kinds: dict[str, Callable[[], Playing]] = {
        "baseline": lambda: scripts.play("baseline", operators=TIMED),
        "baseline_1": lambda: scripts.play("baseline_1", operators=TIMED),
        **{
            f"baseline_{n}": lambda n=n: scripts.play("baseline", scripts.with_storage(baseline, n), TIMED)  # type: ignore[misc]
            for n in REPLICAS
            if n not in (1, 4)
        },
        "worst_case": lambda: scripts.play("worst_case"),
        "worst_case_crash": lambda: scripts.play("worst_case_crash"),
        "best_case": lambda: scripts.play("best_case"),
    }
    played: dict[str, list[Playing]] = defaultdict(list)
    for _ in range(turns):
        for name, play in kinds.items():
            played[name].append(play())
    return {name: _summary(name, plays) for name, plays in played.items()}


def _summary(name: str, plays: Sequence[Playing]) -> dict[str, Any]:
    if name.startswith("worst"):
        values = [play.runs[0].ms for play in plays]  # the one run, from the client command on
    elif name.startswith("best"):
        values = [play.completed_ms for play in plays]
    else:
        values = [play.whole_ms for play in plays]
    summary: dict[str, Any] = {"ms": _spread(values)}
    summary["runs"] = [_spread([play.runs[n].ms for play in plays]) for n in range(len(plays[0].runs))]
    if plays[0].times:
        summary["completed"] = _spread([play.completed_ms for play in plays])
        alone = name == "baseline_1"
        split = [where(play, 1, alone) for play in plays]  # the second run: code and connections are there
        summary["steps"] = [
            {part: statistics.median(each[step][part] for each in split) for part in PARTS}
            for step in range(len(split[0]))
        ]
    return summary


def _spread(values: Sequence[float]) -> dict[str, Any]:
    return {"median": statistics.median(values), "least": min(values), "most": max(values), "values": list(values)}


def where(play: Playing, number: int, alone: bool) -> list[dict[str, float]]:
    """Of one run: for each of its steps, and for what is between them, the milliseconds by what it waited for."""
    run = play.runs[number]
    found: list[dict[str, float]] = []
    total = 0.0
    for said in (each for each in play.times if each["run"] == run.run):
        step = dict.fromkeys(PARTS, 0.0)
        taken = 0.0
        for call, seconds in said["calls"]:
            taken += seconds
            if call == "update_if_value_is":
                delay = 0.0 if alone else min(GOSSIP_DELAY, seconds)
                step["gossip delay"] += 1000 * delay
                step["commit"] += 1000 * (seconds - delay)
            else:
                step["reads and writes"] += 1000 * seconds
        step["operators"] = 1000 * (said["seconds"] - taken)
        total += 1000 * said["seconds"]
        found.append(step)
    found.append(dict.fromkeys(PARTS, 0.0) | {"hand-over": max(0.0, run.ms - total)})
    return found


def crash_steps(turns: int) -> list[crashes.Crash]:
    """A kill at each step of the commit, of either side."""
    return crashes.measure(crashes.COORDINATOR + crashes.PARTICIPANT, turns)


def policies(turns: int, runs: int = 40) -> dict[str, Any]:
    """Milliseconds for runs that are long and short by turns, on two workers with one thread each, four going on."""
    taken: dict[str, list[float]] = {policy: [] for policy in POLICIES}
    single = ("--threads", "1")
    with (
        chains(1, "--policy", POLICIES[0], worker_options=single) as least_active,
        chains(1, "--policy", POLICIES[1], worker_options=single) as round_robin,
    ):
        for _ in range(turns):
            for policy, system in zip(POLICIES, (least_active, round_robin), strict=True):
                rate = system.at_once(runs, ("LongOperator",), ("ShortOperator",), window=4)
                taken[policy].append(1000 * runs / rate)
    return {policy: _spread(values) for policy, values in taken.items()}


def scaling(seconds: float) -> dict[str, Any]:
    """One group of all, and groups of four, of growing numbers of replicas."""
    one = scale.sweep(seconds / 2, None)
    groups = scale.sweep(seconds / 2, 4)
    laws = {
        name: {what: round(scale.law(sizes, lambda size, what=what: getattr(size, what)), 2) for what in MEASURES}  # type: ignore[misc]
        for name, sizes in (("one group", one), ("groups of 4", groups))
    }
    return {"one group": [*map(attrs.asdict, one)], "groups of 4": [*map(attrs.asdict, groups)], "laws": laws}


MEASURES = ("messages", "most_messages", "bytes", "converged", "killed", "silent", "change_messages")
"""Of `scale.Size`: what has a growth law."""


if __name__ == "__main__":
    end_what_was_started()
    sys.exit(main(sys.argv[1:]))
