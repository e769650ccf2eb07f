"""A cluster of replicas in one process, in virtual time, over a network that a seed makes misbehave.

All randomness comes from a `random.Random` that the caller seeds, and no set of strings is ever iterated. So a seed
gives one trace, whatever PYTHONHASHSEED is. Connections are modelled like TCP: within one direction of a connection
messages arrive in order, delayed (and late, after a partition) but not lost. When a connection is reset, the messages
under way on it are lost, or are read late: across connections anything may overtake anything. The clocks of the nodes
run at one speed, but from different beginnings.

The module is long because processes and messages act on each other in the middle of everything: a crash breaks
connections, a failpoint kills a node while it sends, a paused node keeps what arrives.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any, cast

import msgspec
from attrs import frozen

from dida.addresses import Address, StorageAddress
from dida.placement import Shards
from dida.replication.config import Config
from dida.replication.executed import answered
from dida.replication.messages import PEER, Member, PeerMessage, View
from dida.replication.outputs import Answer, FlushRequested, Left, LogMessage, Output, Send
from dida.replication.replica import Replica
from dida.simulate.events import Events
from dida.simulate.node import FIRST_PORT, Node, incarnation_name, name_of
from dida.wire import grammar
from dida.wire.messages import Error, Read, Reply, Request, Write, form_of, vocabulary

TICK = 0.02
"""Time between two ticks of a replica, in seconds of virtual time."""
MEAN_TURN = 0.001
"""Mean time that a node spends on arriving messages before it sends what it has gathered, in seconds of virtual
time."""
VERB = {kind: form_of(kind).verb for kind in PEER}
_VOCABULARY = vocabulary(*PEER)


@frozen(kw_only=True)
class Network:
    """How the network behaves; times in seconds, shares from 0 to 1."""

    least_delay: float = 0.0005
    mean_delay: float = 0.002
    reset: float = 0.0
    """Share of messages whose connection is reset instead."""
    late: float = 0.0
    """Share of messages that take up to 0.3 s longer (and all behind them): less than makes a suspect."""
    stale: float = 0.0
    """Share of the messages under way on a reset connection that are still read, later."""
    wire: bool = False
    """True if messages travel as lines (replies always do)."""


@frozen(eq=False)
class _Ask:
    """A message whose reply is awaited."""

    node: Node
    epoch: int
    send: Send


class Cluster(Events):
    """Replicas, the network between them, and the events to come."""

    def __init__(
        self, rng: Random, replicas: int, config: Config, network: Network, shard: int = 0, shards: int = 1
    ) -> None:
        """The nodes of one of so many shards, of `replicas` nodes each."""
        super().__init__()
        self.rng = rng
        self.config = config
        self.network = network
        numbers = range(1, replicas * shards + 1)
        self.named = tuple(StorageAddress(n, f"s{n}", Address("node", FIRST_PORT + n)) for n in numbers)
        self.shard = shard
        self.shards = Shards(numbers, replicas)
        mine = self.named[replicas * shard : replicas * (shard + 1)]
        self.nodes = {str(a.address): Node(a.replica, str(a.address), 1000 * rng.random()) for a in mine}
        self.failpoint: Callable[[str, Node], str | None] | None = None
        """Called at every failpoint for its action, if any; it kills and pauses nodes on its own."""
        self.on_reply: Callable[[Any, Reply, Node], None] = lambda token, reply, node: None
        self.on_crash: Callable[[Node], None] = lambda node: None
        self.on_left: Callable[[Node, bool], None] = lambda node, kept: None
        """Called when a node has shut down; with whether it reports that others have its state."""
        self.on_removed: Callable[[Node], None] = lambda node: None
        """Called when a node has found out that it was removed while it was alive."""
        self.check: Callable[[Node], None] = lambda node: None
        """Called after each tick of a node: a test's invariants."""
        self.cut: dict[tuple[str, str], bool] = {}
        """Directed pairs of urls between which nothing passes now."""
        self.cut_at = float("-inf")
        """When something did not pass between two nodes for the last time."""
        self.views: dict[str, str] = {}
        """Name of each view that began to that of the view which it changes."""
        self.ended: dict[str, float] = {}
        """Incarnations that have ended, and since when."""
        self.discarded = 0
        """Updates that nodes which have ended since reported as discarded."""
        self.messages = 0
        self.fast = 0
        """Requests of clients that the fast path has served."""
        self._arrives: dict[tuple[str, str, str], float] = {}
        self._epoch: dict[tuple[str, str], int] = {}
        self._asks: dict[int, _Ask] = {}
        self._asked = 0
        self._replies: dict[Any, tuple[str, int]] = {}

    # --- processes -------------------------------------------------------------------------

    def start(self, node: Node) -> None:
        """Start a process at the node's place: a new incarnation."""
        node.epoch += 1
        node.paused = False
        node.backlog = deque()
        member = Member(incarnation_name(node), node.number, node.name, node.url)
        node.begin(member.component)
        node.replica = Replica(self.config, member, self.named, self.time(node))
        self.say(f"{node.name} STARTS as {member.component}")
        self._tick(node, node.epoch)

    def crash(self, node: Node) -> None:
        """Kill the process (SIGKILL): the state is gone, the connections break, the port refuses connections."""
        if node.replica is None:
            return
        self.say(f"{node.name} CRASHES")
        self._end(node)
        self.on_crash(node)

    def stop(self, node: Node, drain: float) -> None:
        """Ask the process to shut down (SIGTERM), within `drain` seconds."""
        self.say(f"{node.name} is asked to STOP")
        self._at_node(node, node.epoch, lambda replica: replica.on_stop(drain, self.time(node)))

    def _left(self, node: Node, left: Left) -> None:
        """End the process: it has done what it could."""
        self.say(f"{node.name} LEAVES: {left.text}")
        self.on_left(node, left.kept)
        self._end(node)

    def _end(self, node: Node) -> None:
        if node.replica is None:
            return
        self.discarded += node.replica.membership.losses.discarded
        self.ended[node.incarnation] = self.now
        node.replica = None
        node.paused = False
        node.backlog.clear()
        for other in self.nodes.values():
            if other is not node:
                self._break(other, node)
                self._break(node, other)

    def pause(self, node: Node) -> None:
        """Pause the process (SIGSTOP)."""
        if node.replica is not None and not node.paused:
            self.say(f"{node.name} is PAUSED")
            node.paused = True
            node.pauses += 1

    def resume(self, node: Node) -> None:
        """Resume the process (SIGCONT): it takes what came meanwhile; its timers may be first."""
        if not node.paused:
            return
        self.say(f"{node.name} GOES ON")
        node.paused = False
        if node.replica is not None and self.rng.random() < 0.5:
            self._act(node, node.replica.tick(self.time(node)))
        while node.backlog and not node.paused:
            node.backlog.popleft()()

    def newest_view(self) -> View | None:
        """Return the view of a living node to which all others give way; None if there is none."""
        views = [n.replica.context.view for n in self.nodes.values() if n.replica is not None]
        return max((view for view in views if view is not None), key=lambda view: view.rank, default=None)

    def holds(self, key: str) -> bool:
        """Return True if this shard holds the key."""
        return self.shards.of_key(key) == self.shard

    def time(self, node: Node) -> float:
        return self.now + node.skew

    def _at_node(self, node: Node, epoch: int, event: Callable[[Replica], list[Output]]) -> None:
        """Give a replica an input, unless that process has ended; a paused one takes it when it resumes."""
        if node.epoch != epoch or node.replica is None:
            return
        if node.paused:
            node.backlog.append(lambda: self._at_node(node, epoch, event))
            return
        self._act(node, event(node.replica))

    def _tick(self, node: Node, epoch: int) -> None:
        if node.epoch != epoch or node.replica is None:
            return
        if not node.paused:
            self._act(node, node.replica.tick(self.time(node)))
            if node.replica is not None:
                self.check(node)
        self.at(TICK, lambda: self._tick(node, epoch))

    # --- messages -------------------------------------------------------------------------------

    def ask(self, url: str, request: Request, token: Any, plain: bool = False) -> None:
        """Let a client's request arrive at the node; its reply comes to `on_reply`, or never.

        `plain`: it is `read KEY` or `write KEY VALUE` and nothing else, which takes the fast path if that can serve it.
        """
        node = self.nodes[url]

        def take(replica: Replica) -> list[Output]:
            done = self._take_fast(replica, request, token, self.time(node)) if plain else None
            return done if done is not None else replica.on_request(token, request, self.time(node))

        self._at_node(node, node.epoch, take)

    def _take_fast(self, replica: Replica, request: Request, token: Any, now: float) -> list[Output] | None:
        """Return what the fast path makes of a plain request, as a node's does; None if it cannot serve it."""
        outputs: list[Output] = []
        if isinstance(request, Read):
            found = replica.requests.plain_read(request.key, now)
            if found is None:
                return None
            entry, after = found
            reply = answered((entry.value, str(entry.version)), after)
        else:
            assert isinstance(request, Write)
            done = replica.plain_write(request.key, request.value, now)
            if done is None:
                return None
            reply, outputs = done
        self.fast += 1
        return [*outputs, Answer(token, reply)]

    def _act(self, node: Node, outputs: list[Output]) -> None:
        replica = node.replica
        if replica is None:
            return
        if (view := replica.context.view) is not None:
            self.views[view.name] = view.previous
        if replica.context.incarnation != node.incarnation:  # it has found out that it was removed
            self.ended[node.incarnation] = self.now
            if node.settled:  # else the leader of its only view may have died before the others heard of that
                self.on_removed(node)
            node.begin(replica.context.incarnation)
        node.settled |= replica.context.complete
        for place, output in enumerate(outputs):
            if node.replica is not replica:
                return  # a failpoint killed it in the middle
            if node.paused:
                rest = outputs[place:]
                node.backlog.appendleft(partial(self._act, node, rest))
                return
            match output:
                case Send():
                    self._send(node, output)
                case Answer():
                    self._answer(node, output)
                case FlushRequested():
                    self._flush(node, node.epoch)
                case Left():
                    self._left(node, output)
                case LogMessage():
                    self.say(f"{node.name} NOTE {output.text}")

    def _flush(self, node: Node, epoch: int) -> None:
        """Let the node send what it has gathered, after everything else that has arrived by then."""
        delay = self.rng.expovariate(1 / MEAN_TURN)
        self.at(delay, lambda: self._at_node(node, epoch, lambda replica: replica.flush(self.time(node))))

    def _hit(self, verb: str, step: str, node: Node, then: Callable[[str | None], None]) -> None:
        """Go on with `then`, given the action of a failpoint; not if the node dies, later if it is paused."""
        action = self.failpoint(f"{verb}.{step}", node) if self.failpoint is not None else None
        if action is None:
            then(None)
        elif node.replica is None or action == "kill":
            pass
        elif node.paused:
            node.backlog.appendleft(lambda: then(None))
        else:
            self.say(f"{node.name} FAILPOINT {verb}.{step}: {action}")
            then(action)

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
                if kind == "ask" and self.rng.random() < self.network.stale:
                    self.at(self.rng.expovariate(1 / 0.3), event)
            elif self.cut and self.cut.get((source, target)):
                self.at(0.1, arrive)  # TCP tries again
            else:
                event()

        self.at(arrival - self.now, arrive)

    def _break(self, source: Node, target: Node) -> None:
        """Reset the connection on which `source` asks `target`: its replies will not come."""
        pair = (source.url, target.url)
        self._epoch[pair] = self._epoch.get(pair, 0) + 1
        self._arrives.pop(("ask", *pair), None)
        self._arrives.pop(("answer", pair[1], pair[0]), None)
        epoch = source.epoch
        for number in [n for n, ask in self._asks.items() if ask.node is source and ask.send.url == target.url]:
            self.at(0.0, lambda n=number: self._give_up(n))  # type: ignore[misc]
        if source.replica is not None and not self.cut.get((target.url, source.url)):
            self.at(0.0005, lambda: self._at_node(source, epoch, lambda r: r.on_broken(target.url, self.time(source))))
            self.at(0.012, lambda: self._connect(source, epoch, target))

    def _connect(self, source: Node, epoch: int, target: Node) -> None:
        """Try the connection again: a port that nobody listens on refuses it."""
        if target.replica is None and not self.cut.get((source.url, target.url)):
            at = self.time(source)
            self._at_node(source, epoch, lambda r: r.on_refused(target.url, at, self.time(source)))

    def _give_up(self, number: int) -> None:
        """End the wait for a reply: its connection is gone, or its time is over."""
        ask = self._asks.get(number)
        if ask is not None:
            self._at_node(ask.node, ask.epoch, lambda replica: self._take_answer(replica, number, None))
            if ask.node.epoch != ask.epoch or ask.node.replica is None:
                self._asks.pop(number, None)

    def _take_answer(self, replica: Replica, number: int, reply: Reply | None) -> list[Output]:
        ask = self._asks.pop(number, None)
        if ask is None:
            return []
        send, now = ask.send, self.time(ask.node)
        if send.token is not None:
            return replica.on_forwarded(send.token, reply, now)
        return replica.on_answer(send.url, send.peer, send.message, reply, now)

    def _send(self, node: Node, send: Send) -> None:
        self._hit(VERB[type(send.message)], "send", node, lambda action: self._put(node, send, action))  # type: ignore[index]

    def _put(self, node: Node, send: Send, action: str | None) -> None:
        message = cast(PeerMessage, send.message)
        verb = VERB[type(message)]  # type: ignore[index]
        self.messages += 1
        self._asked += 1
        number, epoch = self._asked, node.epoch
        self._asks[number] = _Ask(node, epoch, send)
        target = self.nodes.get(send.url)
        line = b""
        if self.network.wire or (self.trace is not None and verb != "heartbeat"):
            line = grammar.encode(message)
            if verb != "heartbeat":
                self.say(f"{node.name} -> {name_of(send.url)}  {line.decode()}")
        if target is None or target.replica is None:
            self.at(self._delay(), lambda: self._give_up(number))
            if target is not None:
                self.at(self._delay(), lambda: self._connect(node, epoch, target))
            return
        if action == "drop" or self.rng.random() < self.network.reset:
            self.say(f"{node.name} x  {target.name} connection reset")
            self._break(node, target)
            return
        if self.network.wire:
            message = cast(PeerMessage, grammar.decode(line, _VOCABULARY)[1])
        self.at(send.timeout, lambda: self._give_up(number))
        for _ in range(2 if action == "duplicate" else 1):
            self._carry(
                "ask", node.url, target.url, lambda: self._receive(target, lived, verb, message, node.url, number)
            )
        lived = target.epoch

    def _receive(self, target: Node, epoch: int, verb: str, message: PeerMessage, source: str, number: int) -> None:
        token = ("peer", target.url, number)

        def accept(replica: Replica) -> list[Output]:
            self._replies[token] = (source, number)
            return replica.on_peer(token, message, self.time(target))

        def take(action: str | None) -> None:
            if action != "drop":
                for _ in range(2 if action == "duplicate" else 1):
                    self._at_node(target, epoch, accept)

        def arrived(replica: Replica) -> list[Output]:
            self._hit(verb, "receive", target, take)
            return []

        self._at_node(target, epoch, arrived)

    def _answer(self, node: Node, answer: Answer) -> None:
        place = self._replies.pop(answer.token, None)
        if place is None:
            if answer.token[0] != "peer":
                self.on_reply(answer.token, answer.reply, node)
            return
        source, number = place
        ask = self._asks.get(number)
        if ask is not None:
            verb = VERB[type(ask.send.message)]  # type: ignore[index]
            self._hit(verb, "reply", node, lambda action: self._reply(node, source, number, verb, answer.reply, action))

    def _reply(self, node: Node, source: str, number: int, verb: str, reply: Reply, action: str | None) -> None:
        if action == "drop":
            self._break(self.nodes[source], node)
            return
        line = grammar.encode_reply(reply)
        if self.trace is not None and verb != "heartbeat":
            self.say(f"{node.name} => {name_of(source)}  {verb}: {line.decode()}")
        heard = grammar.decode_reply(line)[1]

        def take(action: str | None) -> None:
            ask = self._asks.get(number)
            if ask is not None and action != "drop":
                self._at_node(ask.node, ask.epoch, lambda replica: self._take_answer(replica, number, heard))

        def arrived(replica: Replica) -> list[Output]:
            ask = self._asks.get(number)
            if ask is not None:
                self._hit(verb, "answered", ask.node, take)
            return []

        def arrive() -> None:
            ask = self._asks.get(number)
            if ask is not None:
                self._at_node(ask.node, ask.epoch, arrived)

        self._carry("answer", node.url, source, arrive)


class Beside(Cluster):
    """A cluster of another shard, in the time of the first one."""

    def __init__(self, first: Cluster, rng: Random, replicas: int, shard: int, shards: int) -> None:
        super().__init__(rng, replicas, first.config, first.network, shard, shards)
        self._first = first

    @property
    def now(self) -> float:
        return self._first.now

    @now.setter
    def now(self, now: float) -> None:
        pass

    def at(self, delay: float, event: Callable[[], None]) -> None:
        self._first.at(delay, event)

    def say(self, text: str) -> None:
        self._first.say(text)


def refused(reply: Reply, *codes: str) -> bool:
    """Return True if the reply is one of these errors."""
    return isinstance(reply, Error) and reply.code in codes


def digest(replica: Replica) -> bytes:
    """Return the replicated state as bytes: equal on all replicas when all is quiet."""
    return msgspec.json.encode(replica.state.store.page("", 10**9)[0])
