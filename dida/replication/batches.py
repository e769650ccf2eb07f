"""Many items in few messages, each of a bounded size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

_T = TypeVar("_T")

BATCH = 256 * 1024
"""Characters of keys, values and the like in one message, about; a single item may be larger."""
MOST = 2000
"""Items in one message, at most."""


def batches(things: Iterable[_T], size: Callable[[_T], int]) -> Iterator[list[_T]]:
    """Yield the items in their order, as many at a time as fit a message; `size` returns that of one, in characters."""
    batch: list[_T] = []
    room = BATCH
    for thing in things:
        taken = size(thing)
        if batch and (taken > room or len(batch) == MOST):
            yield batch
            batch, room = [], BATCH
        batch.append(thing)
        room -= taken
    if batch:
        yield batch
