"""The fast path: a line `read KEY` or `write KEY VALUE` with plain words, answered without decoding it.

Most clients say nothing else most of the time. Whatever is not plain, or can't be answered at once, takes the path of
all requests, which gives the same answers.
"""

from __future__ import annotations

from collections.abc import Callable

from dida.replication.outputs import Output
from dida.replication.replica import Replica
from dida.timestamps import Timestamp
from dida.wire import grammar
from dida.wire.messages import Ok

Turn = Callable[[Callable[[], list[Output]]], None]
"""Gives the replica an input, and acts on its outputs."""


class FastPath:
    """Of one replica; `turn` acts on its outputs, `now` is the clock of the node."""

    def __init__(self, replica: Replica, turn: Turn, now: Callable[[], float]) -> None:
        self._replica = replica
        self._turn = turn
        self._now = now
        self._after: Timestamp = {}
        self._after_said = b' {"after":{}}'

    def answer(self, line: bytes) -> bytes | None:
        """The answer to a line, without its end; None: it takes the path of all requests.

        A value that is read far more often than written is encoded once.
        """
        if not line.startswith(b"read "):
            return self._write(line) if line.startswith(b"write ") else None
        key = line[5:]
        if not key.isalnum():
            return None
        found = self._replica.requests.plain_read(key.decode(), self._now())
        if found is None:
            return None
        entry, after = found
        said = entry.said
        if said is None:
            said = grammar.encode_reply(Ok((entry.value, str(entry.version))))
            self._replica.keep_said(entry, said)
        if after is not self._after:  # a timestamp is replaced, never changed
            self._after, self._after_said = after, b" " + grammar.encode_object({"after": after})
        return said + self._after_said

    def _write(self, line: bytes) -> bytes | None:
        words = line.split(b" ")
        if len(words) != 3 or not (words[1].isalnum() and words[2].isalnum()):
            return None
        answer: Ok | None = None

        def write() -> list[Output]:
            nonlocal answer
            done = self._replica.plain_write(words[1].decode(), words[2].decode(), self._now())
            if done is None:
                return []
            answer, outputs = done
            return outputs

        self._turn(write)
        return grammar.encode_reply(answer) if answer is not None else None
