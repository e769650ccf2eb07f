"""Operators that take unequally long, in a thread each: what tells two policies of scheduling apart."""

import time

from zope.interface import implementer

from dida.chains.records import Meta
from dida.interfaces import IOperator, IStorage


@implementer(IOperator)
class ShortOperator:
    """Takes 5 ms."""

    SECONDS = 0.005

    def configure_storage(self, storage: IStorage) -> None:
        pass

    def process_record(self, meta: Meta, input: str, previous_output: str) -> str:
        time.sleep(self.SECONDS)
        return previous_output


@implementer(IOperator)
class LongOperator:
    """Takes 50 ms."""

    SECONDS = 0.05

    def configure_storage(self, storage: IStorage) -> None:
        pass

    def process_record(self, meta: Meta, input: str, previous_output: str) -> str:
        time.sleep(self.SECONDS)
        return previous_output
