"""`python -m dida.simulate`: play seeds of the storage's simulation, and replay one with a readable trace.

A seed chooses the cluster, the network and all that goes wrong (the plan), and every throw of the dice; the
same seed gives the same trace, always. Any part of the plan can be said otherwise: `--replicas 3`. A seed that fails
is printed with what is wrong, the plan, and the command that replays it.
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
"""Seconds of processor time after which a seed has failed: the nodes are in a loop."""
CHUNK = 5
"""Seeds that a process plays before it reports."""
SHOWN = 5
"""Findings of a failing seed that are printed; the others are counted."""

ABOUT = {
    "replicas": "storage nodes",
    "membership": "available or majority",
    "partitions": "yes: the network is cut, and links stop for long",
    "gossip_delay": "seconds",
    "write_concern": "replicas that have a plain write when it is answered",
    "max_versions": "versions kept of a record",
    "max_waiting": "requests that may wait at a node",
    "session_ttl": "seconds that update ids are remembered",
    "ping_interval": "seconds",
    "clients": "sessions, each with one operation at a time",
    "keys": "keys of each of two kinds: only updateifs, and mixed",
    "faults": "seconds of the phase with faults",
    "mean_delay": "seconds that a message is under way",
    "late": "share of messages that take up to 0.3 s longer",
    "reset": "share of messages at which the connection is reset",
    "stale": "share of messages on a connection that is reset which are read all the same, later",
    "wire": "yes: messages travel as lines, not as objects",
    "stray": "share of clients' requests that arrive when nobody waits any more, and of answers that get lost",
    "plain": "share of plain reads and writes that come without a session, for the fast path",
    "crash": "mean seconds between two crashes; 100: none",
    "pause": "mean seconds between two pauses; 100: none",
    "clog": "mean seconds between two times that links stop; 100: none",
    "cut": "mean seconds between two partitions; 100: none",
    "odd": "share of steps at which a message is dropped or doubled",
    "armed": "failpoints, as lock.send=kill@3,load.receive=pause@1; or none",
    "max_memory": "bytes that a replica may take, about, before writes that need more are refused; 0: no limit",
    "all_to_all": "members of a view beyond which they exchange heartbeats with the lowest one only",
    "stop": "mean seconds between two planned stops of nodes; 100: none",
    "turn": "mean seconds between two partitions whose sides members change while a view is installed; 100: none",
}


@frozen
class Failure:
    """A seed that did not keep all promises."""

    seed: int
    wrong: list[str]
    options: str


@define
class Played:
    """What came of some seeds."""

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


def play(seeds: Sequence[int], said: Mapping[str, str]) -> Played:
    """Play the seeds, one after the other."""
    played = Played()
    for seed in seeds:
        simulation = Simulation(seed, plan=plan_of(seed, said))
        wrong = judged(simulation)
        if wrong:
            played.failed.append(Failure(seed, wrong, simulation.plan.options()))
        played.seeds += 1
        played.simulated += simulation.cluster.now
        played.messages += simulation.cluster.messages
        played.fast += simulation.cluster.fast
        played.operations.update(f"{event.verb} {event.outcome}" for event in simulation.clients.history)
        played.faults.update(simulation.faults.happened)
        played.hits.update(simulation.faults.hits)
    return played


def judged(simulation: Simulation) -> list[str]:
    """What is wrong with it, be it that it does not end."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"not at its end after {TOO_LONG} s: the nodes are in a loop")

    before = signal.signal(signal.SIGPROF, ring)
    signal.setitimer(signal.ITIMER_PROF, TOO_LONG)
    try:
        return simulation.run()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def in_parallel(seeds: range, said: Mapping[str, str], jobs: int) -> Iterator[Played]:
    """What comes of the seeds, in their order, a few at a time."""
    chunks = [seeds[at : at + CHUNK] for at in range(0, len(seeds), CHUNK)]
    if jobs == 1 or len(chunks) == 1:
        yield from (play(chunk, said) for chunk in chunks)
        return
    with ProcessPoolExecutor(min(jobs, len(chunks))) as pool:
        ahead: list[Future[Played]] = []
        try:
            for chunk in chunks:
                ahead.append(pool.submit(play, chunk, said))
                if len(ahead) > 4 * jobs:
                    yield ahead.pop(0).result()
            while ahead:
                yield ahead.pop(0).result()
        finally:
            for future in ahead:
                future.cancel()


# --- what is printed ----------------------------------------------------------------------------


class Report:
    """Progress on a terminal, failures as they come, and the sum of it all."""

    def __init__(self, count: int, said: Mapping[str, str]) -> None:
        self.total = Played()
        self._count = count
        self._said = "".join(f" --{name.replace('_', '-')} {text}" for name, text in said.items())
        self._began = os.times().elapsed
        self._terminal = sys.stderr.isatty()

    def add(self, played: Played) -> None:
        self.total.add(played)
        if played.failed:
            self._clear()
        for failure in played.failed:
            _say(*self._told(failure))
        if self._terminal:
            done, failed = self.total.seeds, len(self.total.failed)
            sys.stderr.write(f"\r{done}/{self._count} seeds, {failed} failed, {self._seconds():.0f} s ")
            sys.stderr.flush()

    def _told(self, failure: Failure) -> Iterator[str]:
        yield f"FAILED      seed {failure.seed}: {failure.wrong[0]}"
        for what in failure.wrong[1:SHOWN]:
            yield f"            {what}"
        if len(failure.wrong) > SHOWN:
            yield f"            and {len(failure.wrong) - SHOWN} more"
        yield f"  plan      {failure.options}"
        yield f"  replay    python -m dida.simulate --trace --seed {failure.seed}{self._said}"

    def _seconds(self) -> float:
        return os.times().elapsed - self._began

    def _clear(self) -> None:
        if self._terminal:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()

    def end(self, failpoints: bool) -> None:
        """The summary."""
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


_STAMP = re.compile(r'"(?:cluster|sender|view|deadline|at|exposed|oldest)":(?:"[^"]*"|[-+0-9.e]+),?')
"""What nearly every message between nodes carries, and a reader of a trace needs not."""


def _trace(text: str) -> None:
    sys.stdout.write(_STAMP.sub("", text).replace(",}", "}").replace(" {}", "") + "\n")


# --- the command line ---------------------------------------------------------------------------


def _one(seed: int, said: Mapping[str, str], trace: bool, fingerprint: bool) -> int:
    whole = hashlib.blake2b(digest_size=8)

    def say(text: str) -> None:
        whole.update(text.encode())
        if trace:
            _trace(text)

    simulation = Simulation(seed, say if trace or fingerprint else None, plan_of(seed, said))
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
        report = Report(1, said)
        report.add(Played(1, [Failure(seed, wrong, simulation.plan.options())]))
    return 1 if wrong else 0


def _many(seeds: range, said: Mapping[str, str], jobs: int, most: int, failpoints: bool) -> int:
    report = Report(len(seeds), said)
    try:
        for played in in_parallel(seeds, said, jobs):
            report.add(played)
            if len(report.total.failed) >= most:
                _say(f"stopped after {len(report.total.failed)} seeds that failed")
                break
    except BrokenProcessPool:
        raise UserError("a process of the simulation was killed; with --jobs 1 you see more") from None
    finally:
        report.end(failpoints)
    return 1 if report.total.failed else 0


def _seeds(text: str) -> range:
    first, dash, last = text.partition("-")
    if not first.isdecimal() or (dash and not last.isdecimal()) or int(last or first) < int(first):
        raise argparse.ArgumentTypeError(f"{text!r}: write FIRST-LAST, as in 0-999")
    return range(int(first), int(last or first) + 1)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: say a number from 1 on")
    return int(text)


def _options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser("python -m dida.simulate", description=__doc__.partition("\n\n")[2])
    options.add_argument("--seed", type=int, metavar="N", help="one seed")
    options.add_argument("--seeds", type=_seeds, metavar="A-B", help="the seeds from A to B (default: 0-99)")
    options.add_argument("--jobs", type=_count, metavar="N", default=os.cpu_count(), help="processes (default: cores)")
    options.add_argument("--failures", type=_count, metavar="N", default=10, help="stop after so many (default: 10)")
    options.add_argument("--failpoints", action="store_true", help="print how often each was hit")
    options.add_argument("--trace", action="store_true", help="print who said what to whom, when (with --seed)")
    options.add_argument("--fingerprint", action="store_true", help="print a hash of the whole trace (with --seed)")
    plan = options.add_argument_group("the plan", "what the seed would choose otherwise")
    for name in FIELDS:
        plan.add_argument(f"--{name.replace('_', '-')}", metavar="VALUE", help=ABOUT[name])
    return options


def main(words: Sequence[str] | None = None) -> int:
    """Exit status 0 when every promise was kept, 1 when not, 2 when the options are wrong."""
    parser = _options()
    options = parser.parse_args(words)
    said = {name: getattr(options, name) for name in FIELDS if getattr(options, name) is not None}
    if options.seed is None and (options.trace or options.fingerprint):
        parser.error("--trace and --fingerprint are of one seed: say --seed N")
    try:
        plan_of(0, said)
        if options.seed is not None:
            return _one(options.seed, said, options.trace, options.fingerprint)
        return _many(options.seeds or range(100), said, options.jobs, options.failures, options.failpoints)
    except UserError as problem:
        parser.error(str(problem))
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` is no error
    sys.exit(main())
