"""What each command of the console does: one class per command, with `check` and `run` side by side.

`check` predicts, without a system, whether a command can succeed after the commands before it; `run` executes it. The
commands as values, and their parsers, are in `dida.console.commands`.
"""

from __future__ import annotations

from typing import Any

from dida.console import commands
from dida.console.commands import Command
from dida.console.script import Line
from dida.puppetmaster.commands.base import Action, Invalid
from dida.puppetmaster.commands.expectations import Expect, ExpectRun
from dida.puppetmaster.commands.nodes import Crash, Pause, Restart, Resume, Slow, StartNode, Stop
from dida.puppetmaster.commands.others import Debug, Help, Quit, Wait
from dida.puppetmaster.commands.queries import ListGlobal, ListRuns, ListServer, Status
from dida.puppetmaster.commands.records import Populate, Read, UpdateIf, Write
from dida.puppetmaster.commands.runs import Cancel, Client, Map, Run, Show

ACTIONS: dict[type[Command], type[Action[Any]]] = {
    commands.SchedulerCommand: StartNode,
    commands.StorageCommand: StartNode,
    commands.WorkerCommand: StartNode,
    commands.ClientCommand: Client,
    commands.RunCommand: Run,
    commands.MapCommand: Map,
    commands.ShowCommand: Show,
    commands.CancelCommand: Cancel,
    commands.PopulateCommand: Populate,
    commands.StatusCommand: Status,
    commands.ListServerCommand: ListServer,
    commands.ListGlobalCommand: ListGlobal,
    commands.ListRunsCommand: ListRuns,
    commands.ReadCommand: Read,
    commands.WriteCommand: Write,
    commands.UpdateIfCommand: UpdateIf,
    commands.DebugCommand: Debug,
    commands.CrashCommand: Crash,
    commands.StopCommand: Stop,
    commands.PauseCommand: Pause,
    commands.ResumeCommand: Resume,
    commands.SlowCommand: Slow,
    commands.RestartCommand: Restart,
    commands.ExpectCommand: Expect,
    commands.ExpectRunCommand: ExpectRun,
    commands.WaitCommand: Wait,
    commands.HelpCommand: Help,
    commands.QuitCommand: Quit,
}


def action_of(line: Line) -> Action[Any]:
    """Return what a line does."""
    if line.command is None:
        return Invalid(line, Command())
    return ACTIONS[type(line.command)](line, line.command)
