"""Versions of a record, and their total order.

A version is (number, replica id), written `number.replica`. The higher number is newer; of two with the same number the
one with the *lower* replica id is newer, so that all replicas agree.
"""

from __future__ import annotations

import re

MAX_NUMBER = 2**53 - 1
"""Higher numbers are refused: not every JSON reader keeps them exact, and a version of 2^63 would win for ever."""
MAX_REPLICA = 2**31 - 1

_FORM = re.compile(r"([0-9]{1,16})\.([0-9]{1,10})")


class Version:
    """(number, replica); immutable, hashable, ordered: `a > b` if a is newer than b."""

    __slots__ = ("_key", "number", "replica")
    number: int
    replica: int

    def __init__(self, number: int, replica: int) -> None:
        self.number = number
        self.replica = replica
        self._key = (number, -replica)

    @classmethod
    def parse(cls, text: str) -> Version:
        """Return the version written as `4.1`; ValueError if it is malformed or out of range."""
        match = _FORM.fullmatch(text)
        if match is None:
            raise ValueError(f"invalid version {text!r}: write number.replica, as in 4.1")
        number, replica = int(match[1]), int(match[2])
        if not (1 <= number <= MAX_NUMBER and replica <= MAX_REPLICA):
            raise ValueError(f"version {text} is out of range")
        return cls(number, replica)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Version) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __lt__(self, other: Version) -> bool:
        return self._key < other._key

    def __le__(self, other: Version) -> bool:
        return self._key <= other._key

    def __gt__(self, other: Version) -> bool:
        return self._key > other._key

    def __ge__(self, other: Version) -> bool:
        return self._key >= other._key

    def __str__(self) -> str:
        return f"{self.number}.{self.replica}"

    def __repr__(self) -> str:
        return f"Version({self.number}, {self.replica})"
