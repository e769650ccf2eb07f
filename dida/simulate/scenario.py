"""One simulation: a cluster, clients with sessions, a phase with faults, a phase without, and the verdict.

Everything derives from the seed. In the first phase nodes crash and restart, are paused, connections are
reset, messages are late, dropped with their connection, or doubled, the network is cut. In the second all
is well: then every operation must be answered, and all replicas must be equal with nothing left over.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from random import Random
from typing import Any

import msgspec
from attrs import define, frozen

from dida.messages import Error, No, Ok, Read, Reply, UpdateIf, Write
from dida.outputs import Config
from dida.simulate import checkers
from dida.simulate.history import FAILED, LOST, NO, OK, UNKNOWN, Event
from dida.simulate.network import Cluster, Network, Node, digest
from dida.timestamps import Timestamp, merged
from dida.versions import Version

INITIAL = "initial"


@frozen(kw_only=True)
class Plan:
    """What a seed chooses; printed with a failure."""

    replicas: int
    majority: bool
    partitions: bool
    gossip_delay: float
    write_concern: int
    clients: int
    keys: int
    faults: float
    """Seconds of the first phase."""
    mean_delay: float
    late: float
    reset: float
    crash: float
    pause: float
    odd: float
    """Mean seconds between two: crashes, pauses; share of messages dropped or doubled at failpoints."""

    @classmethod
    def draw(cls, rng: Random) -> Plan:
        replicas = rng.randint(3, 7)
        majority = rng.random() < 0.4
        return cls(
            replicas=replicas,
            majority=majority,
            partitions=majority and rng.random() < 0.7,
            gossip_delay=rng.choice([0.0, 0.0, 0.05, 0.5]),
            write_concern=rng.choice([1, 1, 1, 2]),
            clients=rng.randint(2, 5),
            keys=rng.randint(1, 3),
            faults=5.0,
            mean_delay=rng.choice([0.001, 0.003, 0.02]),
            late=rng.choice([0.0, 0.0, 0.002, 0.01]),
            reset=rng.choice([0.0, 0.001, 0.005]),
            crash=rng.choice([1.0, 2.0, 100.0]),
            pause=rng.choice([1.5, 3.0, 100.0]),
            odd=rng.choice([0.0, 0.002, 0.01]),
        )


@define(eq=False)
class _Session:
    """A client: one operation at a time, its timestamp carried along, retries with the same id."""

    name: str
    node: str
    after: Timestamp
    values: dict[str, str]
    number: int = 0
    operations: int = 0
    lives: int = 0
    event: Event | None = None
    tries: int = 0
    token: Any = None


class Simulation:
    """A run of one seed."""

    def __init__(self, seed: int, trace: Callable[[str], None] | None = None, plan: Plan | None = None) -> None:
        self.rng = Random(seed)
        self.plan = plan or Plan.draw(self.rng)
        p = self.plan
        config = Config(
            gossip_delay=p.gossip_delay,
            write_concern=p.write_concern,
            majority=p.majority,
            max_versions=100_000,
            ping_interval=0.1,
            ping_timeout=0.5,
            start_deadline=3.0,
        )
        network = Network(mean_delay=p.mean_delay, late=p.late, reset=p.reset)
        self.cluster = Cluster(self.rng, p.replicas, config, network)
        self._hash = hashlib.blake2b(digest_size=8)
        self._trace = trace
        self.cluster.trace = self._say
        self.cluster.on_reply = self._replied
        self.cluster.failpoint = self._failpoint
        self.history: list[Event] = []
        self.sessions: list[_Session] = []
        self.wrong: list[str] = []
        self.faulty = False
        self.hits: dict[str, int] = {}
        self.stopping = False

    def _say(self, text: str) -> None:
        self._hash.update(text.encode())
        if self._trace is not None:
            self._trace(text)

    @property
    def fingerprint(self) -> str:
        """A hash of the whole trace: equal for equal seeds."""
        return self._hash.hexdigest()

    # --- the course of it -----------------------------------------------------------------------

    def run(self) -> list[str]:
        """What is wrong; empty when all promises were kept."""
        cluster = self.cluster
        try:
            for node in cluster.nodes.values():
                cluster.start(node)
            cluster.run(10.0, self._all_serve)
            if not self._all_serve():
                return ["the cluster did not start"]
            self._prepare()
            start = cluster.now
            self.faulty = True
            for kind, mean in (("crash", self.plan.crash), ("pause", self.plan.pause)):
                self._plan_fault(kind, mean)
            if self.plan.partitions:
                self._plan_fault("cut", 2.5)
            for session in self.sessions:
                cluster.at(self.rng.random() * 0.1, lambda s=session: self._next(s))  # type: ignore[misc]
            cluster.run(start + self.plan.faults)
            self._heal()
            cluster.run(cluster.now + 30.0, self._all_answered)
            if not self._all_answered():
                self.wrong.append("not answered: " + ", ".join(_told(s.event) for s in self.sessions if s.event))
            cluster.run(cluster.now + 20.0, self._quiet)
            self._judge()
        except AssertionError as problem:
            self.wrong.append(f"invariant: {problem}")
            if self._trace is not None:
                raise
        return self.wrong

    def _all_serve(self) -> bool:
        nodes = self.cluster.nodes.values()
        views = {n.replica.local.view_name for n in nodes if n.replica is not None and n.replica.local.serving}
        return len(views) == 1 and all(n.replica is not None and n.replica.local.serving for n in nodes)

    def _keys(self) -> list[str]:
        return [f"cas{i}" for i in range(self.plan.keys)] + [f"mix{i}" for i in range(self.plan.keys)]

    def _prepare(self) -> None:
        """Every key begins with one value, everywhere."""
        cluster = self.cluster
        urls = list(cluster.nodes)
        for number, key in enumerate(self._keys()):
            cluster.ask(urls[0], Write(key, f"{INITIAL}-{key}"), ("prepare", number))
        cluster.run(cluster.now + 5.0, self._quiet)
        for number in range(self.plan.clients):
            self.sessions.append(_Session(f"c{number}", self.rng.choice(urls), {}, {}))

    # --- faults ---------------------------------------------------------------------------------

    def _plan_fault(self, kind: str, mean: float) -> None:
        self.cluster.at(self.rng.expovariate(1 / mean), lambda: self._fault(kind, mean))

    def _fault(self, kind: str, mean: float) -> None:
        if not self.faulty:
            return
        cluster = self.cluster
        node = self.rng.choice(list(cluster.nodes.values()))
        if kind == "crash" and node.replica is not None and self._dispensable(node):
            cluster.crash(node)
            delay = self.rng.choice([0.03, 0.2, 1.0, 3.0])
            cluster.at(delay, lambda: cluster.start(node) if node.replica is None else None)
        elif kind == "pause" and node.replica is not None and not node.paused and self._dispensable(node):
            cluster.pause(node)
            cluster.at(self.rng.choice([0.1, 0.3, 0.7, 2.0]), lambda: cluster.resume(node))
        elif kind == "cut" and not cluster.cut:
            self._cut()
            cluster.at(self.rng.uniform(0.3, 2.5), self._join)
        self._plan_fault(kind, mean)

    def _dispensable(self, node: Node) -> bool:
        """N-1 may crash: another member of the newest view must live on with the state."""
        views = [
            n.replica.local.view
            for n in self.cluster.nodes.values()
            if n.replica is not None and n.replica.local.view is not None
        ]
        if not views:
            return False
        newest = max(views, key=lambda view: view.rank)
        living = [
            n
            for n in self.cluster.nodes.values()
            if n.replica is not None
            and n is not node
            and not n.paused
            and n.replica.local.serving
            and n.replica.local.view_name == newest.name
        ]
        needed = len(newest.members) // 2 + 1 if self.plan.majority else 1
        return len(living) >= needed

    def _cut(self) -> None:
        urls = list(self.cluster.nodes)
        self.rng.shuffle(urls)
        size = self.rng.randint(1, len(urls) - 1)
        one_way = self.rng.random() < 0.3
        self.cluster.say(f"CUT {'one way ' if one_way else ''}{urls[:size]} | {urls[size:]}")
        for a in urls[:size]:
            for b in urls[size:]:
                self.cluster.cut[(a, b)] = True
                if not one_way:
                    self.cluster.cut[(b, a)] = True

    def _join(self) -> None:
        self.cluster.say("the network is whole again")
        self.cluster.cut.clear()

    def _failpoint(self, name: str, node: Node) -> str | None:
        self.hits[name] = self.hits.get(name, 0) + 1
        if not self.faulty or not self.plan.odd or self.rng.random() >= self.plan.odd:
            return None
        return self.rng.choice(["drop", "duplicate"])

    def _heal(self) -> None:
        cluster = self.cluster
        cluster.say("--- no more faults ---")
        self.faulty = False
        self.stopping = True
        cluster.cut.clear()
        cluster.network = Network(mean_delay=0.001)
        for node in cluster.nodes.values():
            if node.replica is None:
                cluster.start(node)
            cluster.resume(node)

    # --- clients --------------------------------------------------------------------------------

    def _next(self, session: _Session) -> None:
        """The session's next operation."""
        if self.stopping:
            session.event = None
            return
        rng = self.rng
        if rng.random() < 0.2:
            session.node = rng.choice(list(self.cluster.nodes))
        key = rng.choice(self._keys())
        mixed = key.startswith("mix")
        roll = rng.random()
        session.number += 1
        session.tries = 0
        event = Event(session.name, "read", key, self.cluster.now)
        if roll < 0.35 and mixed:
            event.verb, event.value = "write", f"{session.name}.{session.number}"
        elif roll < 0.7 and session.values.get(key) is not None:
            event.verb, event.value, event.old = "updateif", f"{session.name}.{session.number}", session.values[key]
        else:
            event.latest = not mixed or rng.random() < 0.2
        session.event = event
        self.history.append(event)
        self._try(session)

    def _try(self, session: _Session) -> None:
        event = session.event
        assert event is not None
        session.tries += 1
        event.node = session.node
        session.operations += 1
        token = session.token = (session.name, session.operations)
        id, lowest = f"{session.name}-{session.lives}:{session.number}", session.number
        retry = session.tries > 1
        deadline = 1.0
        request: Read | Write | UpdateIf
        if event.verb == "read":
            request = Read(event.key, latest=event.latest, after=session.after, deadline=deadline)
        elif event.verb == "write":
            assert event.value is not None
            request = Write(
                event.key, event.value, id=id, retry=retry, lowest=lowest, after=session.after, deadline=deadline
            )
        else:
            assert event.value is not None and event.old is not None
            request = UpdateIf(
                event.key,
                event.old,
                event.value,
                id=id,
                retry=retry,
                lowest=lowest,
                after=session.after,
                deadline=deadline,
            )
        self._say(f"{self.cluster.now:9.4f}  {session.name} asks {session.node[-1]}: {_told(event)}")
        cluster = self.cluster
        delay = 0.0005 + self.rng.random() * 0.002
        url = session.node
        cluster.at(delay, lambda: cluster.ask(url, request, token))
        cluster.at(deadline + 0.5, lambda: self._silent(session, token))

    def _silent(self, session: _Session, token: Any) -> None:
        """No reply in time: ask another, with the same id."""
        if session.token == token and session.event is not None:
            self._again(session)

    def _again(self, session: _Session) -> None:
        event = session.event
        assert event is not None
        session.node = self.rng.choice(list(self.cluster.nodes))
        if event.verb == "read" and not self.stopping and session.tries >= 2:
            event.outcome = FAILED
            self._next(session)
            return
        if session.tries >= 6 and not self.stopping:
            session.lives += 1  # never asked for again: its outcome stays unknown
            self.cluster.at(0.01, lambda: self._next(session))
            session.token = None
            return
        token = session.token = ("again", session.name, session.operations)
        self.cluster.at(0.05, lambda: self._try(session) if session.token == token else None)

    def _replied(self, token: Any, reply: Reply) -> None:
        if token[0] == "prepare":
            return
        session = self.sessions[int(token[0][1:])]
        if session.token != token or session.event is None:
            return
        delay = 0.0005 + self.rng.random() * 0.002
        self.cluster.at(delay, lambda: self._take(session, token, reply))

    def _take(self, session: _Session, token: Any, reply: Reply) -> None:
        event = session.event
        if session.token != token or event is None:
            return
        self._say(f"{self.cluster.now:9.4f}  {session.name} hears {reply}")
        if isinstance(reply, Error) and reply.code not in ("lost-update", "no-such-record"):
            if reply.code == "session-expired" or reply.code == "bad-request" or reply.code == "internal":
                self.wrong.append(f"{_told(event)} was answered {reply}")
            self._again(session)
            return
        event.returned = self.cluster.now
        if isinstance(reply, Error):
            event.outcome = LOST if reply.code == "lost-update" else NO
            lost = reply.object.get("lost", {})
            session.after = {s: n for s, n in session.after.items() if s not in lost}
        elif isinstance(reply, Ok):
            event.outcome = OK
            if event.verb == "read":
                event.value = reply.words[0]
            event.version = Version.parse(reply.words[-1])
            assert event.value is not None
            session.values[event.key] = event.value
        elif isinstance(reply, No):
            event.outcome = NO
            if reply.words:
                event.version = Version.parse(reply.words[0])
                event.seen = reply.words[1]
                session.values[event.key] = reply.words[1]
        session.after = merged(session.after, reply.object.get("after", {}))
        session.token = None
        if event.outcome == LOST and event.verb != "read" and session.tries > 1:
            event.outcome = UNKNOWN  # an earlier try may have taken effect
            event.returned = float("inf")
            session.lives += 1
            self.history.append(
                Event(session.name, "read", event.key, event.invoked, returned=self.cluster.now, outcome=LOST)
            )
        session.event = None
        if not self.stopping:
            self.cluster.at(self.rng.expovariate(1 / 0.02), lambda: self._next(session))

    # --- the verdict ----------------------------------------------------------------------------

    def _all_answered(self) -> bool:
        return all(session.event is None for session in self.sessions)

    def _quiet(self) -> bool:
        """One view of all, nothing under way, everything the same."""
        if not self._all_serve():
            return False
        replicas = [n.replica for n in self.cluster.nodes.values() if n.replica is not None]
        return all(
            not (r.replication.held or r.replication.log.size or r.commit.locks or r.commit.open or r.in_hand)
            for r in replicas
        )

    def _judge(self) -> None:
        nodes = list(self.cluster.nodes.values())
        if not self._all_serve():
            views = [(n.number, n.replica.local.view_name if n.replica else None) for n in nodes]
            self.wrong.append(f"no common view: {views}")
            return
        for node in nodes:
            assert node.replica is not None
            left = {
                "held": len(node.replica.replication.held),
                "log": node.replica.replication.log.size,
                "locks": len(node.replica.commit.locks),
                "open": node.replica.commit.open,
                "waiting": node.replica.in_hand,
            }
            if any(left.values()):
                self.wrong.append(f"s{node.number} is not quiet: {left}")
        digests = [digest(node.replica) for node in nodes if node.replica is not None]
        if len(set(digests)) != 1:
            self.wrong.append("the replicas differ")
            return
        stored = msgspec.json.decode(digests[0])
        self.wrong += checkers.once(stored)
        values = {value for versions in stored.values() for _, value in versions}
        written = {e.value for e in self.history if e.verb != "read" and e.value is not None}
        initial = {f"{INITIAL}-{key}" for key in self._keys()}
        self.wrong += [f"value from nowhere: {v}" for v in sorted(values - written - initial)]
        for event in self.history:
            if event.verb == "updateif" and event.outcome == OK and event.value not in values:
                self.wrong.append(f"lost: {_told(event)}")
        self.wrong += checkers.sessions(self.history, written - values)
        for key, events in checkers.by_key(self.history).items():
            if key.startswith("cas"):
                self.wrong += [f"{key}: {what}" for what in checkers.chain(events, f"{INITIAL}-{key}")]
                problem = checkers.linearizable(checkers.beginning(events), f"{INITIAL}-{key}")
                if problem is not None:
                    self.wrong.append(f"{key}: {problem}")


def _told(event: Event | None) -> str:
    if event is None:
        return "nothing"
    words = [event.verb, event.key, event.old, event.value, "latest" if event.latest else None]
    return f"{event.session}: {' '.join(w for w in words if w)} ({event.outcome})"
