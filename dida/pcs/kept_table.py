"""The file with the table of a PCS's running nodes, from which the next PCS takes them over."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress

import msgspec
from attrs import field, frozen
from twisted.logger import Logger

from dida.pcs.messages import NodeEntry
from dida.wire.messages import DRAIN

_log = Logger()


@frozen
class KeptEntry:
    """A row of the file: a running node, and what identifies its process."""

    entry: NodeEntry
    start_time: str
    """See `dida.pcs.processes.start_time`."""
    words: list[str] = field(factory=list)
    """Its command line, without the parts that differ from process to process."""
    drain: float = DRAIN


class KeptTable:
    """The file at `path`."""

    def __init__(self, path: str) -> None:
        self.path = path

    def write(self, entries: Sequence[KeptEntry]) -> None:
        """Replace the content. OSError when that fails; the old content then stays."""
        new = self.path + ".new"
        with open(new, "wb") as file:
            file.write(msgspec.json.encode(entries))
        os.replace(new, self.path)

    def remove(self) -> None:
        """Remove the file, as no node runs."""
        with suppress(FileNotFoundError):
            os.remove(self.path)

    def read(self) -> list[KeptEntry]:
        """Return the content; nothing, and a line in the log, when it cannot be read."""
        try:
            with open(self.path, "rb") as file:
                return msgspec.json.decode(file.read(), type=list[KeptEntry])
        except FileNotFoundError:
            return []
        except (OSError, msgspec.MsgspecError) as problem:
            _log.error("cannot take over nodes: cannot read {file}: {problem}", file=self.path, problem=str(problem))
            return []
