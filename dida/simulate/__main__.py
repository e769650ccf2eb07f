"""`python -m dida.simulate`: run seeds of the storage's simulation, and replay one with a readable trace.

A seed chooses the cluster, the network and all faults (the plan), and every throw of the dice; the same seed always
gives the same trace. Options override any part of the plan: `--replicas 3`. For a seed that fails, the findings, the
plan and the command that replays it are printed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import FrameType

from attrs import Factory, define, frozen

from dida.errors import UserError
from dida.replication.failpoints import FAILPOINTS
from dida.simulate.plan import FIELDS
from dida.simulate.scenario import Simulation, plan_of

TOO_LONG = 120
"""Processor time after which a seed has failed, in seconds: the nodes are in a loop."""
CHUNK = 5
"""Seeds that a process runs before it reports."""
SHOWN = 5
"""Findings of a failing seed that are printed; the others are counted."""

ABOUT = {
    "replicas": "number of storage nodes",
    "membership": "membership mode: available or majority",
    "partitions": "whether the network is cut and links stop for long: yes or no",
    "gossip_delay": "gossip delay in seconds",
    "write_concern": "replicas that hold a plain write before it is answered",
    "max_versions": "versions kept per record",
    "max_waiting": "limit of waiting requests per node",
    "session_ttl": "time that update ids are remembered, in seconds",
    "ping_interval": "heartbeat interval in seconds",
    "clients": "number of sessions, each with one operation at a time",
    "keys": "number of keys of each kind: updateifs only, and mixed",
    "faults": "length of the phase with faults, in seconds",
    "mean_delay": "mean delay of a message, in seconds",
    "late": "share of messages delayed by up to 0.3 s more",
    "reset": "share of messages whose connection is reset",
    "stale": "share of messages on a reset connection that are still read, later",
    "wire": "whether messages travel as lines, not as objects: yes or no",
    "stray": "share of requests that arrive after their clients have given up, and of replies that get lost",
    "plain": "share of plain reads and writes sent without a session, for the fast path",
    "crash": "mean time between crashes, in seconds (100: none)",
    "pause": "mean time between pauses, in seconds (100: none)",
    "clog": "mean time between clogs of links, in seconds (100: none)",
    "cut": "mean time between partitions, in seconds (100: none)",
    "odd": "share of steps at which a message is dropped or duplicated",
    "armed": "failpoints, such as prepare.send=kill@3,load.receive=pause@1, or none",
    "max_memory": "memory limit of a replica in bytes, beyond which writes are refused (0: no limit)",
    "all_to_all": "members of a view beyond which all exchange heartbeats with the lowest only",
    "stop": "mean time between graceful shutdowns, in seconds (100: none)",
    "runs": "number of chains of operators, whose workers and scheduler die and pause",
    "shards": "number of groups of storage nodes; the second one holds records of chains only",
    "turn": "mean time between partitions whose members change sides during view changes, in seconds (100: none)",
}


@frozen
class Failure:
    """A seed that did not keep all promises."""

    seed: int
    wrong: list[str]
    options: str


@define
class Played:
    """The results of some seeds."""

    seeds: int = 0
    failed: list[Failure] = Factory(list)
    simulated: float = 0.0
    messages: int = 0
    fast: int = 0
    """Requests of clients that took the fast path."""
    operations: Counter[str] = Factory(Counter)
    faults: Counter[str] = Factory(Counter)
    hits: Counter[str] = Factory(Counter)

    def add(self, other: Played) -> None:
        self.seeds += other.seeds
        self.failed += other.failed
        self.simulated += other.simulated
        self.messages += other.messages
        self.fast += other.fast
        self.operations.update(other.operations)
        self.faults.update(other.faults)
        self.hits.update(other.hits)


def play(seeds: Sequence[int], given: Mapping[str, str]) -> Played:
    """Run the seeds, one after the other."""
    played = Played()
    for seed in seeds:
        simulation = Simulation(seed, plan=plan_of(seed, given))
        wrong = judged(simulation)
        if wrong:
            played.failed.append(Failure(seed, wrong, simulation.plan.options()))
        played.seeds += 1
        played.simulated += simulation.cluster.now
        played.messages += sum(cluster.messages for cluster in simulation.clusters)
        played.fast += simulation.cluster.fast
        played.operations.update(f"{event.verb} {event.outcome}" for event in simulation.clients.history)
        for faults in simulation.faults:
            played.faults.update(faults.happened)
            played.hits.update(faults.hits)
    return played


def judged(simulation: Simulation) -> list[str]:
    """Run a simulation and return what is wrong with it; one that does not end is wrong, too."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"not at its end after {TOO_LONG} s: the nodes are in a loop")

    before = signal.signal(signal.SIGPROF, ring)
    signal.setitimer(signal.ITIMER_PROF, TOO_LONG)
    try:
        return simulation.run()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def in_parallel(seeds: range, given: Mapping[str, str], jobs: int) -> Iterator[Played]:
    """Yield the results of the seeds, in their order, a few at a time."""
    chunks = [seeds[at : at + CHUNK] for at in range(0, len(seeds), CHUNK)]
    if jobs == 1 or len(chunks) == 1:
        yield from (play(chunk, given) for chunk in chunks)
        return
    with ProcessPoolExecutor(min(jobs, len(chunks))) as pool:
        ahead: list[Future[Played]] = []
        try:
            for chunk in chunks:
                ahead.append(pool.submit(play, chunk, given))
                if len(ahead) > 4 * jobs:
                    yield ahead.pop(0).result()
            while ahead:
                yield ahead.pop(0).result()
        finally:
            for future in ahead:
                future.cancel()


# --- what is printed ----------------------------------------------------------------------------


class Report:
    """The output: progress on a terminal, failures as they come, and a summary."""

    def __init__(self, count: int, given: Mapping[str, str]) -> None:
        self.total = Played()
        self._count = count
        self._given = "".join(f" --{name.replace('_', '-')} {text}" for name, text in given.items())
        self._began = os.times().elapsed
        self._terminal = sys.stderr.isatty()

    def add(self, played: Played) -> None:
        self.total.add(played)
        if played.failed:
            self._clear()
        for failure in played.failed:
            _say(*self._lines(failure))
        if self._terminal:
            done, failed = self.total.seeds, len(self.total.failed)
            sys.stderr.write(f"\r{done}/{self._count} seeds, {failed} failed, {self._seconds():.0f} s ")
            sys.stderr.flush()

    def _lines(self, failure: Failure) -> Iterator[str]:
        yield f"FAILED      seed {failure.seed}: {failure.wrong[0]}"
        for what in failure.wrong[1:SHOWN]:
            yield f"            {what}"
        if len(failure.wrong) > SHOWN:
            yield f"            and {len(failure.wrong) - SHOWN} more"
        yield f"  plan      {failure.options}"
        yield f"  replay    python -m dida.simulate --trace --seed {failure.seed}{self._given}"

    def _seconds(self) -> float:
        return os.times().elapsed - self._began

    def _clear(self) -> None:
        if self._terminal:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()

    def end(self, failpoints: bool) -> None:
        """Print the summary."""
        self._clear()
        total, seconds = self.total, self._seconds()
        failed = ", ".join(str(failure.seed) for failure in total.failed)
        each = seconds / max(1, total.seeds)
        _say(
            f"seeds       {total.seeds:,} in {seconds:.1f} s ({each:.2f} s each), {len(total.failed)} failed",
            *([f"failed      {failed}"] if failed else []),
            f"simulated   {total.simulated:,.0f} s, {total.messages:,} messages between nodes",
            f"operations  {total.operations.total():,} ({total.fast:,} by the fast path): {_counts(total.operations)}",
            f"faults      {_counts(total.faults)}",
        )
        reached = sorted(FAILPOINTS, key=lambda name: (total.hits[name], name))
        least = f"{reached[0]} {total.hits[reached[0]]:,}"
        _say(f"failpoints  {sum(total.hits[name] > 0 for name in FAILPOINTS)} of {len(FAILPOINTS)} hit, least {least}")
        if failpoints:
            _say(*(f"  {name:<20}{total.hits[name]:>12,}" for name in reached))


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items())) or "none"


def _say(*lines: str) -> None:
    for line in lines:
        sys.stdout.write(line + "\n")
    sys.stdout.flush()


_STAMP = re.compile(r'"(?:cluster|sender|view|deadline|at|oldest)":(?:"[^"]*"|[-+0-9.e]+),?')
"""Members that nearly every message between nodes carries, and that a reader of a trace does not need."""


def _trace(text: str) -> None:
    sys.stdout.write(_STAMP.sub("", text).replace(",}", "}").replace(" {}", "") + "\n")


# --- the command line ---------------------------------------------------------------------------


def _one(seed: int, given: Mapping[str, str], trace: bool, fingerprint: bool) -> int:
    whole = hashlib.blake2b(digest_size=8)

    def say(text: str) -> None:
        whole.update(text.encode())
        if trace:
            _trace(text)

    simulation = Simulation(seed, say if trace or fingerprint else None, plan_of(seed, given))
    if trace:
        _say(f"seed {seed}: {simulation.plan.options()}")
    wrong = judged(simulation)
    if fingerprint:
        _say(whole.hexdigest())
    if not wrong:
        _say(f"seed {seed}: all promises kept, {len(simulation.clients.history)} operations")
    elif trace:
        _say(f"seed {seed} FAILED", *(f"  {what}" for what in wrong))
    else:
        report = Report(1, given)
        report.add(Played(1, [Failure(seed, wrong, simulation.plan.options())]))
    return 1 if wrong else 0


def _many(seeds: range, given: Mapping[str, str], jobs: int, most: int, failpoints: bool) -> int:
    report = Report(len(seeds), given)
    try:
        for played in in_parallel(seeds, given, jobs):
            report.add(played)
            if len(report.total.failed) >= most:
                _say(f"stopped after {len(report.total.failed)} seeds that failed")
                break
    except BrokenProcessPool:
        raise UserError("a process of the simulation was killed: run with --jobs 1 to see more") from None
    finally:
        report.end(failpoints)
    return 1 if report.total.failed else 0


def _seeds(text: str) -> range:
    first, dash, last = text.partition("-")
    if not first.isdecimal() or (dash and not last.isdecimal()) or int(last or first) < int(first):
        raise argparse.ArgumentTypeError(f"invalid seeds {text!r}: expected FIRST-LAST, as in 0-999")
    return range(int(first), int(last or first) + 1)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"invalid number {text!r}: expected 1 or more")
    return int(text)


def _options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser("python -m dida.simulate", description=__doc__.partition("\n\n")[2])
    options.add_argument("--seed", type=int, metavar="N", help="one seed to run")
    options.add_argument("--seeds", type=_seeds, metavar="A-B", help="range of seeds to run (default 0-99)")
    options.add_argument(
        "--jobs", type=_count, metavar="N", default=os.cpu_count(), help="number of processes (default: the cores)"
    )
    options.add_argument(
        "--failures",
        type=_count,
        metavar="N",
        default=10,
        help="number of failed seeds after which to stop (default 10)",
    )
    options.add_argument("--failpoints", action="store_true", help="print how often each failpoint was hit")
    options.add_argument("--trace", action="store_true", help="print every message and event (with --seed)")
    options.add_argument("--fingerprint", action="store_true", help="print a hash of the whole trace (with --seed)")
    plan = options.add_argument_group("the plan", "values that the seed chooses if they are not given")
    for name in FIELDS:
        plan.add_argument(f"--{name.replace('_', '-')}", metavar="VALUE", help=ABOUT[name])
    return options


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; return 0 if every promise was kept, 1 if not, 2 if the options are invalid."""
    parser = _options()
    options = parser.parse_args(words)
    given = {name: getattr(options, name) for name in FIELDS if getattr(options, name) is not None}
    if options.seed is None and (options.trace or options.fingerprint):
        parser.error("--trace and --fingerprint need one seed: add --seed N")
    try:
        plan_of(0, given)
        if options.seed is not None:
            return _one(options.seed, given, options.trace, options.fingerprint)
        return _many(options.seeds or range(100), given, options.jobs, options.failures, options.failpoints)
    except UserError as problem:
        parser.error(str(problem))
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` is not an error
    sys.exit(main())
