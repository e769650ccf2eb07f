"""Tests that run side by side in several processes take turns with those that must run alone.

A test that measures time, or keeps every core busy, is marked `alone`: no other one runs meanwhile. All others run
beside each other. Two file locks do it: one at the door, which is held while somebody waits to be let in, so that who
wants to be alone is not passed by others for ever, and one of the room, which many may share.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


class Room:
    """The room of one run of the tests, whose processes all know the path."""

    def __init__(self, path: Path) -> None:
        self._told = path.with_suffix(f".side{os.environ['TESTS_SIDE']}")
        paths = path.with_suffix(".door"), path.with_suffix(".room")
        self._door, self._room = (os.open(each, os.O_CREAT | os.O_RDWR) for each in paths)

    @contextmanager
    def entered(self, alone: bool) -> Iterator[None]:
        """Be in the room, with others or alone; a process that ends has left it."""
        fcntl.flock(self._door, fcntl.LOCK_EX)
        fcntl.flock(self._room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(self._door, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(self._room, fcntl.LOCK_UN)

    def tell(self, counts: Mapping[str, int]) -> None:
        """Leave the counts of this side where `tools.sides` finds them."""
        self._told.write_text(json.dumps(counts))
