"""The base of what commands do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, TypeVar

from dida.console.commands import Command
from dida.console.script import Line
from dida.errors import UserError
from dida.puppetmaster.context import Context
from dida.puppetmaster.script_state import ScriptState

_Command = TypeVar("_Command", bound=Command)


class Action(ABC, Generic[_Command]):
    """What the command of one line does. All methods raise UserError, or DidaError, when it cannot."""

    def __init__(self, line: Line, command: _Command) -> None:
        self.line = line
        self.command = command

    holds = False
    """Whether the commands after it wait until `run` returns, as those before it must have been executed."""

    def at_once(self, context: Context) -> bool:
        """Return True if the command does not wait for those before it."""
        return False

    def check(self, state: ScriptState) -> None:
        """Predict whether the command can succeed, and apply it to the state."""

    def prepare(self, context: Context) -> None:
        """Do what does not wait for the command's turn: read the files that it names."""

    @abstractmethod
    async def run(self, context: Context) -> None:
        """Execute the command; return when the next one may be executed."""


class Invalid(Action[Command]):
    """A line that is not a command."""

    def at_once(self, context: Context) -> bool:
        return True

    def check(self, state: ScriptState) -> None:
        raise UserError(self.line.problem)

    async def run(self, context: Context) -> None:
        raise UserError(self.line.problem)
