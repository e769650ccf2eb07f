"""A session of the puppetmaster: a DIDA system, and the console that controls it.

On a terminal the session executes commands as they are typed. From a pipe or file it plays a script, waits for the
runs that still go on, and ends, with exit status 1 if anything failed. PCSs start the nodes; the session starts a PCS
for this machine when there is none. It ends what it has started, unless --keep is given. Its log goes to a file, apart
from the output.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from random import SystemRandom
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, DeferredQueue, QueueOverflow
from twisted.internet.error import ReactorNotRunning
from twisted.internet.stdio import StandardIO
from twisted.logger import Logger
from twisted.python.failure import Failure

from dida.addresses import HERE
from dida.console.commands import HelpCommand, QuitCommand
from dida.console.script import SCRIPT, Line, first_members, in_order, parse_line, parse_script
from dida.console.style import BAD, FAINT, GOOD, ODD, STRONG
from dida.console.tables import counted, printable, progress_line
from dida.errors import DidaError, UserError
from dida.protocols.stdio import ConsoleListener, KeyReader
from dida.puppetmaster.attaching import RunningSystem, who_listens
from dida.puppetmaster.checking import check
from dida.puppetmaster.cluster import Cluster, ClusterListener
from dida.puppetmaster.debug_port import DebugPorts
from dida.puppetmaster.files import usable_files
from dida.puppetmaster.local_pcs import LocalPcs
from dida.puppetmaster.nodes import STARTING, Node
from dida.puppetmaster.script_runner import ScriptRunner
from dida.puppetmaster.session_console import SessionConsole

DEFAULT_LOGS = "logs"
MAX_TYPED_AHEAD = 1000
"""Typed commands that may wait for execution."""

_log = Logger()


class Session(ConsoleListener):
    """The console and the system that it controls.

    `options` are those of the command line; `folders` hold the files that commands name; `operators` returns the class
    names in the operators folder, or raises DidaError.
    """

    def __init__(
        self,
        reactor: Any,
        options: Mapping[str, Any],
        folders: Sequence[str],
        operators: Callable[[], Collection[str]] = tuple,
    ) -> None:
        self.reactor = reactor
        self.options = options
        self.logs = os.path.abspath(options["logs"])
        self.console = SessionConsole(reactor, self, options["history"])
        self.name = f"puppetmaster-{SystemRandom().getrandbits(48):x}"
        wanted = {
            "operators": options["operators"],
            "logs": None if options["logs"] == DEFAULT_LOGS else options["logs"],
        }
        self.local_pcs = LocalPcs(reactor, self.name, self.logs, options["keep"], wanted, self.console.say_aside)
        self.debug_ports = DebugPorts(reactor, int(options["debug-port"]), self.console.say)
        self.runner = ScriptRunner(self._cluster, folders, self.console)
        self.cluster = self.runner.cluster
        self._known_operators = operators
        self._typed_lines: DeferredQueue[Line | None] = DeferredQueue(size=MAX_TYPED_AHEAD)
        self._keys: DeferredQueue[None] = DeferredQueue()
        self._stopping = False
        self._playing: Deferred[None] | None = None
        self._current: Deferred[None] | None = None
        """The typed command for which those after it wait."""
        self._interrupted = False

    def _cluster(self, listener: ClusterListener) -> Cluster:
        return Cluster(
            self.reactor,
            self.options["pcs"],
            self.options["deadline"],
            listener,
            name=self.name,
            owner="" if self.options["keep"] else self.name,
            local_pcs=self.local_pcs,
            debug_url=self.debug_ports.url,
            who_listens=partial(who_listens, self.reactor),
        )

    # --- start and end --------------------------------------------------------------------------

    def start(self) -> None:
        """Begin once the reactor runs."""
        self.reactor.callWhenRunning(self._begin)

    def _begin(self) -> None:
        self.console.open()
        if self.console.plays_script:
            if not self.options["step"]:
                self.console.show_waiting(self._waiting_for, self._on_bug)
            return
        self.console.say(f"DIDA's puppetmaster; help lists the commands; logs in {self.logs}")
        self.console.load_history()
        self._own(self._play_typed())

    def _own(self, work: Coroutine[Any, Any, None]) -> None:
        self._playing = Deferred.fromCoroutine(work)
        self._playing.addErrback(self._on_bug)

    def _on_bug(self, failure: Failure) -> None:
        if not self._stopping:
            _log.failure("the puppetmaster ends in a bug", failure)
            self.console.say(f"a bug in the puppetmaster: its log in {self.logs} has the details")
            self._end(failed=True)

    def _end(self, failed: bool) -> None:
        """End the process, with exit status 1 if anything failed."""
        if not self._stopping:
            self._stopping = True
            if failed:
                # twistd itself always ends with status 0 when the reactor was stopped.
                atexit.register(_exit, 1)
            with suppress(ReactorNotRunning):
                self.reactor.stop()

    def stop(self) -> Deferred[None]:
        """End what the session has started; the result fires when all output is written."""
        self._stopping = True
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self.console.rest()
        await self.runner.close()
        self.cluster.end_watch()
        self.local_pcs.end_watch()
        if self._playing is not None:
            self._playing.cancel()
        await self.cluster.debug_off()
        running = self.cluster.started_here()
        before = self.cluster.left_running()
        if before and not self.options["check"]:
            self.console.say_aside(f"left     {counted(len(before), 'node')} that ran before")
        if self.options["keep"]:
            if running:
                self._say_kept(running)
        else:
            await self._stop_nodes(running)
        await self.cluster.close()
        await self.debug_ports.close()
        await self.console.close()

    async def _stop_nodes(self, running: Sequence[Node]) -> None:
        left = await self.cluster.stop_nodes()
        await self.local_pcs.stop()
        paint = self.console.page.paint
        if len(running) > len(left):
            self.console.say(paint.word(FAINT, f"stopped  {counted(len(running) - len(left), 'node')}"))
        if left:
            ids = " ".join(node.id for node in left)
            text = f"left     {ids}: the PCS there does not answer; it ends them once it is back"
            self.console.say(paint.word(ODD, text))

    def _say_kept(self, nodes: Sequence[Node]) -> None:
        """Print what goes on, how to attach to it, and how to end it."""
        end = "the PCS's line `stop` ends them"
        if self.local_pcs.address is not None:
            end = f"they end with it: kill {self.local_pcs.pid}"
        pcs = next((node.pcs.address for node in nodes if node.pcs is not None), nodes[0].address)
        self.console.say_aside(f"again    twistd -n puppetmaster --attach http://{pcs}")
        self.console.say_aside(f"kept     {counted(len(nodes), 'node')} and the PCS; {end}")

    def output_closed(self) -> None:
        self._end(failed=True)

    async def _attach(self) -> bool:
        """Take over the running system that --attach names, if any; return False when there is none there."""
        if not self.options["attach"]:
            return True
        found = RunningSystem(self.reactor, self.options["attach"], self.options["pcs"])
        paint = self.console.page.paint
        try:
            await found.find()
        except DidaError as problem:
            self.console.say(paint(BAD, printable(str(problem))))
            self._end(failed=True)
            return False
        self.cluster.take_up(found)
        ids = printable(" ".join(found.nodes))
        self.console.say(paint.word(STRONG, f"attached {counted(len(found.nodes), 'node')}: {ids}"))
        alone = " ".join(node.id for node in found.nodes.values() if node.pcs is None)
        if alone:
            found.notes.append(f"no PCS of {alone} is known: --attach its URL, too, to stop or pause them")
        for note in found.notes:
            self.console.say(paint(ODD, printable(f"note: {note}")))
        return True

    # --- typed commands -------------------------------------------------------------------------

    def line_typed(self, text: str) -> None:
        self.console.keep(text)
        line = parse_line(text)
        if line is not None and isinstance(line.command, HelpCommand | None):
            Deferred.fromCoroutine(self.runner.play(line)).addErrback(self._on_bug)
        elif line is not None:
            try:
                self._typed_lines.put(line)
            except QueueOverflow:
                self.console.say(f"{line}: too many commands wait already: it was dropped")
        self._interrupted = False

    def input_ended(self) -> None:
        self._typed_lines.put(None)

    async def _play_typed(self) -> None:
        if not await self._attach():
            return
        self.console.protocol.prompt()
        while not self._stopping:
            line = await self._typed_lines.get()
            if line is None or isinstance(line.command, QuitCommand):
                self._end(failed=False)
                return
            self._current = Deferred.fromCoroutine(self.runner.play(line))
            try:
                await self._current
            except CancelledError:
                self.console.say(self.console.page.paint(ODD, f"{line}: dropped"))
            self._current = None

    def interrupted(self) -> None:
        """Drop the commands that wait; with none, end the session at the second time."""
        if self._current is not None:
            while self._typed_lines.pending:
                self._typed_lines.pending.pop()
            self._current.cancel()
        elif self._interrupted:
            os.kill(os.getpid(), signal.SIGINT)
        else:
            self._interrupted = True
            self.console.say("press Ctrl-C again or Ctrl-D, or type quit, to end, with all nodes")

    def suspended(self) -> None:
        self.console.suspend()

    def words_at(self, command: str, place: str, last: str) -> Iterable[str]:
        if place == "ID" and command not in ("scheduler", "storage", "worker"):
            role = "storage" if command == "listserver" else None
            return [node.id for node in self.cluster.nodes.named(role) if node.there or command == "restart"]
        if place == "OPERATOR…":
            return sorted(self._operators() or ())
        return usable_files(place, last, self.runner.folders)

    def _operators(self) -> Collection[str] | None:
        """Return the operators of the workers that are started here; None when they are unknown."""
        try:
            return self._known_operators()
        except DidaError:
            return None

    # --- scripts --------------------------------------------------------------------------------

    def script_read(self, data: bytes) -> None:
        self._own(self._play_script(data))

    async def _play_script(self, data: bytes) -> None:
        try:
            lines = in_order(parse_script(data, script_name()))
        except UserError as problem:
            self.console.say(str(problem))
            self._end(failed=True)
            return
        if not await self._attach():
            return
        if self.options["check"]:
            self._check(lines)
            return
        paint = self.console.page.paint
        self.console.say(paint.word(STRONG, f"playing  {counted(len(lines), 'command')}; logs in {self.logs}"))
        first = " ".join(dict.fromkeys(command.id for command in first_members(lines)))
        if first:
            self.console.say(paint.word(STRONG, f"starting {first}"))
        self.runner.plan(lines)
        try:
            for line in lines:
                if isinstance(line.command, QuitCommand):
                    break
                if self.options["step"]:
                    self.console.say(f"next     {line}   [Enter]")
                    await self._keys.get()
                await self.runner.play(line)
            await self.runner.finish()
        finally:
            tone = BAD if self.runner.work.counts.failed else GOOD
            self.console.say(paint.word(tone, f"played   {self.runner.work.summary()}"))
        self._end(failed=bool(self.runner.work.counts.failed))

    def _check(self, lines: Sequence[Line]) -> None:
        machines = [address.machine for address in self.options["pcs"]]
        operators = self._operators() if {HERE}.issuperset(machines) else None
        there = [node.command for node in self.cluster.nodes.named()]
        wrong = check(lines, self.runner.folders, machines, operators, there)
        paint = self.console.page.paint
        for line, problem in wrong:
            self.console.say(paint(BAD, f"{line}: {problem}"))
        found = f"wrong: {len(wrong)}" if wrong else "nothing is wrong"
        tone = BAD if wrong else GOOD
        self.console.say(paint.word(tone, f"checked  {counted(len(lines), 'command')}: {found}"))
        self._end(failed=bool(wrong))

    def _waiting_for(self) -> str:
        """Return the progress line of a script."""
        now, ends = self.reactor.seconds(), self.runner.context.waits_until
        starting = [node.id for node in self.cluster.nodes.named() if node.state == STARTING]
        left = None if ends is None else max(0.0, ends - now)
        return progress_line(starting, self.runner.work.counts.going_on, left, now, self.console.page.width)

    def read_keys(self, terminal: int) -> None:
        """Read the keys of step mode from a terminal, as standard input is the script."""
        keys = KeyReader(lambda: self._keys.put(None))
        self.reactor.callWhenRunning(StandardIO, keys, terminal, reactor=self.reactor)


def script_name() -> str:
    """Return the name of the file that is standard input, relative to the current folder."""
    try:
        path = os.readlink("/proc/self/fd/0")
    except OSError:
        return SCRIPT
    if not os.path.isfile(path):
        return SCRIPT
    return os.path.relpath(path) if path.startswith(os.getcwd() + os.sep) else path


def _exit(status: int) -> None:
    sys.stderr.flush()
    os._exit(status)
