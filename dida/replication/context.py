"""What the state machines of one replica share: its identity, its view, its configuration, its outputs."""

from __future__ import annotations

from typing import Any

from attrs import Factory, define

from dida.placement import Ring
from dida.replication.config import Config
from dida.replication.messages import Member, View
from dida.replication.outputs import OTHER_VIEW, Answer, LogMessage, Output, Send
from dida.replication.streams import COMMITS
from dida.timestamps import Timestamp
from dida.wire.messages import Concern, Error, Reply, Request


@define
class ReplicaContext:
    """The identity of one replica, its view, and the outputs of the current turn."""

    config: Config
    me: Member
    view: View | None = None
    base: Timestamp = Factory(dict)
    """The state that the view began with, the same at all of its members."""
    serving: bool = False
    """True while the view is in force; False while it is being changed."""
    complete: bool = False
    """True if all members are known to have entered the view: each has answered a heartbeat in it. This node has heard
    them all, or a member has reported it."""
    oldest: int = 0
    """The number below which all own transactions have ended."""
    out: list[Output] = Factory(list)
    notes: list[str] = Factory(list)
    own_ids: dict[Any, int] = Factory(dict)
    """Unanswered updates of clients that came without an id: token to the number in the id that they were given, the
    lowest first."""
    stops: dict[str, float] = Factory(dict)
    """Members that leave, perhaps with this node, and since when this node knows."""
    refused_for_room: bool = False
    """True if a write was refused for lack of memory, and the log does not say so yet."""
    ring: Ring = Ring(())
    view_name: str = ""
    _members: dict[str, Member] = Factory(dict)
    _by_number: dict[str, Member] = Factory(dict)
    """Replica number, as the ring has it, to the member."""
    _others: tuple[Member, ...] = ()

    @property
    def incarnation(self) -> str:
        return self.me.component

    @property
    def leaves(self) -> bool:
        """True if this node is shutting down."""
        return self.me.component in self.stops

    @property
    def commits(self) -> str:
        return self.me.component + COMMITS

    def enter(self, view: View | None, base: Timestamp) -> None:
        """Take `view` as the one in force; None: there is none."""
        self.view = view
        self.base = dict(base)
        self.view_name = view.name if view is not None else ""
        self.complete = view is not None and len(view.members) == 1
        members = view.members if view is not None else ()
        self._members = {m.component: m for m in members}
        self._others = tuple(m for m in members if m.component != self.me.component)
        self._by_number = {str(m.replica): m for m in members}
        self.stops = {c: since for c, since in self.stops.items() if c in self._members or c == self.me.component}
        self.ring = Ring(self._by_number)

    def others(self) -> tuple[Member, ...]:
        """Return the other members of the view, in its order."""
        return self._others

    def member(self, incarnation: str) -> Member | None:
        return self._members.get(incarnation)

    def home(self, key: str) -> Member:
        """Return the member that coordinates the commits of `key`."""
        return self._by_number[self.ring.owner(key)]

    def holders_wanted(self, concern: Concern) -> int:
        """Return how many members, this one included, must have a write of that concern before it is answered."""
        least = len(self._members) if concern == "all" else concern
        return max(least, self.config.write_concern)

    def cannot_meet(self, concern: Concern) -> str:
        """Return why a write of that concern is not possible now; empty if it is possible."""
        wanted, there = self.holders_wanted(concern), len(self._members)
        return f"write concern {wanted} needs more members than the {there} alive" if wanted > there else ""

    def other_view(self) -> Reply:
        """Return the reply to a peer whose view is not this node's."""
        if self.view is None:
            return Error(OTHER_VIEW)
        return Error(OTHER_VIEW, (), {"view": self.view, "base": self.base, **self.completeness()})

    def completeness(self) -> dict[str, Any]:
        """Return the part of replies that reports, with `majority`, that all members have entered the view."""
        return {"complete": True} if self.complete and self.config.majority else {}

    def stamp(self) -> dict[str, Any]:
        """Return what every message to a peer carries."""
        return {
            "cluster": self.config.cluster,
            "view": self.view_name,
            "sender": self.me.component,
        }

    def send(self, to: Member, message: Request) -> None:
        self.out.append(Send(to.url, to.component, message, self.config.call_timeout))

    def forward(self, to: Member, message: Request, token: Any, timeout: float) -> None:
        """Forward a client's request."""
        self.out.append(Send(to.url, to.component, message, timeout, token))

    def answer(self, token: Any, reply: Reply) -> None:
        self.own_ids.pop(token, None)
        self.out.append(Answer(token, reply))

    def note(self, text: str) -> None:
        """Write a line to the log, and keep the newest ones for `status`."""
        self.out.append(LogMessage(text))
        self.notes.append(text)
        del self.notes[:-20]

    def note_once(self, text: str) -> None:
        """Do the same for something that recurs: not while it is among the newest."""
        if text not in self.notes:
            self.note(text)
