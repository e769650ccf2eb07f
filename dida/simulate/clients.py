"""The clients of a simulation: sessions that do one operation after the other, and retry when they must."""

from __future__ import annotations

from random import Random
from typing import Any

from attrs import Factory, define

from dida import errors
from dida.errors import BadRequest
from dida.simulate.history import FAILED, FOREVER, LOST, NO, OK, UNKNOWN, Event, History
from dida.simulate.network import Cluster
from dida.simulate.node import Node, name_of
from dida.simulate.plan import Plan
from dida.simulate.witness import Witness
from dida.timestamps import Timestamp, merged
from dida.versions import MAX_NUMBER, Version
from dida.wire import grammar
from dida.wire.messages import Error, No, Ok, Read, Reply, UpdateIf, Write, vocabulary

INITIAL = "initial"
DEADLINE = 1.0
"""Time that a request may take beside the node's gossip delay twice, in seconds."""
SLACK = 0.1
"""Time after its deadline that a reply may still take, in seconds: ticks, and the way."""
PATIENCE = 4.0
"""Time after which a client no longer retries, and never learns the outcome, in seconds."""
CALM_OPERATIONS = 3
"""Operations of each session in the end, when nothing goes wrong any more: then nothing may be refused."""


@define(eq=False)
class Session:
    """A client: one operation at a time, its timestamp carried along, retries with the same id."""

    number: int
    node: str
    after: Timestamp = Factory(dict)
    values: dict[str, str] = Factory(dict)
    versions: dict[str, Version] = Factory(dict)
    count: int = 0
    lives: int = 0
    """How often its update ids have begun a new session: when an operation is given up, its id must not be
    forgotten."""
    event: Event | None = None
    with_id: bool = True
    plain: bool = False
    """True if the operation is a plain request: a session on its own, with nothing but a key and a value."""
    tries: int = 0
    uncertain: bool = False
    """True if an earlier try may have taken effect."""
    asks: int = 0
    token: Any = None
    left: int = CALM_OPERATIONS

    @property
    def name(self) -> str:
        return f"c{self.number}"


@define(eq=False)
class _Expected:
    """A request that its node has received: it has to be answered in time, if the node stays alive."""

    epoch: int
    pauses: int


class Clients:
    """All sessions, and the history of what they did."""

    def __init__(self, cluster: Cluster, plan: Plan, rng: Random, fast_rng: Random, wrong: list[str]) -> None:
        """`fast_rng` chooses the plain requests, `rng` all else: so a plan without them keeps its course."""
        self.cluster = cluster
        self.plan = plan
        self.rng = rng
        self.fast_rng = fast_rng
        self.wrong = wrong
        self.history: History = []
        self.sessions: list[Session] = []
        self.calm = False
        self.stopping = False
        self.witness = Witness(cluster, plan, self._report)
        self.writers: set[str] = set()
        """The sessions, as in their update ids, of which a change was acknowledged."""
        self._expected: dict[Any, _Expected] = {}
        mine = [i for i in range(100 * plan.keys) if all(cluster.holds(f"{kind}{i}") for kind in ("cas", "mix"))]
        self.keys = [f"{kind}{i}" for kind in ("cas", "mix") for i in mine[: plan.keys]]
        cluster.on_crash = self._crashed

    # --- the course of it -----------------------------------------------------------------------

    def prepare(self) -> None:
        """Give every key one value."""
        for key in self.keys:
            self.history.append(Event("prepare", "write", key, self.cluster.now, f"{INITIAL}-{key}"))
            self._prepare(len(self.history) - 1)

    def _prepare(self, number: int) -> None:
        event = self.history[number]
        assert event.value is not None
        request = Write(event.key, event.value, id=f"prepare:{number}")
        self.cluster.ask(next(iter(self.cluster.nodes)), request, ("prepare", number))

    @property
    def prepared(self) -> bool:
        return all(event.outcome == OK for event in self.history)

    def begin(self) -> None:
        urls = list(self.cluster.nodes)
        for number in range(self.plan.clients):
            session = Session(number, self.rng.choice(urls))
            self.sessions.append(session)
            self.cluster.at(self.rng.random() * 0.1, lambda s=session: self._next(s))  # type: ignore[misc]
        self.cluster.at(self.rng.expovariate(1.0), self._lie)

    def stop(self) -> None:
        """Begin no further operations; retry the unanswered ones until they are answered."""
        self.stopping = True

    def settle(self) -> None:
        """Let every session do a few more operations, at once: nothing may be refused now."""
        self.stopping = False
        self.calm = True
        for session in self.sessions:
            self._next(session)

    @property
    def answered(self) -> bool:
        return all(session.event is None for session in self.sessions)

    @property
    def unanswered(self) -> list[Event]:
        return [session.event for session in self.sessions if session.event is not None]

    def _report(self, text: str) -> None:
        self.cluster.say(f"WRONG {text}")
        self.wrong.append(text)

    # --- asking ---------------------------------------------------------------------------------

    def _next(self, session: Session) -> None:
        session.event = None
        if self.stopping or session.left <= 0:
            return
        if self.calm:
            session.left -= 1
        rng = self.rng
        if rng.random() < 0.2:
            session.node = rng.choice(list(self.cluster.nodes))
        key = rng.choice(self.keys)
        mixed = key.startswith("mix")
        session.count += 1
        session.tries = 0
        session.uncertain = False
        session.with_id = rng.random() < 0.9
        event = session.event = Event(session.name, "read", key, self.cluster.now)
        roll, old, value = rng.random(), session.values.get(key), f"{session.name}.{session.count}"
        if mixed and roll < 0.35:
            event.verb, event.value, event.everywhere = "write", value, session.count % 3 == 0
        elif old is not None and roll < (0.6 if mixed else 0.65):
            event.verb, event.value, event.old = "updateif", value, old
        elif roll < 0.85 and not mixed or roll < 0.7:
            event.latest = True
        elif roll > 0.97:
            event.wanted = session.versions.get(key)
        session.plain = self._may_be_plain(event) and self.fast_rng.random() < self.plan.plain
        if session.plain:
            session.with_id = False
            event.session = f"{session.name}.{session.count}"
        self.history.append(event)
        self._try(session)

    def _may_be_plain(self, event: Event) -> bool:
        """Return True if the operation is a read of any version, or a write that need not be held by all."""
        if event.verb == "read":
            return not event.latest and event.wanted is None
        return event.verb == "write" and not event.everywhere

    def _request(self, session: Session, event: Event, deadline: float) -> Read | Write | UpdateIf:
        common: dict[str, Any] = {"after": session.after if not session.plain else {}, "deadline": deadline}
        if event.verb == "read":
            return Read(event.key, event.wanted, latest=event.latest, **common)
        if session.with_id:
            common |= {
                "id": f"{session.name}-{session.lives}:{session.count}",
                "retry": session.tries > 1,
                "lowest": session.count,
            }
        assert event.value is not None
        if event.old is None:
            return Write(event.key, event.value, concern="all" if event.everywhere else 1, **common)
        return UpdateIf(event.key, event.old, event.value, **common)

    def _try(self, session: Session) -> None:
        event, cluster = session.event, self.cluster
        assert event is not None
        session.tries += 1
        session.asks += 1
        event.node = session.node
        token = session.token = (session.number, session.asks)
        deadline = (DEADLINE if not self.calm else 3 * DEADLINE) + 2 * self.plan.gossip_delay
        request = self._request(session, event, deadline)
        cluster.say(f"{session.name} asks {name_of(session.node)}: {event}{' again' if session.tries > 1 else ''}")
        delay = 0.0005 + self.rng.random() * 0.002
        if not self.calm and not self.stopping and self.rng.random() < self.plan.stray:
            delay += self.rng.uniform(0, 2 * deadline)
        url, plain = session.node, session.plain
        cluster.at(delay, lambda: self._arrive(session, url, request, token, plain))
        cluster.at(deadline + 0.3, lambda: self._silent(session, token))

    def _arrive(self, session: Session, url: str, request: Read | Write | UpdateIf, token: Any, plain: bool) -> None:
        node = self.cluster.nodes[url]
        if node.replica is None:
            if session.token == token:
                self._again(session)
            return
        if not node.paused:
            self._expected[token] = _Expected(node.epoch, node.pauses)
        self.cluster.ask(url, request, token, plain)
        if token in self._expected:
            self.cluster.at(request.deadline + SLACK, lambda: self._due(node, token))

    def _due(self, node: Node, token: Any) -> None:
        """Check at its deadline that a node that was alive all the time has answered."""
        expected = self._expected.pop(token, None)
        if expected is None or node.epoch != expected.epoch or node.replica is None:
            return
        if not node.paused and node.pauses == expected.pauses:
            self._report(f"{node.name} did not answer c{token[0]} in time")

    def _silent(self, session: Session, token: Any) -> None:
        """Retry at another node, with the same id: no reply came in time."""
        if session.token == token and session.event is not None:
            session.uncertain = True
            self._again(session)

    def _crashed(self, node: Node) -> None:
        """Break the connections to a node that crashed; some clients do not notice."""
        for session in self.sessions:
            if session.node == node.url and session.event is not None and self.rng.random() < 0.8:
                token = session.token
                self.cluster.at(0.002, lambda s=session, t=token: self._silent(s, t))  # type: ignore[misc]

    def _again(self, session: Session) -> None:
        event = session.event
        assert event is not None
        session.node = self.rng.choice(list(self.cluster.nodes))
        session.token = None
        if event.verb == "read" and not self.stopping and session.tries >= 2:
            event.outcome = FAILED
        elif event.changes and not session.uncertain and self.rng.random() < 0.3:
            event.outcome = FAILED  # an update that was refused each time has no effect
        elif event.changes and (
            not session.with_id or (not self.stopping and self.cluster.now - event.invoked > PATIENCE)
        ):
            event.outcome = UNKNOWN if session.uncertain else FAILED
            session.lives += 1
        else:
            token = session.token = ("again", session.number, session.asks)
            self.cluster.at(0.05, lambda: self._try(session) if session.token == token else None)
            return
        self.cluster.at(0.01, lambda: self._next(session))

    # --- answers --------------------------------------------------------------------------------

    def on_reply(self, token: Any, reply: Reply, node: Node) -> None:
        expected = self._expected.pop(token, None)
        if token[0] == "lie":
            if not isinstance(reply, Error):
                self._report(f"an absurd timestamp was believed: {reply}")
            return
        if token[0] == "prepare":
            event = self.history[token[1]]
            if isinstance(reply, Ok):
                event.outcome, event.version, event.returned = OK, Version.parse(reply.words[0]), self.cluster.now
            else:
                self.cluster.at(0.05, lambda: self._prepare(token[1]))
            return
        session = self.sessions[token[0]]
        event = session.event
        if session.token != token or event is None:
            return
        if isinstance(reply, Ok) and event.changes and event.value is not None:
            self.witness.acknowledged(event, event.value, Version.parse(reply.words[0]), node)
        if isinstance(reply, Ok | No) and node.replica is not None:
            came_before_pause = expected is not None and expected.pauses != node.pauses
            passed_on = event.ordered or (event.changes and session.tries > 1)  # the home's reply stays true
            passed_on = passed_on or (
                event.changes and node.replica.ended
            )  # what it did is part of the view without it
            if not passed_on and not came_before_pause and not self.plan.forks:
                self.witness.check_in_force(event, node)
            if event.ordered and len(reply.words) == 2 and not self.plan.forks:
                self.witness.check_held(event, reply.words[0 if event.verb == "read" else 1], node)
        view = node.replica.context.view_name if node.replica is not None else ""
        delay = 0.0005 + self.rng.random() * 0.002
        if not self.calm and not self.stopping and self.rng.random() < self.plan.stray:
            self.cluster.say(f"{session.name} loses its connection: {reply} does not arrive")
            self.cluster.at(delay, lambda: self._silent(session, token))
            return
        self.cluster.at(delay, lambda: self._take(session, token, reply, view))

    def _take(self, session: Session, token: Any, reply: Reply, view: str) -> None:
        event = session.event
        if session.token != token or event is None:
            return
        self.cluster.say(f"{session.name} hears {reply}")
        if isinstance(reply, Error) and reply.code not in (errors.LOST_UPDATE, errors.NO_SUCH_RECORD):
            if reply.code != errors.NO_SUCH_VERSION or event.wanted is None:
                self._refused(session, event, reply)
                return
            event.outcome = FAILED
        else:
            self._note(session, event, reply)
        event.returned, event.view = self.cluster.now, view
        session.token = None
        if event.outcome == LOST and event.changes and session.uncertain:
            event.outcome, event.returned = UNKNOWN, FOREVER
            session.lives += 1
            told = Event(session.name, "read", event.key, event.invoked, returned=self.cluster.now, outcome=LOST)
            self.history.append(told)
        session.event = None
        if not self.stopping:
            pause = self.rng.expovariate(1 / 0.02) if not self.calm else 0.0
            self.cluster.at(pause, lambda: self._next(session))

    def _note(self, session: Session, event: Event, reply: Reply) -> None:
        """Note what the reply says."""
        if isinstance(reply, Error):
            event.outcome = LOST if reply.code == errors.LOST_UPDATE else NO
            lost = reply.object.get("lost", {})
            self.witness.check_loss(event, lost)
            session.after = {s: n for s, n in session.after.items() if s not in lost}
            return
        if isinstance(reply, Ok):
            event.outcome = OK
            if event.verb == "read":
                event.value = reply.words[0]
            event.version = Version.parse(reply.words[-1])
            if event.changes and session.with_id:
                self.writers.add(f"{session.name}-{session.lives}")
        else:
            event.outcome = NO
            if reply.words:
                event.version, event.seen = Version.parse(reply.words[0]), reply.words[1]
        shown = event.shown
        if shown is not None and event.wanted is None:
            session.values[event.key], session.versions[event.key] = shown.value, shown.version
        if not session.plain:
            session.after = merged(session.after, reply.object.get("after", {}))

    def _refused(self, session: Session, event: Event, reply: Error) -> None:
        if reply.code == errors.SESSION_EXPIRED and self.plan.session_ttl < 100:
            event.outcome = UNKNOWN
            session.lives += 1
            session.token = None
            self.cluster.at(0.01, lambda: self._next(session))
            return
        if reply.code == errors.STORAGE_FULL and self.plan.max_memory:
            event.outcome = UNKNOWN if session.uncertain else FAILED  # of an earlier try nothing is known
            session.lives += 1
            session.token = None
            self.cluster.at(0.01, lambda: self._next(session))
            return
        if reply.code not in (errors.UNAVAILABLE, errors.UNKNOWN_OUTCOME, errors.FENCED):
            self._report(f"{event} was answered {reply}")
        if self.calm and self.plan.max_waiting > 100:
            self._report(f"refused when nothing went wrong: {event} was answered {reply}")
        session.uncertain = session.uncertain or reply.code != errors.UNAVAILABLE
        self._again(session)

    # --- lies -----------------------------------------------------------------------------------

    def _lie(self) -> None:
        """Send a timestamp that cannot exist, in numbers that would win for ever."""
        if self.calm or self.stopping:
            return
        node = self.rng.choice(list(self.cluster.nodes.values()))
        if node.incarnation:
            line = f'write {self.keys[-1]} lie {{"deadline":0.5,"after":{{"{node.incarnation}":%d}}}}'
            try:
                grammar.decode((line % 2**63).encode(), vocabulary(Write))
                self._report("a counter of 2^63 was taken")
            except BadRequest:
                pass
            request = grammar.decode((line % MAX_NUMBER).encode(), vocabulary(Write))[1]
            self.cluster.say(f"a liar asks {node.name}: {request}")
            self.cluster.ask(self.rng.choice(list(self.cluster.nodes)), request, ("lie", 0))
        self.cluster.at(self.rng.expovariate(1.0), self._lie)
