"""Many runs of one application, one for each input, a bounded number of them at a time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, DeferredList

from dida.chains.records import short_id
from dida.client.scheduler_client import RunResult
from dida.console.style import cut
from dida.console.tables import counted, progress_bar
from dida.errors import DidaError, UserError
from dida.puppetmaster.nodes import Event
from dida.puppetmaster.system import Cluster, plain

AT_ONCE = 100
"""Runs that go on at the same time."""
MAX_SHOWN = 40
"""Characters of an input that a failure shows."""
MAX_FAILURES = 20
"""Failures that are told; the others are counted."""
PROGRESS_INTERVAL = 0.1
"""Seconds between two pictures of the progress."""


class Batch:
    """Runs, one for each of `inputs`, which come with their line numbers in `file`; `start` starts one."""

    def __init__(
        self,
        system: Cluster,
        start: Callable[[str], Awaitable[str]],
        inputs: Sequence[tuple[int, str]],
        file: str,
        until_ended: Callable[[str], Awaitable[RunResult]],
    ) -> None:
        self.size = len(inputs)
        self.done = self.failed = 0
        self.begun = Event()
        """The first run has an id, or could not be started."""
        self.on_failed: Callable[[str], None] = lambda problem: None
        self.on_progress: Callable[[], None] = lambda: None
        self._began = self._shown = 0.0
        self._system = system
        self._start = start
        self._inputs = iter(inputs)
        self._file = file
        self._until_ended = until_ended

    async def run(self) -> None:
        """Returns when all runs have ended."""
        self._began = self._system.reactor.seconds()
        self.on_progress()
        work = [Deferred.fromCoroutine(self._run_some()) for _ in range(min(AT_ONCE, self.size))]
        try:
            for success, result in await DeferredList(work, consumeErrors=True):
                if not success:
                    problem: Any = result
                    raise problem.value
        finally:
            self.begun.happen()
        if self.failed > MAX_FAILURES:
            self.on_failed(f"{self.failed - MAX_FAILURES} more failed")

    def bar(self, width: int) -> str:
        """How far it is."""
        return progress_bar("map", self.done, self.failed, self.size, width)

    def summary(self) -> str:
        """What came of it, in one line."""
        took = self._system.reactor.seconds() - self._began
        failed = f"{self.failed} failed" if self.failed else "none failed"
        rate = f"{took:.1f} s, {self.size / max(took, 0.001):.0f}/s"
        return f"{counted(self.size, 'run')}, {self.done} done, {failed}, {rate}"

    async def _run_some(self) -> None:
        for number, text in self._inputs:
            try:
                run = await self._start(text)
                self.begun.happen()
                result = await self._until_ended(run)
                if not result.done:
                    raise UserError(f"run {short_id(run)} failed: {result.text}")
            except DidaError as problem:
                self.failed += 1
                if self.failed <= MAX_FAILURES:
                    self.on_failed(f"{self._file} line {number} ({cut(text, MAX_SHOWN)}): {plain(problem)}")
            else:
                self.done += 1
            self.begun.happen()
            now = self._system.reactor.seconds()
            if now >= self._shown + PROGRESS_INTERVAL:
                self._shown = now
                self.on_progress()
