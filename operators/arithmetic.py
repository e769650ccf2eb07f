"""Operators of the baseline: integers in records."""

from zope.interface import implementer

from dida.chains.records import Meta
from dida.interfaces import IOperator, IStorage


@implementer(IOperator)
class AddOperator:
    """Adds one to the integer at key `input`, after a look at the key that is one further.

    Reads `input` and `input + 1`; its output is the value of `input` plus one, or `int_conversion_failed`
    when that value (or the input) is not an integer. Writes its output at key `input` in both cases.
    """

    def configure_storage(self, storage: IStorage) -> None:
        self.storage = storage

    def process_record(self, meta: Meta, input: str, previous_output: str) -> str:
        record = self.storage.read(input)
        try:
            neighbour = str(int(input) + 1)
            output = str(int(record.value) + 1)
        except ValueError:
            output = "int_conversion_failed"
        else:
            self.storage.read(neighbour)
        self.storage.write(input, output)
        return output


@implementer(IOperator)
class UpdateAndChainOperator:
    """Claims the record at key `input` if nobody has changed it since the operator before wrote it.

    Two updates that both want to replace the previous output: only the first can succeed, so that the
    record says `success` and never `failure`. Returns `end`.
    """

    def configure_storage(self, storage: IStorage) -> None:
        self.storage = storage

    def process_record(self, meta: Meta, input: str, previous_output: str) -> str:
        self.storage.update_if_value_is(input, previous_output, "success")
        self.storage.update_if_value_is(input, previous_output, "failure")
        return "end"


@implementer(IOperator)
class IncrementOperator:
    """Increments the integer at key `input` and returns it; `int_conversion_failed` when it is none.

    Two runs at once may both write the same number; CounterOperator is for when that matters.
    """

    def configure_storage(self, storage: IStorage) -> None:
        self.storage = storage

    async def process_record(self, meta: Meta, input: str, previous_output: str) -> str:
        record = await self.storage.read(input)
        try:
            value = str(int(record.value) + 1)
        except ValueError:
            return "int_conversion_failed"
        await self.storage.write(input, value)
        return value


@implementer(IOperator)
class CounterOperator:
    """Increments the integer at key `input` and returns it; every run gets another one.

    Whoever is beaten to it tries again with the value that is there now: a read after an
    update_if_value_is that failed gives what made it fail.
    """

    ATTEMPTS = 1000

    def configure_storage(self, storage: IStorage) -> None:
        self.storage = storage

    async def process_record(self, meta: Meta, input: str, previous_output: str) -> str:
        for _ in range(self.ATTEMPTS):
            record = await self.storage.read(input)
            try:
                count = str(int(record.value) + 1)
            except ValueError:
                return "int_conversion_failed"
            if await self.storage.update_if_value_is(input, record.value, count) is not None:
                return count
        raise RuntimeError(f"beaten to it {self.ATTEMPTS} times")
