"""Commands that make a script a test: `expect` and `expect-run`.

An expectation is executed when it has come true, or never will; it waits for that, with a deadline, and the commands
after it wait for it. A run whose failure is expected does not make its line fail.
"""

from __future__ import annotations

from twisted.internet.task import deferLater

from dida.client.storage_client import StorageClient
from dida.console.commands import ExpectCommand, ExpectRunCommand
from dida.errors import LOST_UPDATE, NO_SUCH_RECORD, DidaError, UserError
from dida.puppetmaster.client_runs import ClientRun
from dida.puppetmaster.commands.base import Action
from dida.puppetmaster.context import Context
from dida.puppetmaster.refusals import no_client, plain
from dida.puppetmaster.script_state import ScriptState

EXPECT_TIME = 10.0
"""Time-out for a record to get the expected value, in seconds."""
POLL_INTERVAL = 0.1
"""Time between two reads of that record, in seconds."""


class Expect(Action[ExpectCommand]):
    """`expect`: wait until a record has a value."""

    def check(self, state: ScriptState) -> None:
        state.need("storage")

    async def run(self, context: Context) -> None:
        key, value = self.command.key, self.command.value
        reactor = context.cluster.reactor
        seconds = min(EXPECT_TIME, context.cluster.deadline)
        began = reactor.seconds()
        client = context.storage.client()
        while True:
            left = began + seconds - reactor.seconds()
            found, why = await self._found(client, max(left, POLL_INTERVAL))
            if found == value:
                break
            if left <= 0:
                raise UserError(difference(f"not within {seconds:g} s", value, why if found is None else found))
            await deferLater(reactor, min(POLL_INTERVAL, left))
        context.say(f"expected {key} {value}  {(reactor.seconds() - began) * 1000:.0f} ms")

    async def _found(self, client: StorageClient, seconds: float) -> tuple[str | None, str]:
        """Return the record's value, or None and why there is none."""
        try:
            return (await client.read_as(client.seen, self.command.key, None, seconds)).value, ""
        except DidaError as problem:
            return None, "no such record" if problem.code in (NO_SUCH_RECORD, LOST_UPDATE) else plain(problem)


class ExpectRun(Action[ExpectRunCommand]):
    """`expect-run`: wait for the end of a client command's run."""

    _run: ClientRun

    def check(self, state: ScriptState) -> None:
        if self.command.which > state.clients or not state.clients:
            raise no_client(self.command.which)

    def prepare(self, context: Context) -> None:
        self._run = context.runs.expected(self.command.which)

    async def run(self, context: Context) -> None:
        run, state, text = self._run, self.command.state, self.command.text
        deadline = context.cluster.deadline
        await run.ended.wait().addTimeout(deadline, context.cluster.reactor, lambda result, seconds: None)
        if not run.ended.happened:
            raise UserError(f"the run of {run.line} has not ended within {deadline:g} s")
        right = run.text == text or not text if state == "done" else text in run.text
        if run.state != state or not right:
            expected, found = f"{state} {text}".strip(), f"{run.state} {run.text}"
            raise UserError(difference(f"the run of {run.line} ended otherwise", expected, found))
        context.work.forgive(run.line)
        context.say(f"expected {run.run or 'no run'} {run.state} {run.text}")


def difference(problem: str, expected: str, found: str) -> str:
    """Return the problem with each text on a separate line, and a mark where they begin to differ."""
    same = next((at for at, (a, b) in enumerate(zip(expected, found, strict=False)) if a != b), None)
    at = min(len(expected), len(found)) if same is None else same
    mark = "" if at < 8 else "\n         " + " " * at + "^"
    return f"{problem}\nexpected {expected}\nfound    {found}{mark}"
