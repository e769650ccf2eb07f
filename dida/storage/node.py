"""A storage node: the replica's state machines, with its clients and its peers on connections.

The node has no rules: it gives the replica what arrives (requests, messages of peers, replies, broken connections,
ticks) and acts on its outputs in their order.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Mapping
from secrets import token_hex
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from dida.addresses import Address, StorageAddress
from dida.errors import BAD_REQUEST, BadRequest, DidaError, Unavailable
from dida.protocols.introductions import PeerIdentity
from dida.protocols.lines import Answer as LineAnswer
from dida.protocols.lines import LineServer, NodeCommands
from dida.protocols.link_pool import ConnectionPool
from dida.protocols.links import LinkListener, ReconnectingClient
from dida.replication.config import Config
from dida.replication.failpoints import Failpoints
from dida.replication.messages import INTRODUCTIONS, PEER, PROTOCOL, Join, Member, Peer, PeerMessage, Vouch
from dida.replication.outputs import Answer, FlushRequested, LogMessage, Output, Send
from dida.replication.replica import Replica
from dida.storage.fast_path import FastPath
from dida.wire import grammar
from dida.wire.messages import (
    NODE,
    Debug,
    Error,
    No,
    Ok,
    Reply,
    Request,
    SchedulerAt,
    Slow,
    Status,
    System,
    form_of,
    vocabulary,
)
from dida.wire.whole import Schedulers, whole

TICK = 0.02
"""Time between two ticks of the replica, in seconds."""

_SIGNALS = {"kill": signal.SIGKILL, "pause": signal.SIGSTOP}

_log = Logger()


class _Token:
    """A request that came over a connection: its reply, or the Deferred that waits for it."""

    __slots__ = ("deferred", "reply")

    def __init__(self) -> None:
        self.reply: Reply | None = None
        self.deferred: Deferred[Reply] | None = None

    def answer(self, reply: Reply) -> None:
        if self.deferred is not None:
            self.deferred.callback(reply)
        else:
            self.reply = reply


class StorageNode(NodeCommands):
    """One replica and its connections."""

    vocabulary: Mapping[str, type[Request]] = vocabulary(
        *NODE, Slow, *Replica.VERBS, SchedulerAt, *INTRODUCTIONS, *PEER
    )

    def __init__(
        self,
        reactor: Any,
        me: Member,
        config: Config,
        named: Iterable[StorageAddress],
        drain: float | None = None,
        failpoints: Failpoints | None = None,
        debug: bool = False,
        die: Callable[[int], None] = os._exit,
    ) -> None:
        """`named` are the members of the first view. `drain`: seconds that a graceful shutdown may take; None: none is
        tried, the process ends at once. `die` ends a process whose invariants do not hold."""
        self._reactor = reactor
        self._die = die
        self._debug = debug
        self._word = token_hex(16)
        """Identifies this node's own connections; nobody can guess it."""
        self._links: dict[str, ReconnectingClient] = {}
        self._asked = ConnectionPool(reactor)
        self._schedulers = Schedulers()
        self._gone: set[_Token] = set()
        """Requests of clients that are gone."""
        self._drain = drain
        self._leaving: Deferred[Any] | None = None
        """While it shuts down: fires when it has left."""
        self._failpoints = failpoints or Failpoints(())
        self.replica = Replica(config, me, tuple(named), reactor.seconds(), f"~{token_hex(8)}")
        self._fast_path = FastPath(self.replica, self._turn, reactor.seconds)
        self._ticks = LoopingCall(self._tick)
        self._ticks.clock = reactor

    # --- start and stop -------------------------------------------------------------------------------

    def start(self) -> None:
        self._ticks.start(TICK, now=True)

    def leave(self) -> Deferred[Any] | None:
        """Shut down in order; the Deferred fires when another node has the state, or after `drain` seconds."""
        if self._drain is None:
            return None
        drain = self._drain
        self._leaving = Deferred()
        self._turn(lambda: self.replica.on_stop(drain, self._reactor.seconds()))
        return self._leaving

    def stop(self) -> None:
        if self._ticks.running:
            self._ticks.stop()
        self._asked.stop()
        for link in self._links.values():
            link.stop()

    # --- in -------------------------------------------------------------------------------------

    def _ask(self, request: Request) -> LineAnswer:
        def ask(token: _Token) -> list[Output]:
            return self.replica.on_request(token, request, self._reactor.seconds())

        return self._answered(ask, self._gone.add)

    def fast_reply(self, line: bytes) -> bytes | None:
        return self._fast_path.answer(line)

    def _vouched(self, address: Address, word: str) -> Deferred[Reply]:
        return self._asked.ask(address.host, address.port, Vouch(word), self.replica.config.call_timeout)

    def cmd_vouch(self, request: Vouch) -> LineAnswer:
        return Ok() if request.word == self._word else No()

    def _take(self, message: PeerMessage, url: str) -> LineAnswer:
        member = self.replica.context.member(message.sender)
        sender = message.member if isinstance(message, Join) else member
        if sender is not None and sender.url != url:
            raise BadRequest(f"this connection belongs to {url}, not to {sender.url}")
        if self._goes_off(message, "receive") == "drop":
            return Deferred()  # never processed, never answered
        answer = self._answered(lambda token: self.replica.on_peer(token, message, self._reactor.seconds()))
        return Deferred() if self._goes_off(message, "reply") == "drop" else answer

    def _goes_off(self, message: Request, step: str) -> str | None:
        """Return what an armed failpoint asks for here; kill and pause are done at once."""
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
        try:
            if self._gone:
                gone, self._gone = self._gone, set()
                self._turn(lambda: self.replica.give_up(gone, self._reactor.seconds()))
            self._turn(lambda: self.replica.tick(self._reactor.seconds()))
        except Exception:  # noqa: BLE001 - a LoopingCall that raised once never runs again
            _log.failure("a bug in a tick")

    def _turn(self, turn: Callable[[], list[Output]]) -> None:
        """Give the replica one input, and act on its outputs.

        A broken invariant ends the process: a crash, which the others survive, is better than a wrong reply.
        """
        try:
            outputs = turn()
        except AssertionError:
            _log.failure("an invariant does not hold; this node ends")
            self._die(70)
            return
        for output in outputs:
            if isinstance(output, Answer):
                output.token.answer(output.reply)
            elif isinstance(output, Send):
                self._send(output)
            elif isinstance(output, FlushRequested):
                self._reactor.callLater(0, self._flush)
            elif isinstance(output, LogMessage):
                self._say(output)
            elif self._leaving is not None:
                # the replies go out in the turn between these two
                self._reactor.callLater(0, self._reactor.callLater, 0, self._leaving.callback, None)

    def _flush(self) -> None:
        self._turn(lambda: self.replica.flush(self._reactor.seconds()))
        for link in self._links.values():
            link.flush()

    def _say(self, note: LogMessage) -> None:
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
        """Process the reply to a message; None: it did not get through, for whatever reason."""
        if reply is not None and self._goes_off(send.message, "answered") == "drop":
            reply = None
        now = self._reactor.seconds()
        try:
            if send.token is not None:
                self._turn(lambda: self.replica.on_forwarded(send.token, reply, now))
            else:
                self._turn(lambda: self.replica.on_answer(send.url, send.peer, send.message, reply, now))
        except Exception:  # noqa: BLE001 - one answer must not take the connection's others with it
            _log.failure("a bug while processing a reply")

    def _link(self, url: str) -> ReconnectingClient:
        link = self._links.get(url)
        if link is None:
            address = Address.parse(url)
            greeting = Peer(self.replica.context.me.url, self._word, PROTOCOL)
            link = ReconnectingClient(self._reactor, address.host, address.port, _PeerListener(self, url), greeting)
            self._links[url] = link
        return link

    def on_peer_lost(self, url: str) -> None:
        """Tell the replica that the connection to a peer broke."""
        self._turn(lambda: self.replica.on_broken(url, self._reactor.seconds()))

    def on_peer_refused(self, url: str, at: float) -> None:
        """Tell the replica that nobody listened at a peer's address at that time."""
        self._turn(lambda: self.replica.on_refused(url, at, self._reactor.seconds()))

    # --- verbs of every node --------------------------------------------------------------------

    def cmd_status(self, request: Status) -> LineAnswer:
        now = self._reactor.seconds()
        me = {
            "id": self.replica.context.me.id,
            "role": "storage",
            "url": self.replica.context.me.url,
            "pid": os.getpid(),
        }
        return Ok((), {**me, **self.replica.status(now)})

    def cmd_scheduler(self, request: SchedulerAt) -> LineAnswer:
        self._schedulers.note(request.where, self._reactor.seconds())
        return Ok()

    def cmd_system(self, request: System) -> LineAnswer:
        return whole(self.replica.directory.pool(), self._schedulers.living(self._reactor.seconds()))

    def cmd_debug(self, request: Debug) -> LineAnswer:
        self._debug = request.switch == "on"
        return Ok()

    def cmd_slow(self, request: Slow) -> LineAnswer:
        self.replica.slow(request.ms / 1000)
        return Ok()

    # --- verbs of clients and of peers ------------------------------------------------------------

    def cmd_read(self, request: Request) -> LineAnswer:
        return self._ask(request)

    cmd_write = cmd_updateif = cmd_list = cmd_versions = cmd_home = cmd_forget = cmd_watch = cmd_read
    cmd_note = cmd_fence = cmd_read

    def peer_request(self, request: Any, connection: LineServer) -> LineAnswer:
        """Handle `peer`, or a message of another storage node: its connection has proved which node it is."""
        if isinstance(request, Peer):
            address = Address.parse(request.url)
            refusal = self._refusal(address, request.protocol)
            introduction = PeerIdentity(str(address), lambda: self._vouched(address, request.word), refusal)
            connection.introduction = introduction
            if refusal:
                return self._refuse(refusal)
            introduction.proof().addCallback(
                lambda proved: connection.take_lines_of(grammar.LONGEST_LINE) if proved else None
            )
            return Ok()
        known = connection.introduction
        if known is None:
            raise BadRequest(f"{form_of(type(request)).verb} is for storage nodes, whose connections begin with peer")
        if known.proved:
            return self._take(request, known.url)
        if known.refusal:
            return self._refuse(known.refusal)
        return known.proof().addCallback(lambda proved: self._take_proved(request, known, proved))

    def _refusal(self, address: Address, protocol: int) -> str:
        """Return why the storage node there and this one cannot work together; empty if they can."""
        if abs(protocol - PROTOCOL) <= 1:
            return ""
        mine = self.replica.context.me.url
        return (
            f"the storage node at {address} speaks protocol {protocol}, the one at {mine} {PROTOCOL}: "
            "run the same release of dida on both"
        )

    def _refuse(self, refusal: str) -> Reply:
        """Refuse a storage node that can't work with this one. Neither begins a view beside the other's."""
        self.replica.on_stranger(refusal, self._reactor.seconds())
        return Error(BAD_REQUEST, (refusal,), {"view": self.replica.context.view_name})

    def _take_proved(self, message: PeerMessage, introduction: PeerIdentity, proved: bool) -> Any:
        if not proved:
            raise Unavailable(f"{introduction.url} does not vouch for this connection")
        return self._take(message, introduction.url)


class _PeerListener(LinkListener):
    """Tells a node of the connection to one of its peers."""

    def __init__(self, node: StorageNode, url: str) -> None:
        self._node = node
        self._url = url

    def on_down(self, link: ReconnectingClient, broken: bool) -> None:
        if broken:
            self._node.on_peer_lost(self._url)

    def on_refused(self, link: ReconnectingClient, tried: float) -> None:
        self._node.on_peer_refused(self._url, tried)
