"""Commands on the console itself and on the whole system: `debug`, `wait`, `help`, `quit`."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.task import deferLater

from dida.console import guide
from dida.console.commands import DebugCommand, HelpCommand, QuitCommand, WaitCommand
from dida.console.tables import counted
from dida.puppetmaster.commands.base import Action
from dida.puppetmaster.context import Context
from dida.puppetmaster.nodes import READY


class Debug(Action[DebugCommand]):
    """`debug`: have workers report their outputs."""

    _ids: Sequence[str] = ()
    """The workers named before the command; those named after it report once they are ready."""

    def prepare(self, context: Context) -> None:
        self._ids = [worker.id for worker in context.cluster.debug_on()]

    async def run(self, context: Context) -> None:
        nodes = context.cluster.nodes
        workers = [node for id in self._ids if (node := nodes[id]).state == READY]
        if not workers:
            context.say("debug on: workers started from now on report, too")
            return
        urls = await context.cluster.debug(workers)
        context.say(f"debug    {counted(len(urls), 'worker')} reporting outputs to {', '.join(sorted(set(urls)))}")


class Wait(Action[WaitCommand]):
    """`wait`: pause the script."""

    holds = True

    async def run(self, context: Context) -> None:
        reactor, seconds = context.cluster.reactor, self.command.milliseconds / 1000
        context.waits_until = reactor.seconds() + seconds
        try:
            await deferLater(reactor, seconds)
        finally:
            context.waits_until = None


class Help(Action[HelpCommand]):
    """`help`: show the commands, or one of them."""

    def at_once(self, context: Context) -> bool:
        return True

    async def run(self, context: Context) -> None:
        page = context.output.page
        for text in guide.help_lines(self.command.topic, page.width, page.paint):
            context.say(text)


class Quit(Action[QuitCommand]):
    """`quit`: end the session, which looks for it itself."""

    async def run(self, context: Context) -> None:
        pass
