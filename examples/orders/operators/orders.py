"""Operators of a shop that has one of each item. The input of a run is an order: `BUYER ITEM`."""


class ReserveOperator:
    """The first step: reserve the item if it is free.

    The storage compares and writes at once, so that one of two buyers gets the item. It remembers its reply to each
    update of a step: when another worker repeats the step, the update gets the same reply and changes nothing.
    """

    def configure_storage(self, storage):
        self.storage = storage

    async def process_record(self, meta, input, previous_output):
        buyer, item = input.split()
        version = await self.storage.update_if_value_is(item, "free", f"sold to {buyer}")
        return "sold out" if version is None else "reserved"


class ChargeOperator:
    """The second step: write an invoice if the item is reserved."""

    def configure_storage(self, storage):
        self.storage = storage

    async def process_record(self, meta, input, previous_output):
        if previous_output == "reserved":
            await self.storage.write(f"invoice of {input}", "20 crowns")
        return previous_output


class ConfirmOperator:
    """The last step: count the sale, and return the outcome of the order."""

    def configure_storage(self, storage):
        self.storage = storage

    async def process_record(self, meta, input, previous_output):
        while previous_output == "reserved":
            sales = (await self.storage.read("sales")).value
            if await self.storage.update_if_value_is("sales", sales, str(int(sales) + 1)) is not None:
                return "confirmed"
        return previous_output
