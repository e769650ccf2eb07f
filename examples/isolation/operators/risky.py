"""An operator that may crash its process, or never return: it runs in a separate process."""

import os
import threading


class RiskyOperator:
    """A square; the input `crash` stands for a library that crashes, `hang` for one that never returns."""

    isolation = "process"
    timeout = 5.0  # seconds, start of the process included; then the process is killed

    def configure_storage(self, storage):
        pass

    def process_record(self, meta, input, previous_output):
        if input == "crash":
            os.abort()
        if input == "hang":
            threading.Event().wait()
        return str(int(input) ** 2)
