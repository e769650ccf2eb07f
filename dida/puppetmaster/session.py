"""A session of the puppetmaster: the console of a DIDA system, on standard input and output.

On a terminal it takes commands one at a time; from a pipe or file it plays a script, waits for the runs
still going and ends, with exit status 1 when anything failed. Nodes are started by PCSs, and one for this
machine is started here when there is none; what was started here ends with the puppetmaster, unless
--keep says otherwise. What it prints is what it has to say; its log goes to a file.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from random import SystemRandom
from typing import Any, cast

from twisted.internet.defer import CancelledError, Deferred, DeferredQueue, QueueOverflow
from twisted.internet.error import ReactorNotRunning
from twisted.internet.stdio import StandardIO
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from dida.addresses import HERE, Address
from dida.console import script
from dida.console.editing import EditedLine
from dida.console.style import BAD, FAINT, GOOD, ODD, STRONG
from dida.console.tables import counted, printable, progress_line
from dida.errors import DidaError, UserError
from dida.protocols.stdio import Console, KeyReader, ScriptConsole, TypedConsole
from dida.protocols.terminal import EditedConsole
from dida.puppetmaster.attaching import RunningSystem, who_listens
from dida.puppetmaster.checking import check
from dida.puppetmaster.debug_port import DebugPorts
from dida.puppetmaster.files import usable_files
from dida.puppetmaster.local_pcs import OwnPcs
from dida.puppetmaster.nodes import STARTING, Node
from dida.puppetmaster.player import ScriptRunner
from dida.puppetmaster.system import Cluster
from dida.puppetmaster.tty import HistoryFile, TerminalMode, is_dumb, page_of, width_of

OUTPUT_DEADLINE = 2.0
"""Seconds for a slow reader of the last lines."""
DEFAULT_LOGS = "logs"
PROGRESS_INTERVAL = 0.2
"""Seconds between two looks at what is being waited for."""

_log = Logger()


class Session:
    """The console and the system behind it. `options` are those of the command line; `folders` hold the files that
    commands name; `operators` gives the class names in the operators folder, or raises DidaError."""

    def __init__(
        self,
        reactor: Any,
        options: Mapping[str, Any],
        folders: Sequence[str],
        operators: Callable[[], Collection[str]] = tuple,
    ) -> None:
        self.reactor = reactor
        self.options = options
        self.status = 0
        self.logs = os.path.abspath(options["logs"])
        name = f"puppetmaster-{SystemRandom().getrandbits(48):x}"
        self.system = Cluster(reactor, options["pcs"], options["deadline"], "" if options["keep"] else name)
        self._own_pcs = OwnPcs(
            reactor, name, self.logs, options["keep"], options["operators"], lambda text: self._say_aside(text)
        )
        self.system.who_listens = partial(who_listens, reactor)
        self.system.machines.name = name
        self.system.machines.start_pcs = self._own_pcs.start
        self.system.machines.on_found = self._on_found
        self.page = page_of(1, os.environ)
        self.player = ScriptRunner(self.system, self._say, folders, self.page)
        self._debug_ports = DebugPorts(reactor, int(options["debug-port"]), self._say, self.system.known)
        self.player.listen_for_debug = self._debug_ports.listen
        self._history = HistoryFile(options["history"], self._say)
        self._terminal: TerminalMode | None = None
        self._folders = folders
        self._known_operators = operators
        self.console: Console = self._console()
        self.console.on_gone = self._on_gone
        self.player.progress = self._show_bar
        self._bar = ""
        self._typed_lines: DeferredQueue[script.Line | None] = DeferredQueue(size=1000)
        self._keys: DeferredQueue[None] = DeferredQueue()
        self._streams: list[tuple[int, bool]] = []
        self._stopping = False
        self._playing: Deferred[None] | None = None
        self._current: Deferred[None] | None = None
        """The typed command that holds up those behind it."""
        self._interrupted = False
        self._progress = LoopingCall(self._show_progress)
        self._progress.clock = reactor

    def _console(self) -> Console:
        if not os.isatty(0):
            return ScriptConsole(self._on_script)
        if not os.isatty(1) or is_dumb(os.environ):
            return TypedConsole(self._typed, self._end_of_input)
        console = EditedConsole(self.page, EditedLine(), self._typed, self._end_of_input)
        console.known = self._known
        console.on_interrupt = self._interrupt
        console.on_suspend = self._suspend
        self._terminal = TerminalMode(0)
        return console

    # --- its life -------------------------------------------------------------------------------

    def start(self) -> None:
        """Take over the terminal, and begin, once the reactor runs."""
        self.reactor.callWhenRunning(self._begin)

    def stop(self) -> Deferred[None]:
        """End what was started here; fires when all is said."""
        self._stopping = True
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self._progress.running:
            self._progress.stop()
        self.console.rest()
        if self._terminal is not None:
            self._terminal.restore()
        await self.player.close()
        self.system.end_watch()
        self._own_pcs.end_watch()
        if self._playing is not None:
            self._playing.cancel()
        await self.system.debug_off()
        running = self.system.started_here()
        before = [node for node in self.system.named() if node.there and node.taken_up]
        if before and not self.options["check"]:
            self._say_aside(f"left     {counted(len(before), 'node')} that ran before")
        if self.options["keep"]:
            if running:
                self._say_kept(running)
        else:
            left = await self.system.stop_nodes()
            await self._own_pcs.stop()
            if len(running) > len(left):
                self._say(self.page.paint.word(FAINT, f"stopped  {counted(len(running) - len(left), 'node')}"))
            if left:
                ids = " ".join(node.id for node in left)
                told = f"left     {ids}: the PCS there does not answer; it ends them once it is back"
                self._say(self.page.paint.word(ODD, told))
        await self.system.close()
        await self._debug_ports.close()
        await self._put_out_all()

    async def _put_out_all(self) -> None:
        """Let what was said reach its reader, and leave the terminal, or pipe, as it was found."""
        if self.console.transport is not None:
            cast(Any, self.console.transport).loseConnection()
            await self.console.gone.addTimeout(OUTPUT_DEADLINE, self.reactor, lambda result, seconds: None)
        for stream, blocking in self._streams:
            os.set_blocking(stream, blocking)
            os.close(stream)

    def _say_kept(self, nodes: Sequence[Node]) -> None:
        """What goes on, how it is taken up again, and how it is ended."""
        end = "the PCS's line `stop` ends them"
        if self._own_pcs.address is not None:
            end = f"they end with it: kill {self._own_pcs.pid}"
        pcs = next((node.pcs.address for node in nodes if node.pcs is not None), nodes[0].address)
        self._say_aside(f"again    twistd -n puppetmaster --attach http://{pcs}")
        self._say_aside(f"kept     {counted(len(nodes), 'node')} and the PCS; {end}")

    def _end(self, failed: bool) -> None:
        """End the process, with exit status 1 if anything failed."""
        if not self._stopping:
            self._stopping = True
            if failed:
                # twistd itself always ends with 0 when the reactor was stopped.
                atexit.register(_exit, 1)
            with suppress(ReactorNotRunning):
                self.reactor.stop()

    # --- the console ----------------------------------------------------------------------------

    def _begin(self) -> None:
        self._streams = [(os.dup(stream), os.get_blocking(stream)) for stream in (0, 1)]
        if self._terminal is not None:
            self._terminal.raw()
        StandardIO(self.console, reactor=self.reactor)
        if self.page.width is not None:
            signal.signal(signal.SIGWINCH, self._resized)
        if isinstance(self.console, ScriptConsole):
            if self.page.width is not None and not is_dumb(os.environ) and not self.options["step"]:
                self._progress.start(PROGRESS_INTERVAL).addErrback(self._on_bug)
            return
        self._say(f"DIDA's puppetmaster; help lists the commands; logs in {self.logs}")
        if isinstance(self.console, EditedConsole):
            self.console.line = EditedLine(self._history.lines())
        self._own(self._play_typed())

    def _resized(self, number: int, frame: object) -> None:
        self.page.width = width_of(1)
        self.reactor.callFromThread(self.console.draw)

    def _show_progress(self) -> None:
        """What is being waited for, while a script is played on a terminal."""
        now = self.reactor.seconds()
        starting = [node.id for node in self.system.named() if node.state == STARTING]
        ends = self.player.waits_until
        left = None if ends is None else max(0.0, ends - now)
        line = self._bar or progress_line(starting, self.player.counts.going_on, left, now, self.page.width)
        self.console.progress(self.page.paint(FAINT, line))

    def _say(self, text: str) -> None:
        if self.console.transport is not None:
            self.console.say(text)

    def _say_aside(self, text: str) -> None:
        self._say(self.page.paint.word(FAINT, text))

    def _show_bar(self, text: str) -> None:
        """How far a `map` is; an empty text: it is over."""
        self._bar = text
        if self.console.transport is not None:
            self.console.progress(text)

    def _on_gone(self) -> None:
        self._end(failed=True)

    def _own(self, work: Any) -> None:
        self._playing = Deferred.fromCoroutine(work)
        self._playing.addErrback(self._on_bug)

    def _on_bug(self, failure: Failure) -> None:
        if not self._stopping:
            _log.failure("the puppetmaster ends in a bug", failure)
            self._say(f"a bug in the puppetmaster: its log in {self.logs} has the details")
            self._end(failed=True)

    # --- typed commands -------------------------------------------------------------------------

    def _typed(self, text: str) -> None:
        if isinstance(self.console, EditedConsole):
            self._history.append(text.strip())
        line = script.parse_line(text)
        if line is not None and isinstance(line.command, script.HelpCommand | None):
            Deferred.fromCoroutine(self.player.play(line)).addErrback(self._on_bug)
        elif line is not None:
            try:
                self._typed_lines.put(line)
            except QueueOverflow:
                self._say(f"{line}: too many commands wait already: it was dropped")
        self._interrupted = False

    def _end_of_input(self) -> None:
        self._typed_lines.put(None)

    async def _attach(self) -> bool:
        """Take up the system that is named, if one is; False, and said, when there is none."""
        if not self.options["attach"]:
            return True
        found = RunningSystem(self.reactor, self.options["attach"], self.options["pcs"])
        try:
            await found.find()
        except DidaError as problem:
            self._say(self.page.paint(BAD, printable(str(problem))))
            self._end(failed=True)
            return False
        self.system.take_up(found)
        ids = printable(" ".join(found.nodes))
        self._say(self.page.paint.word(STRONG, f"attached {counted(len(found.nodes), 'node')}: {ids}"))
        alone = " ".join(node.id for node in found.nodes.values() if node.pcs is None)
        if alone:
            found.notes.append(f"no PCS of {alone} is known: --attach its URL, too, to stop or pause them")
        for note in found.notes:
            self._say(self.page.paint(ODD, printable(f"note: {note}")))
        return True

    async def _play_typed(self) -> None:
        if not await self._attach():
            return
        self.console.prompt()
        while not self._stopping:
            line = await self._typed_lines.get()
            if line is None or isinstance(line.command, script.QuitCommand):
                self._end(failed=False)
                return
            self._current = Deferred.fromCoroutine(self.player.play(line))
            try:
                await self._current
            except CancelledError:
                self._say(self.page.paint(ODD, f"{line}: dropped"))
            self._current = None

    def _interrupt(self) -> None:
        """Ctrl-C and no line to drop: what is being waited for is dropped; twice with nothing to drop ends it all."""
        if self._current is not None:
            while self._typed_lines.pending:
                self._typed_lines.pending.pop()
            self._current.cancel()
        elif self._interrupted:
            os.kill(os.getpid(), signal.SIGINT)
        else:
            self._interrupted = True
            self._say("Ctrl-C once more, Ctrl-D or quit: the end, of the nodes too")

    def _suspend(self) -> None:
        assert self._terminal is not None
        self.console.rest()
        self._terminal.suspend()
        self.page.width = width_of(1)
        self.console.prompt()

    def _known(self, command: str, place: str, last: str) -> list[str]:
        """The words that a command takes at that place of its usage line."""
        if place == "ID" and command not in ("scheduler", "storage", "worker"):
            role = "storage" if command == "listserver" else None
            return [node.id for node in self.system.named(role) if node.there or command == "restart"]
        if place == "OPERATOR…":
            return sorted(self._operators() or ())
        return usable_files(place, last, self._folders)

    def _operators(self) -> Collection[str] | None:
        """The operators of the workers that are started here; None when they are not known."""
        try:
            return self._known_operators()
        except DidaError:
            return None

    # --- scripts --------------------------------------------------------------------------------

    def _on_script(self, data: bytes) -> None:
        self._own(self._play_script(data))

    async def _play_script(self, data: bytes) -> None:
        try:
            lines = script.in_order(script.parse_script(data, script_name()))
        except UserError as problem:
            self._say(str(problem))
            self._end(failed=True)
            return
        if not await self._attach():
            return
        if self.options["check"]:
            self._check(lines)
            return
        self._say(self.page.paint.word(STRONG, f"playing  {counted(len(lines), 'command')}; logs in {self.logs}"))
        first = " ".join(dict.fromkeys(command.id for command in script.first_members(lines)))
        if first:
            self._say(self.page.paint.word(STRONG, f"starting {first}"))
        self.player.plan(lines)
        try:
            for line in lines:
                if isinstance(line.command, script.QuitCommand):
                    break
                if self.options["step"]:
                    self._say(f"next     {line}   [Enter]")
                    await self._keys.get()
                await self.player.play(line)
            await self.player.finish()
        finally:
            tone = BAD if self.player.counts.failed else GOOD
            self._say(self.page.paint.word(tone, f"played   {self.player.summary()}"))
        self._end(failed=bool(self.player.counts.failed))

    def _check(self, lines: Sequence[script.Line]) -> None:
        machines = [address.machine for address in self.options["pcs"]]
        operators = self._operators() if {HERE}.issuperset(machines) else None
        there = [node.command for node in self.system.named()]
        wrong = check(lines, self.player.folders, machines, operators, there)
        for line, problem in wrong:
            self._say(self.page.paint(BAD, f"{line}: {problem}"))
        found = f"wrong: {len(wrong)}" if wrong else "nothing is wrong"
        self._say(self.page.paint.word(BAD if wrong else GOOD, f"checked  {counted(len(lines), 'command')}: {found}"))
        self._end(failed=bool(wrong))

    def read_keys(self, terminal: int) -> None:
        """Step mode: the keys come from there, as standard input is the script."""
        self.reactor.callWhenRunning(
            StandardIO, KeyReader(lambda: self._keys.put(None)), terminal, reactor=self.reactor
        )

    def _on_found(self, address: Address, status: Mapping[str, Any]) -> None:
        """A PCS that was there before has options of its own."""
        for option in ("operators", "logs"):
            given, own = self.options[option], status.get(option)
            if given not in (None, DEFAULT_LOGS) and os.path.abspath(given) != own:
                has = f"its own, {own}" if own else "the workers' default"
                self._say(f"note: --{option} has no effect: the PCS at {address} has {has}")


def script_name() -> str:
    """The file that is standard input, as it would be named here."""
    try:
        path = os.readlink("/proc/self/fd/0")
    except OSError:
        return script.SCRIPT
    if not os.path.isfile(path):
        return script.SCRIPT
    return os.path.relpath(path) if path.startswith(os.getcwd() + os.sep) else path


def _exit(status: int) -> None:
    sys.stderr.flush()
    os._exit(status)
