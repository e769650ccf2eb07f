"""The puppetmaster as a service: `twistd -n puppetmaster`."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any, cast

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.logger import ILogObserver, textFileLogObserver

from dida.addresses import Address
from dida.errors import UserError
from dida.puppetmaster.session import DEFAULT_LOGS, Session
from dida.services.logs import NodeLog
from dida.services.node import Options as CommonOptions
from dida.services.node import fail, number
from dida.services.own_process import shared_reactor
from dida.services.stock import stock_folder
from dida.worker.loading import OperatorFolder


class Options(CommonOptions):
    command = "puppetmaster"
    synopsis = "[options] [< SCRIPT]"
    longdesc = "The console of DIDA: commands at a prompt on a terminal (try help), or a script on standard input."
    optParameters = [
        [
            "deadline",
            None,
            60.0,
            "time-out for nodes to start, and for runs to end, in s",
            number(0.1, 86_400, "seconds", float),
        ],
        ["debug-port", None, 10_001, "port to which workers report in debug mode", number(1, 65_535, "a port")],
        ["logs", None, DEFAULT_LOGS, "folder of log files"],
        ["history", None, "~/.dida_history", "file of typed lines"],
        ["operators", None, None, "operators folder of the workers started here (default: the workers' default)"],
    ]
    optFlags = [
        ["step", None, "step mode: play the script one command per key press (Enter)"],
        ["keep", None, "leave nodes running at the end"],
        ["check", None, "check mode: report errors in the script and the files that it names; start nothing"],
    ]

    def __init__(self) -> None:
        super().__init__()
        self["pcs"] = []
        self["attach"] = []
        self["files"] = []

    def opt_pcs(self, url: str) -> None:
        """URL of a PCS, http://HOST:PORT; repeatable, one per machine. [default: http://localhost:10000]"""
        address = Address.parse(url)
        if any(address.machine == other.machine for other in self["pcs"]):
            raise UserError(f"--pcs {url}: already given for that machine, one is enough")
        self["pcs"].append(address)

    def opt_attach(self, url: str) -> None:
        """URL of a node or PCS of a running system to attach to, http://HOST:PORT; repeatable."""
        self["attach"].append(Address.parse(url))

    def opt_files(self, folder: str) -> None:
        """Folder of applications and data, with its subfolders; repeatable. [default: pmscripts]"""
        if not os.path.isdir(folder):
            raise UserError(f"--files {folder}: no such folder")
        self["files"].append(folder)


class PuppetMasterService(Service):
    """A session, and its log: a file, unless twistd's own options say where."""

    def __init__(self, session: Session, twistd: Mapping[str, Any]) -> None:
        self.session = session
        self._twistd = twistd

    def setServiceParent(self, parent: Any) -> None:
        super().setServiceParent(parent)
        if not any(self._twistd.get(option) for option in ("logfile", "logger", "syslog")):
            log = cast(Any, NodeLog(os.path.join(self.session.logs, "puppetmaster.log")))
            parent.setComponent(ILogObserver, textFileLogObserver(log))

    def startService(self) -> None:
        super().startService()
        self.session.start()

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return self.session.stop()


def makeService(options: Options, reactor: Any = None) -> PuppetMasterService:
    if options.parent is not None and not options.parent.get("nodaemon"):
        fail(options.command, "a console cannot go into the background: write twistd -n puppetmaster")
    for name in ("stdin", "stdout"):
        if getattr(sys, name) is None:
            fail(options.command, f"a console needs both standard input and standard output: {name} is closed")
    logs: str = options["logs"]
    try:
        os.makedirs(logs, exist_ok=True)
        with open(os.path.join(logs, "puppetmaster.log"), "ab"):
            pass
    except OSError as problem:
        fail(
            options.command, f"cannot write into the folder of --logs {logs}: {os.strerror(problem.errno or 0).lower()}"
        )
    operators = options["operators"]
    if operators is not None and not os.path.isdir(operators):
        fail(options.command, f"--operators {operators}: no such folder")
    folder = OperatorFolder(operators or stock_folder("operators"))
    folders = options["files"] or [stock_folder("pmscripts")]
    session = Session(reactor or shared_reactor(), options, folders, folder.operators)
    if options["step"] and not os.isatty(0):
        try:
            session.read_keys(os.open("/dev/tty", os.O_RDONLY))
        except OSError:
            fail(options.command, "--step waits for a key at each command, and there is no terminal to press it on")
    return PuppetMasterService(session, options.parent or {})
