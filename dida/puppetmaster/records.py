"""Single records at the console: `read`, `write` and `updateif`, as any client of the storage does them."""

from __future__ import annotations

from collections.abc import Callable

from dida.client.storage_client import StorageClient
from dida.console import script
from dida.console.tables import printable
from dida.errors import NO_SUCH_RECORD, DidaError
from dida.puppetmaster.system import Cluster

ACCESS_TIME = 10.0
"""Seconds that such a command may take."""

Access = script.ReadCommand | script.WriteCommand | script.UpdateIfCommand


class Records:
    """Does what these commands ask for; the answers go to `say`, one line each."""

    def __init__(self, system: Cluster, say: Callable[[str], None], storage: Callable[[], StorageClient]) -> None:
        self.system = system
        self._say = say
        self._storage = storage

    async def access(self, command: Access) -> None:
        """One command; DidaError when it can't be done."""
        storage = self._storage()
        seen = storage.seen
        seconds = min(ACCESS_TIME, self.system.deadline)
        match command:
            case script.ReadCommand(key, version):
                record = await storage.read_as(seen, key, version, seconds)
                told = f"read     {key} {record.version} -> {record.value}"
            case script.WriteCommand(key, value):
                told = f"written  {key} {await storage.write_as(seen, key, value, seconds)} -> {value}"
            case script.UpdateIfCommand(key, old, new):
                updated = await storage.update_if_as(seen, key, old, new, seconds)
                told = f"updated  {key} {updated} -> {new}"
                if updated is None:
                    told = f"refused  {await self._found(storage, key, seconds)}: nothing was changed"
        self._say(printable(told))

    async def _found(self, storage: StorageClient, key: str, seconds: float) -> str:
        """What made an updateIf fail: a read behind it gives that."""
        try:
            record = await storage.read_as(storage.seen, key, None, seconds)
        except DidaError as problem:
            if problem.code != NO_SUCH_RECORD:
                raise
            return f"there is no record {key}"
        return f"{key} {record.version} is {record.value}"
