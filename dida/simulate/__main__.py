"""`python -m dida.simulate`: play seeds of the storage's simulation, and replay one with a readable trace.

A seed chooses the cluster, the network and all that goes wrong (the plan), and every throw of the dice; the
same seed gives the same trace, always. Any part of the plan can be said otherwise: `--replicas 3`.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed

from attrs import define

from dida.errors import UserError
from dida.simulate.plan import FIELDS
from dida.simulate.scenario import Simulation, plan_of

CHUNK = 5
"""Seeds that a process plays before it reports."""


@define
class Played:
    """What came of some seeds."""

    failed: list[tuple[int, list[str]]]
    operations: Counter[str]
    faults: Counter[str]
    failpoints: Counter[str]
    messages: int


def play(seeds: Sequence[int], said: dict[str, str]) -> Played:
    """Play the seeds, one after the other."""
    played = Played([], Counter(), Counter(), Counter(), 0)
    for seed in seeds:
        simulation = Simulation(seed, plan=plan_of(seed, said))
        wrong = simulation.run()
        if wrong:
            played.failed.append((seed, wrong))
        played.operations.update(event.outcome for event in simulation.clients.history)
        played.faults.update(simulation.faults.happened)
        played.failpoints.update(simulation.faults.hits)
        played.messages += simulation.cluster.messages
    return played


def _ranges(text: str) -> range:
    first, dash, last = text.partition("-")
    if not first.isdecimal() or (dash and not last.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r}: write FIRST-LAST, as in 0-999")
    return range(int(first), int(last or first) + 1)


def _options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser("python -m dida.simulate", description=__doc__.partition("\n")[0])
    options.add_argument("--seed", type=int, help="one seed")
    options.add_argument("--seeds", type=_ranges, metavar="A-B", help="the seeds from A to B (default: 0-99)")
    options.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)")
    options.add_argument("--trace", action="store_true", help="print who said what to whom, when (with --seed)")
    options.add_argument("--fingerprint", action="store_true", help="print a hash of the whole trace (with --seed)")
    plan = options.add_argument_group("the plan", "what the seed would choose otherwise")
    for name in FIELDS:
        plan.add_argument(f"--{name.replace('_', '-')}", metavar="VALUE")
    return options


def main(words: Sequence[str] | None = None) -> int:
    """Exit status 0 when every promise was kept, 1 when not, 2 when the options are wrong."""
    parser = _options()
    options = parser.parse_args(words)
    said = {name: getattr(options, name) for name in FIELDS if getattr(options, name) is not None}
    try:
        plan_of(0, said)
    except UserError as problem:
        parser.error(str(problem))
    if options.seed is not None:
        return _one(options.seed, said, options.trace, options.fingerprint)
    return _many(options.seeds or range(100), said, max(1, options.jobs))


def _one(seed: int, said: dict[str, str], trace: bool, fingerprint: bool) -> int:
    simulation = Simulation(seed, _say if trace else None, plan_of(seed, said))
    wrong = simulation.run()
    if fingerprint:
        _say(simulation.fingerprint)
    for what in wrong:
        _say(f"wrong      {what}")
    if not wrong:
        _say(f"seed {seed}: all promises kept, {len(simulation.clients.history)} operations")
    return 1 if wrong else 0


def _many(seeds: range, said: dict[str, str], jobs: int) -> int:
    begun = time.monotonic()
    total = Played([], Counter(), Counter(), Counter(), 0)
    done = 0
    for count, played in _in_parallel(seeds, said, jobs):
        done += count
        total.operations += played.operations
        total.faults += played.faults
        total.failpoints += played.failpoints
        total.messages += played.messages
        for seed, wrong in played.failed:
            total.failed.append((seed, wrong))
            _report(seed, wrong, said)
        if sys.stderr.isatty():
            sys.stderr.write(f"\r{done}/{len(seeds)} seeds, {len(total.failed)} failed ")
    if sys.stderr.isatty():
        sys.stderr.write("\r\033[K")
    seconds = time.monotonic() - begun
    _say(f"seeds      {len(seeds):,} in {seconds:.0f} s, {len(total.failed)} failed")
    _say(f"operations {_counted(total.operations)}")
    _say(f"faults     {_counted(total.faults)}")
    _say(f"messages   {total.messages:,}; {len(total.failpoints)} failpoints hit")
    return 1 if total.failed else 0


def _in_parallel(seeds: range, said: dict[str, str], jobs: int) -> Iterator[tuple[int, Played]]:
    chunks = [seeds[at : at + CHUNK] for at in range(0, len(seeds), CHUNK)]
    if jobs == 1:
        for chunk in chunks:
            yield len(chunk), play(chunk, said)
        return
    with ProcessPoolExecutor(jobs) as pool:
        waiting = {pool.submit(play, chunk, said): chunk for chunk in chunks}
        for future in as_completed(waiting):
            yield len(waiting[future]), future.result()


def _report(seed: int, wrong: list[str], said: dict[str, str]) -> None:
    _say(f"FAILED     seed {seed}: {wrong[0]}")
    for what in wrong[1:4]:
        _say(f"           {what}")
    _say(f"  plan     {plan_of(seed, said).options()}")
    again = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in said.items())
    _say(f"  replay   python -m dida.simulate --trace --seed {seed} {again}".rstrip())


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items())) or "none"


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` is no error
    sys.exit(main())
