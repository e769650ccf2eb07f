"""A process of a node: started here, or by an earlier PCS and taken up; and the file that it writes its output into.

A node writes into its file by itself. So it never waits for anybody who reads, and its output is complete
whatever becomes of the PCS, which reads the file as it grows. That a process is the one that it was is told by
the time of its start: a process id may be another process's by now.
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
MAX_OUTPUT_LINE = 4096
"""Bytes after which a line of a node's output is broken."""
READ_SIZE = 2**18
"""Bytes of a node's output that are read at a time."""
READS = 4
"""So often in a row a node's output is read before the others' is."""
MAX_UNSHOWN = 2**24
"""Bytes that may wait for a slow console before lines are left out."""

_log = Logger()


def how_it_ended(failure: Failure) -> str:
    """`exit status 1`, or `signal SIGKILL`."""
    problem: Any = failure.value
    if problem.signal is not None:
        return f"signal {signal.Signals(problem.signal).name}"
    return f"exit status {problem.exitCode or 0}"


def birth(pid: int) -> str:
    """What tells a process from a later one of the same id: machine start and process start; empty: it has ended."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as boot, open(f"/proc/{pid}/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()
            return "" if fields[0] in "ZX" else f"{boot.read().strip()} {fields[19]}"
    except OSError:
        return ""


class _Probes(Factory):
    """Connections that only find out whether anybody listens."""

    noisy = False
    protocol = Protocol


_probes = _Probes()


async def listens(reactor: Any, address: Address, seconds: float) -> bool:
    """Whether anybody listens there, as far as that is known within so many seconds; cheaper than a `Link`."""
    connecting: Deferred[Any] = HostnameEndpoint(reactor, address.host.encode(), address.port, seconds).connect(_probes)

    def given_up(answer: Deferred[Any]) -> None:
        answer.errback(CancelledError())  # the endpoint itself says something else, as that there is no such host
        connecting.cancel()

    answer: Deferred[Any] = Deferred(given_up)
    connecting.addBoth(lambda result: None if answer.called else answer.callback(result))
    try:
        connection = await answer
    except (ConnectError, DNSLookupError):
        return False
    connection.transport.loseConnection()
    return True


class Child(ProcessProtocol):
    """A process that was started here."""

    def __init__(self, on_end: Callable[[str], None]) -> None:
        self._on_end = on_end

    def signal(self, name: str) -> None:
        """Send it a signal; nothing happens when it has ended."""
        if self.transport is not None and self.transport.pid is not None:
            self.transport.signalProcess(signal.Signals[f"SIG{name}"])

    def release(self) -> None:
        """It is left alone."""

    def processEnded(self, reason: Failure) -> None:
        self._on_end(how_it_ended(reason))


@implementer(IReadDescriptor)
class AdoptedProcess:
    """A process that an earlier PCS has started: its end is noticed, but only its parent is told how it ended."""

    def __init__(self, reactor: Any, pid: int, on_end: Callable[[str], None]) -> None:
        self._reactor = reactor
        self._on_end = on_end
        self._file: int | None = os.pidfd_open(pid)
        reactor.addReader(self)

    def signal(self, name: str) -> None:
        """Send it a signal; nothing happens when it has ended."""
        if self._file is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._file, signal.Signals[f"SIG{name}"])

    def release(self) -> None:
        """It is left alone."""
        if self._file is not None:
            self._reactor.removeReader(self)
            os.close(self._file)
            self._file = None

    def fileno(self) -> int:
        return -1 if self._file is None else self._file

    def doRead(self) -> None:
        """It has ended."""
        self.release()
        self._on_end("how is not known, another PCS had started it")

    def connectionLost(self, reason: Failure) -> None:
        self.release()

    def logPrefix(self) -> str:
        return "process"


class OutputFile:
    """The file with a node's output, which is read as it grows, and followed when the node begins a new one."""

    def __init__(self, path: str, on_line: Callable[[bytes], None]) -> None:
        self.path = path
        self.lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._on_line = on_line
        self._part = b""
        self._file: BinaryIO | None = None

    def begin(self) -> BinaryIO:
        """The file, for the process to append to; what stands there already is not this process's."""
        writing = open(self.path, "ab", buffering=0)  # noqa: SIM115 - closed by who gives it to the process
        self._file = open(self.path, "rb", buffering=0)  # noqa: SIM115 - closed at the node's end
        self._file.seek(0, os.SEEK_END)
        return writing

    def take_up(self) -> None:
        """Go on behind what is there; the newest lines are known."""
        with suppress(OSError):
            self._file = open(self.path, "rb", buffering=0)  # noqa: SIM115 - closed at the node's end
            size = self._file.seek(0, os.SEEK_END)
            self._file.seek(max(0, size - READ_SIZE))
            *lines, self._part = (self._file.read(READ_SIZE) or b"").split(b"\n")
            self.lines.extend(line[:MAX_OUTPUT_LINE].decode(errors="replace") for line in lines)

    def read(self) -> bool:
        """Take what is new, or a part of it; whether there may be more."""
        if self._file is None:
            return False
        try:
            data = self._file.read(READ_SIZE)
            if not data:
                return self._follow(self._file)
        except OSError as problem:
            _log.error("can't read {path}: {problem}", path=self.path, problem=problem.strerror)
            self.close()
            return False
        self._take(data)
        return True

    def poll(self) -> None:
        """Take what is new, as far as that takes no time."""
        for _ in range(READS):
            if not self.read():
                return

    def _follow(self, file: BinaryIO) -> bool:
        """At the end of what is there: whether it goes on elsewhere, in a newer file or, when emptied, at the begin."""
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
        """The file that follows on that one, if there is one; the newest, if that one has another name by now."""
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
        """Nothing more is written: take all that is left."""
        while self.read():
            pass
        if self._part:
            self._line(self._part)
            self._part = b""
        self.close()

    def close(self) -> None:
        """Read no more."""
        if self._file is not None:
            self._file.close()
            self._file = None


class LineWriter:
    """Writes lines to where writing may take as long as it likes, in a thread: what is too much is left out.

    The thread takes all lines that are there at once, so that it keeps up unless the writing itself is held up.
    """

    def __init__(self, to: BinaryIO) -> None:
        self._to = to
        self._lines: list[bytes] = []
        self._size = 0
        self._closed = False
        self._news = Condition()
        self._left_out = 0
        self._thread = Thread(target=self._write, name="console", daemon=True)
        self._thread.start()

    def say(self, line: bytes) -> None:
        """Put a line behind the others."""
        with self._news:
            if self._size >= MAX_UNSHOWN:
                self._left_out += 1
                return
            if self._left_out:
                self._lines.append(b"(%d lines left out: they came faster than they were shown)" % self._left_out)
                self._left_out = 0
            self._lines.append(line)
            self._size += len(line)
            self._news.notify()

    def close(self, seconds: float) -> None:
        """Write what is left, if that takes no longer than so many seconds."""
        with self._news:
            self._closed = True
            self._news.notify()
        self._thread.join(seconds)

    def _write(self) -> None:
        try:
            while lines := self._taken():
                self._to.write(b"\n".join(lines) + b"\n")
                self._to.flush()
        except OSError:  # whoever was shown the lines is gone: they are in the files all the same
            while self._taken():
                pass

    def _taken(self) -> list[bytes]:
        """All lines that wait, once there are some; none at the end."""
        with self._news:
            self._news.wait_for(lambda: self._lines or self._closed)
            lines, self._lines, self._size = self._lines, [], 0
        return lines
