"""What the console finds out about its terminal, and the file of the history."""

from __future__ import annotations

import fcntl
import os
import struct
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from dida.console.editing import MAX_HISTORY
from dida.puppetmaster.tty import HistoryFile, TerminalMode, is_dumb, page_of, width_of


@pytest.fixture
def terminal() -> Iterator[int]:
    """A pseudo-terminal's end."""
    master, slave = os.openpty()
    yield slave
    os.close(slave)
    os.close(master)


def resize(terminal: int, columns: int) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))


def test_width(terminal: int) -> None:
    """The terminal's own width; 80 when it has none that can be believed."""
    resize(terminal, 60)
    assert width_of(terminal) == 60
    resize(terminal, 0)
    assert width_of(terminal) == 80
    with open(os.devnull, "rb") as nothing:
        assert width_of(nothing.fileno()) == 80


@pytest.mark.parametrize(
    ("environment", "colours"),
    [
        ({"TERM": "xterm"}, True),
        ({"TERM": "xterm", "NO_COLOR": ""}, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False),
        ({"TERM": "dumb"}, False),
        ({}, False),
    ],
)
def test_colours(terminal: int, environment: dict[str, str], colours: bool) -> None:
    """Colours on a terminal that has them, unless NO_COLOR says something; none elsewhere, and no width either."""
    resize(terminal, 70)
    page = page_of(terminal, environment)
    assert (page.width, page.paint.colours) == (70, colours)
    assert is_dumb(environment) == (environment.get("TERM") != "xterm")
    with open(os.devnull, "rb") as nothing:
        assert page_of(nothing.fileno(), environment).width is None
        assert not page_of(nothing.fileno(), environment).paint.colours


def test_mode(terminal: int) -> None:
    """Raw, and back as it was found; both may come twice. Lines are put out as lines all the while."""
    found = termios.tcgetattr(terminal)
    mode = TerminalMode(terminal)
    for _ in range(2):
        mode.raw()
    raw = termios.tcgetattr(terminal)
    assert not raw[3] & (termios.ICANON | termios.ECHO | termios.ISIG)
    assert raw[1] == found[1] and raw[1] & termios.OPOST
    for _ in range(2):
        mode.restore()
    assert termios.tcgetattr(terminal) == found


def test_mode_of_a_terminal_that_is_gone() -> None:
    """A terminal that was closed meanwhile is no trouble."""
    master, slave = os.openpty()
    mode = TerminalMode(slave)
    mode.raw()
    os.close(slave)
    os.close(master)
    mode.restore()


def test_history(tmp_path: Path) -> None:
    """Lines are kept from run to run, for their owner's eyes only; blank ones are not."""
    said: list[str] = []
    path = tmp_path / "history"
    first = HistoryFile(str(path), said.append)
    assert first.lines() == []
    for line in ("status", " ", "client é app"):
        first.append(line)
    assert HistoryFile(str(path), said.append).lines() == ["status", "client é app"]
    assert path.stat().st_mode & 0o777 == 0o600
    assert said == []


def test_a_long_history(tmp_path: Path) -> None:
    """The newest lines are read; the file is cut to them when it has twice as many. What is no text is left out."""
    path = tmp_path / "history"
    path.write_bytes(b"\xff\x1b[2J\n" + b"".join(b"wait %d\n" % number for number in range(2 * MAX_HISTORY)))
    lines = HistoryFile(str(path), lambda text: None).lines()
    assert (len(lines), lines[-1]) == (MAX_HISTORY, f"wait {2 * MAX_HISTORY - 1}")
    assert path.read_text().splitlines() == lines
    assert [file.name for file in tmp_path.iterdir()] == ["history"]


def test_no_history(tmp_path: Path) -> None:
    """A file that can't be read or written is said once, with what to do."""
    said: list[str] = []
    history = HistoryFile(str(tmp_path), said.append)
    assert history.lines() == []
    history.append("status")
    history.append("status")
    assert said == [f"no history is kept in {tmp_path}: is a directory: name another file with --history"]
