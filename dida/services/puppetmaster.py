"""The puppetmaster: the console of a DIDA system, on standard input and output.

On a terminal it takes commands one at a time; from a pipe or file it plays a script, waits for the runs
still going and ends, with exit status 1 when anything failed. Nodes are started by PCSs, and one for this
machine is started here when there is none; what was started here ends with the puppetmaster, unless
--keep says otherwise. What it prints is what it has to say; its log goes to a file.
"""

from __future__ import annotations

import atexit
import os
import shutil
import sys
from contextlib import suppress
from typing import Any, cast

from twisted.internet.defer import Deferred, DeferredQueue, QueueOverflow
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import CannotListenError, ConnectError, ReactorNotRunning
from twisted.internet.protocol import Factory, ProcessProtocol, Protocol
from twisted.internet.stdio import StandardIO
from twisted.internet.task import deferLater
from twisted.logger import ILogObserver, Logger, textFileLogObserver
from twisted.python.failure import Failure
from twisted.python.logfile import LogFile

from dida import script
from dida.addresses import Address
from dida.errors import DidaError, UserError
from dida.messages import Status
from dida.protocols.lines import LineServerFactory
from dida.protocols.pcs import Pcs
from dida.protocols.player import Player
from dida.protocols.puppetmaster import Console, DebugCommands, KeyReader, ScriptConsole, TerminalConsole
from dida.protocols.system import System
from dida.services.launch import command_line
from dida.services.node import NodeService, default_reactor, fail, installed_folder, number
from dida.services.node import Options as CommonOptions

PCS_DEADLINE = 15.0
"""Seconds for a PCS that was started here to listen."""
PROBE_INTERVAL = 0.03
OUTPUT_DEADLINE = 2.0
"""Seconds for a slow reader of the last lines."""
STOP_DEADLINE = 8.0
"""Seconds for the PCS to end its nodes and itself before it is killed."""

_log = Logger()


class Options(CommonOptions):
    command = "puppetmaster"
    synopsis = "[options] [< SCRIPT]"
    longdesc = (
        "DIDA's console. On a terminal: commands at a prompt, try help. With a script on standard input: plays it."
    )
    optParameters = [
        [
            "deadline",
            None,
            60.0,
            "seconds to wait for nodes to start, and for runs to end",
            number(0.1, 86_400, "seconds", float),
        ],
        ["debug-port", None, 10_001, "where workers report in debug mode", number(1, 65_535, "a port")],
        ["logs", None, "logs", "folder of the log files"],
        ["operators", None, None, "operators folder of the workers started here (default: their own default)"],
    ]
    optFlags = [
        ["step", None, "play the script one command a key press (Enter)"],
        ["keep", None, "leave the nodes running at the end"],
    ]

    def __init__(self) -> None:
        super().__init__()
        self["pcs"] = []
        self["files"] = []

    def opt_pcs(self, url: str) -> None:
        """A PCS, as http://HOST:PORT; repeatable, one for each machine. [default: http://localhost:10000]"""
        self["pcs"].append(Address.parse(url))

    def opt_files(self, folder: str) -> None:
        """A folder to seek applications and data in, with its subfolders; repeatable. [default: pmscripts]"""
        if not os.path.isdir(folder):
            raise UserError(f"--files {folder}: no such folder")
        self["files"].append(folder)


class _Probes(Factory):
    noisy = False
    protocol = Protocol


_probes = _Probes()


class OwnPcs(ProcessProtocol):
    """The PCS process that was started here."""

    def __init__(self, reactor: Any, address: Address, logs: str, keep: bool, operators: str | None) -> None:
        self.reactor = reactor
        self.address = address
        self.log = os.path.join(logs, "pcs.log")
        self.running = False
        self._gone: Deferred[None] = Deferred()
        words = ["dida-pcs", f"--url=http://{address}", f"--logs={logs}", "--quiet"]
        words += [] if keep else ["--attached"]
        words += [] if operators is None else [f"--operators={operators}"]
        arguments = command_line(*words)
        with open(self.log, "ab") as log, open(os.devnull, "rb") as nothing:
            files: dict[int, Any] = {0: nothing.fileno() if keep else "w", 1: log.fileno(), 2: log.fileno()}
            reactor.spawnProcess(self, arguments[0], arguments, env=None, childFDs=files)
        self.running = True

    async def until_ready(self) -> None:
        """Returns when it answers; UserError when it ends before, or takes too long."""
        endpoint = HostnameEndpoint(self.reactor, self.address.host.encode(), self.address.port, 2)
        ends = self.reactor.seconds() + PCS_DEADLINE
        while self.running and self.reactor.seconds() < ends:
            await deferLater(self.reactor, PROBE_INTERVAL)
            try:
                connection = cast(Protocol, await endpoint.connect(_probes))
            except ConnectError:
                continue
            assert connection.transport is not None
            connection.transport.loseConnection()
            if await self._answers():
                return
        raise UserError(f"no PCS could be started at {self.address}: {self._last_line()}")

    async def _answers(self) -> bool:
        pcs = Pcs(self.reactor, self.address)
        try:
            return (await pcs.ask(Status(deadline=1))).object.get("role") == "pcs"
        except DidaError:
            return False
        finally:
            await pcs.close()

    def _last_line(self) -> str:
        try:
            with open(self.log, "rb") as log:
                lines = log.read()[-4096:].decode(errors="replace").split("\n")
        except OSError:
            lines = []
        return next((line for line in reversed(lines) if line.strip()), f"see {self.log}")

    def processEnded(self, reason: Failure) -> None:
        self.running = False
        self._gone.callback(None)

    async def stop(self) -> None:
        """End it, and with it all nodes that it has started."""
        if self.running:
            cast(Any, self.transport).signalProcess("TERM")
            kill = self.reactor.callLater(STOP_DEADLINE, cast(Any, self.transport).signalProcess, "KILL")
            await self._gone
            if kill.active():
                kill.cancel()


class PuppetMaster(NodeService):
    """The console and the system behind it."""

    def __init__(self, reactor: Any, options: Options) -> None:
        super().__init__("puppetmaster")
        self.reactor = reactor
        self.options = options
        self.status = 0
        self.logs = os.path.abspath(options["logs"])
        self.system = System(reactor, options["pcs"], options["deadline"])
        self.system.start_pcs = self._start_pcs
        on_terminal = os.isatty(0)
        width = shutil.get_terminal_size().columns if os.isatty(1) else None
        folders = options["files"] or [installed_folder("pmscripts")]
        self.player = Player(self.system, self._say, folders, width)
        self.player.listen_for_debug = self._listen_for_debug
        self.console: Console = (
            TerminalConsole(self._typed, self._end_of_input) if on_terminal else ScriptConsole(self._on_script)
        )
        self.console.on_gone = self._on_gone
        if width is not None:
            self.player.progress = self._progress
        self._typed_lines: DeferredQueue[script.Line | None] = DeferredQueue(size=1000)
        self._keys: DeferredQueue[None] = DeferredQueue()
        self.log_file: Any = None
        self._streams: list[tuple[int, bool]] = []
        self._own_pcs: OwnPcs | None = None
        self._debug_port: Any = None
        self._stopping = False
        self._playing: Deferred[None] | None = None

    # --- twistd ---------------------------------------------------------------------------------

    def setServiceParent(self, parent: Any) -> None:
        """The log goes to a file, unless twistd's own options say where."""
        super().setServiceParent(parent)
        twistd: Any = self.options.parent or {}
        if not (twistd.get("logfile") or twistd.get("logger") or twistd.get("syslog")):
            self.log_file = LogFile("puppetmaster.log", self.logs, 20_000_000, maxRotatedFiles=1)
            parent.setComponent(ILogObserver, textFileLogObserver(self.log_file))

    def startService(self) -> None:
        super().startService()
        self.reactor.callWhenRunning(self._begin)

    def stopService(self) -> Deferred[Any]:
        self._stopping = True
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        await self.player.close()
        self.system.end_watch()
        if self._playing is not None:
            self._playing.cancel()
        running = [node for node in self.system.named() if node.there and node.pid]
        nodes = f"{len(running)} node{'s' * (len(running) != 1)}"
        if self.options["keep"]:
            if running:
                self._say(f"kept     {nodes} and the PCS; {self._how_to_end()}")
        else:
            await self.system.stop_nodes()
            if self._own_pcs is not None:
                await self._own_pcs.stop()
            if running:
                self._say(f"stopped  {nodes}")
        await self.system.close()
        if self._debug_port is not None:
            await self._debug_port.stopListening()
        await cast("Deferred[Any]", super().stopService())
        await self._put_out_all()

    async def _put_out_all(self) -> None:
        """Let what was said reach its reader, and leave the terminal, or pipe, as it was found."""
        if self.console.transport is not None:
            cast(Any, self.console.transport).loseConnection()
            await self.console.gone.addTimeout(OUTPUT_DEADLINE, self.reactor, lambda result, seconds: None)
        for stream, blocking in self._streams:
            os.set_blocking(stream, blocking)
            os.close(stream)

    def _how_to_end(self) -> str:
        if self._own_pcs is None:
            return "the PCS's line `stop` ends them"
        return f"they end with it: kill {cast(Any, self._own_pcs.transport).pid}"

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
        StandardIO(self.console, reactor=self.reactor)
        if isinstance(self.console, TerminalConsole):
            self._say(f"DIDA's puppetmaster; help lists the commands; logs in {self.logs}")
            self.console.prompt()
            self._own(self._play_typed())

    def _say(self, text: str) -> None:
        if self.console.transport is not None:
            self.console.say(text)

    def _progress(self, text: str) -> None:
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
        line = script.parse_line(text)
        if line is not None:
            try:
                self._typed_lines.put(line)
            except QueueOverflow:
                self._say(f"{line}: too many commands wait already: it was dropped")

    def _end_of_input(self) -> None:
        self._typed_lines.put(None)

    async def _play_typed(self) -> None:
        while True:
            line = await self._typed_lines.get()
            if line is None or isinstance(line.command, script.Quit):
                self._end(failed=False)
                return
            await self.player.play(line)

    # --- scripts --------------------------------------------------------------------------------

    def _on_script(self, data: bytes) -> None:
        self._own(self._play_script(data))

    async def _play_script(self, data: bytes) -> None:
        try:
            lines = script.in_order(script.parse_script(data))
        except UserError as problem:
            self._say(str(problem))
            self._end(failed=True)
            return
        self._say(f"playing  {len(lines)} command{'s' * (len(lines) != 1)}; logs in {self.logs}")
        self.player.plan(lines)
        for line in lines:
            if isinstance(line.command, script.Quit):
                break
            if self.options["step"]:
                self._say(f"next     {line}   [Enter]")
                await self._keys.get()
            await self.player.play(line)
        await self.player.finish()
        self._say(f"played   {self.player.summary()}")
        self._end(failed=bool(self.player.counts.failed))

    def read_keys(self, terminal: int) -> None:
        """Step mode: the keys come from there, as standard input is the script."""
        self.reactor.callWhenRunning(
            StandardIO, KeyReader(lambda: self._keys.put(None)), terminal, reactor=self.reactor
        )

    # --- what the player needs ------------------------------------------------------------------

    async def _start_pcs(self, address: Address) -> None:
        if self._stopping:
            raise UserError("the puppetmaster is ending")
        self._own_pcs = OwnPcs(self.reactor, address, self.logs, self.options["keep"], self.options["operators"])
        await self._own_pcs.until_ready()
        self._say(f"pcs      started at {address}")

    def _listen_for_debug(self) -> str:
        port = int(self.options["debug-port"])
        if self._debug_port is None:
            factory = LineServerFactory(DebugCommands(self._say), self.reactor)
            try:
                self._debug_port = self.reactor.listenTCP(port, factory, interface="127.0.0.1")
            except CannotListenError as problem:
                reason = os.strerror(getattr(problem.socketError, "errno", 0)).lower()
                raise UserError(
                    f"can't listen on port {port} for debug output: {reason}: take another --debug-port"
                ) from None
        return f"localhost:{port}"


def _exit(status: int) -> None:
    sys.stderr.flush()
    os._exit(status)


def makeService(options: Options, reactor: Any = None) -> PuppetMaster:
    if options.parent is not None and not options.parent.get("nodaemon"):
        fail(options.command, "a console can't go into the background: write twistd -n puppetmaster")
    logs: str = options["logs"]
    try:
        os.makedirs(logs, exist_ok=True)
        with open(os.path.join(logs, "puppetmaster.log"), "ab"):
            pass
    except OSError as problem:
        fail(
            options.command, f"can't write into the folder of --logs {logs}: {os.strerror(problem.errno or 0).lower()}"
        )
    service = PuppetMaster(default_reactor(reactor), options)
    if options["step"] and not os.isatty(0):
        try:
            service.read_keys(os.open("/dev/tty", os.O_RDONLY))
        except OSError:
            fail(options.command, "--step waits for a key at each command, and there is no terminal to press it on")
    return service
