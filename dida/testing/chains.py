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
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Any, TypeVar

from attrs import evolve, frozen
from zope.interface import implementer

from dida.chains.journal import History, Kept, resume
from dida.chains.messages import Execute
from dida.chains.records import Assignment, Meta, Step, steps
from dida.chains.texts import NotAnOutput, output_of
from dida.errors import NOT_DETERMINISTIC, DidaError
from dida.interfaces import IStorage, Record
from dida.testing.memory import MemoryClient, MemoryStorage, StepView
from dida.versions import Version
from dida.wire.messages import Epoch
from dida.worker.loading import OperatorFolder

__all__ = ["Crash", "Execution", "MemoryStorage", "NotDeterministic", "every_crash", "execute_chain", "run_chain"]

Operators = Sequence[type[Any] | str] | type[Any] | str
"""Operator classes, or names of classes in the operators folder."""
Records = MemoryStorage | Mapping[str, str] | None
"""A storage, or the records of a new one."""
Meanwhile = Callable[[MemoryStorage], object] | None
"""What other clients do between the crash and the next execution."""

_T = TypeVar("_T")

STOPS_WITHIN = 10.0
"""Time after which a worker that was paused must have stopped, in seconds."""


@frozen
class Crash:
    """The worker of the step at `position` dies once: right after its storage call number `call` (from 1), or at its
    end.

    What the step has done by then stays, but its outcome is lost; another worker executes it again.
    """

    position: int
    call: int | None = None


@frozen
class Execution:
    """The outcome of a run."""

    output: str
    steps: tuple[Step, ...]
    """The steps as in the reply to `result RUN`: worker, attempt, output, records read and written, …"""
    meta: Meta
    storage: MemoryStorage
    crash: Crash | None = None
    calls: tuple[int, ...] = ()
    """The number of storage calls of each step, in its last attempt."""


def run_chain(
    operators: Operators,
    input: str = "",
    storage: Records = None,
    crash: Crash | None = None,
    folder: str = "operators",
    meanwhile: Meanwhile = None,
    zombie: bool = False,
) -> Execution:
    """Execute a chain to its end. Raises the exception of an operator whose retries have all failed.

    `meanwhile(storage)` is called after the crash, before the step is executed again: what it changes is the work of
    other clients. With `zombie` the worker was only paused: it goes on when the step is executed again, and what it
    does then counts for nothing.
    """
    return _driven(execute_chain(operators, input, storage, crash, folder, meanwhile, zombie))


async def execute_chain(
    operators: Operators,
    input: str = "",
    storage: Records = None,
    crash: Crash | None = None,
    folder: str = "operators",
    meanwhile: Meanwhile = None,
    zombie: bool = False,
) -> Execution:
    """Do the same on a running reactor, for `async` operators that await more than the storage."""
    kinds = [_kind(each, folder) for each in ([operators] if isinstance(operators, type | str) else operators)]
    kept = storage if isinstance(storage, MemoryStorage) else MemoryStorage(storage)
    chain = tuple(Assignment(kind.__name__, at, f"w{at % 2 + 1}", "memory", 1) for at, kind in enumerate(kinds))
    meta = kept.new_run()
    request = Execute(meta=meta, input=input, next=0, size=len(chain), chain=chain, left=120.0)
    done, calls = await _Chain(kinds, kept, crash, meanwhile, zombie).execute(request)
    return Execution(done.assignment.output, tuple(steps(done.chain)), done.meta, kept, crash, calls)


def every_crash(
    operators: Operators,
    input: str = "",
    records: Mapping[str, str] | None = None,
    folder: str = "operators",
    meanwhile: Meanwhile = None,
    zombie: bool = False,
) -> Iterator[Execution]:
    """Execute the chain once for each moment at which a worker can die: after each storage call of each step, and at
    its end. `meanwhile` and `zombie` are those of `run_chain`."""
    calm = run_chain(operators, input, records, folder=folder)
    for position, calls in enumerate(calm.calls):
        for call in (*range(1, calls + 1), None):
            yield run_chain(operators, input, records, Crash(position, call), folder, meanwhile, zombie)


class NotDeterministic(Exception):
    """An operator, executed again, makes other calls when it sees the same."""


class _Died(BaseException):
    """The worker dies. The operator cannot catch this exception as an Exception."""


@implementer(IStorage)
class _Mortal:
    """The storage of a step whose worker may die right after a call: `die` is called then, and raises or returns."""

    def __init__(self, storage: StepView, call: int | None, die: Callable[[], None]) -> None:
        self.deadline = storage.deadline
        self._storage = storage
        self._left = call
        self._die = die

    def read(self, key: str, version: Version | None = None) -> Record:
        return self._called(self._storage.read, key, version)

    def write(self, key: str, value: str) -> Version:
        return self._called(self._storage.write, key, value)

    def update_if_value_is(self, key: str, old: str, new: str) -> Version | None:
        return self._called(self._storage.update_if_value_is, key, old, new)

    def _called(self, call: Callable[..., _T], *arguments: Any) -> _T:
        try:
            return call(*arguments)
        finally:
            if self._left is not None:
                self._left -= 1
                if not self._left:
                    self._die()


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


class _Chain:
    """One run: its steps are executed as by workers, one of which may die."""

    def __init__(
        self,
        kinds: Sequence[type[Any]],
        storage: MemoryStorage,
        crash: Crash | None,
        meanwhile: Meanwhile,
        zombie: bool,
    ) -> None:
        self._kinds = kinds
        self._storage = storage
        self._client = MemoryClient(storage)
        self._crash = crash
        self._meanwhile = meanwhile
        self._zombie = zombie
        self._calls: dict[int, int] = {}

    async def execute(self, request: Execute) -> tuple[Execute, tuple[int, ...]]:
        """Return the request after its last step, and the number of storage calls of each."""
        while True:
            request = await self._step(request)
            if request.next + 1 == request.size:
                return request, tuple(self._calls[position] for position in range(request.size))
            request = evolve(request, next=request.next + 1)

    async def _step(self, request: Execute) -> Execute:
        """Execute the next step; return the request with its outcome."""
        tries = 0
        history = History(request)
        while True:
            kind = self._kinds[request.next]
            before = evolve(request, meta=_copied(request.meta))
            view = StepView(self._storage, request.meta, history, request.known)
            dies = self._crash if self._crash is not None and self._crash.position == request.next else None
            go_on: Callable[[], None] | None = None
            try:
                if dies is not None and dies.call is not None and self._zombie:
                    output, go_on = self._paused(request, kind, view, dies.call)
                    if go_on is not None:
                        raise _Died
                else:
                    output = await _output(request, kind, _Mortal(view, dies.call if dies else None, _die))
                if view.run.differs:
                    raise NotDeterministic(_text(request, view.run.differs))
                mark = history.end(output)
                if dies is not None:
                    raise _Died
            except _Died:
                self._crash = None
                if self._meanwhile is not None:
                    self._meanwhile(self._storage)
                worker = "w2" if request.assignment.worker == "w1" else "w1"
                request, known = await self._again(before, worker)
                if go_on is not None:
                    go_on()
                history = History(request, known)
            except DidaError as problem:
                if problem.code != NOT_DETERMINISTIC:
                    raise
                raise NotDeterministic(_text(request, view.run.differs or problem.words[0])) from None
            except Exception:  # whatever an operator raises is its failure, as at a worker
                if view.run.differs:
                    raise NotDeterministic(_text(request, view.run.differs)) from None
                if tries >= getattr(kind, "retries", 0):
                    raise
                tries += 1
                meta = evolve(before.meta, after=request.meta.after)
                request = evolve(before, meta=meta).with_step(attempt=request.assignment.attempt + 1)
                history.begin()
            else:
                self._calls[request.next] = history.calls
                after = dict(request.meta.after)
                done = request.with_step(output=output, records=view.run.records, after=after, mark=mark)
                done = evolve(done, number=history.number, bytes=history.bytes, kept=history.travelling())
                return evolve(done, known=view.run.known)

    async def _again(self, request: Execute, worker: str) -> tuple[Execute, Mapping[int, Kept]]:
        """Return the request of a new execution, and what is known of the older ones, which are fenced."""
        epoch = Epoch(request.epoch.number + 1, "test")
        request = evolve(request, epoch=epoch).with_step(worker=worker, attempt=request.assignment.attempt + 1)
        return resume(request, await self._client.fence(request.meta.run, epoch, self._storage.deadline))

    def _paused(
        self, request: Execute, kind: type[Any], view: StepView, call: int
    ) -> tuple[str, Callable[[], None] | None]:
        """Execute the step in a thread, up to that call. Return its output, or how to let it go on to its end."""
        news: SimpleQueue[Any] = SimpleQueue()
        resumed = Event()

        def pause() -> None:
            news.put(None)
            resumed.wait()

        def work() -> None:
            try:
                news.put((_driven(_output(request, kind, _Mortal(view, call, pause))), None))
            except BaseException as problem:  # noqa: BLE001 - it is raised below, or of a zombie
                news.put(("", problem))

        def go_on() -> None:
            resumed.set()
            try:
                news.get(timeout=STOPS_WITHIN)
            except Empty:
                raise RuntimeError(
                    f"the paused worker goes on for more than {STOPS_WITHIN} s: let the operator end with the error"
                    " that its storage raises"
                ) from None

        Thread(target=work, daemon=True).start()
        first = news.get()
        if first is None:
            return "", go_on
        output, problem = first
        if problem is not None:
            raise problem
        return output, None


def _die() -> None:
    raise _Died


def _copied(meta: Meta) -> Meta:
    return evolve(meta, versions=dict(meta.versions), after=dict(meta.after))


def _text(request: Execute, what: str) -> str:
    step = request.assignment
    return f"{step.operator} at position {step.position} on {step.worker}, {what}"


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
