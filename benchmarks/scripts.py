"""The scripts of `pmscripts/`, run by a separate puppetmaster on free ports, and the times of their runs."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import frozen

from benchmarks.load import LoadFailed
from benchmarks.nodes import listens
from tests.support.netcat import Netcat, object_of
from tests.support.nodes import ROOT, TWISTD, environment, free_port

SCRIPTS = ROOT / "pmscripts"
NODE_COMMANDS = ("storage", "worker", "scheduler")
START = 30.0
"""Time-out for nodes to be ready, in seconds."""


@frozen
class Played:
    """One run of a script's application. `at` is when its end was reported, in seconds of the monotonic clock."""

    run: str
    ms: float
    at: float
    steps: tuple[dict[str, Any], ...] = ()


@frozen
class Playing:
    """What came of a script."""

    runs: tuple[Played, ...]
    times: tuple[dict[str, Any], ...] = ()
    """What the operators of benchmarks/timed wrote down, in the order of the steps' ends."""

    listed_at: float = 0.0
    """When the script's last listing was shown, which stands behind its last wait."""

    @property
    def begun_at(self) -> float:
        """When the first client command was accepted, in seconds."""
        return min(run.at - run.ms / 1000 for run in self.runs)

    @property
    def completed_ms(self) -> float:
        """From the first client command to the last confirmed completion."""
        return 1000 * (max(run.at for run in self.runs) - self.begun_at)

    @property
    def whole_ms(self) -> float:
        """From the first client command to the listing, all waits of the script included."""
        return 1000 * (self.listed_at - self.begun_at)


class _Console:
    """A puppetmaster process that plays a script, and the PCS that it starts."""

    def __init__(self, folder: Path, script: str, operators: Path) -> None:
        self.ports: dict[str, int] = {}
        self.pcs = free_port()
        self.times = folder / "times"
        text = folder / "script"
        text.write_text(re.sub(r"localhost:(\d+)", self._own_port, script))
        ports = ("--pcs", f"http://localhost:{self.pcs}", "--debug-port", str(free_port()), "--keep")
        folders = ("--files", str(SCRIPTS), "--operators", str(operators), "--logs", str(folder / "logs"))
        self.begun = time.monotonic()
        with text.open() as source:
            self.process = subprocess.Popen(
                [*TWISTD, "-n", "puppetmaster", *ports, *folders],
                cwd=folder,
                env=environment() | {"DIDA_TIMES": str(self.times)},
                stdin=source,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )

    def _own_port(self, found: re.Match[str]) -> str:
        return f"localhost:{self.ports.setdefault(found[1], free_port())}"

    def lines(self) -> Iterator[tuple[float, str]]:
        """What it prints, and when."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            yield time.monotonic(), line.rstrip()

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(30)
        if self.process.stdout is not None:
            self.process.stdout.close()
        if listens(self.pcs):
            with Netcat(self.pcs, timeout=30) as pcs:
                pcs.ask("stop")
                pcs.send("crash")


@contextmanager
def _console(script: str, operators: Path) -> Iterator[_Console]:
    with tempfile.TemporaryDirectory() as folder:
        console = _Console(Path(folder), script, operators)
        try:
            yield console
        finally:
            console.end()


def text_of(name: str) -> str:
    """A script of pmscripts."""
    return (SCRIPTS / name).read_text()


def with_storage(script: str, nodes: int) -> str:
    """The script with that many storage nodes, all like its first."""
    lines = script.splitlines()
    like = next(line for line in lines if line.startswith("storage ")).split()
    mine = [f"storage s{n} http://localhost:{5000 + n} {like[3]}" for n in range(1, nodes + 1)]
    rest = [line for line in lines if not line.startswith("storage ")]
    return "\n".join([*mine, *rest, ""])


def play(name: str, script: str | None = None, operators: Path = ROOT / "operators") -> Playing:
    """Play a script (of that name, if it is not given) to its end; LoadFailed when a run of it fails."""
    with _console(script if script is not None else text_of(name), operators) as console:
        runs: list[tuple[str, float, float]] = []
        printed = []
        listed_at = 0.0
        for at, line in console.lines():
            printed.append(line)
            if line.startswith("run "):
                runs.append((line.split()[1], float(line.split()[-2].replace(",", "")), at))
            elif line.startswith("records on "):
                listed_at = at
        if console.process.wait(30) or not runs:
            raise LoadFailed("\n".join([f"{name} failed:", *printed]))
        scheduler = console.ports["2000"]
        with Netcat(scheduler) as node:
            steps = {run: object_of(_done(node.ask(f"result {run}")))["steps"] for run, _, _ in runs}
        times = console.times.read_text().splitlines() if console.times.exists() else []
        ended = tuple(Played(run, ms, at, tuple(steps[run])) for run, ms, at in runs)
        return Playing(ended, tuple(map(json.loads, times)), listed_at)


def _done(reply: str) -> str:
    if not reply.startswith("ok done "):
        raise LoadFailed(reply)
    return reply


def time_to_ready(name: str) -> float:
    """Seconds from the start of the puppetmaster to the last node of the script being ready, as it says itself."""
    commands = [line for line in text_of(name).splitlines() if line.startswith(NODE_COMMANDS)]
    with _console("\n".join([*commands, ""]), ROOT / "operators") as console:
        ready = 0
        for at, line in console.lines():
            ready += line.startswith("ready ")
            if ready == len(commands):
                return at - console.begun
        raise LoadFailed(f"{name}: only {ready} of {len(commands)} nodes became ready")
