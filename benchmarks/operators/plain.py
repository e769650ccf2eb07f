"""The operators of the chains that are measured: they do next to nothing, so that the rest is what it costs."""

from zope.interface import implementer

from dida.chains.records import Meta
from dida.interfaces import IOperator, IStorage


@implementer(IOperator)
class AsyncOperator:
    """Passes on what it was given, on the reactor."""

    def configure_storage(self, storage: IStorage) -> None:
        pass

    async def process_record(self, meta: Meta, input: str, previous_output: str) -> str:
        return previous_output + "."


@implementer(IOperator)
class PlainOperator:
    """Passes on what it was given, in a thread."""

    def configure_storage(self, storage: IStorage) -> None:
        pass

    def process_record(self, meta: Meta, input: str, previous_output: str) -> str:
        return previous_output + "."


@implementer(IOperator)
class ReadWriteOperator:
    """Reads the record at key `input`, and writes it with one byte more (of at most a hundred)."""

    def configure_storage(self, storage: IStorage) -> None:
        self.storage = storage

    async def process_record(self, meta: Meta, input: str, previous_output: str) -> str:
        record = await self.storage.read(input)
        await self.storage.write(input, record.value[-99:] + ".")
        return previous_output + "."
