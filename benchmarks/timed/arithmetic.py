"""The stock operators of the baseline, each of whose storage calls is timed: a line in the file DIDA_TIMES names."""

import json
import os
import time
from typing import Any

from dida.chains.records import Meta
from dida.interfaces import IStorage
from operators import arithmetic


class _Timed:
    """A storage whose calls are written down: name, and seconds."""

    def __init__(self, storage: IStorage) -> None:
        self._storage = storage
        self.calls: list[tuple[str, float]] = []

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._storage, name)

        def timed(*words: Any) -> Any:
            begun = time.perf_counter()
            try:
                return call(*words)
            finally:
                self.calls.append((name, time.perf_counter() - begun))

        return timed


def _execute(operator: Any, storage: _Timed, meta: Meta, input: str, previous_output: str) -> str:
    operator.configure_storage(storage)
    begun = time.perf_counter()
    output: str = operator.process_record(meta, input, previous_output)
    said = {
        "run": meta.run,
        "operator": type(operator).__name__,
        "seconds": time.perf_counter() - begun,
        "calls": storage.calls,
    }
    with open(os.environ["DIDA_TIMES"], "a") as times:
        times.write(json.dumps(said) + "\n")  # one write of less than a page: lines of several workers stay whole
    return output


class AddOperator:
    """As the stock operator of that name."""

    def configure_storage(self, storage: IStorage) -> None:
        self.storage = _Timed(storage)

    def process_record(self, meta: Meta, input: str, previous_output: str) -> str:
        return _execute(arithmetic.AddOperator(), self.storage, meta, input, previous_output)


class UpdateAndChainOperator:
    """As the stock operator of that name."""

    def configure_storage(self, storage: IStorage) -> None:
        self.storage = _Timed(storage)

    def process_record(self, meta: Meta, input: str, previous_output: str) -> str:
        return _execute(arithmetic.UpdateAndChainOperator(), self.storage, meta, input, previous_output)
