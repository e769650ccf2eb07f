"""Chains in the process of a test, for operators: with a storage in memory, and workers that die at any moment.

    from dida.testing import every_crash, run_chain

    run = run_chain(["AddOperator"], "13", {"13": "1", "14": "2"})
    assert run.output == "2"
    assert run.storage.values["13"] == "2"

A chain is executed as by workers: a new object for each step, the versions that the run has seen, `retries`. But
`timeout` and `backoff` are ignored, and an operator with `isolation = "process"` runs in this process.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from attrs import evolve, frozen
from zope.interface import implementer

from dida.chains.messages import Execute
from dida.chains.records import Assignment, Meta, Step, steps
from dida.chains.redo import of_applied, rewound
from dida.chains.texts import NotAnOutput, output_of
from dida.client.sessions import StepRequestIds
from dida.interfaces import IStorage, Record
from dida.testing.memory import MemoryStorage, StepView
from dida.versions import Version
from dida.worker.loading import OperatorFolder

__all__ = ["Crash", "Execution", "MemoryStorage", "every_crash", "execute_chain", "run_chain"]

Operators = Sequence[type[Any] | str] | type[Any] | str
"""Operator classes, or names of classes in the operators folder."""
Records = MemoryStorage | Mapping[str, str] | None
"""A storage, or the records of a new one."""

_T = TypeVar("_T")


@frozen
class Crash:
    """The worker of the step at `position` dies once: right after its update number `update` (from 1), or at its end.

    What the step has done by then stays, but its outcome is lost; another worker executes it again.
    """

    position: int
    update: int | None = None


@frozen
class Execution:
    """The outcome of a run."""

    output: str
    steps: tuple[Step, ...]
    """The steps as in the reply to `result RUN`: worker, attempt, output, records read and written, …"""
    meta: Meta
    storage: MemoryStorage
    crash: Crash | None = None


def run_chain(
    operators: Operators,
    input: str = "",
    storage: Records = None,
    crash: Crash | None = None,
    folder: str = "operators",
) -> Execution:
    """Execute a chain to its end. Raises the exception of an operator whose retries have all failed."""
    return _driven(execute_chain(operators, input, storage, crash, folder))


async def execute_chain(
    operators: Operators,
    input: str = "",
    storage: Records = None,
    crash: Crash | None = None,
    folder: str = "operators",
) -> Execution:
    """Do the same on a running reactor, for `async` operators that await more than the storage."""
    kinds = [_kind(each, folder) for each in ([operators] if isinstance(operators, type | str) else operators)]
    kept = storage if isinstance(storage, MemoryStorage) else MemoryStorage(storage)
    chain = tuple(Assignment(kind.__name__, at, f"w{at % 2 + 1}", "memory", 1) for at, kind in enumerate(kinds))
    meta = kept.new_run()
    request = Execute(meta=meta, input=input, next=0, size=len(chain), chain=chain, left=120.0)
    for position, kind in enumerate(kinds):
        request = await _execute(evolve(request, next=position), kind, kept, crash)
    return Execution(request.assignment.output, tuple(steps(request.chain)), request.meta, kept, crash)


def every_crash(
    operators: Operators, input: str = "", records: Mapping[str, str] | None = None, folder: str = "operators"
) -> Iterator[Execution]:
    """Execute the chain once for each moment at which a worker can die: after each update of each step, and at its
    end."""
    calm = run_chain(operators, input, records, folder=folder)
    for position, step in enumerate(calm.steps):
        updates = sum(touch.how != "read" for touch in step.records)
        for update in (*range(1, updates + 1), None):
            yield run_chain(operators, input, records, Crash(position, update), folder)


class _Died(BaseException):
    """The worker dies. The operator cannot catch this exception as an Exception."""


@implementer(IStorage)
class _Mortal:
    """The storage of a step whose worker may die right after an update."""

    def __init__(self, storage: StepView, update: int | None) -> None:
        self.deadline = storage.deadline
        self._storage = storage
        self._left = update

    def read(self, key: str, version: Version | None = None) -> Record:
        return self._storage.read(key, version)

    def write(self, key: str, value: str) -> Version:
        return self._updated(self._storage.write(key, value))

    def update_if_value_is(self, key: str, old: str, new: str) -> Version | None:
        return self._updated(self._storage.update_if_value_is(key, old, new))

    def _updated(self, result: _T) -> _T:
        if self._left is not None:
            self._left -= 1
            if not self._left:
                raise _Died
        return result


@implementer(IStorage)
class _Awaited:
    """The same for an `async` operator, which awaits every call."""

    def __init__(self, storage: _Mortal) -> None:
        self.deadline = storage.deadline
        self._storage = storage

    async def read(self, key: str, version: Version | None = None) -> Record:
        return self._storage.read(key, version)

    async def write(self, key: str, value: str) -> Version:
        return self._storage.write(key, value)

    async def update_if_value_is(self, key: str, old: str, new: str) -> Version | None:
        return self._storage.update_if_value_is(key, old, new)


async def _execute(request: Execute, kind: type[Any], storage: MemoryStorage, crash: Crash | None) -> Execute:
    """Execute the next step and return the request after it."""
    dies = crash if crash is not None and crash.position == request.next else None
    ids = StepRequestIds(request.meta.run, request.next)
    tries = 0
    while True:
        view = StepView(storage, request.meta, ids, request.assignment.records)
        try:
            output = await _output(request, kind, _Mortal(view, dies.update if dies else None))
            if dies is not None:
                raise _Died
        except _Died:
            dies = None
            ids = StepRequestIds(request.meta.run, request.next, again=True)
            worker = "w2" if request.assignment.worker == "w1" else "w1"
            kept: Iterable[Any] = ()
        except Exception:  # whatever an operator raises is its failure, as at a worker
            if tries >= getattr(kind, "retries", 0):
                raise
            tries += 1
            ids.restart()
            worker = request.assignment.worker
            kept = of_applied(view.records)
        else:
            return request.with_step(output=output, records=view.records, after=dict(request.meta.after))
        attempt = request.assignment.attempt + 1
        request = rewound(request, request.next).with_step(worker=worker, records=tuple(kept), attempt=attempt)


async def _output(request: Execute, kind: type[Any], storage: _Mortal) -> str:
    operator = kind()
    asynchronous = inspect.iscoroutinefunction(kind.process_record)
    operator.configure_storage(_Awaited(storage) if asynchronous else storage)
    output = operator.process_record(request.meta.of_step(request.next), request.input, request.previous_output)
    if asynchronous and getattr(kind, "loop", "") == "asyncio":
        with ThreadPoolExecutor(1) as thread:  # a separate loop, whatever runs here
            output = thread.submit(asyncio.run, output).result()
    elif asynchronous:
        output = await output
    try:
        return output_of(output)
    except NotAnOutput as problem:
        raise NotAnOutput(f"{kind.__name__} {problem}") from None


def _kind(operator: type[Any] | str, folder: str) -> type[Any]:
    if isinstance(operator, str):
        kind: type[Any] = OperatorFolder(folder).find(operator)
        return kind
    return operator


def _driven(work: Coroutine[Any, Any, _T]) -> _T:
    """Return the result of a coroutine that awaits nothing but the storage in memory."""
    try:
        work.send(None)
    except StopIteration as end:
        result: _T = end.value
        return result
    work.close()
    raise RuntimeError("an operator awaits more than its storage: await execute_chain(…) in a test with a reactor")
