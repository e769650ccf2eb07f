"""A place in a simulated cluster where a replica lives, one incarnation after the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from attrs import Factory, define

from dida.addresses import Address
from dida.replication.replica import Replica
from dida.versions import Version

FIRST_PORT = 5000


@define(eq=False)
class Node:
    """One place: its process, if there is one, and what a simulation remembers of it."""

    number: int
    url: str
    skew: float = 0.0
    """What its clock showed in the beginning, in seconds."""
    replica: Replica | None = None
    """None while no process runs."""
    epoch: int = 0
    """How many processes have been started here."""
    incarnation: str = ""
    paused: bool = False
    pauses: int = 0
    backlog: deque[Callable[[], None]] = Factory(deque)
    """What came while it was paused."""
    floors: dict[str, Version] = Factory(dict)
    """Key to the oldest version of its full list, when last checked."""
    promised: tuple[int, str] = (0, "")
    """The ballot that it has promised to follow, when last checked."""
    settled: bool = False
    """True if this incarnation has been in a view that all its members had entered."""

    @property
    def name(self) -> str:
        return f"s{self.number}"

    def begin(self, incarnation: str) -> None:
        """Begin a new incarnation, without a state."""
        self.incarnation = incarnation
        self.floors = {}
        self.promised = (0, "")
        self.settled = False


def name_of(url: str) -> str:
    """Return the name of the node at this place."""
    return f"s{Address.parse(url).port - FIRST_PORT}"


def incarnation_name(node: Node) -> str:
    """Return the name of the node's incarnation: never the same twice."""
    return f"{node.number}:{node.epoch}"
