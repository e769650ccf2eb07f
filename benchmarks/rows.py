"""The rows of `make bench`: each measures DIDA and what stands beside it, in turns, in the same run.

A turn is one measurement of each side; a figure is the median of its turns. Between the two sides of a row
nothing else happens, so that their ratio says something on a machine that is busy with other things, too.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence

from attrs import define, field

from benchmarks import crashes, peers, scripts
from benchmarks.load import Load, closed_loop, one_by_one, pipelined
from benchmarks.nodes import KEYS, bare, chains, populate, resident, storage
from benchmarks.report import Beside, Figure, Row, Target
from tests.support.nodes import until

CHAIN = 3
"""Operators of the chains that are measured."""
PUBLISHED = {
    "etcd writes": 3000.0,
    "Celery p50": 9.7,
    "Celery rate": 150.0,
    "Dask p50": 23.0,
    "Dask rate": 234.0,
    "Ray p50": 2.9,
    "Ray rate": 518.0,
}
"""The figures of November 2026, used where a peer is not installed."""


@define
class Bench:
    """How long each row is measured, and where progress is printed."""

    seconds: float = 1.0
    """Length of one measurement."""
    turns: int = 3
    writes: int = 1_000_000
    """Of the memory row. By a fifth of fewer not all is there yet that is always there under such a load."""
    with_peers: bool = True
    peers_python: str = ""
    """The interpreter that has Celery, Dask and Ray."""
    notes: list[str] = field(factory=list)

    def note(self, problem: object) -> None:
        """Print a note once."""
        if str(problem) not in self.notes:
            self.notes.append(str(problem))

    def in_turns(self, *sides: Callable[[], Load]) -> list[list[Load]]:
        """The loads of each side, A B A B …"""
        found: list[list[Load]] = [[] for _ in sides]
        for _ in range(self.turns):
            for side, load in zip(sides, found, strict=True):
                load.append(side())
        return found

    def chain_peer(self, name: str, at_once: int) -> peers.ChainLoad | None:
        """Return what a peer makes of chains, if it is installed."""
        if self.with_peers:
            try:
                return peers.chains(name.lower(), at_once, *([self.peers_python] if self.peers_python else []))
            except peers.Missing as missing:
                self.note(f"{name} is left out: {missing}")
        return None


def rates(loads: Sequence[Load]) -> Figure:
    """The median of the requests a second."""
    return _median([load.rate for load in loads], "/s")


def halves(loads: Sequence[Load]) -> Figure:
    """The median of the p50s."""
    return _median([load.p50 for load in loads], "ms")


def _median(values: Sequence[float], unit: str) -> Figure:
    return Figure(statistics.median(values), unit, tuple(values))


def _latency(loads: Sequence[Load]) -> str:
    p50, p99 = (statistics.median(values) for values in zip(*((load.p50, load.p99) for load in loads), strict=True))
    return f"p50 {p50:.3g} ms, p99 {p99:.3g} ms"


def _against_bare(bench: Bench, port: int, bare_port: int, line: str, form: tuple[int, int]) -> tuple[list[Load], ...]:
    def load(at: int) -> Load:
        return closed_loop(at, *form, bench.seconds, line)

    ours, theirs = bench.in_turns(lambda: load(port), lambda: load(bare_port))
    return ours, theirs


def _row(
    group: str, what: str, ours: Sequence[Load], theirs: Sequence[Load], least: float | None, *more: Beside
) -> Row:
    return Row(
        group=group,
        what=what,
        dida=rates(ours),
        beside=(Beside("bare Twisted", rates(theirs)), *more),
        target=Target(least, least=True, ratio=True) if least is not None else None,
        more=f"{_latency(ours)}; bare Twisted {_latency(theirs)}",
        raw={"dida": ours, "bare": theirs},
    )


# --- records ----------------------------------------------------------------------------------------


def read(bench: Bench) -> Iterator[Row]:
    """One storage node, one bare server; in between Redis, when it is here."""
    redis = _redis(bench).get("GET")
    with bare() as bare_port, storage(1) as cluster:
        port = cluster.ports[1]
        populate(port)
        populate(bare_port)
        for connections, in_flight, least in ((50, 1, 0.75), (50, 16, 0.5), (1, 1, None)):
            ours, theirs = _against_bare(bench, port, bare_port, "read key%d", (connections, in_flight))
            more = [Beside("Redis GET", Figure(redis, "/s"))] if redis and connections == 50 and in_flight == 1 else []
            yield _row("read", f"read, 1 node, {connections} × {in_flight}", ours, theirs, least, *more)


def write(bench: Bench) -> Iterator[Row]:
    """A group of four that gossips; the load goes to one of them."""
    redis = _redis(bench).get("SET")
    with bare() as bare_port, storage(4) as cluster:
        populate(bare_port)
        ours, theirs = _against_bare(bench, cluster.ports[1], bare_port, "write key%d v", (50, 1))
        more = [Beside("Redis SET", Figure(redis, "/s"))] if redis else []
        yield _row("write", "write, group of 4, 50 × 1", ours, theirs, 0.35, *more)


def updateif(bench: Bench) -> Iterator[Row]:
    """A group of four; the load goes to one, which passes three of four on to the keys' homes."""
    beside = Beside("etcd, 3 nodes, put", Figure(PUBLISHED["etcd writes"], "/s"), measured=False)
    if bench.with_peers:
        try:
            etcd = peers.etcd_writes(bench.seconds * bench.turns)
            beside = Beside("etcd, 3 nodes, put", Figure(etcd.rate, "/s"))
        except peers.Missing as missing:
            bench.note(f"etcd is left out: {missing}")
    with bare() as bare_port, storage(4) as cluster:
        port = cluster.ports[1]
        populate(port)
        populate(bare_port)
        ours, theirs = _against_bare(bench, port, bare_port, "updateif key%d v v", (50, 1))
        yield Row(
            group="updateif",
            what=f"updateif, group of 4, {KEYS:,} keys, 50 × 1",
            dida=rates(ours),
            beside=(beside, Beside("bare Twisted", rates(theirs))),
            target=Target(1, least=True, ratio=True),
            more=_latency(ours),
            raw={"dida": ours, "bare": theirs},
        )


def sizes(bench: Bench) -> Iterator[Row]:
    """Values of other sizes, other numbers of replicas, and reads among writes."""
    for replicas in (1, 2, 4):
        with bare() as bare_port, storage(replicas) as cluster:
            port = cluster.ports[1]
            lines = [(f"write of {size} bytes", f"write key%d {'v' * size}") for size in (16, 1024, 16_384)]
            if replicas == 4:
                lines += [("read of 16,384 bytes", "read key%d")]
            for what, line in lines:
                if line.startswith("read"):
                    populate(port, "v" * 16_384)
                    populate(bare_port, "v" * 16_384)
                ours, theirs = _against_bare(bench, port, bare_port, line, (50, 1))
                yield _row("sizes", f"{what}, {replicas} node{'s'[: replicas > 1]}, 50 × 1", ours, theirs, None)


def mixed(bench: Bench) -> Iterator[Row]:
    """Nine reads to one write, 50 in flight."""
    lines = [f"write key{n % KEYS} v" if n % 10 == 0 else f"read key{n % KEYS}" for n in range(10_000)]
    with bare() as bare_port, storage(4) as cluster:
        populate(cluster.ports[1])
        populate(bare_port)

        def load(port: int) -> Load:
            return Load(pipelined(port, lines, 50), 0, 0)

        ours, theirs = bench.in_turns(lambda: load(cluster.ports[1]), lambda: load(bare_port))
        yield Row(
            group="mixed",
            what="9 reads to 1 write, 4 nodes, 1 × 50",
            dida=rates(ours),
            beside=(Beside("bare Twisted", rates(theirs)),),
            more="a client in Python, which takes its share of both",
        )


def _redis(bench: Bench) -> dict[str, float]:
    if bench.with_peers:
        try:
            return peers.redis_loads(bench.seconds)
        except peers.Missing as missing:
            bench.note(f"Redis is left out: {missing}")
    return {}


# --- chains -----------------------------------------------------------------------------------------


def stateless(bench: Bench) -> Iterator[Row]:
    """Chains of three that touch no record, beside a relay of lines through three bare nodes and back."""
    count = max(50, int(300 * bench.seconds))
    ray, dask = bench.chain_peer("Ray", 1000), bench.chain_peer("Dask", 1000)
    kinds = (("async def", "AsyncOperator", 1.0), ("plain", "PlainOperator", 1.5))
    at_once: list[Row] = []
    with chains(1) as system, bare(CHAIN) as relay:
        for kind, operator, most in kinds:
            chain = (operator,) * CHAIN
            system.one_by_one(20, *chain)
            ours, theirs = bench.in_turns(
                lambda chain=chain: system.one_by_one(count, *chain),  # type: ignore[misc]
                lambda: one_by_one(relay, "write key v", count),
            )
            beside = [Beside("bare relay", halves(theirs))]
            beside += [_peer("Ray", "p50", ray, "ms"), _peer("Dask", "p50", dask, "ms")]
            what = f"chain of 3 {kind}, one at a time"
            target = Target(most, least=False, ratio=False, unit="ms")
            yield Row(
                group="chains",
                what=what,
                dida=halves(ours),
                beside=tuple(beside),
                target=target,
                more=_latency(ours),
                raw={"dida": ours, "bare": theirs},
            )
            many = [system.at_once(1000, chain) for _ in range(bench.turns)]
            floor = [pipelined(relay, ("write key v" for _ in range(5000)), 50) for _ in range(bench.turns)]
            first = _peer("Ray", "rate", ray, "/s")
            rest = (_peer("Dask", "rate", dask, "/s"), Beside("bare relay", _median(floor, "/s")))
            what = f"chain of 3 {kind}, 1,000 at once"
            figure = _median(many, "/s")
            at_once.append(
                Row(group="chains", what=what, dida=figure, beside=(first, *rest), target=Target(3, True, True))
            )
    yield from at_once


def stateful(bench: Bench) -> Iterator[Row]:
    """Chains of three, each reading and writing a record that four replicas hold."""
    count = max(30, int(100 * bench.seconds))
    celery = bench.chain_peer("Celery", 500)
    chain = ("ReadWriteOperator",) * CHAIN
    with chains(4) as system:
        system.one_by_one(20, *chain)
        (ours,) = bench.in_turns(lambda: system.one_by_one(count, *chain))
        many = [system.at_once(500, chain) for _ in range(bench.turns)]
    yield Row(
        group="chains-state",
        what="chain of 3, read and write, one at a time",
        dida=halves(ours),
        beside=(_peer("Celery", "p50", celery, "ms"),),
        target=Target(3, least=False, ratio=False, unit="ms"),
        more=_latency(ours),
        raw={"dida": ours},
    )
    yield Row(
        group="chains-state",
        what="chain of 3, read and write, 500 at once",
        dida=_median(many, "/s"),
        beside=(_peer("Celery", "rate", celery, "/s"),),
        target=Target(8, least=True, ratio=True),
    )


def _peer(name: str, what: str, found: peers.ChainLoad | None, unit: str) -> Beside:
    if found is None:
        return Beside(name, Figure(PUBLISHED[f"{name} {what}"], unit), measured=False)
    return Beside(name, Figure(found.p50 if what == "p50" else found.rate, unit))


# --- time and memory of the whole -------------------------------------------------------------------


def startup(bench: Bench) -> Iterator[Row]:
    """From the start of the puppetmaster's process to the last of the baseline's seven nodes being ready."""
    taken = [scripts.time_to_ready("baseline") for _ in range(bench.turns)]
    yield Row(
        group="startup",
        what="all 7 nodes of the baseline script ready",
        dida=_median(taken, "s"),
        target=Target(2, least=False, ratio=False, unit="s"),
    )


def whole(bench: Bench) -> Iterator[Row]:
    """The baseline script over four storage nodes and over one: from the first client command to the end of the
    script, its three waits included, as in the report; and to the last end of a run."""
    played: dict[str, list[scripts.Playing]] = {"baseline": [], "baseline_1": []}
    for _ in range(bench.turns):
        for name, plays in played.items():
            plays.append(scripts.play(name))
    four, one = (_median([each.whole_ms for each in plays], "ms") for plays in played.values())
    target = Target(1.01, least=False, ratio=True)
    beside = (Beside("1 storage node", one),)
    yield Row(group="whole", what="baseline script, 4 storage nodes", dida=four, beside=beside, target=target)
    four, one = (_median([each.completed_ms for each in plays], "ms") for plays in played.values())
    more = "the third run updates a record: twice the gossip delay of 100 ms, which one node alone has not"
    beside = (Beside("1 storage node", one),)
    yield Row(group="whole", what="  to the last end of a run", dida=four, beside=beside, more=more)


def crash(bench: Bench) -> Iterator[Row]:
    """The coordinator dies during a commit: as in the scripts of the worst case, and at each step without a delay."""
    played: dict[str, list[float]] = {"worst_case_crash": [], "worst_case": []}
    for _ in range(bench.turns):
        for name, taken in played.items():
            taken.append(scripts.play(name).runs[0].ms)
    with_it, without = (_median(played[name], "ms") for name in played)
    target = Target(1.05, least=False, ratio=True)
    yield Row(
        group="crash",
        what="worst case, with the crash",
        dida=with_it,
        beside=(Beside("without it", without),),
        target=target,
    )
    found = crashes.measure(crashes.COORDINATOR, 1)
    worst = max(found, key=lambda each: each.added_ms)
    yield Row(
        group="crash",
        what="added by a kill at the worst step of a commit",
        dida=Figure(worst.added_ms, "ms", tuple(each.added_ms for each in found)),
        target=Target(100, least=False, ratio=False, unit="ms"),
        more=f"the step: {worst.step}; new view {worst.view_ms:.0f} ms after the death",
    )


def memory(bench: Bench) -> Iterator[Row]:
    """Bytes that a record takes, and what a node grows by under many writes to a thousand keys."""
    records = 20_000
    with storage(1) as cluster:
        node = cluster.nodes[1]
        populate(cluster.ports[1])
        before = resident(node.pid)
        lines = (f"write record{n} {'v' * 100}" for n in range(records))
        pipelined(cluster.ports[1], lines, 200)
        size = (resident(node.pid) - before) / records
    figure = Figure(size, "bytes")
    yield Row(group="memory", what="memory of a record of 100 bytes", dida=figure, more="one version, one storage node")
    with storage(4) as cluster:
        part = bench.writes // 10
        found, rate = [], []
        for _ in range(10):
            rate.append(pipelined(cluster.ports[1], (f"write key{n % KEYS} v{n}" for n in range(part)), 200))
            found.append(max(resident(node.pid) for node in cluster.nodes.values()) / 2**20)
        names = ("log", "held", "waiting", "locks", "executed")

        def tables() -> dict[str, int]:
            status = [node.status() for node in cluster.nodes.values()]
            return {name: max(each[name] for each in status) for name in names}

        until("logs and tables are small", lambda: max(tables().values()) <= KEYS, 30)
        left = tables()
    yield Row(
        group="memory",
        what=f"memory after {bench.writes:,} writes to {KEYS:,} keys",
        dida=Figure(found[-1], "MiB", tuple(found)),
        beside=(Beside("after a fifth of them", Figure(found[1], "MiB")),),
        target=Target(1.1, least=False, ratio=True),
        more=f"{statistics.median(rate):,.0f} writes/s; left: {', '.join(f'{n} {c}' for n, c in left.items())}",
    )


GROUPS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "read": read,
    "write": write,
    "updateif": updateif,
    "chains": stateless,
    "chains-state": stateful,
    "startup": startup,
    "whole": whole,
    "crash": crash,
    "memory": memory,
    "sizes": sizes,
    "mixed": mixed,
}
"""The rows by the name of their group."""
TARGETED = tuple(name for name in GROUPS if name not in ("sizes", "mixed"))
"""The rows that have a target; the others belong to the full form."""
