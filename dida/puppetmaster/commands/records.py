"""Commands on records: `populate`, `read`, `write`, `updateif`, as any client of the storage executes them."""

from __future__ import annotations

import os
from collections.abc import Sequence

from dida.client.storage_client import StorageClient
from dida.console.commands import PopulateCommand, ReadCommand, UpdateIfCommand, WriteCommand
from dida.console.data_files import Row, parse_data
from dida.console.tables import counted, printable
from dida.errors import NO_SUCH_RECORD, DidaError
from dida.puppetmaster.commands.base import Action
from dida.puppetmaster.context import Context
from dida.puppetmaster.files import read_file
from dida.puppetmaster.populate import populate
from dida.puppetmaster.script_state import ScriptState

ACCESS_TIME = 10.0
"""Time-out for one access to a record, in seconds."""


def _seconds(context: Context) -> float:
    return min(ACCESS_TIME, context.cluster.deadline)


class Populate(Action[PopulateCommand]):
    """`populate`: write the records of a file."""

    path: str
    rows: Sequence[Row]

    def _read(self, folders: Sequence[str]) -> None:
        self.path, data = read_file(self.command.file, folders)
        self.rows = parse_data(data, self.path)

    def check(self, state: ScriptState) -> None:
        self._read(state.folders)
        state.need("storage")

    def prepare(self, context: Context) -> None:
        self._read(context.folders)

    async def run(self, context: Context) -> None:
        began = context.cluster.reactor.seconds()
        client = context.storage.client()
        await context.storage.drop_lost()
        await populate(client, self.path, self.rows)
        ms = (context.cluster.reactor.seconds() - began) * 1000
        context.say(f"populate {os.path.basename(self.path)}: {counted(len(self.rows), 'record')} written, {ms:.0f} ms")


class Read(Action[ReadCommand]):
    """`read`: show a record, the newest version or a given one."""

    def check(self, state: ScriptState) -> None:
        state.need("storage")

    async def run(self, context: Context) -> None:
        key, client = self.command.key, context.storage.client()
        record = await client.read_as(client.seen, key, self.command.version, _seconds(context))
        context.say(printable(f"read     {key} {record.version} -> {record.value}"))


class Write(Action[WriteCommand]):
    """`write`: write a new version of a record."""

    def check(self, state: ScriptState) -> None:
        state.need("storage")

    async def run(self, context: Context) -> None:
        key, value, client = self.command.key, self.command.value, context.storage.client()
        version = await client.write_as(client.seen, key, value, _seconds(context))
        context.say(printable(f"written  {key} {version} -> {value}"))


class UpdateIf(Action[UpdateIfCommand]):
    """`updateif`: write a record if it has the old value; otherwise show its value, which does not count as failure."""

    def check(self, state: ScriptState) -> None:
        state.need("storage")

    async def run(self, context: Context) -> None:
        command, client = self.command, context.storage.client()
        seconds = _seconds(context)
        version = await client.update_if_as(client.seen, command.key, command.old, command.new, seconds)
        if version is None:
            found = await self._found(client, seconds)
            context.say(printable(f"refused  {found}: nothing was changed"))
        else:
            context.say(printable(f"updated  {command.key} {version} -> {command.new}"))

    async def _found(self, client: StorageClient, seconds: float) -> str:
        """Read the value that made the update fail."""
        key = self.command.key
        try:
            record = await client.read_as(client.seen, key, None, seconds)
        except DidaError as problem:
            if problem.code != NO_SUCH_RECORD:
                raise
            return f"there is no record {key}"
        return f"{key} {record.version} is {record.value}"
