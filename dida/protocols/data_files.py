"""Writing the records of a data file into the storage, some at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from twisted.internet.defer import Deferred, DeferredList

from dida.errors import LOST_UPDATE, DidaError, UserError
from dida.protocols.frontend import FrontEnd
from dida.protocols.system import plain

AT_ONCE = 64
"""Records that are written at a time."""


async def populate(front_end: FrontEnd, path: str, pairs: Sequence[tuple[str, str]]) -> None:
    """Write the pairs, those of one key in their order. UserError names the key that could not be written."""
    batch: dict[str, str] = {}
    for key, value in pairs:
        if key in batch or len(batch) == AT_ONCE:
            await _write(front_end, path, batch)
        batch[key] = value
    await _write(front_end, path, batch)


async def _write(front_end: FrontEnd, path: str, batch: dict[str, str]) -> None:
    writes = [Deferred.fromCoroutine(_write_record(front_end, key, value)) for key, value in batch.items()]
    written = await DeferredList(writes, consumeErrors=True)
    for key, (success, result) in zip(batch, written, strict=True):
        if not success:
            problem = cast(Any, result).value
            if not isinstance(problem, DidaError):
                raise problem
            raise UserError(f"{path}: key {key} could not be written: {plain(problem)}")
    batch.clear()


async def _write_record(front_end: FrontEnd, key: str, value: str) -> None:
    try:
        await front_end.write(key, value)
    except DidaError as problem:
        if problem.code != LOST_UPDATE:
            raise
        # What was written before is lost with a crashed node, which is told once; this record depends on none of it.
        await front_end.write(key, value)
