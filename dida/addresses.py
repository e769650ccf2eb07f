"""Addresses of nodes, in the forms of command lines and scripts.

`http://localhost:3333`, `tcp://localhost:3333` and `localhost:3333` are the same address.
"""

from __future__ import annotations

import re
from functools import lru_cache

from attrs import frozen

from dida.errors import UserError, shown
from dida.versions import MAX_REPLICA

LOOPBACK = ("localhost", "127.0.0.1", "::1")
HERE = "localhost"
"""The name of this machine, whichever of its names a URL has."""

MAX_ID = 200
"""The most characters of a node's id."""

_URL = re.compile(r"(?:(?:http|tcp)://)?(\[[0-9a-f:.]+\]|[a-z0-9._-]+):([0-9]{1,9})/?", re.IGNORECASE)
_LISTEN = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::([0-9]{1,5}))?", re.IGNORECASE)
_NUMBER = re.compile("[0-9]{1,10}")


def node_id(text: str) -> str:
    """Return the id in a word; the UserError says what an id looks like."""
    if not 0 < len(text) <= MAX_ID or not text.isprintable() or " " in text:
        raise UserError(f"invalid id {shown(text)}: give one word of at most {MAX_ID} printable characters")
    return text


@frozen
class Address:
    """Host and TCP port; `str` returns `host:port`."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Return the address in a URL; the UserError says what a URL looks like."""
        return _parsed(text)

    @property
    def machine(self) -> str:
        """The host, with one name for all names of this machine."""
        return HERE if self.host in LOOPBACK else self.host

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@lru_cache(maxsize=1024)
def _parsed(text: str) -> Address:
    """Cached: the same few texts come again with each request of a chain."""
    match = _URL.fullmatch(text.strip())
    if match is None:
        raise UserError(f"invalid URL {text!r}: expected http://HOST:PORT, as in http://localhost:5001")
    if not 0 < int(match[2]) < 65536:
        raise UserError(f"invalid port in {text!r}: choose one from 1 to 65535")
    return Address(match[1].strip("[]").lower(), int(match[2]))


def host_and_port(text: str) -> tuple[str, int | None]:
    """`HOST` or `HOST:PORT` on which to listen; the UserError says what it looks like."""
    match = _LISTEN.fullmatch(text.strip())
    if match is None or not (match[2] is None or 0 < int(match[2]) < 65536):
        raise UserError(f"invalid HOST[:PORT] {text!r}: write a host, as in 0.0.0.0 or 0.0.0.0:5001")
    return match[1].strip("[]").lower(), None if match[2] is None else int(match[2])


@frozen
class NodeAddress:
    """The id and the address of a node."""

    id: str
    address: Address

    @classmethod
    def parse(cls, text: str) -> NodeAddress:
        """`ID=URL`"""
        id, equals, url = text.rpartition("=")
        if not equals or not id or " " in id:
            raise UserError(f"invalid node {text!r}: write ID=URL, as in w1=http://localhost:4001")
        return cls(node_id(id), Address.parse(url))

    def __str__(self) -> str:
        return f"{self.id}={self.address}"


@frozen
class StorageAddress:
    """The replica number, the node id and the address of a storage node."""

    replica: int
    id: str
    address: Address

    @classmethod
    def parse(cls, text: str) -> StorageAddress:
        """`R=ID@URL`"""
        number, equals, rest = text.partition("=")
        id, at, url = rest.rpartition("@")
        if not (equals and at and id and " " not in id and _NUMBER.fullmatch(number)) or int(number) > MAX_REPLICA:
            raise UserError(f"invalid storage node {text!r}: write R=ID@URL, as in 1=s1@http://localhost:5001")
        return cls(int(number), node_id(id), Address.parse(url))

    def __str__(self) -> str:
        return f"{self.replica}={self.id}@{self.address}"
