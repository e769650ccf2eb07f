"""The process that is a node's own, from its command line to its end: log, pid file, signals, who waits for it.

twistd makes it a daemon; what twistd says about pid files and logs is taken over here.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable, Iterable, MutableMapping
from typing import Any, cast

from twisted.internet.task import LoopingCall
from twisted.logger import ILogObserver, textFileLogObserver

from dida.errors import UserError
from dida.protocols.clock import steady
from dida.services.forks import leave_nothing_to_children
from dida.services.logs import NodeLog
from dida.services.pid_file import PidFile
from dida.services.signals import Signals, outlive_signals
from dida.services.waiting import fork_and_wait, say_ready

YOUNG = 20_000
"""Objects made and not freed until the young ones are searched for cycles: some megabytes. With Python's own 700,
what some hundred requests in flight consist of is searched again and again, which is a fifth of a worker's time."""
BEGIN_TIME = 60.0
"""Seconds for a node in the background to listen, which the command waits for in any case."""
LOOK_INTERVAL = 1.0
"""Seconds between two looks at the log's size."""


class OwnProcess:
    """Of the node `name`, which `command` starts; `twistd` are twistd's own options.

    `wait`: seconds that the command waits for the node to be ready, if it does; `patience`: those for an older process
    of the node to end.
    """

    def __init__(
        self, command: str, name: str, twistd: MutableMapping[str, Any], wait: float | None, patience: float
    ) -> None:
        self.command = command
        self.name = name
        self.wait = wait
        self.patience = patience
        self._in_background = not (twistd.get("nodaemon") or twistd.get("debug"))
        file = twistd.get("logfile")
        elsewhere = not file or file == "-" or twistd.get("logger") or twistd.get("syslog")
        self.log_path = None if elsewhere else os.path.abspath(str(file))
        pid_path = twistd.get("pidfile")
        self.pid_file = PidFile(pid_path, name) if pid_path else None
        twistd["pidfile"] = ""  # twistd refuses to start when the file names whatever lives
        self.connections: Callable[[], Iterable[int]] = tuple
        """The descriptors of the node's connections."""
        self._log: NodeLog | None = None
        self._waiter: int | None = None

    def on_begun(self) -> bool:
        """Note that the node listens; return True if a command also waits for it to be ready."""
        if self.wait is None:
            self.say_ready()
        return self._waiter is not None

    def begin(self) -> Any:
        """Become the node's process; the reactor, which is installed now. UserError when that can't be."""
        outlive_signals()
        if self._in_background:
            seconds = BEGIN_TIME if self.wait is None else self.wait
            self._waiter = fork_and_wait(self.command, self.name, seconds, self.log_path)
        if self.log_path is not None:
            try:
                self._log = NodeLog(self.log_path)
            except OSError as problem:
                reason = os.strerror(problem.errno or 0).lower()
                raise UserError(f"cannot write the log {self.log_path}: {reason}: name another by --logfile") from None
        if self.pid_file is not None:
            self.pid_file.claim(self.patience, self._say)
        reactor = shared_reactor()
        Signals(reactor, self._reopen, self._rotate, self._gone)
        reactor.callWhenRunning(self._on_running, reactor)
        reactor.addSystemEventTrigger("before", "shutdown", self._leaving)
        reactor.addSystemEventTrigger("after", "shutdown", self._gone)
        return reactor

    def log_to(self, application: Any) -> None:
        """The log of a twistd application is this process's."""
        if self._log is not None:
            application.setComponent(ILogObserver, textFileLogObserver(cast(Any, self._log)))

    def write_pid(self) -> None:
        """This is the process that stays."""
        if self.pid_file is not None:
            self.pid_file.write()

    def say_ready(self) -> None:
        """Tell who waits for it that the node is ready."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            say_ready(waiter)

    def _say(self, text: str) -> None:
        sys.stderr.write(f"twistd {self.command}: {text}\n")
        sys.stderr.flush()

    def _on_running(self, reactor: Any) -> None:
        leave_nothing_to_children(reactor, self._kept_open, self._in_child)
        if self._log is not None:
            looking = LoopingCall(self._log.look)
            looking.clock = reactor
            looking.start(LOOK_INTERVAL, now=False)

    def _kept_open(self) -> Iterable[int]:
        held = [] if self.pid_file is None else [self.pid_file.fileno()]
        return [*held, *self.connections()]

    def _in_child(self) -> None:
        if self._log is not None:
            self._log.disown()

    def _reopen(self) -> None:
        if self._log is not None:
            self._log.reopen()

    def _rotate(self) -> None:
        if self._log is not None:
            self._log.rotate()

    def _leaving(self) -> None:
        if self.pid_file is not None:
            self.pid_file.leaving()

    def _gone(self) -> None:
        if self.pid_file is not None:
            self.pid_file.remove()


def shared_reactor() -> Any:
    """The reactor that twistd installed, with a clock that never steps, in a process that does nothing else."""
    signal.signal(signal.SIGUSR1, lambda number, frame: None)  # never kills
    from twisted.internet import reactor as installed

    gc.freeze()  # what was imported stays: no collection goes through it any more
    gc.set_threshold(YOUNG)
    gc.enable()  # where dida.pcs.launch has kept it from the imports
    return steady(installed)
