"""A puppetmaster in a pseudo-terminal: what is typed at it, and what a person sees there."""

from __future__ import annotations

import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import termios
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.support.nodes import environment, until
from tests.support.screens import Screen

_COLOURS = re.compile(r"\x1b\[\d*m")


class Terminal:
    """A process in a separate terminal; a script may be its standard input instead."""

    def __init__(
        self,
        arguments: list[str],
        folder: Path,
        script: Path | None = None,
        columns: int = 80,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.master, slave = os.openpty()
        self.resize(columns)
        self.found = termios.tcgetattr(self.master)
        self.screen = Screen(columns)
        self.seen = ""
        """What was shown since `until` was called last, without colours."""
        self.raw = ""
        source = slave if script is None else os.open(script, os.O_RDONLY)

        def own_terminal() -> None:
            fcntl.ioctl(1, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(
            arguments,
            cwd=folder,
            env={**environment(), "TERM": "xterm", **(variables or {})},
            stdin=source,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=own_terminal,  # noqa: PLW1509 - no other thread is there yet
        )
        os.close(slave)
        if script is not None:
            os.close(source)
        os.set_blocking(self.master, False)

    def resize(self, columns: int) -> None:
        """Another width of the window."""
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))

    @property
    def mode(self) -> list[Any]:
        """The terminal's modes, as tcgetattr tells them."""
        return termios.tcgetattr(self.master)

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def until(self, text: str, seconds: float = 60.0) -> None:
        """Until the text has been shown since the last time."""
        self._until(f"{text!r} is shown", lambda: text in self.seen, seconds)
        self.seen = self.seen.partition(text)[2]

    def until_last(self, line: str, seconds: float = 60.0) -> None:
        """Until that is the line of the cursor."""
        self._until(f"{line!r} is the last line", lambda: self.screen.last == line, seconds)

    def _until(self, what: str, condition: Callable[[], bool], seconds: float) -> None:
        try:
            until(what, lambda: self._looks(condition), seconds)
        except AssertionError:
            raise AssertionError(f"not within {seconds} s: {what}, but: {self.seen}") from None

    def _looks(self, condition: Callable[[], bool]) -> bool:
        self._look()
        return condition()

    def _look(self) -> None:
        if select.select([self.master], [], [], 0.05)[0]:
            try:
                data = os.read(self.master, 65536)
            except OSError:  # nobody has it open any more
                return
            self.screen.put(data)
            self.raw += data.decode(errors="replace")
            self.seen += _COLOURS.sub("", data.decode(errors="replace"))

    def end(self, seconds: float = 20.0) -> int:
        """Return its exit status, once it ends on its own."""
        until("it ends", lambda: self._looks(lambda: self.process.poll() is not None), seconds)
        self._look()
        return self.process.wait()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.end()
        os.close(self.master)
