"""Load on a line server: by lineload, a C program that is compiled when it is needed, and from Python.

Python is for what C can't do here (many different lines, chains), and for machines without a compiler; a client in
Python takes about as much of the machine as a bare server does, so it does not measure the last few percent.
"""

from __future__ import annotations

import re
import shutil
import statistics
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from attrs import frozen

from tests.support.netcat import Netcat
from tests.support.nodes import ROOT

SOURCE = Path(__file__).with_name("lineload.c")
BUILD = ROOT / "build"
_PRINTED = re.compile(r"(\d+) req/s p50 (\d+) us p99 (\d+) us errors (\d+)(?: last: (.*))?")


class NoCompiler(Exception):
    """This machine has no C compiler."""


class LoadFailed(Exception):
    """The server answered with errors, or hung up."""


@frozen
class Load:
    """The result of one load: requests a second, and the time of a request in milliseconds."""

    rate: float
    p50: float
    p99: float


def lineload() -> Path:
    """Return the load generator, compiled if necessary."""
    program = BUILD / "lineload"
    if not program.exists() or program.stat().st_mtime < SOURCE.stat().st_mtime:
        compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        if compiler is None:
            raise NoCompiler("no C compiler (cc) is here: rows that need the load generator are left out")
        BUILD.mkdir(exist_ok=True)
        subprocess.run([compiler, "-O2", "-w", "-o", str(program), str(SOURCE)], check=True)
    return program


def closed_loop(port: int, connections: int, in_flight: int, seconds: float, line: str) -> Load:
    """Keep so many requests in flight on each connection; `%d` in the line is a running number up to 999."""
    words = [str(lineload()), "127.0.0.1", str(port), str(connections), str(in_flight), str(seconds), line]
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=seconds + 30)
    found = _PRINTED.match(done.stdout)
    if done.returncode or found is None:
        raise LoadFailed(f"{line!r}: {(done.stderr or done.stdout).strip()}")
    if int(found[4]):
        raise LoadFailed(f"{line!r}: {found[4]} errors, the last: {found[5]}")
    return Load(float(found[1]), float(found[2]) / 1000, float(found[3]) / 1000)


def pipelined(port: int, lines: Iterable[str], window: int) -> float:
    """Return requests a second of these lines over one connection, at most `window` of them unanswered."""
    done = 0
    with Netcat(port, timeout=60) as node:
        begun = time.monotonic()
        for reply in _answers(node, iter(lines), window):
            if not reply.startswith(b"ok"):
                raise LoadFailed(reply.decode())
            done += 1
        return done / (time.monotonic() - begun)


def _answers(node: Netcat, lines: Iterator[str], window: int) -> Iterator[bytes]:
    """Keep the window full; what is sent is sent in one piece for each piece that is read."""
    rest, unanswered = b"", 0
    while True:
        more = [line.encode() for line in islice(lines, window - unanswered)]
        if more:
            node.send_raw(b"\r\n".join([*more, b""]))
            unanswered += len(more)
        if not unanswered:
            return
        data = node.socket.recv(2**18)
        if not data:
            raise LoadFailed("the server hung up")
        *whole, rest = (rest + data).split(b"\n")
        unanswered -= len(whole)
        yield from whole


def one_by_one(port: int, line: str, count: int) -> Load:
    """The same line again and again over one connection, each after the answer to the one before."""
    taken = []
    with Netcat(port) as node:
        for _ in range(count):
            begun = time.perf_counter()
            reply = node.ask(line)
            taken.append(time.perf_counter() - begun)
            if not reply.startswith("ok"):
                raise LoadFailed(reply)
    return timed(taken)


def timed(taken: Sequence[float]) -> Load:
    """Of the seconds that requests took, one after the other."""
    ordered = sorted(taken)
    return Load(len(taken) / sum(taken), 1000 * statistics.median(ordered), 1000 * ordered[len(ordered) * 99 // 100])
