"""The storage node as a service: `twistd dida-storage`."""

from __future__ import annotations

from random import SystemRandom
from typing import Any

from twisted.python import usage

from dida.addresses import StorageAddress
from dida.replication import failpoints
from dida.replication.config import Config
from dida.replication.messages import Member
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
from dida.storage.node import StorageNode


class Options(NodeOptions):
    """The options of a storage node."""

    command = "dida-storage"
    synopsis = "[options]"
    required = ("id", "replica", "url")
    optParameters = [
        ["replica", None, None, "replica number", number(0, 2**31 - 1, "replica")],
        ["gossip-delay", None, 0, "delay of gossip and of the PREPARE of its updateIfs, in ms", milliseconds],
        ["max-versions", None, 10, "number of versions kept of each record", number(1, 1_000_000, "versions")],
        [
            "replication-factor",
            None,
            None,
            "number of replicas per key; needs the same --storage everywhere; default: all",
            number(1, 1000, "replicas"),
        ],
        [
            "write-concern",
            None,
            1,
            "number of replicas that have logged a write before its reply",
            number(1, 1000, "replicas"),
        ],
        ["membership", None, "available", "available: each side of a partition goes on; majority: only the larger one"],
        [
            "ping-interval",
            None,
            500,
            "interval between two pings of a member, in ms",
            number(10, 3_600_000, "milliseconds"),
        ],
        ["ping-timeout", None, 2000, "silence after which a member is suspected, in ms", number(20, 3_600_000, "ms")],
        ["start-deadline", None, 30, "time-out for named members to start, in s", number(0, 86_400, "seconds", float)],
        ["session-ttl", None, 3600, "time that update ids are kept, in s", number(1, 10**9, "seconds", float)],
        [
            "max-memory",
            None,
            None,
            "memory above which growing writes are refused, in bytes, or as 512M or 2G; default: half of the memory",
            coerced(memory_size),
        ],
        ["cluster", None, "dida", "name of the cluster; nodes of other clusters are refused"],
        drain_option("hand over its state"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self["storage"] = []
        self["failpoint"] = []

    def opt_failpoint(self, text: str) -> None:
        """For tests: NAME=ACTION[@N], as prepare.send=kill; actions kill, pause, drop, duplicate"""
        self["failpoint"].append(failpoints.parse(text))

    def opt_storage(self, text: str) -> None:
        """R=ID@URL of a member of the first view; repeatable"""
        self["storage"].append(StorageAddress.parse(text))

    def postOptions(self) -> None:
        super().postOptions()
        if self["membership"] not in ("available", "majority"):
            raise usage.UsageError(f"--membership {self['membership']}: expected available or majority")
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


def makeService(options: Options, reactor: Any = None) -> NodeService:
    """The service that the options describe; its port is bound already."""
    reactor = default_reactor(reactor, options)
    number = int(options["replica"])
    # 64 bits of the system's randomness: no two lives have the same, however fast the restart
    component = f"{number}:{_base36(SystemRandom().getrandbits(64))}"
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
    node = StorageNode(
        reactor,
        Member(component, number, options["id"], str(options.address)),
        config,
        options["storage"],
        drain=float(options["drain"]) if options.process is not None else None,
        failpoints=failpoints.Failpoints(options["failpoint"]),
        debug=bool(options["debug"]),
    )
    return serve(node, options, reactor)


def _base36(number: int) -> str:
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return digits or "0"
