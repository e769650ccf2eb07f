"""One execution of an operator in a separate process: a worker starts `python -m dida.worker.isolated FOLDER`.

The process reads its task as a line of JSON from standard input, and writes the outcome to descriptor 3. A call of the
storage is a line there, and its reply one on standard input: the worker has the connections and the ids of the updates.
Whatever the operator does to this process affects nothing else. What it prints, on descriptors 1 and 2, the worker
keeps with the step. The process ends with its worker.
"""

from __future__ import annotations

import inspect
import io
import logging
import os
import sys
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import Any

import msgspec

from dida.chains.records import StepMeta
from dida.chains.texts import MAX_REASON, NotAnOutput, bounded, output_of, raised
from dida.errors import DidaError
from dida.interfaces import Record
from dida.versions import Version
from dida.wire import grammar
from dida.wire.texts import plain, plain_version
from dida.worker.loading import OperatorFolder, load

TO_WORKER = 3
"""The descriptor for lines to the worker."""


class _Worker:
    """The worker at the other end."""

    def __init__(self) -> None:
        self._output = os.fdopen(TO_WORKER, "wb", buffering=0)
        self._input = os.fdopen(os.dup(0), "rb")
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.set_inheritable(TO_WORKER, False)
        os.register_at_fork(after_in_child=self._let_go)
        self._lines: SimpleQueue[bytes] = SimpleQueue()
        Thread(target=self._read, daemon=True).start()

    def _let_go(self) -> None:
        """A child that the operator forks has no worker: it neither replies for the operator nor keeps its pipe
        open."""
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in (self._output.fileno(), self._input.fileno()):
            os.dup2(nothing, number, inheritable=False)
        os.close(nothing)

    def send(self, **members: Any) -> None:
        try:
            self._output.write(msgspec.json.encode(members) + b"\n")
        except BrokenPipeError:
            os._exit(1)  # the worker is gone

    def receive(self) -> dict[str, Any]:
        message: dict[str, Any] = msgspec.json.decode(self._lines.get())
        return message

    def _read(self) -> None:
        """Read the worker's lines, and notice its end, whatever the operator does."""
        for line in self._input:
            self._lines.put(line)
        os._exit(1)


class Storage:
    """`IStorage` by calls to the worker."""

    def __init__(self, worker: _Worker, deadline: float) -> None:
        self.deadline = deadline
        self._worker = worker

    def read(self, key: str, version: Version | None = None) -> Record:
        """Return the record, the newest or that version."""
        (key,), version = plain(key), plain_version(version)
        value, found = self._call("read", key, None if version is None else str(version))
        return Record(key, value, Version.parse(found))

    def write(self, key: str, value: str) -> Version:
        """Write a new version."""
        (written,) = self._call("write", *plain(key, value))
        return Version.parse(written)

    def update_if_value_is(self, key: str, old: str, new: str) -> Version | None:
        """Compare and swap; return None if the value is not `old`."""
        (written,) = self._call("update_if_value_is", *plain(key, old, new))
        return None if written is None else Version.parse(written)

    def _call(self, name: str, *arguments: Any) -> list[Any]:
        self._worker.send(call=name, arguments=arguments)
        answer = self._worker.receive()
        if "error" in answer:
            raise DidaError(answer["error"], *answer["words"])
        result: list[Any] = answer["answer"]
        return result


def execute(folder: str, worker: _Worker) -> None:
    """Execute the worker's task and send the outcome."""
    task = worker.receive()
    meta = grammar.structure(task["meta"], StepMeta)
    try:
        name, module = task["operator"], tuple(task.get("module", ()))
        kind = load(os.path.abspath(folder), module, name)[0] if module else OperatorFolder(folder).find(name)
    except DidaError as problem:
        worker.send(failed=bounded(f"could not be loaded: {problem}", MAX_REASON))
        return
    if inspect.iscoroutinefunction(kind.process_record):
        worker.send(failed='has isolation = "process", which is for a plain process_record: write def, not async def')
        return
    try:
        operator = kind()
        operator.configure_storage(Storage(worker, task["deadline"]))
        output = operator.process_record(meta, task["input"], task["previous_output"])
    except BaseException as problem:  # noqa: BLE001 - SystemExit, too, is an outcome
        _flush()
        worker.send(raised=grammar.unstructure(raised(problem)))
        return
    _flush()
    try:
        worker.send(output=output_of(output))
    except NotAnOutput as problem:
        worker.send(failed=str(problem))


def log_all() -> None:
    """Let `logging` print from INFO on to standard error, until the operator configures it."""
    if logging.root.level == logging.WARNING:
        logging.root.setLevel(logging.INFO)
    if logging.lastResort is not None:
        logging.lastResort.setLevel(logging.INFO)


def _print_in_order() -> None:
    """Flush both streams line by line, so that their order is kept."""
    os.dup2(1, 2)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # the operator has replaced it
            stream.flush()


if __name__ == "__main__":
    os.setpgid(0, 0)  # killed with all that it has started
    _print_in_order()
    log_all()
    execute(sys.argv[1], _Worker())
