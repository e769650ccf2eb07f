"""The terminal of a console: its modes, width and colours; and the file of typed lines."""

from __future__ import annotations

import atexit
import os
import signal
import termios
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import IO

from dida.console.editing import MAX_HISTORY, MAX_TYPED
from dida.console.style import PLAIN, Page, Style

KNOWN_WIDTHS = range(20, 10_000)
"""Plausible widths of a terminal, in columns."""


def page_of(output: int, environment: Mapping[str, str]) -> Page:
    """Return width and colours of an output: none but on a terminal, and no colours with NO_COLOR."""
    if not os.isatty(output):
        return Page()
    colours = not environment.get("NO_COLOR") and not is_dumb(environment)
    return Page(width_of(output), Style(True) if colours else PLAIN)


def is_dumb(environment: Mapping[str, str]) -> bool:
    """Return True if the terminal cannot move its cursor."""
    return environment.get("TERM", "dumb") == "dumb"


def width_of(output: int) -> int:
    """Return the width of a terminal in columns; 80 if it is unknown."""
    try:
        width = os.get_terminal_size(output).columns
    except OSError:
        width = 0
    return width if width in KNOWN_WIDTHS else 80


class TerminalMode:
    """The modes of a terminal: raw while a line is edited, restored at the end of the process."""

    def __init__(self, terminal: int) -> None:
        self._terminal = terminal
        self._found = termios.tcgetattr(terminal)
        self._raw = False

    def raw(self) -> None:
        """Receive each key at once and without echo, also Ctrl-C. Output stays as it is."""
        if not self._raw:
            mode = termios.tcgetattr(self._terminal)
            mode[0] &= ~(termios.BRKINT | termios.ICRNL | termios.INLCR | termios.IGNCR | termios.ISTRIP | termios.IXON)
            mode[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
            mode[6][termios.VMIN], mode[6][termios.VTIME] = 1, 0
            termios.tcsetattr(self._terminal, termios.TCSANOW, mode)
            self._raw = True
            atexit.register(self.restore)

    def restore(self) -> None:
        """Restore the modes."""
        if self._raw:
            self._raw = False
            atexit.unregister(self.restore)
            with suppress(termios.error):  # a terminal that is gone needs nothing
                termios.tcsetattr(self._terminal, termios.TCSANOW, self._found)

    def suspend(self) -> None:
        """Stop the job, as Ctrl-Z does; return when it is continued."""
        blocking = os.get_blocking(self._terminal)
        self.restore()
        os.set_blocking(self._terminal, True)
        os.kill(0, signal.SIGTSTP)
        os.set_blocking(self._terminal, blocking)
        self.raw()


class HistoryFile:
    """The typed lines of this session and earlier ones, one per line, oldest first.

    If the file cannot be read or written, a message says so once, and the file is not used any more.
    """

    def __init__(self, path: str, say: Callable[[str], None]) -> None:
        self.path = os.path.expanduser(path)
        self._say = say
        self._usable = True

    def lines(self) -> list[str]:
        """Return the newest lines; cut a long file to them."""
        try:
            return self._lines()
        except FileNotFoundError:
            return []
        except OSError as problem:
            self._trouble(problem)
            return []

    def _lines(self) -> list[str]:
        with open(self.path, encoding="utf-8", errors="replace") as file:
            found = [line.rstrip("\n")[:MAX_TYPED] for line in file]
        lines = [line for line in found if line.isprintable() and line.strip()][-MAX_HISTORY:]
        if len(found) > 2 * MAX_HISTORY:
            new = f"{self.path}.new"
            with self._open(new, os.O_TRUNC) as file:
                file.writelines(f"{line}\n" for line in lines)
            os.replace(new, self.path)
        return lines

    def append(self, line: str) -> None:
        """Append a line, unless it is blank."""
        if self._usable and line.strip():
            try:
                with self._open(self.path, os.O_APPEND) as file:
                    file.write(f"{line}\n")
            except OSError as problem:
                self._trouble(problem)

    def _open(self, path: str, flag: int) -> IO[str]:
        return open(os.open(path, os.O_WRONLY | os.O_CREAT | flag, 0o600), "w", encoding="utf-8")

    def _trouble(self, problem: OSError) -> None:
        self._usable = False
        reason = os.strerror(problem.errno or 0).lower()
        self._say(f"no history is kept in {self.path}: {reason}: name another file with --history")
