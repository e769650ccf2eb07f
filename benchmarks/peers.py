"""Other systems with the same work: Redis, etcd, Celery with Redis, Dask and Ray, as far as they are installed.

Redis and etcd are programs on the PATH, the others packages (`pip install dida[bench]`). One that is not there is
`Missing`: a note, and the figure of the published list stands in its place. Those in Python run in a process of
their own, `python -m benchmarks.peers NAME …`, which prints what it measured as JSON.
"""

from __future__ import annotations

import base64
import importlib
import importlib.util
import json
import os
import selectors
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from attrs import frozen

from benchmarks.load import Load, timed
from benchmarks.nodes import listens
from tests.support.nodes import ROOT, environment, free_port, until

ONE_BY_ONE = 100
"""Chains that are measured one at a time, after a few to get warm."""
TIMEOUT = 180.0
"""Seconds that a peer may take for all of it."""


class Missing(Exception):
    """The peer is not installed, or does not work here."""


@frozen
class ChainLoad:
    """What a peer makes of chains of three: milliseconds one at a time, chains a second many at once."""

    p50: float
    rate: float


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise Missing(f"{name} is not on the PATH")
    return found


@contextmanager
def _process(*words: str, cwd: str) -> Iterator[None]:
    """Run a program until the end, without its output."""
    process = subprocess.Popen(words, cwd=cwd, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def redis() -> Iterator[int]:
    """The port of a Redis that keeps everything in memory."""
    port, server = free_port(), _program("redis-server")
    with (
        tempfile.TemporaryDirectory() as folder,
        _process(server, "--port", str(port), "--save", "", "--appendonly", "no", cwd=folder),
    ):
        until("Redis listens", lambda: listens(port))
        yield port


def redis_loads(seconds: float) -> dict[str, float]:
    """GET and SET a second with 50 connections, as redis-benchmark says."""
    benchmark = _program("redis-benchmark")
    with redis() as port:
        words = [benchmark, "-p", str(port), "-c", "50", "-n", str(int(50_000 * seconds)), "-t", "get,set", "--csv"]
        printed = subprocess.run(words, capture_output=True, text=True, check=True, timeout=TIMEOUT).stdout
    lines = [line.replace('"', "").split(",") for line in printed.splitlines()]
    return {words[0]: float(words[1]) for words in lines if words[0] in ("GET", "SET")}


# --- etcd -----------------------------------------------------------------------------------------


@contextmanager
def etcd(nodes: int = 3) -> Iterator[int]:
    """The client port of one of a group of etcd nodes on this machine."""
    program = _program("etcd")
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        ports = [(free_port(), free_port()) for _ in range(nodes)]
        cluster = ",".join(f"e{n}=http://127.0.0.1:{peer}" for n, (_, peer) in enumerate(ports))
        for number, (client, peer) in enumerate(ports):
            options = {
                "name": f"e{number}",
                "data-dir": f"{folder}/e{number}",
                "initial-cluster": cluster,
                "listen-client-urls": f"http://127.0.0.1:{client}",
                "advertise-client-urls": f"http://127.0.0.1:{client}",
                "listen-peer-urls": f"http://127.0.0.1:{peer}",
                "initial-advertise-peer-urls": f"http://127.0.0.1:{peer}",
            }
            words = [word for name, value in options.items() for word in (f"--{name}", value)]
            stack.enter_context(_process(program, *words, cwd=folder))
        until("etcd listens", lambda: listens(ports[0][0]))
        until("etcd has a leader", lambda: _put(ports[0][0]))
        yield ports[0][0]


def _request(number: int) -> bytes:
    """A put over etcd's JSON gateway: the one of its protocols that needs no library."""
    key = base64.b64encode(b"key%d" % (number % 1000)).decode()
    body = json.dumps({"key": key, "value": "dg=="}).encode()
    return b"POST /v3/kv/put HTTP/1.1\r\nHost: e\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


def _put(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(_request(0))
        return connection.recv(4096).startswith(b"HTTP/1.1 200")
    return False


def etcd_writes(seconds: float, connections: int = 50) -> Load:
    """Writes a second to three nodes, one request in flight on each connection."""
    taken: list[float] = []
    with etcd() as port, selectors.DefaultSelector() as selector:
        sent: dict[socket.socket, float] = {}
        for number in range(connections):
            connection = socket.create_connection(("127.0.0.1", port))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            selector.register(connection, selectors.EVENT_READ)
            connection.sendall(_request(number))
            sent[connection] = time.perf_counter()
        begun = now = time.perf_counter()
        number = connections
        while now - begun < seconds:
            for key, _ in selector.select(1):
                connection = key.fileobj  # type: ignore[assignment]
                if not connection.recv(65_536).startswith(b"HTTP/1.1 200"):  # an answer is some 300 bytes: one piece
                    raise Missing("etcd does not take puts over its JSON gateway")
                now = time.perf_counter()
                taken.append(now - sent[connection])
                connection.sendall(_request(number))
                sent[connection] = now
                number += 1
            now = time.perf_counter()
        for connection in sent:
            connection.close()
    found = timed(taken)
    return Load(len(taken) / seconds, found.p50, found.p99)


# --- chains of three ------------------------------------------------------------------------------


def chains(name: str, at_once: int, python: str = sys.executable) -> ChainLoad:
    """Return what celery, dask or ray does, measured in a separate process."""
    with ExitStack() as stack:
        port = stack.enter_context(redis()) if name == "celery" else 0
        words = [python, "-m", "benchmarks.peers", name, str(at_once), str(port)]
        quiet = {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "RAY_USAGE_STATS_ENABLED": "0", "PYTHONWARNINGS": "ignore"}
        try:
            done = subprocess.run(
                words, check=False, cwd=ROOT, env=environment() | quiet, capture_output=True, text=True, timeout=TIMEOUT
            )
        except subprocess.TimeoutExpired:
            raise Missing(f"{name} did not end within {TIMEOUT:.0f} s") from None
    if done.returncode:
        raise Missing((done.stderr.strip().splitlines() or [f"{name} failed"])[-1])
    return ChainLoad(**json.loads(done.stdout.splitlines()[-1]))


def _library(name: str) -> Any:
    if importlib.util.find_spec(name) is None:
        raise SystemExit(f"{name} is not installed (pip install dida[bench])")
    return importlib.import_module(name)


def _celery(at_once: int, port: int) -> dict[str, float]:
    library = _library("celery")
    os.environ["DIDA_REDIS"] = f"redis://127.0.0.1:{port}/0"
    tasks = importlib.import_module("benchmarks.celery_tasks")
    words = [sys.executable, "-m", "celery", "-A", "benchmarks.celery_tasks", "worker", "--concurrency", "2"]
    with _process(*words, "--loglevel", "ERROR", cwd=str(ROOT)):

        def begin(number: int) -> Any:
            key = f"key{number % 1000}"
            return library.chain(tasks.step.s("", key), tasks.step.s(key), tasks.step.s(key)).apply_async()

        return _timed(begin, lambda found: found.get(timeout=60), at_once)


def _dask(at_once: int, port: int) -> dict[str, float]:
    library = _library("distributed")
    with (
        library.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        library.Client(cluster) as client,
    ):

        def begin(number: int) -> Any:
            found: Any = str(number)
            for _ in range(3):
                found = client.submit(_step, found, pure=False)
            return found

        return _timed(begin, lambda found: found.result(timeout=60), at_once)


def _ray(at_once: int, port: int) -> dict[str, float]:
    library = _library("ray")
    library.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)

    class Actor:
        def step(self, found: str) -> str:
            return _step(found)

    kind = library.remote(num_cpus=0)(Actor)
    actors = [kind.remote() for _ in range(3)]

    def begin(number: int) -> Any:
        found: Any = str(number)
        for actor in actors:
            found = actor.step.remote(found)
        return found

    try:
        return _timed(begin, lambda found: library.get(found, timeout=60), at_once)
    finally:
        library.shutdown()


def _step(found: str) -> str:
    return found + "."


def _timed(begin: Any, wait: Any, at_once: int) -> dict[str, float]:
    """Measure any peer: some chains to warm up, some one by one, many at once."""
    for number in range(10):
        wait(begin(number))
    taken = []
    for number in range(ONE_BY_ONE):
        begun = time.perf_counter()
        wait(begin(number))
        taken.append(time.perf_counter() - begun)
    begun = time.perf_counter()
    for found in [begin(number) for number in range(at_once)]:
        wait(found)
    return {"p50": timed(taken).p50, "rate": at_once / (time.perf_counter() - begun)}


def main() -> None:
    """Measure one peer, in a separate process."""
    name, at_once, port = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    print(json.dumps({"celery": _celery, "dask": _dask, "ray": _ray}[name](at_once, port)))


if __name__ == "__main__":
    main()
