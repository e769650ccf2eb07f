"""The ids of runs: those that the scheduler numbers, and those computed from the id that a client gave.

A client's run has the same id whichever life of a scheduler starts it, and so have its updates (`RUN:N`,
`dida.client.sessions.StepRequestIds`): started again by a scheduler that has never heard of it, it has its effects
once. All that makes it the run it is goes into the id, so no two runs that differ share updates.
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
"""Characters of the computed part: 83 bits, of which nobody finds another text that gives the same."""
MAX_FORGOTTEN = 100_000
"""Runs of clients' ids that are not kept any more, and are not started again."""

_DIGITS = string.digits + string.ascii_letters
_NUMBER = re.compile(r"[0-9]{1,9}\Z")


def computed(id: str, input: str, operators: Sequence[str], application: str) -> str:
    """The id of the run that such a line starts: `r7-…` when the client's id ends in 7, `r0-…` without a number."""
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
    """Which runs clients have given ids, and what runs may be called in short."""

    def __init__(self) -> None:
        self._named: dict[str, RunRecord] = {}
        """By the client's id."""
        self._short: dict[str, RunRecord] = {}
        """By the part before the hyphen, and by what people are shown (`short_id`); the newest one."""
        self._forgotten: dict[str, None] = {}

    def in_short(self, name: str) -> RunRecord | None:
        """The newest run of a client's id that may be called `r7`, whose client's id ends in 7, or `r7-` and the next
        characters."""
        return self._short.get(name)

    def known(self, id: str, input: str, operators: Sequence[str], application: str) -> str | None:
        """The id of the run that this very line has started; id-in-use when another line has used the client's id."""
        run = self._named.get(id)
        if run is None:
            name = computed(id, input, operators, application)
            return name if name in self._forgotten else None
        if not run.is_of(input, operators, application):
            text = f"run {run.id} has that id, with another input, chain or application: give this one another id"
            raise DidaError(ID_IN_USE, id, text)
        return run.id

    def forgotten(self, run: str) -> bool:
        """Whether the run of a client's id is known to have ended and is not kept any more."""
        return run in self._forgotten

    def keep(self, run: RunRecord) -> None:
        """The run is known from now on."""
        if run.client_id:
            self._named.setdefault(run.client_id, run)
            for name in _short_names(run):
                self._short[name] = run

    def drop(self, run: RunRecord) -> None:
        """The run has ended, and is not kept any more: its id is, for a while, so that it is not started again."""
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
