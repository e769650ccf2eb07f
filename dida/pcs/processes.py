"""The process of a node, started here or taken over from an earlier PCS; and the file with its output.

A node writes into its file itself. So it never waits for a reader, and its output is complete even if the PCS ends; the
PCS reads the file as it grows. The time of its start identifies a process, as another one may have its id later.
"""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from threading import Condition, Thread
from typing import Any, BinaryIO

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import ConnectError, DNSLookupError
from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.protocol import Factory, ProcessProtocol, Protocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from dida.addresses import Address
from dida.pcs.log_folder import KEPT_LOGS

KEPT_LINES = 1000
"""Newest lines of a node's output that are kept."""
MAX_OUTPUT_LINE = 4096
"""Longest line of a node's output, in bytes; longer ones are broken."""
READ_SIZE = 2**18
"""Size of one read of a node's output, in bytes."""
READS = 4
"""Reads of one node's output before the next node's turn."""
MAX_UNSHOWN = 2**24
"""Size of all lines that wait for a slow console, in bytes; further lines are left out."""

_log = Logger()


def how_it_ended(failure: Failure) -> str:
    """Return `exit status 1`, `signal SIGKILL` and the like."""
    problem: Any = failure.value
    if problem.signal is not None:
        return f"signal {signal.Signals(problem.signal).name}"
    return f"exit status {problem.exitCode or 0}"


def start_time(pid: int) -> str:
    """Return the start of the machine and of a process, which identify the process; empty if it has ended."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as boot, open(f"/proc/{pid}/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()
            return "" if fields[0] in "ZX" else f"{boot.read().strip()} {fields[19]}"
    except OSError:
        return ""


class _Probes(Factory):
    """Connections that only find out whether a port is open."""

    noisy = False
    protocol = Protocol


_probes = _Probes()


async def listens(reactor: Any, address: Address, seconds: float) -> bool:
    """Return True if the port opens within that time; cheaper than a ReconnectingClient."""
    connecting: Deferred[Any] = HostnameEndpoint(reactor, address.host.encode(), address.port, seconds).connect(_probes)

    def cancelled(answer: Deferred[Any]) -> None:
        answer.errback(CancelledError())  # the endpoint itself fails otherwise, as with an unknown host
        connecting.cancel()

    answer: Deferred[Any] = Deferred(cancelled)
    connecting.addBoth(lambda result: None if answer.called else answer.callback(result))
    try:
        connection = await answer
    except (ConnectError, DNSLookupError):
        return False
    connection.transport.loseConnection()
    return True


class Child(ProcessProtocol):
    """A process that this PCS has started."""

    def __init__(self, on_end: Callable[[str], None]) -> None:
        self._on_end = on_end

    def signal(self, name: str) -> None:
        """Send a signal, unless the process has ended."""
        if self.transport is not None and self.transport.pid is not None:
            self.transport.signalProcess(signal.Signals[f"SIG{name}"])

    def release(self) -> None:
        """Leave the process alone."""

    def processEnded(self, reason: Failure) -> None:
        self._on_end(how_it_ended(reason))


@implementer(IReadDescriptor)
class AdoptedProcess:
    """A process that an earlier PCS has started: its end is noticed, but only its parent learns the exit status."""

    def __init__(self, reactor: Any, pid: int, on_end: Callable[[str], None]) -> None:
        self._reactor = reactor
        self._on_end = on_end
        self._file: int | None = os.pidfd_open(pid)
        reactor.addReader(self)

    def signal(self, name: str) -> None:
        """Send a signal, unless the process has ended."""
        if self._file is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._file, signal.Signals[f"SIG{name}"])

    def release(self) -> None:
        """Leave the process alone."""
        if self._file is not None:
            self._reactor.removeReader(self)
            os.close(self._file)
            self._file = None

    def fileno(self) -> int:
        return -1 if self._file is None else self._file

    def doRead(self) -> None:
        """The process has ended."""
        self.release()
        self._on_end("how is not known, another PCS had started it")

    def connectionLost(self, reason: Failure) -> None:
        self.release()

    def logPrefix(self) -> str:
        return "process"


class OutputFile:
    """The file with a node's output: read as it grows, and followed when the node rotates it."""

    def __init__(self, path: str, on_line: Callable[[bytes], None]) -> None:
        self.path = path
        self.lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._on_line = on_line
        self._part = b""
        self._file: BinaryIO | None = None

    def begin(self) -> BinaryIO:
        """Open the file for the process to append to; skip what earlier processes have written."""
        writing = open(self.path, "ab", buffering=0)  # noqa: SIM115 - the caller closes it
        self._file = open(self.path, "rb", buffering=0)  # noqa: SIM115 - closed at the node's end
        self._file.seek(0, os.SEEK_END)
        return writing

    def resume(self) -> None:
        """Go on at the end of the file; keep its newest lines."""
        with suppress(OSError):
            self._file = open(self.path, "rb", buffering=0)  # noqa: SIM115 - closed at the node's end
            size = self._file.seek(0, os.SEEK_END)
            self._file.seek(max(0, size - READ_SIZE))
            *lines, self._part = (self._file.read(READ_SIZE) or b"").split(b"\n")
            self.lines.extend(line[:MAX_OUTPUT_LINE].decode(errors="replace") for line in lines)

    def read(self) -> bool:
        """Read new output; return True if there may be more."""
        if self._file is None:
            return False
        try:
            data = self._file.read(READ_SIZE)
            if not data:
                return self._follow(self._file)
        except OSError as problem:
            _log.error("cannot read {path}: {problem}", path=self.path, problem=problem.strerror)
            self.close()
            return False
        self._take(data)
        return True

    def poll(self) -> None:
        """Read new output, a bounded part of it."""
        for _ in range(READS):
            if not self.read():
                return

    def _follow(self, file: BinaryIO) -> bool:
        """Look for output elsewhere at the end of the file: in a newer file, or at the start of an emptied one."""
        if os.fstat(file.fileno()).st_size < file.tell():
            file.seek(0)
            return True
        newer = self._newer(file)
        if newer is None:
            return False
        rest = file.read(READ_SIZE)
        if rest:  # written between the last look and the new file
            newer.close()
            self._take(rest)
        else:
            file.close()
            self._file = newer
        return True

    def _newer(self, file: BinaryIO) -> BinaryIO | None:
        """Open the file after that one, if there is one; the newest, if that one has been removed."""
        current = os.fstat(file.fileno())
        newer = newest = None
        for name in (self.path, *(f"{self.path}.{number}" for number in range(1, KEPT_LOGS + 1))):
            with suppress(FileNotFoundError):
                if os.path.samestat(os.stat(name), current):
                    return None if newer is None else open(newer, "rb", buffering=0)
                newer = name
                newest = newest or name
        return None if newest != self.path else open(newest, "rb", buffering=0)

    def _take(self, data: bytes) -> None:
        *lines, self._part = (self._part + data).split(b"\n")
        for line in lines:
            self._line(line)
        while len(self._part) > MAX_OUTPUT_LINE:
            self._line(self._part[:MAX_OUTPUT_LINE])
            self._part = self._part[MAX_OUTPUT_LINE:]

    def _line(self, line: bytes) -> None:
        line = line.removesuffix(b"\r")
        self.lines.append(line[:MAX_OUTPUT_LINE].decode(errors="replace"))
        self._on_line(line)

    def end(self) -> None:
        """Read all that is left, as the process has ended."""
        while self.read():
            pass
        if self._part:
            self._line(self._part)
            self._part = b""
        self.close()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


class LineWriter:
    """Writes lines to a slow stream in a thread; when too many wait, further lines are left out.

    The thread takes all waiting lines at once, so it keeps up unless the stream itself blocks.
    """

    def __init__(self, to: BinaryIO, most: int = MAX_UNSHOWN) -> None:
        """`most`: size of all lines that wait, in bytes."""
        self._to = to
        self._most = most
        self._lines: list[bytes] = []
        self._size = 0
        self._closed = False
        self._news = Condition()
        self._left_out = 0
        self._thread = Thread(target=self._write, name="console", daemon=True)
        self._thread.start()

    def say(self, line: bytes) -> None:
        """Write a line after the others."""
        with self._news:
            if self._size >= self._most:
                self._left_out += 1
                return
            if self._left_out:
                self._lines.append(b"(%d lines left out: they came faster than they were shown)" % self._left_out)
                self._left_out = 0
            self._lines.append(line)
            self._size += len(line)
            self._news.notify()

    def close(self, seconds: float) -> None:
        """Write what is left, within that many seconds."""
        with self._news:
            self._closed = True
            self._news.notify()
        self._thread.join(seconds)

    def _write(self) -> None:
        try:
            while lines := self._taken():
                self._to.write(b"\n".join(lines) + b"\n")
                self._to.flush()
        except OSError:  # the reader is gone: the lines are in the files all the same
            while self._taken():
                pass

    def _taken(self) -> list[bytes]:
        """Wait for lines and return all of them; none at the end."""
        with self._news:
            self._news.wait_for(lambda: self._lines or self._closed)
            lines, self._lines, self._size = self._lines, [], 0
        return lines
