"""Commands that start, end, pause and slow single nodes."""

from __future__ import annotations

from typing import TypeVar

from dida.console.commands import (
    CrashCommand,
    NodeCommand,
    PauseCommand,
    RestartCommand,
    ResumeCommand,
    SlowCommand,
    StopCommand,
)
from dida.console.script import Line
from dida.console.style import ODD
from dida.puppetmaster.commands.base import Action
from dida.puppetmaster.context import Context
from dida.puppetmaster.nodes import Node
from dida.puppetmaster.refusals import CRASHED, STOPPED, no_delay, same
from dida.puppetmaster.script_state import ScriptState


def node_line(what: str, node: Node) -> str:
    """Return what happened to a node, in one line."""
    return f"{what:<8} {node.id:<6} {node.role:<10} {node.address}"


def begin_start(context: Context, line: Line, command: NodeCommand) -> None:
    """Start a node; the commands after it do not wait for that."""

    async def start() -> None:
        context.named_by(command, line)
        node = await context.cluster.start(command)
        await node.settled.wait()

    context.work.begin(line, start())


class StartNode(Action[NodeCommand]):
    """`scheduler`, `storage`, `worker`: start a node. At once, unless the id was used before."""

    def at_once(self, context: Context) -> bool:
        return not context.cluster.nodes.knows(self.command)

    def check(self, state: ScriptState) -> None:
        state.start(self.command)

    async def run(self, context: Context) -> None:
        node = context.cluster.nodes.get(self.command.id)
        if node is not None and node.there and node.taken_up and same(self.command, node.command):
            context.say(node_line("there", node))
        else:
            begin_start(context, self.line, self.command)


class Crash(Action[CrashCommand]):
    """`crash`: kill a node at once."""

    def check(self, state: ScriptState) -> None:
        state.end(self.command.id, CRASHED)

    async def run(self, context: Context) -> None:
        node = context.cluster.nodes.running(self.command.id)
        await context.cluster.crash(node.id)
        context.say(context.output.page.paint.word(ODD, node_line("crashed", node)))


class Stop(Action[StopCommand]):
    """`stop`: end a node in order."""

    def check(self, state: ScriptState) -> None:
        state.end(self.command.id, STOPPED)

    async def run(self, context: Context) -> None:
        node = context.cluster.nodes.running(self.command.id)
        await context.cluster.stop(node.id)
        context.say(node_line("stopped", node))


_Switch = TypeVar("_Switch", PauseCommand, ResumeCommand)


class _PauseOrResume(Action[_Switch]):
    paused: bool

    def check(self, state: ScriptState) -> None:
        state.node(self.command.id)

    async def run(self, context: Context) -> None:
        await context.cluster.pause(self.command.id, self.paused)
        context.say(node_line("paused" if self.paused else "resumed", context.cluster.nodes[self.command.id]))


class Pause(_PauseOrResume[PauseCommand]):
    """`pause`: stop a node's process."""

    paused = True


class Resume(_PauseOrResume[ResumeCommand]):
    """`resume`: continue a node's process."""

    paused = False


class Slow(Action[SlowCommand]):
    """`slow`: set a node's gossip delay."""

    def check(self, state: ScriptState) -> None:
        if state.node(self.command.id).role == "scheduler":
            raise no_delay(self.command.id)

    async def run(self, context: Context) -> None:
        id, milliseconds = self.command.id, self.command.milliseconds
        await context.cluster.slow(id, milliseconds)
        context.say(f"slowed   {id:<6} gossip delay {milliseconds} ms")


class Restart(Action[RestartCommand]):
    """`restart`: kill a node, if it runs, and start it again."""

    def check(self, state: ScriptState) -> None:
        if self.command.id not in state.gone:
            state.node(self.command.id)

    async def run(self, context: Context) -> None:
        begin_start(context, self.line, await context.cluster.kill_for_restart(self.command.id))
