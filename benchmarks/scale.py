"""What becomes of a storage of many nodes, more than this machine could run: simulated, in virtual time.

The replicas are the real ones, the network is that of `dida.simulate` (a mean delay of 2 ms each way); messages are
counted, and encoded for their size. What is simulated is a second of quiet after the first view, then one write and
its way to all replicas, then the death of one node, whose connections break, and then one that is only silent. The
processor's time is not included: virtual time says how many round trips something takes, not how long they
compute.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import count
from random import Random

from attrs import frozen

from dida.placement import Shards
from dida.replication.config import Config
from dida.replication.outputs import Send
from dida.simulate.network import Cluster, Network
from dida.simulate.node import Node
from dida.wire import grammar
from dida.wire.messages import Reply, Write

QUIET = 1.0
"""Seconds of virtual time in which the cost of doing nothing is counted."""
LIMIT = 60.0
"""Seconds of virtual time that anything may take."""
SLICE = 0.05


@frozen
class Size:
    """The figures of one size of cluster; times in (virtual) seconds, messages and bytes sent by one node."""

    replicas: int
    group: int
    start: float
    """Until the first view is in force on all nodes."""
    messages: float
    """A second, of a node, when nothing happens: heartbeats and their answers."""
    most_messages: float
    """The same, of the node that sends most: the hub of a large group."""
    bytes: float
    converged: float
    """From a write to its being on all replicas of its group."""
    write_messages: float
    """Of a node: what the write cost beyond the quiet."""
    killed: float
    """From a death that breaks connections to the new view on all survivors."""
    silent: float
    """From the silence of a node to the new view on all survivors."""
    change_messages: float
    """Of a node: what the change of the view cost beyond the quiet."""
    took: float
    """Seconds of real time that the simulation took."""


class _Counted(Cluster):
    """Counts what its nodes send."""

    def __init__(self, rng: Random, replicas: int, config: Config, network: Network) -> None:
        super().__init__(rng, replicas, config, network)
        self.sent: Counter[str] = Counter()
        self.size = 0
        self.weigh = False
        """Whether messages are encoded for their size."""
        self.shares = Shards((address.replica for address in self.named), config.replication_factor)
        numbers = [self.shares.replicas(group) for group in range(len(self.shares))]
        places = list(self.nodes.values())
        self.groups = [[places[number - 1] for number in group] for group in numbers]

    def _put(self, node: Node, send: Send, action: str | None) -> None:
        self.sent[node.url] += 1
        if self.weigh:
            self.size += len(grammar.encode(send.message)) + 2
        super()._put(node, send, action)

    def _reply(self, node: Node, source: str, number: int, verb: str, reply: Reply, action: str | None) -> None:
        self.sent[node.url] += 1
        if self.weigh:
            self.size += len(grammar.encode_reply(reply)) + 2
        super()._reply(node, source, number, verb, reply, action)

    def until(self, condition: Callable[[], bool], step: float = SLICE) -> float:
        """Let time pass until the condition holds; return how long that was."""
        begun = self.now
        while not condition():
            self.events = 0  # many nodes have many events: no sign of a storm
            self.run(self.now + step)
            if self.now - begun > LIMIT:
                raise TimeoutError(f"{len(self.nodes)} replicas: not within {LIMIT:.0f} s of virtual time")
        return self.now - begun

    def pass_time(self, seconds: float) -> None:
        end = self.now + seconds
        self.until(lambda: self.now >= end)


def simulate(replicas: int, group: int | None = None, seed: int = 1) -> Size:
    """One size, of one group or of groups of so many."""
    begun = time.monotonic()
    config = Config(replication_factor=group)
    cluster = _Counted(Random(seed), replicas, config, Network())
    for node in cluster.nodes.values():
        cluster.start(node)
    start = cluster.until(lambda: all(map(_together, cluster.groups)))
    keys = [
        next(key for key in map(str, count()) if cluster.shares.of_key(key) == n) for n in range(len(cluster.groups))
    ]
    for key, mates in zip(keys, cluster.groups, strict=True):
        for node in mates:  # each replica has a stream of updates: timestamps are as long as they get
            cluster.ask(node.url, Write(key, "value"), "client")
    cluster.pass_time(0.5)
    cluster.sent.clear()
    cluster.weigh = True
    cluster.pass_time(QUIET)
    cluster.weigh = False
    quiet, size = cluster.sent.total() / QUIET / replicas, cluster.size / QUIET / replicas
    most = max(cluster.sent.values(), default=0) / QUIET

    mates = cluster.groups[0]
    key = next(key for key in map("more{}".format, count()) if cluster.shares.of_key(key) == 0)
    cluster.sent.clear()
    cluster.ask(mates[0].url, Write(key, "value"), "client")
    converged = cluster.until(lambda: all(_has(node, key) for node in mates), 0.001)
    cluster.pass_time(0.5 - converged)
    write_messages = _each(cluster.sent, mates) - quiet * 0.5
    victim, rest = mates[-1], mates[:-1]
    cluster.sent.clear()
    cluster.crash(victim)
    killed = cluster.until(lambda: _together(rest), 0.001)
    change_messages = _each(cluster.sent, rest) - quiet * killed
    silent = 0.0
    if len(rest) > 1:
        cluster.pause(rest[-1])
        silent = cluster.until(lambda: _together(rest[:-1]), 0.01)
    took = time.monotonic() - begun
    return Size(
        replicas=replicas,
        group=group or replicas,
        start=start,
        messages=quiet,
        most_messages=most,
        bytes=size,
        converged=converged,
        write_messages=write_messages,
        killed=killed,
        silent=silent,
        change_messages=change_messages,
        took=took,
    )


def _each(sent: Counter[str], nodes: Sequence[Node]) -> float:
    """Return how many messages one of these nodes has sent."""
    return sum(sent[node.url] for node in nodes) / len(nodes)


def _together(nodes: Sequence[Node]) -> bool:
    """Return True if these nodes, and no others, serve in one view."""
    names = [node.name for node in nodes]
    for node in nodes:
        context = node.replica.context if node.replica is not None else None
        if (
            context is None
            or not context.serving
            or context.view is None
            or [m.id for m in context.view.members] != names
        ):
            return False
    return True


def _has(node: Node, key: str) -> bool:
    return node.replica is not None and node.replica.state.store.newest(key) is not None


def sweep(
    seconds: float, group: int | None, sizes: Sequence[int] = (4, 8, 16, 32, 64, 128, 256, 512, 1000)
) -> list[Size]:
    """Sizes one after the other, as long as the next one can be expected to fit into so many seconds of real time."""
    found: list[Size] = []
    end = time.monotonic() + seconds
    for size in sizes:
        if len(found) > 1:
            last, before = found[-1], found[-2]
            power = math.log(last.took / before.took) / math.log(last.replicas / before.replicas)
            if time.monotonic() + last.took * (size / last.replicas) ** power > end:
                break
        found.append(simulate(size, group))
    return found


def law(sizes: Sequence[Size], what: Callable[[Size], float]) -> float:
    """The power of the number of replicas with which something grows: the slope of least squares, both logarithmic."""
    points = [(math.log(size.replicas), math.log(value)) for size in sizes if (value := what(size)) > 0]
    if len(points) < 2:
        return 0.0
    mean_x, mean_y = (sum(values) / len(points) for values in zip(*points, strict=True))
    slope: float = sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)
    return slope
