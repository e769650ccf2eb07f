"""Operators that may crash or never return: each runs in a separate process."""

import os
import threading


class SquareOperator:
    """The square of a number; the input `crash` stands for a library that crashes."""

    isolation = "process"

    def configure_storage(self, storage):
        pass

    def process_record(self, meta, input, previous_output):
        if input == "crash":
            os.abort()
        return str(int(input) ** 2)


class EndlessOperator:
    """A call that never returns."""

    isolation = "process"
    timeout = 0.5  # seconds, start of the process included; then the process is killed

    def configure_storage(self, storage):
        pass

    def process_record(self, meta, input, previous_output):
        threading.Event().wait()
