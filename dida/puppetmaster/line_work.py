"""The work that goes on for the lines of a script, and which lines have failed."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.logger import Logger

from dida.console.script import Line
from dida.console.style import BAD, Page
from dida.console.tables import counted, numbered, printable
from dida.errors import DidaError
from dida.puppetmaster.refusals import plain

_log = Logger()


class Output(Protocol):
    """Where commands print."""

    page: Page

    def say(self, text: str) -> None:
        """Print a line."""

    def progress(self, text: str) -> None:
        """Keep this text in the last line of the terminal; an empty text removes it."""


@define
class Counts:
    """What was executed so far."""

    commands: int = 0
    runs: int = 0
    done: int = 0
    failed: list[Line] = field(factory=list)
    """The lines that failed, each once."""
    going_on: int = 0
    """Runs that have not ended."""


class LineWork:
    """What goes on for each line; a DidaError of that work makes its line fail."""

    def __init__(self, output: Output) -> None:
        self.counts = Counts()
        self._output = output
        self._open: dict[Deferred[None], Line] = {}
        self._ended = False

    def begin(self, line: Line, work: Coroutine[Any, Any, None]) -> Deferred[None]:
        """Start work for a line."""
        going_on = Deferred.fromCoroutine(self._guarded(line, work))
        if not going_on.called:
            self._open[going_on] = line
            going_on.addBoth(lambda result: self._open.pop(going_on, None) and None)
        return going_on

    async def _guarded(self, line: Line, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except CancelledError:
            pass
        except DidaError as problem:
            self.fail(line, plain(problem))
        except Exception:  # noqa: BLE001 - a bug: the log has it, the line has failed, the others go on
            _log.failure("a command ended in a bug: {line}", line=str(line))
            self.fail(line, "a bug in the puppetmaster; its log has the details")

    def fail(self, line: Line, problem: str) -> None:
        """Print that a line failed, and why."""
        if self._ended:
            return
        if line not in self.counts.failed:
            self.counts.failed.append(line)
        text = "\n  ".join(printable(part) for part in f"{line}: {problem}".split("\n"))
        self._output.say(self._output.page.paint(BAD, text))

    def forgive(self, line: Line) -> None:
        """Count a line as not failed: its failure was expected."""
        if line in self.counts.failed:
            self.counts.failed.remove(line)

    async def wait(self) -> None:
        """Wait until all work is done, also work that begins meanwhile."""
        while self._open:
            await DeferredList([copied(work) for work in self._open])

    def cancel(self, problem: str, fails: Callable[[Line], bool] = lambda line: True) -> None:
        """Cancel all work; the lines that `fails` selects fail with that problem."""
        for work, line in list(self._open.items()):
            if fails(line):
                self.fail(line, problem)
            work.cancel()

    def close(self) -> None:
        """Print no more failures."""
        self._ended = True

    def summary(self) -> str:
        """Return what was executed, in one line."""
        counts = self.counts
        text = f"{counted(counts.commands, 'command')}, {counted(counts.runs, 'run')}: {counts.done} done"
        failed = [line.number for line in counts.failed]
        return f"{text}; failed: {numbered('line', failed)}" if failed else f"{text}, none failed"


def copied(work: Deferred[Any]) -> Deferred[None]:
    """Return a Deferred that fires when `work` does, whatever the result, so that several callers can wait for it."""
    copy: Deferred[None] = Deferred()

    def done(result: Any) -> Any:
        if not copy.called:
            copy.callback(None)
        return result

    work.addBoth(done)
    return copy
