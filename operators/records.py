"""Operators that show what an operator can do with a record, in as few lines as possible."""

from twisted.internet.task import deferLater
from zope.interface import implementer

from dida.chains.records import Meta
from dida.interfaces import IOperator, IStorage, Record


@implementer(IOperator)
class ReaderOperator:
    """Returns the value at key `input`."""

    def configure_storage(self, storage: IStorage) -> None:
        self.storage = storage

    async def process_record(self, meta: Meta, input: str, previous_output: str) -> str:
        record: Record = await self.storage.read(input)
        return record.value


@implementer(IOperator)
class WriterOperator:
    """Writes the previous output (of the first operator: the run's id) at key `input`, and returns it."""

    def configure_storage(self, storage: IStorage) -> None:
        self.storage = storage

    async def process_record(self, meta: Meta, input: str, previous_output: str) -> str:
        value = previous_output or meta.run
        await self.storage.write(input, value)
        return value


@implementer(IOperator)
class WaitOperator:
    """Sleeps 5 s and passes the previous output on; being `async`, it occupies no thread meanwhile."""

    SECONDS = 5.0

    def configure_storage(self, storage: IStorage) -> None:
        pass

    async def process_record(self, meta: Meta, input: str, previous_output: str) -> str:
        from twisted.internet import reactor

        await deferLater(reactor, self.SECONDS)
        return previous_output


@implementer(IOperator)
class LoginOperator:
    """Logs the user `input` in, once: `in` when the record was `out`, else `refused`."""

    def configure_storage(self, storage: IStorage) -> None:
        self.storage = storage

    def process_record(self, meta: Meta, input: str, previous_output: str) -> str:
        version = self.storage.update_if_value_is(input, "out", "in")
        return "refused" if version is None else "in"
