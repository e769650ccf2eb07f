"""Nodes in the background, started as a user starts them: `twistd COMMAND OPTION…` in a folder."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from tests.support.nodes import TWISTD, environment


class Daemon:
    """`twistd COMMAND OPTION…` without -n, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pids: list[int] = []

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Start a node, and return when the command does."""
        done = subprocess.run(
            [*TWISTD, *words], cwd=self.folder, env=environment(), capture_output=True, text=True, timeout=50
        )
        for path in self.folder.glob("*.pid"):
            text = path.read_text().strip()
            if text.isdecimal():
                self.pids.append(int(text))
        return done

    def pid(self, id: str) -> int:
        """The process of a node, by its pid file."""
        return int((self.folder / f"{id}.pid").read_text())

    def log(self, id: str) -> str:
        """The log of a node."""
        return (self.folder / f"{id}.log").read_text()


def lives(pid: int) -> bool:
    """Whether that process runs."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def end(daemon: Daemon) -> None:
    """Kill all that was started."""
    for pid in set(daemon.pids):
        if lives(pid) and pid not in (os.getpid(), os.getppid()):
            os.kill(pid, signal.SIGKILL)
