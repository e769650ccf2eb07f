"""The plan of a simulation: the cluster, the network, which faults there are and how often.

The seed draws it; options override any part.
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any, get_type_hints

import attrs
from attrs import evolve, fields, frozen

from dida.errors import UserError
from dida.replication import failpoints
from dida.replication.config import Config
from dida.replication.failpoints import ACTIONS, FAILPOINTS
from dida.simulate.network import Network

FULL = 8_000
"""Bytes that some tens of updates take."""
NEVER = 100.0
"""Mean time between two faults that are not to happen, in seconds."""


@frozen
class Armed:
    """A failpoint with an action: at its `at`-th hit in the first phase."""

    name: str
    at: int
    action: str

    def __str__(self) -> str:
        return f"{self.name}={self.action}@{self.at}"

    @classmethod
    def parse(cls, text: str) -> Armed:
        """Parse an armed failpoint, as in `prepare.send=kill@3`."""
        name, action, at = failpoints.parse(text)
        return cls(name, at, action)


@frozen(kw_only=True)
class Plan:
    """One simulation except for its dice. Times in seconds; shares from 0 to 1; of a fault, the mean time
    between two."""

    replicas: int
    membership: str
    partitions: bool
    gossip_delay: float
    write_concern: int
    max_versions: int
    max_waiting: int
    session_ttl: float
    ping_interval: float
    clients: int
    keys: int
    """Of each kind: keys that only updateifs write, and mixed ones."""
    faults: float
    """Length of the first phase."""
    mean_delay: float
    late: float
    reset: float
    stale: float
    wire: bool
    stray: float
    """Share of requests that arrive when the client has given up, and of replies that get lost."""
    plain: float
    """Share of plain reads and writes that come without a session, and take the fast path where it can serve them."""
    crash: float
    pause: float
    clog: float
    """Links of some nodes stop one by one, and work again in another order."""
    cut: float
    odd: float
    """Share of the hits of failpoints at which the message is dropped or duplicated."""
    armed: tuple[Armed, ...]
    all_to_all: int
    """Members beyond which all exchange heartbeats with the lowest only."""
    stop: float
    """Graceful shutdowns: of one node, of some at once, of all one after the other."""
    max_memory: int
    """Bytes that a replica may take before writes that need more are refused; 0: no limit."""
    runs: int
    """Chains of operators over the storage, whose workers and scheduler die and pause."""
    turn: float
    """Partitions into two sides, with members that change sides while a new view is on its way."""
    shards: int
    """Groups of `replicas` nodes; the second one holds records of runs only."""

    @property
    def majority(self) -> bool:
        return self.membership == "majority"

    @property
    def steady(self) -> bool:
        """True if no living node is ever silent for long: then none may be removed."""
        pauses = self.pause < NEVER or any(armed.action == "pause" for armed in self.armed)
        return not pauses and self.clog >= NEVER and self.cut >= NEVER and self.turn >= NEVER

    @property
    def forks(self) -> bool:
        """True if two sides may go on separately: then what is discarded only has to be reported."""
        return self.partitions and not self.majority

    @classmethod
    def draw(cls, rng: Random) -> Plan:
        replicas = rng.randint(3, 7)
        membership = "majority" if rng.random() < 0.4 else "available"
        partitions = rng.random() < (0.6 if membership == "majority" else 0.15)
        plan = cls(
            replicas=replicas,
            membership=membership,
            partitions=partitions,
            gossip_delay=rng.choice([0.0, 0.0, 0.05, 0.3]),
            write_concern=rng.choice([1, 1, 1, 2, 3]),
            max_versions=rng.choice([100_000, 100_000, 100_000, 2, 4]),
            max_waiting=rng.choice([10_000, 10_000, 10_000, 10_000, 1]),
            session_ttl=rng.choice([3600.0, 3600.0, 3600.0, 1.0]),
            ping_interval=rng.choice([0.1, 0.2]),
            clients=rng.randint(2, 6),
            keys=rng.randint(1, 3),
            faults=5.0,
            mean_delay=rng.choice([0.001, 0.003, 0.01]),
            late=rng.choice([0.0, 0.0, 0.002, 0.01]),
            reset=rng.choice([0.0, 0.001, 0.005]),
            stale=rng.choice([0.0, 0.3]),
            wire=rng.random() < 0.2,
            stray=rng.choice([0.0, 0.02, 0.1]),
            plain=0.3,
            crash=rng.choice([1.0, 2.0, NEVER]),
            pause=rng.choice([1.5, 3.0, NEVER]),
            clog=rng.choice([2.0, NEVER]),
            cut=rng.choice([1.0, 2.5]) if partitions else NEVER,
            odd=rng.choice([0.0, 0.002, 0.01]),
            armed=tuple(_arm(rng) for _ in range(rng.choice([0, 2, 4]))),
            all_to_all=rng.choice([16, 16, 2]),
            stop=rng.choice([1.0, 2.5, NEVER]),
            max_memory=0,
            runs=0,
            turn=rng.choice([1.0, 2.5, NEVER]) if partitions else NEVER,
            shards=1,
        )
        if plan.all_to_all == 2 and rng.random() < 0.05:
            plan = evolve(plan, replicas=20)
        if not plan.forks and rng.random() < 0.1:
            plan = evolve(plan, max_memory=FULL)
        # what a fork discards, and what is forgotten while a run goes on, no execution explains
        if plan.forks or plan.session_ttl < 100 or not rng.choice([0, 5]):
            return plan
        return evolve(plan, runs=5, shards=2 if plan.replicas <= 5 and rng.random() < 0.4 else 1)

    def config(self) -> Config:
        return Config(
            gossip_delay=self.gossip_delay,
            write_concern=self.write_concern,
            majority=self.majority,
            max_versions=self.max_versions,
            max_waiting=self.max_waiting,
            session_ttl=self.session_ttl,
            ping_interval=self.ping_interval,
            ping_timeout=0.5,
            all_to_all=self.all_to_all,
            max_memory=self.max_memory or None,
            replication_factor=self.replicas if self.shards > 1 else None,
            start_deadline=3.0,
        )

    def network(self) -> Network:
        return Network(mean_delay=self.mean_delay, late=self.late, reset=self.reset, stale=self.stale, wire=self.wire)

    def options(self) -> str:
        """Return the options of the command that describe all of it."""
        return " ".join(
            f"--{name.replace('_', '-')} {_say(value)}" for name, value in attrs.asdict(self, recurse=False).items()
        )

    def but(self, given: Mapping[str, str]) -> Plan:
        """Return the plan with some of its fields as the texts say; UserError if one is invalid."""
        types = get_type_hints(Plan)
        return evolve(self, **{name: _parse(name, types[name], text) for name, text in given.items()})


FIELDS = tuple(field.name for field in fields(Plan))


def _arm(rng: Random) -> Armed:
    return Armed(rng.choice(FAILPOINTS), 1 + int(rng.expovariate(1 / 4)), rng.choice(ACTIONS))


def _say(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


RANGES: dict[str, tuple[float, float]] = {
    "replicas": (1, 99),
    "gossip_delay": (0, 10),
    "write_concern": (1, 9),
    "session_ttl": (0.1, 1e6),
    "ping_interval": (0.02, 0.25),
    "clients": (1, 100),
    "keys": (1, 100),
    "all_to_all": (1, 100),
    "max_memory": (0, 1e12),
    "runs": (0, 1000),
    "shards": (1, 2),
    "faults": (0, 3600),
    "mean_delay": (1e-6, 1),
    **dict.fromkeys(("late", "reset", "stale", "stray", "plain", "odd"), (0, 1)),
    **dict.fromkeys(("crash", "pause", "clog", "cut", "stop", "turn"), (0.01, 1e6)),
}


def _parse(name: str, kind: Any, text: str) -> Any:
    option = f"--{name.replace('_', '-')} {text}"
    if name == "membership":
        if text not in ("available", "majority"):
            raise UserError(f"invalid {option}: expected available or majority")
        return text
    if name == "armed":
        return tuple(map(Armed.parse, text.split(","))) if text != "none" else ()
    if kind is bool:
        if text not in ("yes", "no"):
            raise UserError(f"invalid {option}: expected yes or no")
        return text == "yes"
    low, high = RANGES.get(name, (1, 1_000_000))
    try:
        value = kind(text)
    except ValueError:
        raise UserError(f"invalid {option}: expected a number") from None
    if not low <= value <= high:
        raise UserError(f"invalid {option}: expected a number from {low:g} to {high:g}")
    return value
