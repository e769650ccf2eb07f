"""The fast path: a line `read KEY` or `write KEY VALUE` with plain words, answered without decoding it.

Most clients send nothing else most of the time. A line that is not plain takes the general path (`Replica.on_request`),
and so does a request that has an obstacle (`dida.replication.requests`, `obstacle` and `write_obstacle`: the predicates
of both paths). Both give the same replies.
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
    """The fast path of one replica; `turn` acts on its outputs, `now` is the clock of the node, in seconds."""

    def __init__(self, replica: Replica, turn: Turn, now: Callable[[], float]) -> None:
        self._replica = replica
        self._turn = turn
        self._now = now
        self._after: Timestamp = {}
        self._encoded_after = b' {"after":{}}'

    def answer(self, line: bytes) -> bytes | None:
        """Return the reply to a line, without its end; None if it takes the general path.

        A value that is read far more often than it is written is encoded once.
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
        encoded = entry.encoded
        if encoded is None:
            encoded = grammar.encode_reply(Ok((entry.value, str(entry.version))))
            self._replica.keep_encoded(entry, encoded)
        if after is not self._after:  # a timestamp is replaced, never changed
            self._after, self._encoded_after = after, b" " + grammar.encode_object({"after": after})
        return encoded + self._encoded_after

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
