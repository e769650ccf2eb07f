"""The faults in the first phase of a simulation: crashes, pauses, clogged links, partitions, failpoints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random

from dida.replication.messages import more_than_half
from dida.simulate.network import Cluster
from dida.simulate.node import Node, name_of
from dida.simulate.plan import NEVER, Armed, Plan

DEAD_FOR = (0.0, 0.03, 0.2, 1.0, 3.0)
"""Times until a crashed node is started again, in seconds; 0: before any other node noticed."""
DOWN_FOR = (0.01, 0.03, 0.2)
"""Times until a node that has shut down is started again, in seconds."""
DRAIN = 100.0
"""Time that such a node waits for others to take over, in seconds: longer than a simulation."""
PAUSED_FOR = (0.1, 0.3, 0.7, 2.0, 3.5)
"""Times of a pause, in seconds: shorter and longer than the lease."""
TURNING = ("install.send", "level.answered", "flush.receive")
"""Where members change sides: before the new view is sent, before it is made, when the old one is stopped."""
LONG_SILENCE = 0.5
"""Time within which no two heartbeats are dropped where sides must not part, in seconds."""
SHORT_CLOG = 0.2
"""Time that links may stop without making a suspect, in seconds: the most where sides must not part."""


class Faults:
    """The faults of one run, as its plan and its dice choose them. All nodes but one may be down, never the last."""

    def __init__(self, cluster: Cluster, plan: Plan, rng: Random) -> None:
        self.cluster = cluster
        self.plan = plan
        self.rng = rng
        self.active = False
        self.happened: Counter[str] = Counter()
        self.hits: Counter[str] = Counter()
        self._armed: dict[str, list[Armed]] = {}
        self._sides: tuple[list[str], list[str]] = ([], [])
        """The URLs on each side of a partition whose members may change sides."""
        self._silent_until = 0.0
        self._turns = 0
        """How many of them still will."""
        for armed in plan.armed:
            self._armed.setdefault(armed.name, []).append(armed)
        cluster.failpoint = self._failpoint
        self._then: dict[str, Callable[[], None]] = {}
        """Node that is shutting down to what follows when it is started again."""

    def begin(self) -> None:
        self.active = True
        self.hits.clear()
        plan = self.plan
        for mean, fault in (
            (plan.crash, self._crash_one),
            (plan.pause, self._pause_one),
            (plan.clog, self._clog),
            (plan.cut if plan.partitions else NEVER, self._cut),
            (plan.turn if plan.partitions else NEVER, self._part),
            (plan.stop, self._stop),
        ):
            if mean < NEVER:
                self._again(mean, fault)

    def end(self) -> None:
        """End all faults: the links work and all nodes run, from now on."""
        cluster = self.cluster
        cluster.say("--- no more faults ---")
        self.active = False
        self._turns = 0
        cluster.cut.clear()
        for node in cluster.nodes.values():
            if node.replica is None:
                cluster.start(node)
            cluster.resume(node)

    def _again(self, mean: float, fault: Callable[[], None]) -> None:
        def strike() -> None:
            if self.active:
                fault()
                self._again(mean, fault)

        self.cluster.at(self.rng.expovariate(1 / mean), strike)

    # --- nodes ----------------------------------------------------------------------------------

    def _crash_one(self) -> None:
        self._crash(self._any_node())

    def _pause_one(self) -> None:
        self._pause(self._any_node())

    def _any_node(self) -> Node:
        return self.rng.choice(list(self.cluster.nodes.values()))

    def _crash(self, node: Node) -> bool:
        if node.replica is None or not self._dispensable(node):
            return False
        self.happened["crashes"] += 1
        cluster = self.cluster
        cluster.crash(node)
        cluster.at(self.rng.choice(DEAD_FOR), lambda: cluster.start(node) if node.replica is None else None)
        return True

    def _pause(self, node: Node) -> bool:
        if node.replica is None or node.paused or not self._dispensable(node):
            return False
        self.happened["pauses"] += 1
        cluster, epoch, seconds = self.cluster, node.epoch, self.rng.choice(PAUSED_FOR)
        cluster.pause(node)
        cluster.at(seconds, lambda: cluster.resume(node) if node.epoch == epoch else None)
        # who was removed meanwhile must hear of it, for nobody sends it heartbeats any more
        self._silent_until = max(self._silent_until, cluster.now + seconds + 2 * LONG_SILENCE)
        return True

    def _dispensable(self, node: Node) -> bool:
        """Return True if the state goes on without the node.

        Another member of the newest view must go on with it; in majority mode, enough of them.
        """
        newest = self.cluster.newest_view()
        if newest is None:
            return False
        living = [
            n.replica.context
            for n in self.cluster.nodes.values()
            if n is not node
            and n.replica is not None
            and not n.paused
            and n.replica.context.serving
            and not n.replica.context.leaves
            and n.replica.context.view_name == newest.name
        ]
        if not self.plan.majority:
            return bool(living)
        complete = any(context.complete for context in living)
        return more_than_half((context.me for context in living), newest.lists(complete))

    # --- planned stops --------------------------------------------------------------------------

    def _stop(self) -> None:
        """Shut down one node, or some at once, or all one after the other, each when the one before has just been
        restarted.

        Another may crash at the same moment: then the view changes at once, before much was sent.
        """
        nodes = list(self.cluster.nodes.values())
        self.rng.shuffle(nodes)
        kind = self.rng.random()
        if kind < 0.4:
            self._stop_one(nodes[0])
        elif kind < 0.7:
            for node in nodes[: self.rng.randint(1, max(1, len(nodes) - 1))]:
                self._stop_one(node)
        if kind < 0.3:
            self._crash_one()
        elif kind >= 0.7 and not self._then:
            self.happened["rolling restarts"] += 1
            self._roll(nodes)

    def _stop_one(self, node: Node, then: Callable[[], None] = lambda: None) -> bool:
        """Shut a node down, if another one stays; return True if so. It is started again when it has ended."""
        if node.replica is None or node.replica.context.leaves or not self._stays_without(node):
            return False
        self.happened["stops"] += 1
        self._then[node.name] = then
        self.cluster.stop(node, DRAIN)
        return True

    def _stays_without(self, node: Node) -> bool:
        """Return True if another node goes on with the state.

        Where no node can be cut off, it may be one that is about to join, or a part of a majority that others join.
        """
        if self._dispensable(node):
            return True
        newest = self.cluster.newest_view()
        others = [
            n.replica.context for n in self.cluster.nodes.values() if n is not node and n.replica and not n.paused
        ]
        stay = [c for c in others if not c.leaves and (not self.plan.majority or newest and c.view_name == newest.name)]
        return bool(stay) and not self.plan.partitions and self.plan.pause >= NEVER

    def left(self, node: Node) -> None:
        """Start a node again that has shut down."""
        then = self._then.pop(node.name, lambda: None)

        def start() -> None:
            if node.replica is None:
                self.cluster.start(node)
            then()

        self.cluster.at(self.rng.choice(DOWN_FOR), start)

    def _roll(self, nodes: list[Node]) -> None:
        if self.active and nodes and not self._stop_one(nodes[0], lambda: self._roll(nodes[1:])):
            self.cluster.at(0.1, lambda: self._roll(nodes))

    # --- links ----------------------------------------------------------------------------------

    def _cut(self) -> None:
        """Make a partition: two sides, one node alone, or one link; in both directions or in one."""
        cluster, rng = self.cluster, self.rng
        if cluster.cut:
            return
        urls = list(cluster.nodes)
        rng.shuffle(urls)
        size = 1 if rng.random() < 0.3 else rng.randint(1, max(1, len(urls) - 1))
        others = urls[size:] if rng.random() < 0.8 else urls[size : size + 1]
        one_way = rng.random() < 0.3
        cluster.say(f"CUT {'one way ' if one_way else ''}{_names(urls[:size])} | {_names(others)}")
        self.happened["partitions"] += 1
        for a in urls[:size]:
            for b in others:
                cluster.cut[(a, b)] = True
                if not one_way:
                    cluster.cut[(b, a)] = True
        cluster.at(rng.uniform(0.3, 2.5), self._join)

    def _part(self) -> None:
        """Make a partition into two sides, of which members change to the other one while a view is being installed."""
        cluster, rng = self.cluster, self.rng
        if cluster.cut or len(cluster.nodes) == 1:
            return
        urls = list(cluster.nodes)
        rng.shuffle(urls)
        size = rng.randint(1, len(urls) - 1)
        self._sides = urls[:size], urls[size:]
        self._turns = rng.randint(1, 3)
        self.happened["partitions with turns"] += 1
        self._cut_sides()
        cluster.at(rng.uniform(1.0, 4.0), self._join)

    def _cut_sides(self) -> None:
        one, other = self._sides
        self.cluster.say(f"SIDES {_names(one)} | {_names(other)}")
        self.cluster.cut.clear()
        for a in one:
            for b in other:
                self.cluster.cut[(a, b)] = self.cluster.cut[(b, a)] = True

    def _turn(self, node: Node) -> None:
        """Move a member of the node's side to the other: messages on their way to it do not arrive."""
        one, other = self._sides if node.url in self._sides[0] else reversed(self._sides)
        if len(one) > 1:
            self._turns -= 1
            self.happened["turns"] += 1
            url = self.rng.choice([url for url in one if url != node.url])
            one.remove(url)
            other.append(url)
            self._cut_sides()

    def _join(self) -> None:
        self._turns = 0
        if self.cluster.cut:
            self.cluster.say("the network is whole again")
            self.cluster.cut.clear()

    def _clog(self) -> None:
        """Stop the links of some nodes one by one, and let them work again one by one in another order."""
        cluster, rng = self.cluster, self.rng
        if cluster.cut:
            return
        urls = list(cluster.nodes)
        some = rng.sample(urls, rng.randint(1, max(1, len(urls) - 1)))
        whole = rng.uniform(0.05, SHORT_CLOG) if not self.plan.partitions else rng.uniform(0.1, 2.0)
        self.happened["clogs"] += 1
        stops = sorted(rng.uniform(0, whole / 2) for _ in some)
        goes = sorted(rng.uniform(whole / 2, whole) for _ in some)
        for url, stop, go in zip(some, stops, rng.sample(goes, len(goes)), strict=True):
            cluster.at(stop, lambda url=url: self._stop_links(url))  # type: ignore[misc]
            cluster.at(go, lambda url=url: self._free_links(url))  # type: ignore[misc]

    def _stop_links(self, url: str) -> None:
        if self.active:
            self.cluster.say(f"CLOG {_names([url])}")
            for other in self.cluster.nodes:
                if other != url:
                    self.cluster.cut[(url, other)] = self.cluster.cut[(other, url)] = True

    def _free_links(self, url: str) -> None:
        self.cluster.say(f"{_names([url])} is free again")
        for other in self.cluster.nodes:
            self.cluster.cut.pop((url, other), None)
            self.cluster.cut.pop((other, url), None)

    # --- failpoints -----------------------------------------------------------------------------

    def _failpoint(self, name: str, node: Node) -> str | None:
        if not self.active:
            return None
        self.hits[name] += 1
        if self._turns and name in TURNING and self.rng.random() < 0.5:
            self._turn(node)
        action = None
        for armed in self._armed.get(name, ()):
            if armed.at == self.hits[name]:
                action = armed.action
        if action is None and self.plan.odd and self.rng.random() < self.plan.odd:
            action = self.rng.choice(("drop", "duplicate"))
        if action == "duplicate" and name.startswith("forward"):
            action = "drop"  # a node announces that it asks the home again: what is refused once, stays refused
        if action == "drop" and name.startswith("heartbeat") and not self.plan.partitions:
            if self.cluster.now < self._silent_until:
                return None  # two members that both hear nothing of each other would go on apart
            self._silent_until = self.cluster.now + LONG_SILENCE
        if action in ("kill", "pause"):
            self.cluster.say(f"{node.name} FAILPOINT {name}: {action}")
            if not (self._crash(node) if action == "kill" else self._pause(node)):
                return None
        if action is not None:
            self.happened[f"failpoints: {action}"] += 1
        return action


def _names(urls: list[str]) -> str:
    return " ".join(map(name_of, urls))
