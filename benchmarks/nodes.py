"""The measured systems, as processes: bare Twisted, storage nodes, and whole systems that execute chains."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from attrs import define, field

from benchmarks.load import Load, LoadFailed, timed
from tests.support.clusters import StorageCluster
from tests.support.netcat import Netcat, object_of
from tests.support.nodes import ROOT, NodeProcess, environment, free_port, until

OPERATORS = Path(__file__).with_name("operators")
KEYS = 1000
"""Records that the loads read and write: key0 … key999."""
RUN_DEADLINE = 60.0
"""Time-out for a run of a chain, in seconds."""


def end_what_was_started() -> None:
    """Let SIGTERM and SIGHUP end this program as Ctrl-C does, so that it ends the processes that it has started."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: sys.exit(128 + number))


@contextmanager
def bare(nodes: int = 1) -> Iterator[int]:
    """The port of the first of so many bare Twisted nodes in a row: relays, and a server at the end."""
    processes = []
    try:
        port = 0
        for number in range(nodes):
            after = [str(port)] if number else []
            port = free_port()
            words = [sys.executable, "-m", "benchmarks.bare", str(port), *after]
            processes.append(subprocess.Popen(words, env=environment(), cwd=ROOT))
            until("bare Twisted listens", lambda port=port: listens(port))  # type: ignore[misc]
        yield port
    finally:
        for process in processes:
            process.terminate()
            process.wait(10)


def listens(port: int) -> bool:
    """Return True if a process accepts connections there."""
    try:
        Netcat(port, timeout=1).close()
    except OSError:
        return False
    return True


@contextmanager
def storage(count: int, *options: str) -> Iterator[StorageCluster]:
    """Storage nodes that are ready."""
    with tempfile.TemporaryDirectory() as folder:
        cluster = StorageCluster(Path(folder), count, *options)
        try:
            yield cluster
        finally:
            cluster.end()


def populate(port: int, value: str = "v") -> None:
    """Write the records that the loads go to."""
    with Netcat(port) as node:
        for number in range(KEYS):
            node.send(f"write key{number} {value}")
        for _ in range(KEYS):
            if not (reply := node.line()).startswith("ok"):
                raise LoadFailed(reply)


def resident(pid: int) -> int:
    """Return the resident memory of a process, in bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@define
class Chains:
    """A scheduler that executes chains, and how to put load on it."""

    port: int
    _inputs: Iterator[int] = field(factory=count)

    def _run(self, operators: Iterable[str]) -> str:
        """Return the line that starts a run, and is answered with its outcome."""
        return f'run key{next(self._inputs) % KEYS} {" ".join(operators)} {{"wait": {RUN_DEADLINE}}}'

    def one_by_one(self, runs: int, *operators: str) -> Load:
        """Start each run when the client has received the outcome of the one before."""
        taken: list[float] = []
        with Netcat(self.port, timeout=RUN_DEADLINE) as node:
            for _ in range(runs):
                line = self._run(operators)
                with _clock(taken):
                    _check(node.ask(line))
        return timed(taken)

    def at_once(self, runs: int, *chains: Sequence[str], window: int = 1000) -> float:
        """Runs a second with up to `window` of them going on; one chain after the other of those given."""
        with Netcat(self.port, timeout=RUN_DEADLINE) as node:
            begun = _now()
            for _ in self._ended(node, runs, chains, window):
                pass
            return runs / (_now() - begun)

    def _ended(self, node: Netcat, runs: int, chains: Sequence[Sequence[str]], window: int) -> Iterator[bytes]:
        """The outcomes of the runs, as they come."""
        begun = ended = 0
        rest = b""
        out: list[str] = []
        while ended < runs:
            while begun < runs and begun - ended < window:
                out.append(f"#run {self._run(chains[begun % len(chains)])}")
                begun += 1
            if out:
                node.send_raw("\r\n".join([*out, ""]).encode())
                out = []
            data = node.socket.recv(2**18)
            if not data:
                raise LoadFailed("the scheduler hung up")
            *lines, rest = (rest + data).split(b"\r\n")
            for line in lines:
                _check(line.decode().removeprefix("#run "))
                ended += 1
                yield line


def _check(reply: str) -> None:
    if not reply.startswith("ok done"):
        raise LoadFailed(reply)


@contextmanager
def _clock(taken: list[float]) -> Iterator[None]:
    begun = _now()
    yield
    taken.append(_now() - begun)


def _now() -> float:
    return time.perf_counter()


@contextmanager
def chains(replicas: int, *options: str, workers: int = 2, worker_options: Sequence[str] = ()) -> Iterator[Chains]:
    """A scheduler (with `options`) that is ready, with workers and storage nodes; the records are there."""
    with storage(replicas) as cluster, tempfile.TemporaryDirectory() as folder:
        nodes: list[NodeProcess] = []
        try:

            def start(command: str, id: str, *more: str) -> NodeProcess:
                port = free_port()
                place = ("--id", id, "--url", f"http://127.0.0.1:{port}")
                node = NodeProcess(command, *place, *more, folder=Path(folder), port=port)
                nodes.append(node)
                return node

            named: list[str] = []
            for number in range(1, workers + 1):
                worker = start("dida-worker", f"w{number}", "--operators", str(OPERATORS), *worker_options)
                named += ["--worker", f"w{number}=http://127.0.0.1:{worker.port}"]
            scheduler = start("dida-scheduler", "sc1", *named, *cluster.members, *options)
            for node in nodes:
                node.wait_ready()
            populate(cluster.ports[1])
            until("all workers can be reached", _reachable(scheduler, workers))
            assert scheduler.port is not None
            yield Chains(scheduler.port)
        finally:
            for node in nodes:
                node.end()


def _reachable(scheduler: NodeProcess, workers: int) -> Callable[[], bool]:
    def reachable() -> bool:
        found = object_of(scheduler.ask("workers"))["workers"]
        return [worker["reachable"] for worker in found] == [True] * workers

    return reachable
