"""What makes a script a test: nodes that are paused, slowed and started again, and expectations.

An expectation is accepted when it has come true, or never will: it waits for that, with a deadline, and what
stands behind it waits for it. A failure of a run that was expected is none.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

from attrs import define, field
from twisted.internet.task import deferLater

from dida.client.storage_client import StorageClient
from dida.console import script
from dida.console.script import Line
from dida.errors import LOST_UPDATE, NO_SUCH_RECORD, DidaError, UserError
from dida.puppetmaster.checking import no_client
from dida.puppetmaster.nodes import Event
from dida.puppetmaster.system import Cluster, plain

EXPECT_TIME = 10.0
"""Seconds for a record to have the value that is expected."""
POLL_INTERVAL = 0.1
MAX_RUNS = 10_000
"""Runs whose ends are remembered."""


@define(eq=False)
class ClientRun:
    """What became of a client command."""

    line: Line
    number: int
    run: str = ""
    state: str = ""
    text: str = ""
    ended: Event = field(factory=Event)


class Expectations:
    """The commands of a script that is a test; `work` gives what is to be done for one."""

    def __init__(self, system: Cluster, say: Callable[[str], None], storage: Callable[[], StorageClient]) -> None:
        self.system = system
        self.say = say
        self.start: Callable[[Line, script.NodeCommand], Awaitable[None]] = _start_nothing
        """Starts a node for a line."""
        self.forgive: Callable[[Line], None] = lambda line: None
        """The line has not failed after all: that was expected."""
        self._storage = storage
        self._runs: dict[int, ClientRun] = {}
        self._last = 0

    # --- runs -----------------------------------------------------------------------------------

    def client(self, line: Line) -> ClientRun:
        """A client command is being played."""
        self._last += 1
        self._runs.pop(self._last - MAX_RUNS, None)
        run = self._runs[self._last] = ClientRun(line, self._last)
        return run

    def ended(self, run: ClientRun, state: str, text: str) -> None:
        """Its run has ended, or was never begun."""
        run.state, run.text = state, text
        run.ended.happen()

    def dropped(self, line: Line, problem: str) -> None:
        """The line can't be played."""
        last = self._runs.get(self._last)
        if last is not None and last.line is line:
            self.ended(last, "failed", problem)

    def _expected(self, which: int) -> ClientRun:
        run = self._runs.get(which or self._last)
        if run is None:
            raise no_client(which)
        return run

    # --- commands -------------------------------------------------------------------------------

    def work(self, line: Line) -> Callable[[], Coroutine[Any, Any, None]] | None:
        """What is to be done for a line when its turn comes; None: it is no command of here."""
        match line.command:
            case script.PauseCommand(id):
                return partial(self._pause, id, True)
            case script.ResumeCommand(id):
                return partial(self._pause, id, False)
            case script.SlowCommand(id, milliseconds):
                return partial(self._slow, id, milliseconds)
            case script.RestartCommand(id):
                return partial(self._restart, line, id)
            case script.ExpectCommand(key, value):
                return partial(self._expect, key, value)
            case script.ExpectRunCommand(which, state, text):
                return partial(self._expect_run, self._expected(which), state, text)
        return None

    async def _pause(self, id: str, paused: bool) -> None:
        await self.system.pause(id, paused)
        node = self.system.nodes[id]
        self.say(f"{'paused' if paused else 'resumed':<8} {node.id:<6} {node.role:<10} {node.address}")

    async def _slow(self, id: str, milliseconds: int) -> None:
        await self.system.slow(id, milliseconds)
        self.say(f"slowed   {id:<6} gossip delay {milliseconds} ms")

    async def _restart(self, line: Line, id: str) -> None:
        await self.start(line, await self.system.kill_for_restart(id))

    async def _expect(self, key: str, value: str) -> None:
        reactor = self.system.reactor
        seconds = min(EXPECT_TIME, self.system.deadline)
        began = reactor.seconds()
        storage = self._storage()
        while True:
            left = began + seconds - reactor.seconds()
            found, why = await self._found(storage, key, max(left, POLL_INTERVAL))
            if found == value:
                break
            if left <= 0:
                raise UserError(_difference(f"not within {seconds:g} s", value, why if found is None else found))
            await deferLater(reactor, min(POLL_INTERVAL, left))
        self.say(f"expected {key} {value}  {(reactor.seconds() - began) * 1000:.0f} ms")

    async def _found(self, storage: StorageClient, key: str, seconds: float) -> tuple[str | None, str]:
        """The record's value, or why there is none."""
        try:
            return (await storage.read_as(storage.seen, key, None, seconds)).value, ""
        except DidaError as problem:
            return None, "no such record" if problem.code in (NO_SUCH_RECORD, LOST_UPDATE) else plain(problem)

    async def _expect_run(self, run: ClientRun, state: str, text: str) -> None:
        deadline = self.system.deadline
        await run.ended.wait().addTimeout(deadline, self.system.reactor, lambda result, seconds: None)
        if not run.ended.happened:
            raise UserError(f"the run of {run.line} has not ended within {deadline:g} s")
        right = run.text == text or not text if state == "done" else text in run.text
        if run.state != state or not right:
            expected, found = f"{state} {text}".strip(), f"{run.state} {run.text}"
            raise UserError(_difference(f"the run of {run.line} ended otherwise", expected, found))
        self.forgive(run.line)
        self.say(f"expected {run.run or 'no run'} {run.state} {run.text}")


def _difference(problem: str, expected: str, found: str) -> str:
    """Both on lines of their own, and where they begin to differ."""
    same = next((at for at, (a, b) in enumerate(zip(expected, found, strict=False)) if a != b), None)
    at = min(len(expected), len(found)) if same is None else same
    mark = "" if at < 8 else "\n         " + " " * at + "^"
    return f"{problem}\nexpected {expected}\nfound    {found}{mark}"


async def _start_nothing(line: Line, command: script.NodeCommand) -> None:
    raise UserError("nothing can be started here")
