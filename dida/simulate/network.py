"""A cluster of replicas in one process, in virtual time, over a network that a seed makes misbehave.

One heap of events, ordered by (time, number); all randomness comes from one `random.Random(seed)`; no set
of strings is ever iterated. So a seed gives one trace, whatever PYTHONHASHSEED. Connections are modelled
like TCP: in order within one direction of a connection, delayed (and late, after a partition) but not lost
within one, lost when it is reset; across connections anything may overtake anything.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from random import Random
from typing import Any

import msgspec
from attrs import Factory, define, frozen

from dida import wire
from dida.addresses import Address, StorageAddress
from dida.messages import Error, No, Ok, Reply, Request, form_of
from dida.outputs import Answer, Config, Note, Output, Send
from dida.peer_messages import Member
from dida.replica import Replica

TICK = 0.02
"""Seconds of virtual time between two ticks of a replica."""


@frozen(kw_only=True)
class Network:
    """How the network behaves; times in seconds, shares from 0 to 1."""

    least_delay: float = 0.0005
    mean_delay: float = 0.002
    reset: float = 0.0
    """Share of messages whose connection is reset instead."""
    late: float = 0.0
    """Share of messages that take up to 0.3 s longer (and all behind them): less than makes a suspect."""


@define(eq=False)
class Node:
    """A place where a replica lives, one life after the other."""

    number: int
    url: str
    replica: Replica | None = None
    life: int = 0
    paused: bool = False
    backlog: list[Callable[[], None]] = Factory(list)


class Cluster:
    """Replicas, the network between them, and the events to come."""

    def __init__(self, rng: Random, replicas: int, config: Config, network: Network) -> None:
        self.rng = rng
        self.config = config
        self.network = network
        self.now = 0.0
        self.named = tuple(StorageAddress(n, f"s{n}", Address("node", 5000 + n)) for n in range(1, replicas + 1))
        self.nodes = {str(a.address): Node(a.replica, str(a.address)) for a in self.named}
        self.trace: Callable[[str], None] | None = None
        self.failpoint: Callable[[str, Node], str | None] | None = None
        self.on_reply: Callable[[Any, Reply], None] = lambda token, reply: None
        self.messages = 0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self._arrives: dict[tuple[str, str, str], float] = {}
        self._epoch: dict[tuple[str, str], int] = {}
        self.cut: dict[tuple[str, str], bool] = {}
        """Directed pairs of urls between which nothing passes now."""
        self._asks: dict[int, tuple[Node, int, Send]] = {}
        self._tokens = 0
        self._replies: dict[Any, tuple[str, int, int]] = {}

    # --- events ---------------------------------------------------------------------------------

    def at(self, delay: float, event: Callable[[], None]) -> None:
        """Have `event` happen after `delay` seconds."""
        self._number += 1
        heapq.heappush(self._heap, (self.now + delay, self._number, event))

    def run(self, until: float, done: Callable[[], bool] = lambda: False) -> None:
        """Let events happen up to the time `until`, or until `done`."""
        while self._heap and self._heap[0][0] <= until and not done():
            self.now, _, event = heapq.heappop(self._heap)
            event()
        if not done():
            self.now = max(self.now, until)

    def say(self, text: str) -> None:
        if self.trace is not None:
            self.trace(f"{self.now:9.4f}  {text}")

    # --- lives of nodes -------------------------------------------------------------------------

    def start(self, node: Node) -> None:
        """A process starts at the node's place: a new life, a new component."""
        node.life += 1
        node.paused = False
        node.backlog = []
        member = Member(f"{node.number}:{node.life}", node.number, f"s{node.number}", node.url)
        node.replica = Replica(self.config, member, self.named, self.now)
        self.say(f"s{node.number} starts as {member.component}")
        self._tick(node, node.life)

    def crash(self, node: Node) -> None:
        """SIGKILL: the state is gone, the connections break, the port refuses."""
        if node.replica is None:
            return
        self.say(f"s{node.number} CRASHES")
        node.replica = None
        node.paused = False
        node.backlog = []
        for other in self.nodes.values():
            if other is not node:
                self._break(other, node)
                self._break(node, other)

    def pause(self, node: Node) -> None:
        """SIGSTOP"""
        if node.replica is not None:
            self.say(f"s{node.number} is PAUSED")
            node.paused = True

    def resume(self, node: Node) -> None:
        """SIGCONT"""
        if node.paused:
            self.say(f"s{node.number} goes on")
            node.paused = False
            backlog, node.backlog = node.backlog, []
            for event in backlog:
                if not node.paused and node.replica is not None:
                    event()

    def _at_node(self, node: Node, life: int, event: Callable[[Replica], list[Output]]) -> None:
        """Have a replica take an input, unless that life is over; a paused one takes it when it goes on."""
        if node.life != life or node.replica is None:
            return
        if node.paused:
            node.backlog.append(lambda: self._at_node(node, life, event))
            return
        replica = node.replica
        self._act(node, event(replica))

    def _tick(self, node: Node, life: int) -> None:
        if node.life != life or node.replica is None:
            return
        if not node.paused:
            self._act(node, node.replica.tick(self.now))
        self.at(TICK, lambda: self._tick(node, life))

    # --- messages -------------------------------------------------------------------------------

    def ask(self, url: str, request: Request, token: Any) -> None:
        """A client's request arrives at the node; its reply comes to `on_reply`, or never."""
        node = self.nodes[url]
        life = node.life
        self._at_node(node, life, lambda replica: replica.on_request(token, request, self.now))

    def _act(self, node: Node, outputs: list[Output]) -> None:
        for output in outputs:
            if node.replica is None or node.paused:
                return  # a failpoint struck in the middle
            match output:
                case Send():
                    self._send(node, output)
                case Answer():
                    self._answer(node, output)
                case Note():
                    self.say(f"s{node.number} NOTE {output.text}")

    def _hit(self, name: str, node: Node) -> str | None:
        """Ask the test whether something is to happen here."""
        return self.failpoint(name, node) if self.failpoint is not None else None

    def _delay(self) -> float:
        delay = self.network.least_delay + self.rng.expovariate(1 / self.network.mean_delay)
        return delay + 0.3 * self.rng.random() if self.rng.random() < self.network.late else delay

    def _carry(self, kind: str, source: str, target: str, event: Callable[[], None]) -> None:
        """Deliver in order on this direction of the connection; late when there is a partition."""
        place = (kind, source, target)
        arrival = max(self.now + self._delay(), self._arrives.get(place, 0.0))
        self._arrives[place] = arrival
        pair = (source, target) if kind == "ask" else (target, source)
        epoch = self._epoch.get(pair, 0)

        def arrive() -> None:
            if self._epoch.get(pair, 0) != epoch:
                return
            if self.cut.get((source, target)):
                self.at(0.2, arrive)  # TCP tries again
            else:
                event()

        self.at(arrival - self.now, arrive)

    def _break(self, source: Node, target: Node) -> None:
        """Reset the connection on which `source` asks `target`: what is under way is lost."""
        pair = (source.url, target.url)
        self._epoch[pair] = self._epoch.get(pair, 0) + 1
        for kind in ("ask", "answer"):
            self._arrives.pop((kind, *pair) if kind == "ask" else (kind, pair[1], pair[0]), None)
        lost = [number for number, (asker, _, send) in self._asks.items() if asker is source and send.url == target.url]
        life = source.life
        for number in lost:
            self._give_up(number)
        if source.replica is not None and not self.cut.get((target.url, source.url)):
            self.at(0.0005, lambda: self._at_node(source, life, lambda r: r.on_broken(target.url, self.now)))
            self.at(0.012, lambda: self._connect(source, life, target))

    def _connect(self, source: Node, life: int, target: Node) -> None:
        """The connection is tried again: a port that nobody listens on refuses."""
        if target.replica is None and not self.cut.get((source.url, target.url)):
            at = self.now
            self._at_node(source, life, lambda r: r.on_refused(target.url, at, self.now))

    def _give_up(self, number: int) -> None:
        """The ask will not be answered: its connection is gone, or its time is over."""
        entry = self._asks.pop(number, None)
        if entry is not None:
            node, life, send = entry
            self._at_node(node, life, lambda r: self._answered(r, send, None))

    def _answered(self, replica: Replica, send: Send, reply: Reply | None) -> list[Output]:
        if send.token is not None:
            return replica.on_forwarded(send.token, reply, self.now)
        return replica.on_answer(send.url, send.peer, send.message, reply, self.now)

    def _send(self, node: Node, send: Send) -> None:
        verb = form_of(type(send.message)).verb
        action = self._hit(f"{verb}.send", node)
        self.messages += 1
        target = self.nodes.get(send.url)
        self._tokens += 1
        number = self._tokens
        self._asks[number] = (node, node.life, send)
        if self.trace is not None and verb != "heartbeat":
            self.say(f"s{node.number} -> {send.url[-1]}  {_brief(send.message)}")
        if target is None or target.replica is None:
            life = node.life
            self.at(self._delay(), lambda: self._give_up(number))
            if target is not None:
                self.at(self._delay(), lambda: self._connect(node, life, target))
            return
        if action == "drop" or self.rng.random() < self.network.reset:
            self.say(f"s{node.number} x  {target.number} connection reset")
            self._break(node, target)
            return
        self.at(send.timeout, lambda: self._give_up(number))
        life = target.life
        for _ in range(2 if action == "duplicate" else 1):
            self._carry("ask", node.url, target.url, lambda: self._receive(target, life, node.url, number, send))

    def _receive(self, target: Node, life: int, source: str, number: int, send: Send) -> None:
        verb = form_of(type(send.message)).verb

        def take(replica: Replica) -> list[Output]:
            if self._hit(f"{verb}.receive", target) == "drop":
                return []
            token = ("peer", target.url, number)
            self._replies[token] = (source, number, target.life)
            return replica.on_peer(token, send.message, self.now)  # type: ignore[arg-type]

        self._at_node(target, life, take)

    def _answer(self, node: Node, answer: Answer) -> None:
        place = self._replies.pop(answer.token, None)
        if place is None:
            if not (isinstance(answer.token, tuple) and answer.token[0] == "peer"):
                self.on_reply(answer.token, answer.reply)
            return
        source, number, _ = place
        entry = self._asks.get(number)
        if entry is None:
            return
        verb = form_of(type(entry[2].message)).verb
        if self._hit(f"{verb}.reply", node) == "drop":
            self._break(self.nodes[source], node)
            return
        if self.trace is not None and verb != "heartbeat":
            self.say(f"s{node.number} <- {source[-1]}  {verb}: {_brief_reply(answer.reply)}")
        reply = plain(answer.reply)

        def arrive() -> None:
            entry = self._asks.pop(number, None)
            if entry is not None:
                asker, life, send = entry
                self._hit(f"{verb}.answered", asker)
                self._at_node(asker, life, lambda r: self._answered(r, send, reply))

        self._carry("answer", node.url, source, arrive)


def plain(reply: Reply) -> Reply:
    """The reply as it comes off the wire: its object in plain dicts, lists and words."""
    return type(reply)(**{**_fields(reply), "object": wire.unshaped(dict(reply.object))})


def _fields(reply: Reply) -> dict[str, Any]:
    match reply:
        case Error():
            return {"code": reply.code, "words": reply.words}
        case Ok() | No():
            return {"words": reply.words}


def _brief(message: Request) -> str:
    return wire.encode(message).decode()[:400]


def _brief_reply(reply: Reply) -> str:
    return wire.encode_reply(reply).decode()[:300]


def digest(replica: Replica) -> bytes:
    """The replicated state in bytes: equal on all replicas when all is quiet."""
    return msgspec.json.encode(replica.replication.store.page("", 10**9)[0])
