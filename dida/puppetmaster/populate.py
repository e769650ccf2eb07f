"""The records of a data file, written into the storage, many at a time, each to all living replicas of its group."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

from attrs import Factory, define
from twisted.internet.defer import Deferred, DeferredList

from dida.client.storage_client import StorageClient
from dida.console.data_files import Row
from dida.console.tables import numbered, printable
from dida.errors import LOST_UPDATE, TIMED_OUT, UNAVAILABLE, UNKNOWN_OUTCOME, DidaError, UserError
from dida.puppetmaster.refusals import plain

AT_ONCE = 256
"""Records written at a time."""
TOLD = 20
"""Lines of the file whose problem is shown; the others are only named."""
NAMED = 500
"""Length of those names, in characters."""
OUT_OF_REACH = (UNAVAILABLE, UNKNOWN_OUTCOME, TIMED_OUT)
"""Errors of a write that has timed out, as further writes would, too."""


async def populate(storage_client: StorageClient, path: str, rows: Sequence[Row]) -> None:
    """Write the rows, those of one key in their order. UserError names file and lines that did not get there.

    A record counts when all living replicas of its group have it, so that no crash behind it loses it. When one could
    not be written in its time, no further ones are begun.
    """
    work = _Populate(storage_client, _by_key(rows))
    lanes = [Deferred.fromCoroutine(work.lane()) for _ in range(min(AT_ONCE, len(rows)))]
    for success, result in await DeferredList(lanes, consumeErrors=True):
        if not success:
            raise cast(Any, result).value
    missing = [row for row in rows if row.line not in work.written]
    if missing:
        raise UserError(_told(path, rows, missing, work.problems))


@define
class _Populate:
    storage_client: StorageClient
    rest: Iterator[list[Row]]
    written: set[int] = Factory(set)
    problems: dict[int, str] = Factory(dict)
    """The problem of each line whose record is not written."""
    given_up: bool = False

    async def lane(self) -> None:
        """Write the rows of one key, then those of the next key that is left."""
        for rows in self.rest:
            for row in rows:
                if self.given_up:
                    return
                try:
                    await self._write(row)
                    self.written.add(row.line)
                except DidaError as problem:
                    self.problems[row.line] = plain(problem)
                    self.given_up = self.given_up or problem.code in OUT_OF_REACH

    async def _write(self, row: Row) -> None:
        try:
            await self.storage_client.write(row.key, row.value, "all")
        except DidaError as problem:
            if problem.code != LOST_UPDATE:
                raise
            # What was written before is lost with a crashed node, which is told once; this record needs none of it.
            await self.storage_client.write(row.key, row.value, "all")


def _by_key(rows: Sequence[Row]) -> Iterator[list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.key, []).append(row)
    return iter(found.values())


def _told(path: str, rows: Sequence[Row], missing: Sequence[Row], problems: dict[int, str]) -> str:
    """Return which lines are not written, and why."""
    text = [f"{len(missing)} of {len(rows)} records are not known to be at every living replica of their group"]
    told = [row for row in missing if row.line in problems][:TOLD]
    text += [f"{path} line {row.line}: key {printable(row.key)}: {problems[row.line]}" for row in told]
    others = [row.line for row in missing if row not in told]
    if others:
        named = numbered("line", others)
        text.append(f"{path}: nor {named if len(named) <= NAMED else named[:NAMED] + '…'}")
    return "\n".join(text)
