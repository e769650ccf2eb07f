"""Pid files: what is stale is replaced, what is a living node's is left alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from threading import Timer

import pytest
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from zope.interface import implementer

from dida.errors import UserError
from dida.services.pid_file import PidFile


@pytest.fixture
def logged() -> Iterator[list[str]]:
    texts: list[str] = []

    @implementer(ILogObserver)
    def observe(event: LogEvent) -> None:
        texts.append(formatEvent(event))

    globalLogPublisher.addObserver(observe)
    yield texts
    globalLogPublisher.removeObserver(observe)


def silent(text: str) -> None:
    raise AssertionError(f"nothing is to be waited for: {text}")


def claimed(path: Path) -> PidFile:
    file = PidFile(str(path), "w1")
    file.claim(0, silent)
    file.write()
    return file


def test_its_content(tmp_path: Path) -> None:
    """The process id and a newline, so that `kill $(cat *.pid)` takes them apart; it goes with the node."""
    path = tmp_path / "w1.pid"
    file = claimed(path)
    assert path.read_text() == f"{os.getpid()}\n"
    assert os.listdir(tmp_path) == ["w1.pid"]
    file.remove()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "it is empty"),
        (b"\n", "it is empty"),
        (b"\0\0\0\0", "it is empty"),
        (b"nonsense", "it names no process"),
        (b"\xff\xfe", "it names no process"),
        (b"-1\n", "it names no process"),
        (b"%d\n" % os.getppid(), f"it names process {os.getppid()}, which is another one"),
        (b"99999999", "it names process 99999999, which has ended"),
    ],
)
def test_a_stale_file_is_replaced(tmp_path: Path, logged: list[str], content: bytes, why: str) -> None:
    """Whatever a power loss has left there, the node starts, and the log says what was replaced."""
    path = tmp_path / "w1.pid"
    path.write_bytes(content)
    claimed(path).remove()
    assert logged == [f"replacing the pid file {path}: {why}"]


def test_a_living_node_is_refused(tmp_path: Path) -> None:
    """A node that lives keeps its file, and the second one ends in one line that names it."""
    path = tmp_path / "w1.pid"
    first = claimed(path)
    with pytest.raises(UserError, match=rf"^w1 runs already, as process {os.getpid()} \({path}\): end it first$"):
        PidFile(str(path), "w1", notice=0.1).claim(60, silent)
    assert path.read_text() == f"{os.getpid()}\n"
    first.remove()


def test_a_leaving_node_is_waited_for(tmp_path: Path) -> None:
    """Who starts while its predecessor is leaving waits for its end, and says so."""
    path = tmp_path / "w1.pid"
    first = claimed(path)
    first.leaving()
    said: list[str] = []

    def end() -> None:
        first.remove()
        os.close(first.fileno())

    ending = Timer(0.2, end)
    second = PidFile(str(path), "w1")
    ending.start()
    second.claim(20, said.append)
    assert said == [f"w1 (process {os.getpid()}) is leaving: waiting for its end"]
    ending.join()
    assert not path.exists()


def test_a_node_that_leaves_for_too_long(tmp_path: Path) -> None:
    """The wait is bounded, and ends in one line that says what to do."""
    path = tmp_path / "w1.pid"
    claimed(path).leaving()
    said: list[str] = []
    with pytest.raises(UserError, match=rf"^w1 has not ended within 0\.1 s: end it by kill -9 {os.getpid()}$"):
        PidFile(str(path), "w1").claim(0.1, said.append)
    assert len(said) == 1


def test_the_file_of_a_successor_stays(tmp_path: Path) -> None:
    """A node that ends late does not remove what names another process."""
    path = tmp_path / "w1.pid"
    first = claimed(path)
    path.unlink()
    path.write_text("another one's")
    first.remove()
    assert path.read_text() == "another one's"


@pytest.mark.parametrize("path", ["nowhere/w1.pid", "."])
def test_a_file_that_can_t_be_written(tmp_path: Path, path: str) -> None:
    """It is told in one line before the node begins."""
    with pytest.raises(UserError, match=r"^cannot write the pid file "):
        PidFile(str(tmp_path / path), "w1").claim(0, silent)
