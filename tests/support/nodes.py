"""Nodes as real processes, for tests: started with twistd, waited for, ended by their process id."""

from __future__ import annotations

import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from tests.support.netcat import Netcat, object_of

ROOT = Path(__file__).parent.parent.parent
TWISTD = (sys.executable, "-c", "from twisted.scripts.twistd import run; run()")
"""twistd of the interpreter that runs the tests, whatever is on the PATH."""
START_TIME = 20.0
"""Seconds that a node may take to be ready."""

_T = TypeVar("_T")
_SIDE = int(os.environ.get("TESTS_SIDE", "0"))
"""Which half of the ports is ours: tests that run side by side have none in common."""
_candidates = (20_000 + 6000 * _SIDE + (os.getpid() * 61 + number) % 6000 for number in itertools.count())


def free_port() -> int:
    """A TCP port that nobody listens on now.

    It is below those that the kernel takes for outgoing connections, and processes begin at different places: a
    port that was free stays so until its node listens there.
    """
    return next(filter(_is_free, _candidates))


def _is_free(port: int) -> bool:
    with socket.socket() as found:
        try:
            found.bind(("", port))
        except OSError:
            return False
        return True


def on_free_ports(script: str) -> str:
    """Return a script of the puppetmaster with a free port in place of each of its ports."""
    ports: dict[str, int] = {}
    return re.sub(r"localhost:(\d+)", lambda url: f"localhost:{ports.setdefault(url[1], free_port())}", script)


def until(what: str, condition: Callable[[], _T], seconds: float = START_TIME) -> _T:
    """What `condition` gives once it is true; for other processes, whose events can't be awaited."""
    end = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.01)  # between two looks
    return result


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """For a process that runs this source tree, from whatever folder; `more` counts before the rest."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **(more or {})}


def _limited(descriptors: int) -> tuple[str, ...]:
    return "sh", "-c", f'ulimit -n {descriptors} && exec "$@"', "sh"


class NodeProcess:
    """`twistd -n COMMAND OPTION…` as a separate process, its output in a file."""

    def __init__(
        self,
        command: str,
        *options: str,
        folder: Path,
        port: int | None = None,
        more: Mapping[str, str] | None = None,
        descriptors: int | None = None,
    ) -> None:
        """`more` are variables of its environment, `descriptors` how many it may have open."""
        self.port = port
        self.paused = False
        self._paused_at = float("-inf")
        self._output = folder / f"{command}-{port}.output"
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [*(_limited(descriptors) if descriptors else ()), *TWISTD, "-n", command, *options],
                cwd=folder,
                env=environment(more),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def output(self) -> str:
        """All that it has printed so far."""
        return self._output.read_text(errors="replace")

    def connect(self, timeout: float = 10.0) -> Netcat:
        """A connection to its port."""
        assert self.port is not None
        return Netcat(self.port, timeout=timeout)

    def ask(self, line: str) -> str:
        """Return the reply to one line, over a separate connection."""
        with self.connect() as netcat:
            return netcat.ask(line)

    def status(self) -> dict[str, Any]:
        """What `status` answers."""
        return object_of(self.ask("status"))

    def wait_ready(self, seconds: float = START_TIME) -> NodeProcess:
        """Until `status` says ready; its output is in the failure when it never does."""

        def ready() -> bool:
            assert self.process.poll() is None, f"it ended with {self.process.returncode}:\n{self.output}"
            try:
                return self.status().get("ready") is True
            except (OSError, EOFError):
                return False

        try:
            until("the node is ready", ready, seconds)
        except AssertionError as problem:
            raise AssertionError(f"{problem}\n{self.output}") from None
        return self

    def wait_end(self, seconds: float = START_TIME) -> int:
        """Return its exit status, once it ends on its own."""
        return self.process.wait(seconds)

    def kill(self) -> None:
        """Kill it at once, with no clean-up."""
        self.signal(signal.SIGKILL)
        self.process.wait(10)

    def signal(self, number: int) -> None:
        """Send a signal, SIGSTOP and SIGCONT for instance."""
        if self.process.poll() is None:
            os.kill(self.process.pid, number)

    def pause(self) -> None:
        """SIGSTOP"""
        self.paused = True
        self._paused_at = time.monotonic()
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT"""
        if self.paused:
            self._paused_at = time.monotonic()
            self.signal(signal.SIGCONT)
            self.paused = False

    def paused_since(self, moment: float) -> bool:
        """Whether it was paused for a part of the time since `moment` (of the monotonic clock)."""
        return self.paused or self._paused_at >= moment

    def ask_to_end(self) -> None:
        """SIGTERM, also where it is paused."""
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)

    def end(self) -> None:
        """Ask it to end; kill it when it does not."""
        self.ask_to_end()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.kill()
