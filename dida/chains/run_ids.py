"""The ids of runs: those that the scheduler numbers, and those computed from a client's id.

A client's run has the same id whichever incarnation of a scheduler starts it, and so has its journal
(`dida.chains.journal`): when a scheduler that does not know it starts it again, it has its effects once.
The id depends on the whole request, so no two different runs share updates.
"""

from __future__ import annotations

import hashlib
import re
import string
from collections.abc import Sequence

from dida.chains.records import short_id
from dida.chains.run_record import RunRecord
from dida.errors import ID_IN_USE, DidaError

LENGTH = 14
"""Characters of the computed part: 83 bits, so nobody finds another request with the same id."""
MAX_FORGOTTEN = 100_000
"""The most runs of clients' ids that are remembered after they were dropped, and are not started again."""

_DIGITS = string.digits + string.ascii_letters
_NUMBER = re.compile(r"[0-9]{1,9}\Z")


def computed(id: str, input: str, operators: Sequence[str], application: str) -> str:
    """Return the id of the run that such a request starts: `r7-…` if the client's id ends in 7, `r0-…` without a
    number."""
    digest = hashlib.sha256()
    for text in (id, application, input, *operators):
        data = text.encode()
        digest.update(b"%d:" % len(data) + data)
    rest = int.from_bytes(digest.digest(), "big")
    characters = []
    for _ in range(LENGTH):
        rest, digit = divmod(rest, len(_DIGITS))
        characters.append(_DIGITS[digit])
    number = _NUMBER.search(id)
    return f"r{int(number[0]) if number else 0}-{''.join(characters)}"


class RunIds:
    """The ids that clients gave their runs, and the short ids of runs."""

    def __init__(self) -> None:
        self._named: dict[str, RunRecord] = {}
        """By the client's id."""
        self._short: dict[str, RunRecord] = {}
        """By the part before the hyphen, and by `short_id`; the newest run."""
        self._forgotten: dict[str, None] = {}

    def in_short(self, name: str) -> RunRecord | None:
        """Return the newest run of a client's id with the short id `r7` (the client's id ends in 7), or `r7-` and
        the next characters."""
        return self._short.get(name)

    def known(self, id: str, input: str, operators: Sequence[str], application: str) -> str | None:
        """Return the id of the run that the same request has started; id-in-use if another request has the client's
        id."""
        run = self._named.get(id)
        if run is None:
            name = computed(id, input, operators, application)
            return name if name in self._forgotten else None
        if not run.is_of(input, operators, application):
            text = f"run {run.id} has that id, with another input, chain or application: give this one another id"
            raise DidaError(ID_IN_USE, id, text)
        return run.id

    def forgotten(self, run: str) -> bool:
        """Return True if the run of a client's id is known to have ended and was dropped."""
        return run in self._forgotten

    def keep(self, run: RunRecord) -> None:
        """Remember a run."""
        if run.client_id:
            self._named.setdefault(run.client_id, run)
            for name in _short_names(run):
                self._short[name] = run

    def drop(self, run: RunRecord) -> None:
        """Drop a run that has ended; remember its id for a while, so that it is not started again."""
        if not run.client_id:
            return
        if self._named.get(run.client_id) is run:
            del self._named[run.client_id]
        for name in _short_names(run):
            if self._short.get(name) is run:
                del self._short[name]
        self._forgotten[run.id] = None
        if len(self._forgotten) > MAX_FORGOTTEN:
            del self._forgotten[next(iter(self._forgotten))]


def _short_names(run: RunRecord) -> tuple[str, str]:
    return run.id.partition("-")[0], short_id(run.id)
