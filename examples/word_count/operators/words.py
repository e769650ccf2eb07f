"""Operators that count the words of a text, one run for each line."""

import json
import re
from collections import Counter

TOTALS = "totals"
"""Key of the record that has the number of each word, as JSON."""


class CountWordsOperator:
    """The first step: count the words of a line, which is the run's input."""

    def configure_storage(self, storage):
        pass

    def process_record(self, meta, input, previous_output):
        return json.dumps(Counter(re.findall(r"[a-z']+", input.lower())))


class AddCountsOperator:
    """The second step: add the counts of the line to the totals, which other runs change at the same time."""

    def configure_storage(self, storage):
        self.storage = storage

    async def process_record(self, meta, input, previous_output):
        counts = Counter(json.loads(previous_output))
        while True:
            before = (await self.storage.read(TOTALS)).value
            totals = json.dumps(Counter(json.loads(before)) + counts, sort_keys=True, separators=(",", ":"))
            if await self.storage.update_if_value_is(TOTALS, before, totals) is not None:
                return f"{counts.total()} words"
