"""`twistd dida-storage`: a storage replica in a process.

The service owns no rules: it gives the replica what comes in (requests, messages of peers, answers, broken
connections, ticks) and acts on its outputs in their order.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from random import SystemRandom
from secrets import token_hex
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python import usage

from dida.addresses import Address, StorageAddress
from dida.chains.messages import SchedulerAt
from dida.errors import BadRequest, DidaError
from dida.protocols.lines import Answer as LineAnswer
from dida.protocols.link_pool import Peers
from dida.protocols.links import Link
from dida.replication import failpoints
from dida.replication.messages import Join, Member, Peer, PeerMessage, Vouch
from dida.replication.outputs import Answer, Config, Note, Output, Send, Soon
from dida.replication.replica import Replica
from dida.services.memory import half_of_memory, memory_size, own_memory
from dida.services.node import (
    NodeOptions,
    NodeService,
    check_distinct,
    coerced,
    default_reactor,
    drain_option,
    milliseconds,
    number,
    serve,
)
from dida.storage.node import StorageCommands
from dida.timestamps import Timestamp
from dida.wire import grammar
from dida.wire.messages import Debug, No, Ok, Reply, Request, Slow, Status, System, form_of
from dida.wire.whole import Schedulers, whole

TICK = 0.02
"""Seconds between two ticks of the replica."""

_SIGNALS = {"kill": signal.SIGKILL, "pause": signal.SIGSTOP}

_log = Logger()


class Options(NodeOptions):
    """The options of a storage node."""

    command = "dida-storage"
    synopsis = "[options]"
    required = ("id", "replica", "url")
    optParameters = [
        ["replica", None, None, "the replica's number", number(0, 2**31 - 1, "replica")],
        ["gossip-delay", None, 0, "delay of gossip and of the LOCK round of its updateIfs, in ms", milliseconds],
        ["max-versions", None, 10, "versions kept of a record", number(1, 1_000_000, "versions")],
        [
            "replication-factor",
            None,
            None,
            "replicas that hold a key; default: all; needs the same --storage at all",
            number(1, 1000, "replicas"),
        ],
        [
            "write-concern",
            None,
            1,
            "replicas that have logged a write when it is answered",
            number(1, 1000, "replicas"),
        ],
        ["membership", None, "available", "available: each side of a partition goes on; majority: only the larger"],
        ["ping-interval", None, 500, "between two pings of a member, in ms", number(10, 3_600_000, "milliseconds")],
        ["ping-timeout", None, 2000, "silence after which a member is suspected, in ms", number(20, 3_600_000, "ms")],
        ["start-deadline", None, 30, "for named members to come, in s", number(0, 86_400, "seconds", float)],
        ["session-ttl", None, 3600, "update ids are remembered so long, in s", number(1, 10**9, "seconds", float)],
        [
            "max-memory",
            None,
            None,
            "bytes, or as 512M or 2G, above which writes that need more are refused; default: half of the memory",
            coerced(memory_size),
        ],
        ["cluster", None, "dida", "only nodes of the same cluster talk to each other"],
        drain_option("wait for others to take over its state"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self["storage"] = []
        self["failpoint"] = []

    def opt_failpoint(self, text: str) -> None:
        """For tests: NAME=ACTION[@N], as decide.send=kill; actions kill, pause, drop, duplicate"""
        self["failpoint"].append(failpoints.parse(text))

    def opt_storage(self, text: str) -> None:
        """A member of the first view, as R=ID@URL; once for each"""
        self["storage"].append(StorageAddress.parse(text))

    def postOptions(self) -> None:
        super().postOptions()
        if self["membership"] not in ("available", "majority"):
            raise usage.UsageError(f"--membership {self['membership']}: say available or majority")
        if self["ping-timeout"] < 2 * self["ping-interval"]:
            raise usage.UsageError("--ping-timeout must be at least twice --ping-interval")
        mine = (int(self["replica"]), self["id"], self.address)
        for named in self["storage"]:
            theirs = (named.replica, named.id, named.address)
            if theirs != mine and any(a == b for a, b in zip(theirs, mine, strict=True)):
                raise usage.UsageError(
                    f"--storage {named} has this node's replica number, id or URL, but not all three"
                )
        check_distinct(self["storage"])
        members = {mine[0], *(named.replica for named in self["storage"])}
        factor = min(len(members), int(self["replication-factor"] or len(members)))
        if self["write-concern"] > factor:
            by = "--replication-factor" if factor < len(members) else "--storage"
            raise usage.UsageError(f"--write-concern {self['write-concern']}: by {by}, a key is held by {factor}")


class _Token:
    """A request that came over a connection: its reply, or whom to tell it."""

    __slots__ = ("deferred", "reply")

    def __init__(self) -> None:
        self.reply: Reply | None = None
        self.deferred: Deferred[Reply] | None = None

    def answer(self, reply: Reply) -> None:
        if self.deferred is not None:
            self.deferred.callback(reply)
        else:
            self.reply = reply


class StorageService(NodeService, StorageCommands):
    """One replica and its connections."""

    def __init__(
        self, options: Options, reactor: Any, incarnation: int, word: str, die: Callable[[int], None] = os._exit
    ) -> None:
        super().__init__(options["id"])
        self._reactor = reactor
        self._die = die
        self._debug = bool(options["debug"])
        self._word = word
        """By which this node's own connections are known; nobody can guess it."""
        self._links: dict[str, Link] = {}
        self._asked = Peers(reactor)
        self._after: Timestamp = {}
        self._after_said = b' {"after":{}}'
        self._schedulers = Schedulers()
        self._gone: set[_Token] = set()
        """Of clients that are gone, and wait for nothing any more."""
        self._drain = float(options["drain"])
        self._leaving: Deferred[Any] | None = None
        """While it leaves: fires when it has left."""
        self._failpoints = failpoints.Failpoints(options["failpoint"])
        component = f"{int(options['replica'])}:{_base36(incarnation)}"
        me = Member(component, int(options["replica"]), options["id"], str(options.address))
        max_memory = options["max-memory"] or half_of_memory()
        config = Config(
            cluster=options["cluster"],
            gossip_delay=options["gossip-delay"] / 1000,
            replication_factor=int(options["replication-factor"]) if options["replication-factor"] else None,
            max_versions=int(options["max-versions"]),
            write_concern=int(options["write-concern"]),
            majority=options["membership"] == "majority",
            ping_interval=options["ping-interval"] / 1000,
            ping_timeout=options["ping-timeout"] / 1000,
            start_deadline=options["start-deadline"],
            session_ttl=options["session-ttl"],
            max_memory=max_memory,
            own_memory=own_memory(max_memory),
        )
        self.replica = Replica(config, me, tuple(options["storage"]), reactor.seconds(), f"~{token_hex(8)}")
        self.addService(_Ticks(reactor, self._tick))

    # --- in -------------------------------------------------------------------------------------

    def ask(self, request: Request) -> LineAnswer:
        def ask(token: _Token) -> list[Output]:
            return self.replica.on_request(token, request, self._reactor.seconds())

        return self._answered(ask, self._gone.add)

    def quick(self, line: bytes) -> bytes | None:
        """`read KEY` and `write KEY VALUE` with plain words: what most clients say most of the time.

        What is read far more often than written is put into words once.
        """
        if not line.startswith(b"read "):
            return self._quick_write(line) if line.startswith(b"write ") else None
        key = line[5:]
        if not key.isalnum():
            return None
        found = self.replica.requests.plain_read(key.decode(), self._reactor.seconds())
        if found is None:
            return None
        entry, after = found
        said = entry.said
        if said is None:
            said = grammar.encode_reply(Ok((entry.value, str(entry.version))))
            self.replica.keep_said(entry, said)
        if after is not self._after:  # a timestamp is replaced, never changed
            self._after, self._after_said = after, b" " + grammar.encode_object({"after": after})
        return said + self._after_said

    def _quick_write(self, line: bytes) -> bytes | None:
        words = line.split(b" ")
        if len(words) != 3 or not (words[1].isalnum() and words[2].isalnum()):
            return None
        answer: Ok | None = None

        def write() -> list[Output]:
            nonlocal answer
            done = self.replica.plain_write(words[1].decode(), words[2].decode(), self._reactor.seconds())
            if done is None:
                return []
            answer, outputs = done
            return outputs

        self._turn(write)
        return grammar.encode_reply(answer) if answer is not None else None

    def vouched(self, address: Address, word: str) -> Deferred[Reply]:
        return self._asked.ask(address.host, address.port, Vouch(word), self.replica.config.call_timeout)

    def cmd_vouch(self, request: Vouch) -> LineAnswer:
        return Ok() if request.word == self._word else No()

    def tell(self, message: PeerMessage, url: str) -> LineAnswer:
        member = self.replica.local.member(message.sender)
        told = message.member if isinstance(message, Join) else member
        if told is not None and told.url != url:
            raise BadRequest(f"this is the connection of {url}, not of {told.url}")
        if self._goes_off(message, "receive") == "drop":
            return Deferred()  # never taken, never answered
        answer = self._answered(lambda token: self.replica.on_peer(token, message, self._reactor.seconds()))
        return Deferred() if self._goes_off(message, "reply") == "drop" else answer

    def _goes_off(self, message: Request, step: str) -> str | None:
        """What an armed failpoint does here; kill and pause are done at once."""
        if not self._failpoints:
            return None
        name = f"{form_of(type(message)).verb}.{step}"
        action = self._failpoints.hit(name)
        if action is not None:
            _log.info("failpoint {name}: {action}", name=name, action=action)
            if action in _SIGNALS:
                os.kill(os.getpid(), _SIGNALS[action])
        return action

    def _answered(
        self, turn: Callable[[_Token], list[Output]], on_gone: Callable[[_Token], None] = lambda token: None
    ) -> LineAnswer:
        token = _Token()
        self._turn(lambda: turn(token))
        if token.reply is not None:
            return token.reply

        def gone(answer: Deferred[Reply]) -> None:
            token.deferred = None
            on_gone(token)

        token.deferred = Deferred(gone)
        return token.deferred

    def _tick(self) -> None:
        if self._gone:
            gone, self._gone = self._gone, set()
            self._turn(lambda: self.replica.give_up(gone, self._reactor.seconds()))
        self._turn(lambda: self.replica.tick(self._reactor.seconds()))

    def _turn(self, turn: Callable[[], list[Output]]) -> None:
        """One input of the replica, and what comes of it. A broken invariant ends the process: better a
        crash, which the others survive, than a wrong answer."""
        try:
            outputs = turn()
        except AssertionError:
            _log.failure("an invariant does not hold; this node stops")
            self._die(70)
            return
        for output in outputs:
            if isinstance(output, Answer):
                output.token.answer(output.reply)
            elif isinstance(output, Send):
                self._send(output)
            elif isinstance(output, Soon):
                self._reactor.callLater(0, self._flush)
            elif isinstance(output, Note):
                self._say(output)
            elif self._leaving is not None:
                # the answers go out in the turn between these two
                self._reactor.callLater(0, self._reactor.callLater, 0, self._leaving.callback, None)

    def _flush(self) -> None:
        self._turn(lambda: self.replica.flush(self._reactor.seconds()))
        for link in self._links.values():
            link.flush()

    def _say(self, note: Note) -> None:
        _log.info("{text}", text=note.text)

    # --- out ------------------------------------------------------------------------------------

    def _send(self, send: Send) -> None:
        if self._debug:
            _log.debug("-> {url} {message}", url=send.url, message=send.message)
        action = self._goes_off(send.message, "send")
        if action == "drop":
            self._got(send, None)
            return
        link = self._link(send.url)
        link.send(
            send.message, send.timeout, lambda came: self._got(send, None if isinstance(came, DidaError) else came)
        )
        if action == "duplicate":
            link.send(send.message, send.timeout, lambda came: None)

    def _got(self, send: Send, reply: Reply | None) -> None:
        """The reply to what was sent; None: whatever went wrong, it did not get through."""
        if reply is not None and self._goes_off(send.message, "answered") == "drop":
            reply = None
        now = self._reactor.seconds()
        try:
            if send.token is not None:
                self._turn(lambda: self.replica.on_forwarded(send.token, reply, now))
            else:
                self._turn(lambda: self.replica.on_answer(send.url, send.peer, send.message, reply, now))
        except Exception:  # noqa: BLE001 - one answer must not take the connection's others with it
            _log.failure("a bug while taking an answer")

    def _link(self, url: str) -> Link:
        link = self._links.get(url)
        if link is None:
            address = Address.parse(url)
            link = self._links[url] = Link(self._reactor, address.host, address.port)
            link.on_broken = lambda: self._turn(lambda: self.replica.on_broken(url, self._reactor.seconds()))
            link.greeting = Peer(self.replica.local.me.url, self._word)
            link.on_refused = lambda at: self._turn(lambda: self.replica.on_refused(url, at, self._reactor.seconds()))
        return link

    def leave(self) -> Deferred[Any] | None:
        """Leave in order: fires when another node has the state, or after `--drain` seconds.

        Not where the process is not the node's own: who stops it there wants it gone.
        """
        if self.process is None:
            return None
        self._leaving = Deferred()
        self._turn(lambda: self.replica.on_stop(self._drain, self._reactor.seconds()))
        return self._leaving

    def close(self) -> None:
        self._asked.stop()
        for link in self._links.values():
            link.stop()

    # --- verbs of every node --------------------------------------------------------------------

    def cmd_status(self, request: Status) -> LineAnswer:
        now = self._reactor.seconds()
        me = {"id": self.name, "role": "storage", "url": self.replica.local.me.url, "pid": os.getpid()}
        return Ok((), {**me, **self.replica.status(now)})

    def cmd_scheduler(self, request: SchedulerAt) -> LineAnswer:
        self._schedulers.hear(request.where, self._reactor.seconds())
        return Ok()

    def cmd_system(self, request: System) -> LineAnswer:
        return whole(self.replica.pool(), self._schedulers.living(self._reactor.seconds()))

    def cmd_debug(self, request: Debug) -> LineAnswer:
        self._debug = request.switch == "on"
        return Ok()

    def cmd_slow(self, request: Slow) -> LineAnswer:
        self.replica.slow(request.ms / 1000)
        return Ok()


class _Ticks(Service):
    """Calls the tick, for as long as the service runs."""

    def __init__(self, reactor: Any, tick: Callable[[], None]) -> None:
        self._loop = LoopingCall(self._safely, tick)
        self._loop.clock = reactor

    def _safely(self, tick: Callable[[], None]) -> None:
        try:
            tick()
        except Exception:  # noqa: BLE001 - a LoopingCall that raised once never runs again
            _log.failure("a bug in a tick")

    def startService(self) -> None:
        super().startService()
        self._loop.start(TICK, now=True)

    def stopService(self) -> None:
        super().stopService()
        if self._loop.running:
            self._loop.stop()


def _base36(number: int) -> str:
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return digits or "0"


def makeService(options: Options, reactor: Any = None) -> StorageService:
    """The service of `twistd dida-storage`."""
    reactor = default_reactor(reactor, options)
    # 64 bits of the system's randomness: no two lives have the same, however fast the restart
    service = StorageService(options, reactor, SystemRandom().getrandbits(64), token_hex(16))
    serve(service, service, options, reactor)
    return service
