"""Operators of a counter that hands out numbered tickets and prints them."""


class NextTicketOperator:
    """The first step: take the next number of the counter, whose key is the run's input."""

    def configure_storage(self, storage):
        self.storage = storage

    async def process_record(self, meta, input, previous_output):
        while True:
            last = (await self.storage.read(input)).value
            number = str(int(last) + 1)
            if await self.storage.update_if_value_is(input, last, number) is not None:
                return number


class PrintTicketOperator:
    """The second step: print the ticket.

    It fails while the printer is jammed. DIDA then retries this step alone; the number is that of the step before.
    """

    retries = 8
    backoff = 0.05  # seconds before the first retry; the time doubles with each further one

    def configure_storage(self, storage):
        self.storage = storage

    async def process_record(self, meta, input, previous_output):
        printer = await self.storage.read("printer")
        if printer.value != "ready":
            raise RuntimeError(f"the printer is {printer.value}")
        return f"ticket {previous_output}"
