"""Many runs of one application, one for each input, a bounded number of them at a time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, DeferredList

from dida.chains.records import short_id
from dida.console.style import cut
from dida.console.tables import counted, progress_bar
from dida.errors import DidaError, UserError
from dida.puppetmaster.client_runs import ClientRuns
from dida.puppetmaster.cluster import Cluster
from dida.puppetmaster.line_work import Output
from dida.puppetmaster.nodes import Event
from dida.puppetmaster.refusals import plain

AT_ONCE = 100
"""Runs that go on at a time."""
MAX_SHOWN = 40
"""Longest part of an input that a failure shows, in characters."""
MAX_FAILURES = 20
"""Failures that are shown; the others are counted."""
PROGRESS_INTERVAL = 0.1
"""Time between two updates of the progress bar, in seconds."""


class Batch:
    """One run per input; `inputs` come with their line numbers in `file`, and `start` starts a run of one."""

    def __init__(
        self,
        cluster: Cluster,
        runs: ClientRuns,
        start: Callable[[str], Awaitable[str]],
        inputs: Sequence[tuple[int, str]],
        file: str,
        fail: Callable[[str], None],
        output: Output,
    ) -> None:
        self.size = len(inputs)
        self.done = self.failed = 0
        self.begun = Event()
        """Happens when the first run has an id, or could not be started."""
        self._began = self._shown = 0.0
        self._cluster = cluster
        self._runs = runs
        self._start = start
        self._inputs = iter(inputs)
        self._file = file
        self._fail = fail
        self._output = output

    async def run(self) -> None:
        """Start all runs; return when they have ended."""
        self._began = self._cluster.reactor.seconds()
        self._show_progress()
        work = [Deferred.fromCoroutine(self._run_some()) for _ in range(min(AT_ONCE, self.size))]
        try:
            for success, result in await DeferredList(work, consumeErrors=True):
                if not success:
                    problem: Any = result
                    raise problem.value
        finally:
            self.begun.happen()
        if self.failed > MAX_FAILURES:
            self._fail(f"{self.failed - MAX_FAILURES} more failed")

    def _show_progress(self) -> None:
        width = self._output.page.width
        if width is not None:
            self._output.progress(progress_bar("map", self.done, self.failed, self.size, width))

    def summary(self) -> str:
        """Return the result, in one line."""
        took = self._cluster.reactor.seconds() - self._began
        failed = f"{self.failed} failed" if self.failed else "none failed"
        rate = f"{took:.1f} s, {self.size / max(took, 0.001):.0f}/s"
        return f"{counted(self.size, 'run')}, {self.done} done, {failed}, {rate}"

    async def _run_some(self) -> None:
        for number, input in self._inputs:
            try:
                run = await self._start(input)
                self.begun.happen()
                result = await self._runs.until_ended(run)
                if not result.done:
                    raise UserError(f"run {short_id(run)} failed: {result.text}")
            except DidaError as problem:
                self.failed += 1
                if self.failed <= MAX_FAILURES:
                    self._fail(f"{self._file} line {number} ({cut(input, MAX_SHOWN)}): {plain(problem)}")
            else:
                self.done += 1
            self.begun.happen()
            now = self._cluster.reactor.seconds()
            if now >= self._shown + PROGRESS_INTERVAL:
                self._shown = now
                self._show_progress()
