"""The PCS with real processes: tiny nodes, whose ids say how they behave."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from queue import Queue
from threading import Semaphore
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.logger import formatEvent

from dida.errors import BadRequest, DidaError, Unavailable
from dida.pcs.launch import node_arguments
from dida.pcs.log_folder import LogFolder
from dida.pcs.messages import Elsewhere, NodeEntry, Start
from dida.pcs.node import PcsNode
from dida.pcs.processes import LineWriter, OutputFile, listens, start_time
from dida.pcs.table import Processes, Timing
from dida.protocols.lines import LineServerFactory
from dida.services.pcs import Options, makeService
from dida.wire.messages import ListRecords, Status
from tests.support.desk import Wire
from tests.support.fakes import Port, refused, until
from tests.support.nodes import ROOT, free_port
from tests.support.stub_node import StubNode


def _reactor() -> Any:
    from twisted.internet import reactor

    return reactor


class UnreadStream(io.BytesIO):
    """A stream that nobody reads: each write waits for `go_on`, at most 30 s."""

    def __init__(self) -> None:
        super().__init__()
        self.gave_up = False
        self._written: Queue[bytes] = Queue()
        self._gate = Semaphore(0)

    def write(self, data: Any) -> int:
        self._written.put(bytes(data))
        self.gave_up = self.gave_up or not self._gate.acquire(timeout=30)
        return len(data)

    def next(self) -> bytes:
        """Return what the next write has."""
        return self._written.get(timeout=30)

    def go_on(self) -> None:
        """Let one write return."""
        self._gate.release()


STUB = str(ROOT / "tests/support/stub_node.py")


def a_start(id: str, role: str = "worker", **members: Any) -> Start:
    return Start(role, id, f"http://127.0.0.1:{free_port()}", **members)


@pytest.fixture
def timing() -> Timing:
    """How long the PCS waits; a test that is in a hurry names its own."""
    return Timing()


@pytest_twisted.async_yield_fixture
async def processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, timing: Timing) -> AsyncIterator[Processes]:
    """A PCS's processes, all ended afterwards."""
    monkeypatch.setenv("PYTHONPATH", os.getcwd())
    table = Processes(_reactor(), str(tmp_path), most=4, keep=False, timing=timing)
    table.command_line = lambda *words, output: [sys.executable, STUB, *words, f"--output={output}"]
    table.begin()
    yield table
    await table.end()


async def row(table: Processes, id: str, wanted: Callable[[NodeEntry], bool]) -> NodeEntry:
    """The row of a node, once it is as wanted."""
    number = None
    for _ in range(100):
        number = await table.watch(number, 10)
        for entry in table.entries():
            if entry.id == id and wanted(entry):
                return entry
    raise AssertionError(f"{id} never got there: {table.entries()}")


def test_arguments() -> None:
    """Only the three kinds of node are started, with the options that system.md names, and URLs that are URLs."""
    request = Start("storage", "s1", "localhost:5001", gossip_delay=9, replica=1, storage=["2=s2@localhost:5002"])
    assert node_arguments(request, None) == [
        "dida-storage",
        "--id=s1",
        "--url=http://localhost:5001",
        "--gossip-delay=9",
        "--replica=1",
        "--storage=2=s2@localhost:5002",
    ]
    assert node_arguments(Start("worker", "w", "localhost:4001"), "/ops")[-1] == "--operators=/ops"
    assert node_arguments(Start("scheduler", "sc", "localhost:2000", worker=["w=localhost:4001"]), None) == [
        "dida-scheduler",
        "--id=sc",
        "--url=http://localhost:2000",
        "--worker=w=localhost:4001",
    ]
    for wrong in [
        Start("sh", "s1", "localhost:5001"),
        Start("storage", "s1", "localhost:5001", storage=["nonsense"]),
        Start("worker", "w", "nonsense"),
        Start("worker", "two words", "localhost:4001"),
        Start("worker", " ", "localhost:4001"),
        Start("worker", "n\0l", "localhost:4001"),
        Start("worker", "\x1b[2J", "localhost:4001"),
        Start("scheduler", "sc", "localhost:2000", worker=["\x1b[2J=localhost:4001"]),
        Start("scheduler", "sc", "localhost:2000", worker=["nonsense"]),
    ]:
        with pytest.raises(BadRequest):
            node_arguments(wrong, None)


@pytest.mark.parametrize(("members", "number"), [([], 1), (["2=s2@h:1", "4=s4@h:2"], 5), (["1=s1@h:1", "3=me@h:2"], 3)])
def test_the_number_of_a_storage_node(members: list[str], number: int) -> None:
    """Who starts a storage node by hand need not number it: it is what the members say, or the next one."""
    assert f"--replica={number}" in node_arguments(Start("storage", "me", "h:2", storage=members), None)


@pytest_twisted.ensureDeferred
async def test_life_of_a_node(processes: Processes, tmp_path: Path) -> None:
    """A node is starting until it says that it is ready; its output is in its file; crash is SIGKILL; no zombie."""
    pid = processes.start(a_start("w1"))
    assert processes.entries()[0].state == "starting"
    ready = await row(processes, "w1", lambda entry: entry.state == "ready")
    assert ready.pid == pid
    reply = await processes.ask("w1", Status())
    assert reply.object["id"] == "w1"
    await processes.crash("w1")
    (ended,) = processes.entries()
    assert (ended.state, ended.ended, ended.asked, ended.line) == ("ended", "signal SIGKILL", True, "no line end")
    assert (tmp_path / "w1.log").read_text() == "line 0 of w1\nno line end"
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(DidaError) as caught:
        await processes.ask("w1", ListRecords())
    assert "has ended (signal SIGKILL)" in str(caught.value)
    processes.start(a_start("w1"))
    await row(processes, "w1", lambda entry: entry.state == "ready" and entry.pid != pid)


@pytest_twisted.ensureDeferred
async def test_a_node_that_fails(processes: Processes) -> None:
    """How a node ended is told with the last line that it put out."""
    processes.start(a_start("unlucky"))
    entry = await row(processes, "unlucky", lambda entry: entry.state == "ended")
    assert (entry.ended, entry.line, entry.asked) == ("exit status 1", "stub: the port is taken", False)


@pytest_twisted.ensureDeferred
async def test_a_node_dies_by_itself(processes: Processes) -> None:
    """A node that was not asked to end is told apart from one that was."""
    pid = processes.start(a_start("w1"))
    await row(processes, "w1", lambda entry: entry.state == "ready")
    os.kill(pid, signal.SIGSEGV)
    entry = await row(processes, "w1", lambda entry: entry.state == "ended")
    assert (entry.ended, entry.asked) == ("signal SIGSEGV", False)


@pytest_twisted.ensureDeferred
async def test_crash_while_starting(processes: Processes) -> None:
    """A node that is still starting can be killed, too."""
    processes.start(a_start("slow"))
    await processes.crash("slow")
    assert processes.entries()[0].ended == "signal SIGKILL"


@pytest_twisted.ensureDeferred
async def test_a_stranger_on_the_port(processes: Processes) -> None:
    """Another process that listens where a node was to, under the same id, is not taken for the node."""
    stranger = StubNode("slow", "worker")
    port = Port(_reactor(), stranger)
    processes.start(Start("worker", "slow", f"http://{port.address}"))
    await until(lambda: stranger.asked > 4)
    assert processes.entries()[0].state == "starting"
    await processes.crash("slow")
    await port.close()


@pytest_twisted.ensureDeferred
async def test_a_probe_that_is_given_up() -> None:
    """Who finds out whether a node listens, and is cancelled at it, ends as everything that is cancelled does."""
    probe = Deferred.fromCoroutine(listens(_reactor(), refused(), 5.0))
    probe.cancel()
    with pytest.raises(CancelledError):
        await probe


@pytest_twisted.ensureDeferred
async def test_refusals(processes: Processes) -> None:
    """The same id or address twice, an unknown node, and too many nodes are refused in one line each."""
    first = a_start("w1")
    processes.start(first)
    refused: list[tuple[Start, str]] = [
        (a_start("w1"), "already running: w1, a worker at"),
        (Start("worker", "w2", first.url), ", by w1: choose another port"),
    ]
    for request, message in refused:
        with pytest.raises(BadRequest) as caught:
            processes.start(request)
        assert message in str(caught.value)
    for verb in (processes.crash, processes.stop):
        with pytest.raises(DidaError) as unknown:
            verb("nobody")
        assert str(unknown.value) == "no-such-node: nobody was never started here"
    for id in ("w2", "w3", "w4"):
        processes.start(a_start(id))
    with pytest.raises(Unavailable) as full:
        processes.start(a_start("w5"))
    assert "cannot run more than 4 nodes here" in str(full.value)


@pytest.mark.parametrize("trouble", ["no space", "a folder", "no folder"])
@pytest_twisted.ensureDeferred
async def test_a_table_that_can_t_be_written(
    processes: Processes, tmp_path: Path, trouble: str, logged_errors: list[Any]
) -> None:
    """A node is not started when the table on disk can't have it: the next PCS would not know of it. Nothing is
    changed by that, and it goes well again once the table can be written."""
    processes.start(a_start("w1"))
    await row(processes, "w1", lambda entry: entry.state == "ready")
    await processes.crash("w1")
    before = (tmp_path / "pcs.nodes").read_bytes()
    new = tmp_path / "pcs.nodes.new"
    if trouble == "no space":
        new.symlink_to("/dev/full")
    elif trouble == "a folder":
        new.mkdir()
    else:
        new.symlink_to(tmp_path / "nowhere" / "file")
    with pytest.raises(Unavailable) as caught:
        processes.start(a_start("w1"))
    reason = {"no space": "no space left on device", "a folder": "is a directory", "no folder": "no such file"}[trouble]
    assert f"cannot start w1: cannot write the table of nodes {tmp_path}/pcs.nodes: {reason}" in str(caught.value)
    (entry,) = processes.entries()
    assert (entry.state, entry.ended) == ("ended", "signal SIGKILL")
    assert (tmp_path / "pcs.nodes").read_bytes() == before
    new.rmdir() if trouble == "a folder" else new.unlink()
    processes.start(a_start("w1"))
    await row(processes, "w1", lambda entry: entry.state == "ready")
    assert logged_errors == []


@pytest_twisted.ensureDeferred
async def test_output(processes: Processes, tmp_path: Path) -> None:
    """All output is read, in order; the newest lines are kept; the console gets it with the id in front, and how the
    node has ended."""
    with (tmp_path / "console").open("wb") as console:
        processes.console = LineWriter(console)
        processes.start(a_start("noisy30000"))
        await row(processes, "noisy30000", lambda entry: entry.state == "ready")
        await processes.stop(None)
        processes.console.close(5)
        processes.console = None
    expected = [f"line {number} of noisy30000" for number in range(30000)]
    assert (tmp_path / "noisy30000.log").read_text().splitlines()[:30000] == expected
    shown = (tmp_path / "console").read_text().splitlines()
    assert shown[:30000] == [f"noisy30000 | {line}" for line in expected]
    assert shown[-2:] == ["noisy30000 | no line end", "noisy30000 | (ended: exit status 0)"]
    assert "line 29999 of noisy30000" in processes.output("noisy30000", 10)


@pytest.mark.parametrize("timing", [Timing(grace=0.5)])
@pytest_twisted.ensureDeferred
async def test_stop(processes: Processes) -> None:
    """A node that does not end when told to is killed, but only when its --drain has passed."""
    processes.drain = 1.0
    await start_all(processes, "w1", "stubborn")
    began = _reactor().seconds()
    await processes.stop(None)
    assert _reactor().seconds() - began >= 1.5
    assert {entry.id: entry.ended for entry in processes.entries()} == {
        "w1": "exit status 0",
        "stubborn": "signal SIGKILL",
    }


@pytest_twisted.ensureDeferred
async def test_a_node_that_finishes_something(processes: Processes) -> None:
    """A node is told to end once, however often it is stopped; a second time only when nobody waits for it any more."""
    await start_all(processes, "patient")
    first = processes.stop("patient")
    second = processes.stop(None)
    assert (await processes.ask("patient", Status())).object["id"] == "patient"
    assert not first.called
    await processes.stop("patient", 0.01)
    assert first.called and second.called
    assert processes.entries()[0].ended == "signal SIGTERM"


@pytest.mark.parametrize("timing", [Timing(orphaned=0.1, hurried=0.05)])
@pytest_twisted.ensureDeferred
async def test_a_node_whose_owner_is_gone_is_hurried(processes: Processes) -> None:
    """What a worker has in hand for a puppetmaster that is gone holds its end up for no longer than a moment."""
    held = processes.own("one", 60)
    await start_all(processes, "patient", owner="one")
    held.cancel()
    await row(processes, "patient", lambda entry: entry.state == "ended")


@pytest.mark.parametrize("timing", [Timing(restart_delay=0.1)])
@pytest_twisted.ensureDeferred
async def test_nodes_that_fail_are_started_again(processes: Processes) -> None:
    """With --restart on-failure a node that dies is started again, later each time; `nodes` counts it."""
    processes.restart = True
    pid = processes.start(a_start("w1"))
    await row(processes, "w1", lambda entry: entry.state == "ready")
    os.kill(pid, signal.SIGKILL)
    again = await row(processes, "w1", lambda entry: entry.state == "ready" and entry.pid != pid)
    assert again.restarts == 1
    assert PcsNode("pcs", processes).cmd_status(Status()).object["restarts"] == 1  # type: ignore[union-attr]
    assert (await processes.ask("w1", Status())).object["pid"] == again.pid
    processes.start(a_start("failing"))
    began = _reactor().seconds()
    await row(processes, "failing", lambda entry: entry.restarts == 3)
    assert _reactor().seconds() - began >= 0.1 + 0.2 + 0.4


@pytest.mark.parametrize("how", ["crash", "stop", "SIGTERM", "owned", "never"])
@pytest_twisted.ensureDeferred
async def test_nodes_that_are_not_started_again(processes: Processes, how: str) -> None:
    """A node that was crashed or stopped, or told to end by anybody, or is a puppetmaster's, stays ended."""
    processes.restart = how != "never"
    pid = processes.start(a_start("w1", owner="one" if how == "owned" else ""))
    await row(processes, "w1", lambda entry: entry.state == "ready")
    if how == "crash":
        await processes.crash("w1")
    elif how == "stop":
        await processes.stop("w1")
    else:
        os.kill(pid, signal.SIGTERM if how == "SIGTERM" else signal.SIGKILL)
    await row(processes, "w1", lambda entry: entry.state == "ended")
    assert processes._nodes["w1"].again is None


@pytest.mark.parametrize("verb", ["crash", "stop", "stop all", "start"])
@pytest_twisted.ensureDeferred
async def test_a_restart_is_given_up(processes: Processes, verb: str) -> None:
    """A node that waits for its restart is told to end, or another one is started in its place: there is none."""
    processes.restart = True
    processes.start(a_start("failing"))
    await row(processes, "failing", lambda entry: entry.state == "ended")
    failed = processes._nodes["failing"]
    assert failed.again is not None
    if verb == "start":
        processes.start(a_start("failing"))
    else:
        await (processes.stop(None) if verb == "stop all" else getattr(processes, verb)("failing"))
    assert failed.again is None


@pytest_twisted.ensureDeferred
async def test_a_restart_survives_its_pcs(processes: Processes, tmp_path: Path) -> None:
    """A node that was to be started again when its PCS ended is started by the next one, as it was started."""
    processes.restart = processes.keep = True
    pid = processes.start(a_start("w1"))
    await row(processes, "w1", lambda entry: entry.state == "ready")
    os.kill(pid, signal.SIGKILL)
    await row(processes, "w1", lambda entry: entry.state == "ended")
    await processes.end()
    again = Processes(_reactor(), str(tmp_path), most=4, keep=False)
    again.command_line = processes.command_line
    again.restart = True
    again.begin()
    try:
        await row(again, "w1", lambda entry: entry.state == "ready" and entry.restarts == 1)
    finally:
        await again.end()


@pytest_twisted.ensureDeferred
async def test_watch_ends(processes: Processes) -> None:
    """A watch is answered at its deadline, too, with the same number."""
    number = await processes.watch(None, 10)
    assert await processes.watch(number, 0.01) == number


def test_a_watch_whose_client_is_gone(tmp_path: Path) -> None:
    """Watches that are given up make room for others at once, and leave no timer behind."""
    clock = Clock()
    table = Processes(clock, str(tmp_path), most=4, keep=False)
    table.running = True
    for _ in range(200):
        watch = table.watch(1, 3600)
        watch.cancel()
        watch.addErrback(lambda failure: failure.trap(CancelledError))
    assert clock.getDelayedCalls() == []


@pytest_twisted.ensureDeferred
async def test_pause(processes: Processes) -> None:
    """A paused node stands still until it is resumed; it can be ended all the same."""
    pid = processes.start(a_start("w1"))
    await row(processes, "w1", lambda entry: entry.state == "ready")
    processes.pause("w1")
    assert processes.entries()[0].paused
    await until(lambda: process_state(pid) == "T")
    processes.resume("w1")
    assert (await processes.ask("w1", Status())).object["id"] == "w1"
    processes.pause("w1")
    await processes.stop("w1")
    entry = processes.entries()[0]
    assert (entry.ended, entry.paused) == ("exit status 0", False)


def process_state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest_twisted.ensureDeferred
async def test_new_file(processes: Processes, tmp_path: Path) -> None:
    """A node whose file has become long goes on in a new one, and no line is lost on the way."""
    with (tmp_path / "console").open("wb") as console:
        processes.console = LineWriter(console)
        processes.start(a_start("chatty20000"))
        await row(processes, "chatty20000", lambda entry: entry.state == "ended")
        processes.console.close(5)
        processes.console = None
    expected = [f"chatty20000 | line {number} of chatty20000" for number in range(20000)]
    assert (tmp_path / "console").read_text().splitlines() == [*expected, "chatty20000 | (ended: exit status 0)"]
    names = [name for name in os.listdir(tmp_path) if name.startswith("chatty")]
    assert sorted(names) == ["chatty20000.log", *(f"chatty20000.log.{number}" for number in (1, 2, 3))]


@pytest_twisted.ensureDeferred
async def test_taken_up(processes: Processes, tmp_path: Path) -> None:
    """A PCS that is started again finds the nodes that still run, and those alone: it follows, asks and ends them."""
    await start_all(processes, "w1", "w2", "w3")
    processes.keep = True
    await processes.end()
    table = tmp_path / "pcs.nodes"
    rows = json.loads(table.read_text())
    rows[2]["start_time"] = "another process"
    table.write_text(json.dumps(rows))
    os.kill(pid_of(processes, "w2"), signal.SIGKILL)
    await until(lambda: process_is_gone(pid_of(processes, "w2")))
    again = Processes(_reactor(), str(tmp_path), most=4, keep=False)
    again.begin()
    try:
        found = {entry.id: (entry.state, entry.pid) for entry in again.entries()}
        assert found == {
            "w1": ("ready", pid_of(processes, "w1")),
            "w2": ("ended", pid_of(processes, "w2")),
            "w3": ("ended", pid_of(processes, "w3")),
        }
        assert (await again.ask("w1", Status())).object["id"] == "w1"
        assert again.output("w1", 5) == ["line 0 of w1"]
        with pytest.raises(BadRequest):
            again.start(a_start("w1"))
        await again.stop("w1")
        assert again.entries()[0].ended.startswith("how is not known")
        assert process_is_gone(pid_of(processes, "w1"))
    finally:
        await again.end()
        os.kill(pid_of(processes, "w3"), signal.SIGKILL)


def process_is_gone(pid: int) -> bool:
    return start_time(pid) == ""


def pid_of(table: Processes, id: str) -> int:
    return next(entry.pid for entry in table.entries() if entry.id == id)


async def start_all(table: Processes, *ids: str, **members: Any) -> None:
    """Start nodes, and wait until they are ready."""
    for id in ids:
        table.start(a_start(id, **members))
    for id in ids:
        await row(table, id, lambda entry: entry.state == "ready")


@pytest.mark.parametrize("text", ["nonsense", '[{"entry":{"id":1}}]', '{"a":1}'])
@pytest_twisted.ensureDeferred
async def test_a_table_that_can_t_be_read(tmp_path: Path, text: str, logged_errors: list[Any]) -> None:
    """A file that is no table of nodes is told of, and the PCS starts without."""
    (tmp_path / "pcs.nodes").write_text(text)
    table = Processes(_reactor(), str(tmp_path), most=4, keep=False)
    table.begin()
    assert table.entries() == []
    await table.end()
    assert "cannot take over nodes: cannot read" in formatEvent(logged_errors.pop())


@pytest.mark.parametrize("timing", [Timing(orphaned=0.3)])
@pytest_twisted.ensureDeferred
async def test_owner(processes: Processes) -> None:
    """Nodes live as long as their owner speaks; those of another one, and of nobody, live on."""
    first = processes.own("one", 60)
    await start_all(processes, "w1", owner="one")
    await start_all(processes, "w2")
    second = processes.own("one", 0.5)
    first.cancel()
    await first
    processes.know("one", [Elsewhere("w7", "worker", "http://localhost:1", "localhost:2")])
    assert [node.id for node in processes.elsewhere] == ["w7"]
    await second
    assert processes.entries()[0].state == "ready"
    entry = await row(processes, "w1", lambda entry: entry.state == "ended")
    assert (entry.ended, entry.asked) == ("exit status 0", True)
    assert processes.elsewhere == []
    assert processes.entries()[1].state == "ready"


def test_an_owner_hangs_up(processes: Processes) -> None:
    """That is how an owner goes, and no bug in the log."""
    wire = Wire()
    connection = LineServerFactory(PcsNode("pcs", processes), _reactor()).buildProtocol(None)
    connection.makeConnection(wire)
    connection.dataReceived(b"own one\r\n")
    assert wire.lines() == []
    connection.readConnectionLost()
    assert wire.lines() == ["ok"]
    connection.connectionLost()


@pytest_twisted.ensureDeferred
async def test_a_slow_console(processes: Processes, tmp_path: Path) -> None:
    """A console that nobody reads holds up nobody; lines that find no room are left out, and their number is shown."""
    stream = UnreadStream()
    processes.console = LineWriter(stream, most=100_000)
    processes.start(a_start("noisy30000"))
    await row(processes, "noisy30000", lambda entry: entry.state == "ready")
    await processes.stop("noisy30000")
    assert processes.entries()[0].ended == "exit status 0"
    assert not stream.gave_up
    shown = stream.next()
    stream.go_on()
    shown += stream.next()
    processes.show("pcs", b"one more")
    stream.go_on()
    shown += stream.next()
    stream.go_on()
    notice = re.compile(rb"\((\d+) lines left out: they came faster than they were shown\)\n")
    left_out = sum(map(int, notice.findall(shown)))
    *lines, last = notice.sub(b"", shown).splitlines()
    assert left_out > 0 and last == b"pcs | one more"
    printed = [*(tmp_path / "noisy30000.log").read_bytes().splitlines(), b"(ended: exit status 0)"]
    assert len(lines) + left_out == len(printed)


def test_end_of_a_line(tmp_path: Path) -> None:
    """A line without end is broken in pieces, so that it can't fill the memory."""
    shown: list[bytes] = []
    output = OutputFile(str(tmp_path / "w1.log"), shown.append)
    with output.begin() as writing:
        writing.write(b"a" * 5000)
        output.read()
        writing.write(b"\r\n\xff\n")
    output.end()
    assert shown == [b"a" * 4096, b"a" * 904, b"\xff"]
    assert output.lines[-1] == "�"


def make(words: list[str]) -> None:
    options = Options()
    options.parseOptions(words)
    makeService(options, _reactor())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--max-nodes", "many"],
            "twistd dida-pcs: --max-nodes: invalid number 'many': expected nodes from 1 to 10000",
        ),
        (["--id", ""], "twistd dida-pcs: --id: invalid id ''"),
        (["--url", "nowhere"], "twistd dida-pcs: --url: invalid URL 'nowhere'"),
        (["--operators", "/nonexistent"], "twistd dida-pcs: --operators /nonexistent: no such folder"),
        (["--logs", "/proc/nothing/there"], "cannot make the folder of --logs /proc/nothing/there"),
    ],
)
def test_bad_options(words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bad option ends the process with one line."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        make(words)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_port_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A taken port is one line, and nothing was started."""
    monkeypatch.chdir(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(SystemExit) as caught:
            make(["--url", f"127.0.0.1:{taken.getsockname()[1]}"])
    assert "address already in use: choose another port" in str(caught.value)


def test_log_folders(tmp_path: Path) -> None:
    """PCSs that log below one folder at the same time have one each, named by their number; one that is given back is
    taken again."""
    folders = [LogFolder(str(tmp_path)) for _ in range(4)]
    for folder in folders[:3]:
        folder.take()
    assert [folder.path for folder in folders[:3]] == [str(tmp_path), f"{tmp_path}/pcs-2", f"{tmp_path}/pcs-3"]
    folders[1].release()
    folders[3].take()
    assert folders[3].path == f"{tmp_path}/pcs-2"
    for folder in folders:
        folder.release()


@pytest_twisted.ensureDeferred
async def test_nothing_is_left_of_an_empty_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PCS that ends and leaves no node leaves no table; one that keeps its nodes leaves it to the next one."""
    monkeypatch.setenv("PYTHONPATH", os.getcwd())
    for keep in (False, True):
        table = Processes(_reactor(), str(tmp_path), most=4, keep=keep)
        table.command_line = lambda *words, output: [sys.executable, STUB, *words, f"--output={output}"]
        table.begin()
        pid = table.start(a_start("w1"))
        await row(table, "w1", lambda entry: entry.state == "ready")
        assert (tmp_path / "pcs.nodes").exists()
        await table.end()
        assert (tmp_path / "pcs.nodes").exists() == keep
    os.kill(pid, signal.SIGKILL)
