"""Commands that start runs, show them and end them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from typing import TypeVar

from attrs import evolve
from twisted.internet.defer import CancelledError

from dida.chains.records import short_id
from dida.client.scheduler_client import RunResult, may_have_begun
from dida.console.application import Application
from dida.console.commands import CancelCommand, ClientCommand, Command, MapCommand, RunCommand, ShowCommand
from dida.console.data_files import parse_inputs
from dida.console.run_report import Outcome, run_report
from dida.console.script import Line
from dida.console.style import GOOD
from dida.console.tables import run_line
from dida.console.words import quoted
from dida.errors import TIMED_OUT, DidaError, UserError
from dida.puppetmaster.batch import Batch
from dida.puppetmaster.client_runs import ClientRun
from dida.puppetmaster.commands.base import Action
from dida.puppetmaster.context import Context
from dida.puppetmaster.files import read_file
from dida.puppetmaster.refusals import plain
from dida.puppetmaster.script_state import ScriptState
from dida.wire import grammar
from dida.wire import runs as wire

_Command = TypeVar("_Command", bound=Command)


class _OneRun(Action[_Command]):
    """A command that starts one run; the commands after it wait until the run has an id, not until it ends."""

    input: str
    name: str
    """How the run's application is shown."""
    operators: tuple[str, ...] = ()

    def __init__(self, line: Line, command: _Command) -> None:
        super().__init__(line, command)
        self._run = ClientRun(line, 0)

    def read(self, folders: Sequence[str]) -> None:
        """Find out the operators."""

    def check(self, state: ScriptState) -> None:
        state.clients += 1
        self.read(state.folders)
        state.need_to_run(self.operators)

    def prepare(self, context: Context) -> None:
        self._run = context.runs.add(self.line)
        try:
            self.read(context.folders)
        except UserError as problem:
            self._run.end("failed", str(problem))
            raise

    async def run(self, context: Context) -> None:
        counts, scheduler = context.work.counts, context.cluster.scheduler
        try:
            await context.runs.require_nodes()
            request = scheduler.request(self.input, self.operators, context.storage.after, self.name)
            self._run.run = await scheduler.start_once(request)
        except DidaError as problem:
            if not may_have_begun(problem):
                self._run.end("failed", plain(problem))
                raise
        except CancelledError:
            counts.runs += 1  # it may have begun
            raise
        counts.runs += 1
        context.work.begin(self.line, self._result(context) if self._run.run else self._begun(context, request))

    async def _begun(self, context: Context, request: wire.Run) -> None:
        """Ask a scheduler for the run whose reply was lost; other commands go on meanwhile."""
        try:
            again = evolve(request, retry=True)
            self._run.run = await context.cluster.scheduler.start(again, lambda: context.runs.hopeless)
        except DidaError as problem:
            self._run.end("failed", plain(problem))
            raise
        await self._result(context)

    async def _result(self, context: Context) -> None:
        """Wait for the end of the run, and show it."""
        counts, run = context.work.counts, self._run.run
        scheduler = context.cluster.nodes.scheduler
        counts.going_on += 1
        try:
            result = await context.runs.result(run, scheduler)
        finally:
            counts.going_on -= 1
        text = result.text
        if result.done:
            counts.done += 1
            outcome = grammar.structure(result.members, Outcome)
            page = context.output.page
            shown = run_line(run, quoted(self.input), self.name, text, outcome.steps, outcome.ms, page.width)
            context.say(page.paint.word(GOOD, shown))
        else:
            context.work.fail(self.line, f"run {short_id(run)} failed: {text}")
        self._run.end(result.state, text)


class Client(_OneRun[ClientCommand]):
    """`client`: run an application."""

    def read(self, folders: Sequence[str]) -> None:
        self.input, self.name = self.command.input, self.command.file
        self.operators = _application(self.command.file, folders).operators


class Run(_OneRun[RunCommand]):
    """`run`: run operators without an application file."""

    def read(self, folders: Sequence[str]) -> None:
        self.input, self.operators = self.command.input, self.command.operators
        self.name = ",".join(self.operators)


class Map(Action[MapCommand]):
    """`map`: run an application once per line of a file; the commands after it wait for the first run's id."""

    application: Application
    path: str
    inputs: Sequence[tuple[int, str]]

    def _read(self, folders: Sequence[str]) -> None:
        self.application = _application(self.command.file, folders)
        self.path, data = read_file(self.command.inputs, folders)
        self.inputs = parse_inputs(data, self.path)

    def check(self, state: ScriptState) -> None:
        self._read(state.folders)
        state.need_to_run(self.application.operators)

    def prepare(self, context: Context) -> None:
        self._read(context.folders)

    async def run(self, context: Context) -> None:
        context.cluster.nodes.ready("scheduler")
        await context.runs.require_nodes()
        operators, name = self.application.operators, self.command.file
        batch = Batch(
            context.cluster,
            context.runs,
            lambda input: context.cluster.scheduler.run(input, operators, context.storage.after, name),
            self.inputs,
            self.path,
            partial(context.work.fail, self.line),
            context.output,
        )
        context.work.begin(self.line, self._run_batch(context, batch))
        await batch.begun.wait()

    async def _run_batch(self, context: Context, batch: Batch) -> None:
        try:
            await batch.run()
        finally:
            context.output.progress("")
            context.work.counts.runs += batch.done + batch.failed
            context.work.counts.done += batch.done
        names = f"{os.path.basename(self.command.file)} over {os.path.basename(self.command.inputs)}"
        context.say(f"map      {names}: {batch.summary()}")


class Show(Action[ShowCommand]):
    """`show`: report the steps of a run, later if it has not ended."""

    def check(self, state: ScriptState) -> None:
        state.need("scheduler")

    async def run(self, context: Context) -> None:
        try:
            result = await context.cluster.scheduler.result(self.command.run)
        except DidaError as problem:
            if problem.code != TIMED_OUT:
                raise
            context.say(f"{problem.words[0].partition(':')[0]}; its story comes when it has ended")
            context.work.begin(self.line, self._show_later(context))
        else:
            self._say_report(context, result)

    async def _show_later(self, context: Context) -> None:
        self._say_report(context, await context.runs.result(self.command.run))

    def _say_report(self, context: Context, result: RunResult) -> None:
        outcome = grammar.structure(result.members, Outcome)
        for each in run_report(result.state, result.text, outcome, context.output.page.width):
            context.say(each)


class Cancel(Action[CancelCommand]):
    """`cancel`: end a run."""

    async def run(self, context: Context) -> None:
        run = self.command.run
        cancelled = await context.cluster.scheduler.cancel(run)
        context.say(f"run {run} is cancelled" if cancelled else f"run {run} had ended before")


def _application(file: str, folders: Sequence[str]) -> Application:
    path, data = read_file(file, folders)
    return Application.parse(data, path)
