"""A node's log file: appended, bounded, begun anew, whatever is done to the file meanwhile."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dida.services.logs import NodeLog


def in_folder(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.iterdir()}


def test_a_log_is_appended_to(tmp_path: Path) -> None:
    """What stands in the file stays, also when it was truncated meanwhile: no hole of NULs."""
    path = tmp_path / "w1.log"
    path.write_text("from before\n")
    log = NodeLog(str(path))
    log.write("one\n")
    assert path.read_text() == "from before\none\n"
    os.truncate(path, 0)
    log.write("two\n")
    assert path.read_bytes() == b"two\n"


def test_the_files_are_bounded_in_size_and_number(tmp_path: Path) -> None:
    """However much is written, there are the newest lines, in a few files of a limited size."""
    log = NodeLog(str(tmp_path / "w1.log"), size=1000, kept=2)
    for number in range(500):
        log.write(f"line {number}\n")
    found = in_folder(tmp_path)
    assert sorted(found) == ["w1.log", "w1.log.1", "w1.log.2"]
    assert all(size <= 1000 for size in found.values())
    texts = [(tmp_path / name).read_text() for name in ("w1.log.2", "w1.log.1", "w1.log")]
    lines = "".join(texts).splitlines()
    assert lines == [f"line {number}" for number in range(500 - len(lines), 500)]


def test_one_text_that_is_longer_than_a_file(tmp_path: Path) -> None:
    """The end of it is left out, and that is said."""
    log = NodeLog(str(tmp_path / "w1.log"), size=1000)
    log.write("x" * 3000)
    assert (tmp_path / "w1.log").read_text() == "x" * 1000 + "\n(2000 bytes left out)\n"


def test_a_renamed_log_is_begun_anew(tmp_path: Path) -> None:
    """After `mv` and a reopening the lines go into a new file, in the mode of the old one."""
    path = tmp_path / "w1.log"
    log = NodeLog(str(path))
    path.chmod(0o640)
    path.rename(tmp_path / "old")
    log.write("still old\n")
    log.reopen()
    log.write("new\n")
    assert ((tmp_path / "old").read_text(), path.read_text()) == ("still old\n", "new\n")
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_log_that_can_t_be_reopened(tmp_path: Path, logged_errors: list[object]) -> None:
    """The old file goes on, and the error is logged."""
    folder = tmp_path / "logs"
    folder.mkdir()
    log = NodeLog(str(folder / "w1.log"))
    folder.rename(tmp_path / "moved")
    log.reopen()
    log.write("on\n")
    assert (tmp_path / "moved" / "w1.log").read_text() == "on\n"
    assert len(logged_errors) == 1
    logged_errors.clear()


def test_who_writes_past_the_log_is_bounded_too(tmp_path: Path) -> None:
    """A program that an operator has started, and that floods the file, does not fill the disk."""
    path = tmp_path / "w1.log"
    log = NodeLog(str(path), size=1000, kept=2)
    with path.open("ab", buffering=0) as foreign:
        for _ in range(50):
            foreign.write(b"y" * 900)
            log.look()
            log.write("mine\n")
    assert sum(in_folder(tmp_path).values()) < 6000
    assert path.read_text().endswith("mine\n")


def test_a_disk_that_is_full(tmp_path: Path) -> None:
    """Lines are lost, and nothing else happens."""
    log = NodeLog("/dev/full")
    log.write("lost\n")


def test_a_child_does_not_begin_the_log_anew(tmp_path: Path) -> None:
    """A forked child that prints appends; its parent decides when a file is full."""
    log = NodeLog(str(tmp_path / "w1.log"), size=100)
    log.disown()
    for _ in range(50):
        log.write("from a child\n")
    assert list(in_folder(tmp_path)) == ["w1.log"]


@pytest.mark.parametrize("path", ["", "nowhere/w1.log"])
def test_a_log_that_can_t_be_written(tmp_path: Path, path: str) -> None:
    """It is an OSError, for who can tell it to the user."""
    with pytest.raises(OSError):
        NodeLog(str(tmp_path / path))
