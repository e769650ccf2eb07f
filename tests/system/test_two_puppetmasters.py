"""Two puppetmasters on one machine, in one folder, with the same options: neither is in the other's way."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.netcat import Netcat, object_of
from tests.support.nodes import until
from tests.system.test_scripts import Console, _listens

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

START = 40.0


@pytest.fixture
def two(tmp_path: Path) -> Iterator[list[Console]]:
    """Two puppetmasters with one folder, PCS port and debug port."""
    consoles = [Console(tmp_path), Console(tmp_path)]
    consoles[1].pcs, consoles[1].debug = consoles[0].pcs, consoles[0].debug
    consoles[1].output_file = tmp_path / "second.output"
    consoles[1].script_file = tmp_path / "second"
    yield consoles
    for console in consoles:
        console.end()


def said(console: Console, text: str) -> str:
    """The line of its output with that text, once there is one."""

    def found() -> str:
        process = console.process
        assert process is not None
        lines = [line for line in console.output if text in line]
        assert lines or process.poll() is None, "\n".join(console.output)
        return lines[0] if lines else ""

    return until(f"{text!r} is said", found, START)


def pcs_of(console: Console) -> int:
    """The port of the PCS that it has started."""
    found = re.fullmatch(r"pcs +started at localhost:(\d+)", said(console, "pcs      started"))
    assert found is not None
    return int(found[1])


def status(port: int) -> dict[str, Any]:
    with Netcat(port) as node:
        return object_of(node.ask("status"))


def test_at_the_same_moment(two: list[Console]) -> None:
    """Both start their own PCS, one of them at a free port, and say so; their nodes have the same id and log into
    files of their own; when the first ends, the second one's go on, and end with it."""
    for console in two:
        console.start("worker w1 localhost:4001\ndebug\nwait 60000\n")
    ports = [pcs_of(console) for console in two]
    assert ports[0] != ports[1]
    assert two[0].pcs in ports
    (other,) = [console for console in two if pcs_of(console) != two[0].pcs]
    told = said(other, f"localhost:{two[0].pcs} ")
    assert told.endswith(("is taken", "serves another puppetmaster"))
    debug = [said(console, "reporting outputs to").rpartition(":")[2] for console in two]
    assert str(two[0].debug) in debug
    assert len(set(debug)) == 2
    workers = [status(console.ports["4001"]) for console in two]
    assert [worker["id"] for worker in workers] == ["w1", "w1"]
    for console, port in zip(two, ports, strict=True):
        log = Path(status(port)["logs"], "w1.log").read_text()
        assert re.findall(r"starting on (\d+)", log) == [str(console.ports["4001"])]

    first, second = (console.process for console in two)
    assert first is not None
    assert second is not None
    first.send_signal(signal.SIGTERM)
    first.wait(20)
    assert two[0].output[-1] == "stopped  1 node"
    assert not _listens(ports[0])
    assert not _listens(two[0].ports["4001"])
    assert status(two[1].ports["4001"])["pid"] == workers[1]["pid"]
    assert status(ports[1])["alive"] == ["w1"]
    second.send_signal(signal.SIGTERM)
    second.wait(20)
    assert two[1].output[-1] == "stopped  1 node"
    assert not _listens(two[1].ports["4001"])


def test_the_first_is_killed(two: list[Console]) -> None:
    """Its PCS and nodes end within seconds; nothing of the second one is touched, which is told of a port of the
    first one that it wants, too, in one line."""
    first, second = two
    process = first.start("worker w1 localhost:4001\nwait 60000\n")
    said(first, "ready    w1")
    taken = first.ports["4001"]
    second.ports["4009"] = taken
    second.start("worker w1 localhost:4001\nworker w2 localhost:4009\nwait 60000\n")
    said(second, f"         the PCS at localhost:{first.pcs} serves another puppetmaster")
    said(second, "ready    w1")
    line = f"second line 2: worker w2 localhost:{taken}: the worker w1 is at localhost:{taken}, not started from here: "
    assert "address already in use: choose another port, or stop what listens there" in said(second, line)
    pid = status(second.ports["4001"])["pid"]
    process.send_signal(signal.SIGKILL)
    until("the first one's are gone", lambda: not _listens(first.pcs) and not _listens(taken), 10)
    assert status(second.ports["4001"])["pid"] == pid
    assert status(pcs_of(second))["alive"] == ["w1"]
    assert second.process is not None
    assert second.process.poll() is None
