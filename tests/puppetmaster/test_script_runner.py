"""The puppetmaster's player against a PCS, a scheduler and storage nodes in process; and its consoles."""

from __future__ import annotations

import json
import os
import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock

from dida.addresses import Address
from dida.chains.messages import WorkerDebug
from dida.console import script
from dida.console.style import Page, Style
from dida.errors import BadRequest, UserError
from dida.pcs.messages import Start
from dida.pcs.node import PcsNode
from dida.protocols.lines import LineServerFactory, ok
from dida.protocols.stdio import ConsoleListener, KeyReader, ScriptConsole, TypedConsole
from dida.puppetmaster.checking import check
from dida.puppetmaster.cluster import Cluster
from dida.puppetmaster.commands.expectations import difference
from dida.puppetmaster.debug_port import DebugCommands
from dida.puppetmaster.pcs_directory import PcsDirectory
from dida.puppetmaster.script_runner import ScriptRunner
from dida.wire.messages import Error, Ok, Slow
from tests.support.desk import Wire
from tests.support.fake_pcs import FakeScheduler, FakeTable
from tests.support.fakes import FakeCluster, Port, refused, the_reactor, until
from tests.support.netcat import object_of
from tests.support.nodes import ROOT
from tests.support.screens import Screen

NODES = "storage s1 {s1} 5\nstorage s2 {s2} 5\nworker w1 localhost:4001 0\nscheduler sc {sc}\n"


class Scene:
    """A player, and all that it plays with."""

    def __init__(self, folder: Path, deadline: float = 5.0) -> None:
        self.reactor = the_reactor()
        self.table = FakeTable()
        self.pcs_commands = PcsNode("pcs", self.table)
        self.pcs = Port(self.reactor, self.pcs_commands)
        self.storage = FakeCluster(self.reactor, 2)
        self.scheduler = FakeScheduler()
        self.scheduler_port = Port(self.reactor, self.scheduler)
        self.scheduler_closed: Any = None
        self.said: list[str] = []
        self.page = Page()
        self.bars: list[str] = []
        self.deadline = deadline
        self.folders = [str(folder)]
        self.player = self.another_player([self.pcs.address], debug_url=lambda host, known: f"{host}:10001")
        (folder / "app").write_text("operator AddOperator 0\noperator AddOperator 1\n")
        (folder / "data").write_text("13,1\n14,one\n13,2\n")
        (folder / "many").write_text("".join(f"{key},1\n" for key in range(20)))
        (folder / "numbers").write_text("1\n2\n3\n")
        (folder / "bad_app").write_text("operator AddOperator 0\noperator AddOperator 2\n")
        (folder / "bad_data").write_text("13,1\n14\n")

    def another_player(self, pcs: list[Address], **options: Any) -> ScriptRunner:
        """A player for the PCSs at these addresses."""
        return ScriptRunner(
            lambda listener: Cluster(self.reactor, pcs, self.deadline, listener, **options), self.folders, self
        )

    def say(self, text: str) -> None:
        self.said.append(text)

    def progress(self, text: str) -> None:
        self.bars.append(text)

    def lines(self, text: str) -> tuple[script.Line, ...]:
        """A script with this scene's addresses."""
        s1, s2 = (member.address for member in self.storage.addresses)
        filled = text.format(s1=s1, s2=s2, sc=self.scheduler_port.address)
        return script.in_order(script.parse_script(filled.encode()))

    async def play(self, text: str) -> None:
        """Play a whole script."""
        lines = self.lines(text)
        self.player.plan(lines)
        for line in lines:
            await self.player.play(line)
        await self.player.finish()

    def kill_scheduler(self) -> None:
        """Its connections break, and nobody listens any more."""
        if self.scheduler_closed is None:
            self.scheduler_closed = self.scheduler_port.close()

    @property
    def failed(self) -> list[int]:
        """The numbers of the lines that failed."""
        return sorted(line.number for line in self.player.work.counts.failed)

    async def close(self) -> None:
        self.scheduler.end_at_once = True
        await self.player.close()
        self.player.cluster.end_watch()
        await self.player.cluster.close()
        self.table.tell()
        self.storage.close()
        await self.pcs.close()
        self.kill_scheduler()
        await self.scheduler_closed


@pytest_twisted.async_yield_fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    made = Scene(tmp_path)
    yield made
    await made.close()


# --- nodes ----------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_first_members(scene: Scene) -> None:
    """The nodes of the leading block know each other from the start, the replicas numbered in their order."""
    await scene.play(NODES)
    s1, s2 = (f"{number}=s{number}@{member.address}" for number, member in enumerate(scene.storage.addresses, 1))
    started = {start.id: start for start in scene.table.started}
    assert [started["s1"].replica, started["s2"].replica] == [1, 2]
    assert started["s1"].storage == started["s2"].storage == started["sc"].storage == [s1, s2]
    assert started["sc"].worker == ["w1=localhost:4001"]
    assert started["w1"].storage == []
    assert [line.split()[:2] for line in sorted(scene.said)] == [["ready", id] for id in ("s1", "s2", "sc", "w1")]
    assert scene.scheduler.log == []


@pytest_twisted.ensureDeferred
async def test_joiners(scene: Scene) -> None:
    """A node named later is told of those before it, and a running scheduler is told of it."""
    await scene.play("storage s1 {s1} 5\nscheduler sc {sc}\n")
    await scene.play("storage s2 {s2} 5\nworker w1 localhost:4001 0\n")
    started = {start.id: len(start.storage) for start in scene.table.started}
    assert started == {"s1": 1, "sc": 1, "s2": 2, "w1": 0}
    assert sorted(scene.scheduler.log) == ["storage 2 s2", "worker w1"]


@pytest_twisted.ensureDeferred
async def test_late_scheduler(scene: Scene) -> None:
    """A scheduler that the script names last is there for the clients before it."""
    await scene.play("storage s1 {s1} 5\nworker w1 localhost:4001 0\nclient 1 app\nwait 0\nscheduler sc {sc}\n")
    assert scene.failed == []
    assert scene.player.work.counts.done == 1


@pytest_twisted.ensureDeferred
async def test_nodes_fail(scene: Scene) -> None:
    """A node that ends before it is ready, that its PCS refuses, or that ends by itself, is its line's failure."""
    scene.table.ready_at_once = False
    playing = Deferred.fromCoroutine(
        scene.play("worker w1 localhost:4001 0\nworker refused localhost:4002 0\nworker w3 localhost:4003 0\n")
    )
    await until(lambda: len(scene.table.rows) == 2)
    scene.table.change("w1", state="ended", ended="exit status 1", line="twistd dida-worker: the port is taken")
    scene.table.change("w3", state="ready")
    await playing
    scene.table.change("w3", state="ended", ended="signal SIGSEGV")
    await until(lambda: len(scene.said) == 4)
    assert sorted(scene.said) == [
        "ready    w3     worker     localhost:4003           " + scene.said[2][-6:],
        "script line 1: worker w1 localhost:4001 0: ended before it was ready (exit status 1): "
        "twistd dida-worker: the port is taken",
        "script line 2: worker refused localhost:4002 0: no more nodes here",
        "script line 3: worker w3 localhost:4003 0: w3 has ended unexpectedly: signal SIGSEGV",
    ]
    assert scene.failed == [1, 2, 3]


@pytest_twisted.ensureDeferred
async def test_never_ready(tmp_path: Path) -> None:
    """A node that is not ready within the deadline has failed; what needs it says so, and nothing hangs."""
    scene = Scene(tmp_path, deadline=0.2)
    scene.table.ready_at_once = False
    await scene.play("storage s1 {s1} 5\npopulate data\n")
    assert scene.said == [
        f"script line 1: storage s1 {scene.storage.addresses[0].address} 5: "
        "not ready within 0.2 s, so it was killed: its output is in logs/s1.log",
        "script line 2: populate data: missing storage node: s1 not ready within 0.2 s, so it was killed",
    ]
    await scene.close()


@pytest_twisted.ensureDeferred
async def test_never_ready_as_the_pcs_has_ended(tmp_path: Path) -> None:
    """Nobody says that a node was killed when the PCS that had started it is gone."""
    scene = Scene(tmp_path, deadline=1.0)
    scene.table.ready_at_once = False
    (line,) = scene.lines("storage s1 {s1} 5\n")
    await scene.player.play(line)
    await until(lambda: scene.player.cluster.nodes["s1"].pid)
    await scene.pcs.close()
    await scene.player.finish()
    address = scene.player.cluster.nodes["s1"].pcs
    assert address is not None
    assert scene.player.cluster.nodes["s1"].problem == (
        f"not ready within 1 s: the PCS at {address.address} has ended, or does not answer any more"
    )
    await scene.close()


@pytest_twisted.ensureDeferred
async def test_start_again(scene: Scene) -> None:
    """A node that was crashed can be started again: it keeps its number, and what follows waits for it."""
    await scene.play("storage s1 {s1} 5\nstorage s2 {s2} 5\ncrash s1\nstorage s1 {s1} 5\npopulate data\n")
    assert scene.failed == []
    assert [(start.id, start.replica) for start in scene.table.started] == [("s1", 1), ("s2", 2), ("s1", 1)]
    assert [line.split()[0] for line in scene.said[-3:]] == ["crashed", "ready", "populate"]


class FakeLocalPcs:
    """Is started at an address that the test names; remembers what it was called with."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.seen: list[tuple[Address, str]] = []

    async def start(self, wanted: Address, taken: str) -> Address:
        self.seen.append((wanted, taken))
        return self.address

    def found(self, address: Address, status: Mapping[str, Any]) -> None:
        self.seen.append((address, status["serves"]))


@pytest_twisted.ensureDeferred
async def test_a_pcs_of_another_puppetmaster(scene: Scene) -> None:
    """A PCS that another puppetmaster has started for itself is left alone: one of one's own is started. One that
    serves all is taken, and what its status says is told."""
    other = Port(scene.reactor, PcsNode("pcs", FakeTable(), serves="puppetmaster-1"))
    local = FakeLocalPcs(scene.pcs.address)
    node = Address("localhost", 4001)
    cluster: Any = scene.player.cluster
    directory = PcsDirectory(
        scene.reactor, [other.address], cluster, name="puppetmaster-2", owner="puppetmaster-2", local_pcs=local
    )
    assert (await directory.pcs_of(node)).address == scene.pcs.address
    assert local.seen == [(other.address, f"the PCS at {other.address} serves another puppetmaster")]
    await directory.close()

    name = "puppetmaster-1"
    directory = PcsDirectory(scene.reactor, [other.address], cluster, name=name, owner=name, local_pcs=local)
    assert (await directory.pcs_of(node)).address == other.address
    assert local.seen[-1] == (other.address, name)
    await directory.close()

    name = "puppetmaster-2"
    directory = PcsDirectory(scene.reactor, [other.address], cluster, name=name, owner=name)
    with pytest.raises(UserError) as caught:
        await directory.pcs_of(node)
    assert "serves another puppetmaster: start one for all there with twistd dida-pcs" in str(caught.value)
    await directory.close()
    scene.table.tell()
    await other.close()


@pytest_twisted.ensureDeferred
async def test_no_pcs(tmp_path: Path) -> None:
    """Without a PCS, and no way to start one, the node's line says what to do."""
    scene = Scene(tmp_path)
    scene.player = scene.another_player([refused()])
    await scene.play("worker w1 localhost:4001 0\nworker w2 otherhost:4001 0\n")
    assert "start it there with twistd dida-pcs" in scene.said[0] + scene.said[1]
    assert "missing PCS for otherhost" in scene.said[0] + scene.said[1]
    await scene.close()


@pytest_twisted.ensureDeferred
async def test_the_end_comes_while_nodes_start(tmp_path: Path) -> None:
    """What is ended is not told to be ready any more, though it waited only for the scheduler to be told of it."""
    scene = Scene(tmp_path)
    scene.table.ready_at_once = False
    for line in scene.lines(NODES):
        await scene.player.play(line)
    await until(lambda: len(scene.table.rows) == 4)
    scene.table.change("w1", state="ready")
    await until(lambda: scene.player.cluster.nodes["w1"].state == "ready")
    await scene.close()
    assert scene.said == []


class Silent(Factory):
    """Listens, and says nothing."""

    noisy = False
    met = 0

    def buildProtocol(self, addr: object) -> Protocol:
        self.met += 1
        return Protocol()


@pytest_twisted.ensureDeferred
async def test_a_pcs_that_says_nothing(tmp_path: Path) -> None:
    """Where something listens and says nothing, it is asked once for all nodes, and none is waited for in vain."""
    silent = Silent()
    port: Any = the_reactor().listenTCP(0, silent, interface="127.0.0.1")
    scene = Scene(tmp_path, deadline=0.2)
    scene.player = scene.another_player([Address("localhost", port.getHost().port)])
    await scene.play("".join(f"worker w{n} localhost:400{n} 0\n" for n in range(9)) + "status\n")
    told = [text.partition(" 0: ")[2] for text in scene.said if text.startswith("script line")]
    assert told == ["not started within 0.2 s: no PCS has answered for localhost"] * 9
    assert scene.failed == [*range(1, 10)]
    assert scene.player.work.summary() == "10 commands, 0 runs: 0 done; failed: lines 1-9"
    assert silent.met == 1
    await scene.close()
    await port.stopListening()


@pytest_twisted.ensureDeferred
async def test_what_is_cut_off(scene: Scene) -> None:
    """A run that goes on when the puppetmaster ends is named, and counted as failed."""
    scene.scheduler.end_at_once = False
    for line in scene.lines(NODES + "populate data\nclient 13 app\n"):
        await scene.player.play(line)
    await until(lambda: "result r1" in scene.scheduler.log)
    await scene.player.close()
    scene.scheduler.time_out("r1")
    assert scene.said[-1] == "script line 6: client 13 app: cut off by the end of the puppetmaster"
    assert scene.player.work.summary().endswith("1 run: 0 done; failed: line 6")


@pytest_twisted.ensureDeferred
async def test_a_node_whose_id_runs_elsewhere(scene: Scene) -> None:
    """What a node that could not be started was refused for is told with its id once."""

    def start(request: Start) -> int:
        raise BadRequest("already running: s1, a storage at localhost:5001: take another id")

    scene.table.start = start  # type: ignore[method-assign]
    await scene.play("storage s1 {s1} 5\npopulate data\n")
    assert scene.said[1] == ("script line 2: populate data: missing storage node: s1 already running")


@pytest_twisted.ensureDeferred
async def test_a_pcs_that_is_slow(tmp_path: Path) -> None:
    """A node that the PCS starts when nobody waits for it any more is killed: it is no orphan."""
    scene = Scene(tmp_path, deadline=0.2)
    slow: Deferred[None] = Deferred()

    def start(request: Start) -> Deferred[Ok]:
        return slow.addCallback(lambda _: ok(scene.table.start(request)))

    scene.pcs_commands.cmd_start = start  # type: ignore[method-assign, assignment]
    playing = Deferred.fromCoroutine(scene.play("worker w1 localhost:4001 0\nwait 400\n"))
    await until(lambda: bool(scene.said))
    assert "w1 localhost:4001 0: not started within 0.2 s: no PCS has answered for localhost" in scene.said[0]
    slow.callback(None)
    await until(lambda: scene.table.crashed == ["w1"])
    await playing
    await scene.close()


# --- order ----------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_a_whole_script(scene: Scene) -> None:
    """Data is written before the client runs; a run is one line with its output and workers; all is counted."""
    await scene.play(NODES + "populate data\nclient 13 app\n")
    assert [value for _, value in scene.storage.group.records["13"]] == ["2", "1"]
    (run,) = scene.scheduler.runs
    assert (run.input, run.operator) == ("13", ("AddOperator", "AddOperator"))
    assert run.after, "the run starts from what populate wrote"
    assert scene.said[-1].split() == ["run", "r1", "13", "app", "->", "24", "w1", "12.3", "ms"]
    assert len(scene.said[-1]) == 80
    assert scene.player.work.summary() == "6 commands, 1 run: 1 done, none failed"


@pytest_twisted.ensureDeferred
async def test_what_is_lost_is_told_once_and_runs_go_on(scene: Scene) -> None:
    """After all storage nodes have died with what populate wrote, one line says so, and no run starts from it."""
    await scene.play(NODES + "populate many\nclient 13 app\n")
    assert set(scene.scheduler.runs[0].after) == {"1:1", "2:1"}
    scene.storage.group.gone |= {"1:1", "2:1"}
    await scene.play("crash s1\ncrash s2\nstorage s1 {s1} 5\nstorage s2 {s2} 5\nclient 14 app\nclient 15 app\n")
    assert [run.after for run in scene.scheduler.runs[1:]] == [{}, {}]
    assert [line for line in scene.said if line.startswith("lost ")] == [
        "lost     updates of s1, s2 that no living storage node has: commands go on without them"
    ]
    assert scene.failed == []


@pytest_twisted.ensureDeferred
async def test_half_of_it_is_lost(scene: Scene) -> None:
    """What living nodes have stays in what runs start from."""
    await scene.play(NODES + "populate many\n")
    scene.storage.group.gone.add("1:1")
    await scene.play("crash s1\nclient 14 app\n")
    (run,) = scene.scheduler.runs
    assert set(run.after) == {"2:1"}


@pytest_twisted.ensureDeferred
async def test_a_loss_that_a_run_has_heard_of(scene: Scene) -> None:
    """When nobody knew of it before, the run fails, and the next ones start without what its outcome says is lost;
    those of one map, too."""
    (Path(scene.player.folders[0]) / "inputs").write_text("1\n2\n")
    await scene.play(NODES + "populate many\n")
    lost = Ok(("failed", "lost-update"), {"lost": {"1:1": 3}})
    scene.scheduler.outcomes["r1"] = lost
    await scene.play("client 13 app\n")
    assert set(scene.scheduler.runs[0].after) == {"1:1", "2:1"}
    await scene.play("map app inputs\nclient 14 app\n")
    assert [set(run.after) for run in scene.scheduler.runs[1:]] == [{"2:1"}] * 3
    assert len([line for line in scene.said if line.startswith("lost ")]) == 1
    assert scene.failed == [1]


@pytest_twisted.ensureDeferred
async def test_nobody_says_what_is_lost(scene: Scene) -> None:
    """A storage that does not answer holds up no run for longer than that question may take."""
    await scene.play(NODES + "populate many\n")
    for node in scene.storage.nodes:
        node.listing = lambda request: Error("unavailable", ("not now",))
    await scene.play("client 14 app\n")
    assert len(scene.scheduler.runs) == 1
    assert scene.failed == []


@pytest_twisted.ensureDeferred
async def test_nothing_is_lost_while_nodes_start(scene: Scene) -> None:
    """populate, client, status and crash wait for the nodes named before them, and are then done in order."""
    scene.table.ready_at_once = False
    scene.table.on_crash = lambda id: scene.scheduler.log.append(f"crash {id}")
    playing = Deferred.fromCoroutine(scene.play(NODES + "populate data\nclient 13 app\ncrash s1\nclient 14 app\n"))
    await until(lambda: len(scene.table.rows) == 4)
    assert scene.scheduler.log == []
    for id in ("sc", "w1", "s2", "s1"):
        scene.table.change(id, state="ready")
    await playing
    assert scene.failed == []
    assert [word for word in scene.scheduler.log if "result" not in word] == ["run 13", "crash s1", "run 14"]


@pytest_twisted.ensureDeferred
async def test_crash_comes_during_the_run(scene: Scene) -> None:
    """A crash behind a client comes once the run has an id, and does not wait for its end."""
    scene.scheduler.end_at_once = False
    playing = Deferred.fromCoroutine(scene.play(NODES + "client 13 app\ncrash s1\n"))
    await until(lambda: scene.table.crashed == ["s1"])
    assert scene.scheduler.log[0] == "run 13"
    assert scene.player.work.counts.done == 0
    await until(lambda: "result r1" in scene.scheduler.log)
    scene.scheduler.time_out("r1")
    await playing
    assert scene.scheduler.log.count("result r1") == 2, "a question that timed out is asked again"
    assert scene.player.work.counts.done == 1


@pytest_twisted.ensureDeferred
async def test_wait(scene: Scene) -> None:
    """A wait begins when what stands before it is accepted, and holds all that stands behind it."""
    scene.table.ready_at_once = False
    playing = Deferred.fromCoroutine(scene.play(NODES + "client 1 app\nwait 200\nworker w2 localhost:4002 0\n"))
    await until(lambda: len(scene.table.rows) == 4)
    for id in ("s1", "s2", "sc", "w1"):
        scene.table.change(id, state="ready")
    await until(lambda: scene.scheduler.runs)
    began = scene.reactor.seconds()
    assert "w2" not in scene.table.rows
    await until(lambda: "w2" in scene.table.rows)
    assert scene.reactor.seconds() - began > 0.18
    scene.table.change("w2", state="ready")
    await playing


@pytest_twisted.ensureDeferred
async def test_many_clients(scene: Scene) -> None:
    """A thousand clients in a row are a thousand runs."""
    await scene.play(NODES + "client 1 app\n" * 1000)
    assert len(scene.scheduler.runs) == scene.player.work.counts.done == 1000
    assert scene.failed == []


@pytest_twisted.ensureDeferred
async def test_map(scene: Scene, tmp_path: Path) -> None:
    """One run for each input, a bounded number at a time; failures are told with file and line, the rest summed up."""
    (tmp_path / "inputs").write_text("\n".join(["13", "", *(str(number) for number in range(300))]))
    scene.scheduler.outcomes["r3"] = Ok(("failed", "AddOperator at position 0 on w1: raised ValueError"), {})
    scene.scheduler.refusals = 5
    scene.page.width = 60
    await scene.play(NODES + "populate data\nmap app inputs\n")
    assert scene.player.work.counts.runs == 301
    assert sorted(run.input for run in scene.scheduler.runs) == sorted(["13", *map(str, range(300))])
    assert all(run.after for run in scene.scheduler.runs), "they see what was written before"
    assert scene.scheduler.most_at_once <= 100
    (failed,) = [text for text in scene.said if text.startswith("script line")]
    assert re.fullmatch(
        r"script line 6: map app inputs: .*inputs line \d+ \(\d+\): run r3 failed: "
        r"AddOperator at position 0 on w1: raised ValueError",
        failed,
    )
    assert re.fullmatch(r"map      app over inputs: 301 runs, 300 done, 1 failed, [\d.]+ s, \d+/s", scene.said[-1])
    assert scene.bars[0].endswith("] 0/301"), "it is shown from the start"
    assert scene.bars[-1] == ""
    assert scene.failed == [6]


@pytest_twisted.ensureDeferred
async def test_a_map_that_goes_wrong(scene: Scene, tmp_path: Path) -> None:
    """Of many failures the first are told and the others counted; a wrong file is told with its line."""
    (tmp_path / "inputs").write_text("x\n" * 50)
    (tmp_path / "bad_inputs").write_bytes(b"13\n\xff\n")
    for number in range(50):
        scene.scheduler.outcomes[f"r{number + 1}"] = Ok(("failed", "no"), {})
    await scene.play(NODES + "map app inputs\nmap app bad_inputs\nmap app none\n")
    told = [text for text in scene.said if text.startswith("script line 5")]
    assert len(told) == 21
    assert told[-1] == "script line 5: map app inputs: 30 more failed"
    assert any("bad_inputs line 2: not UTF-8 at byte 1" in text for text in scene.said)
    assert scene.failed == [5, 6, 7]


@pytest_twisted.ensureDeferred
async def test_the_story_of_a_run(scene: Scene) -> None:
    """`show` tells the steps of a run that has ended; of one that goes on it says so, and tells them later."""
    scene.scheduler.outcomes["r7"] = Error("timed-out", ("run r7-x is still going on, at A on w1: ask again",))
    for line in scene.lines(NODES + "show r1\nshow r7\n"):
        await scene.player.play(line)
    await until(lambda: any("r7-x" in text for text in scene.said))
    assert "run r7-x is still going on, at A on w1; its story comes when it has ended" in scene.said
    told = scene.said.index("  output    24")
    assert scene.said[told + 2].split() == ["0", "AddOperator", "w1", "+0.0", "1.0", "2"]
    del scene.scheduler.outcomes["r7"]
    await scene.player.finish()
    assert scene.said.count("  output    24") == 2
    assert scene.failed == []


@pytest_twisted.ensureDeferred
async def test_a_run_is_cancelled(scene: Scene) -> None:
    """`cancel` ends a run at the scheduler, and says when it had ended before."""
    scene.scheduler.end_at_once = False
    for line in scene.lines(NODES + "client 13 app\n"):
        await scene.player.play(line)
    await until(lambda: "result r1" in scene.scheduler.log)
    for line in scene.lines("cancel r1\ncancel r7\n"):
        await scene.player.play(line)
    await until(lambda: "run r7 had ended before" in scene.said)
    assert "run r1 is cancelled" in scene.said
    scene.scheduler.time_out("r1")
    await scene.player.finish()
    assert scene.failed == []


# --- scripts that are tests ---------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_expect(scene: Scene) -> None:
    """expect waits until the record has the value, and what stands behind it waits, too."""
    playing = Deferred.fromCoroutine(scene.play(NODES + "populate data\nexpect 13 two words\ncrash s2\n"))
    await until(lambda: any(line.startswith("populate") for line in scene.said))
    assert scene.table.crashed == []
    scene.storage.group.put("13", "two words")
    await playing
    assert scene.failed == []
    assert [line.split()[:4] for line in scene.said if "expected" in line] == [["expected", "13", "two", "words"]]
    assert scene.table.crashed == ["s2"]


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("expect 13 three", ["not within 0.4 s", "  expected three", "  found    2"]),
        ("expect nobody 1", ["not within 0.4 s", "  expected 1", "  found    no such record"]),
        (
            "expect-run LAST done twenty-five",
            [
                "the run of script line 6: client 13 app ended otherwise",
                "  expected done twenty-five",
                "  found    done 24",
            ],
        ),
        (
            "expect-run 1 failed because",
            [
                "the run of script line 6: client 13 app ended otherwise",
                "  expected failed because",
                "  found    done 24",
            ],
        ),
    ],
)
@pytest_twisted.ensureDeferred
async def test_failed_expectations(tmp_path: Path, line: str, shown: list[str]) -> None:
    """A failed expectation is its line's failure, and shows the difference; the script goes on."""
    scene = Scene(tmp_path, deadline=0.4)
    await scene.play(NODES + f"populate data\nclient 13 app\n{line}\nclient 14 app\n")
    (said,) = [text for text in scene.said if text.startswith("script line")]
    assert said.split("\n") == [f"script line 7: {line}: {shown[0]}", *shown[1:]]
    assert scene.failed == [7]
    assert scene.player.work.counts.done == 2
    await scene.close()


def testdifference() -> None:
    """Where long texts begin to differ is marked."""
    assert difference("no", "a long text here", "a long test here").split("\n") == [
        "no",
        "expected a long text here",
        "found    a long test here",
        "                  ^",
    ]


@pytest_twisted.ensureDeferred
async def test_expect_run(scene: Scene) -> None:
    """expect-run waits for a run's end, the last one or any by its number; a failure that was expected is none."""
    scene.scheduler.outcomes["r2"] = Ok(("failed", "AddOperator at position 0 on w1: no-such-record: 99"), {})
    await scene.play(
        NODES + "client 13 app\nclient 99 app\nexpect-run last failed no-such-record\n"
        "expect-run 1 done 24\nexpect-run 1 done\nclient 1 nofile\nexpect-run LAST failed cannot find\n"
    )
    assert scene.failed == []
    assert scene.player.work.summary() == "11 commands, 2 runs: 1 done, none failed"
    assert [line for line in scene.said if line.startswith("expected")][1] == "expected r1 done 24"


@pytest_twisted.ensureDeferred
async def test_endless_run_is_expected(tmp_path: Path) -> None:
    """A run that does not end in time is a failed expectation."""
    scene = Scene(tmp_path, deadline=0.3)
    scene.scheduler.end_at_once = False
    await scene.play(NODES + "client 13 app\nexpect-run LAST done 1\n")
    assert "script line 6: expect-run LAST done 1: the run of script line 5: client 13 app has not ended" in " ".join(
        scene.said
    )
    assert scene.failed == [5, 6]
    await scene.close()
    scene.scheduler.time_out("r1")


@pytest_twisted.ensureDeferred
async def test_pause_slow_and_restart(scene: Scene) -> None:
    """pause, resume, slow and restart reach the node through its PCS, in the order of the script."""
    await scene.play(
        NODES + "pause s1\nlistServer s1\nresume s1\nslow w1 300\nslow s2 5\nrestart s1\ncrash s2\nrestart s2\n"
        "populate data\n"
    )
    said = [line.split()[:2] for line in scene.said[4:]]
    assert said[:5] == [["paused", "s1"], ["script", "line"], ["resumed", "s1"], ["slowed", "w1"], ["slowed", "s2"]]
    assert sorted(said[5:-1]) == [["crashed", "s2"], ["ready", "s1"], ["ready", "s2"]]
    assert said[-1] == ["populate", "data:"]
    assert "listServer s1: paused: resume s1 lets it go on" in scene.said[5]
    assert [(id, request) for id, request in scene.table.told if isinstance(request, Slow)] == [
        ("w1", Slow(300)),
        ("s2", Slow(5)),
    ]
    assert [start.id for start in scene.table.started[4:]] == ["s1", "s2"]
    assert [start.replica for start in scene.table.started[4:]] == [1, 2]
    assert scene.table.crashed == ["s1", "s2"]
    assert scene.failed == [6]


@pytest_twisted.ensureDeferred
async def test_single_records(scene: Scene) -> None:
    """read, write and updateif answer in one line each, in their order; a value that is another one is no failure."""
    await scene.play(
        NODES + 'write greeting "hello world"\nread greeting\nupdateif greeting "hello world" "good bye"\n'
        "updateif greeting hello x\nupdateif nothing a b\nread nothing\nread greeting 9.9\n"
    )
    said = [line for line in scene.said if not line.startswith("ready")]
    version = scene.storage.group.records["greeting"]
    newest, oldest = str(version[0][0]), str(version[1][0])
    assert said == [
        f"written  greeting {oldest} -> hello world",
        f"read     greeting {oldest} -> hello world",
        f"updated  greeting {newest} -> good bye",
        f"refused  greeting {newest} is good bye: nothing was changed",
        "refused  there is no record nothing: nothing was changed",
        "script line 10: read nothing: no-such-record: nothing",
        "script line 11: read greeting 9.9: no-such-version: greeting 9.9",
    ]
    await scene.play(f"read greeting {oldest}\n")
    assert scene.said[-1] == f"read     greeting {oldest} -> hello world"


@pytest_twisted.ensureDeferred
async def test_a_run_of_operators(scene: Scene) -> None:
    """run takes the names of operators in place of a file, and is a run like others."""
    await scene.play(NODES + "run 13 AddOperator ReaderOperator\nexpect-run LAST done 24\nrun x AddOperator\n")
    assert [(run.input, run.operator) for run in scene.scheduler.runs] == [
        ("13", ("AddOperator", "ReaderOperator")),
        ("x", ("AddOperator",)),
    ]
    assert scene.failed == []
    assert any("13 AddOperator,ReaderOperator -> 24" in line for line in scene.said)
    assert scene.player.work.summary() == "7 commands, 2 runs: 2 done, none failed"


@pytest_twisted.ensureDeferred
async def test_an_answer_that_was_lost(scene: Scene) -> None:
    """A client, or one of many, that has lost an answer asks again: no run is started twice, none failed."""
    scene.scheduler.lost = [scene.scheduler_port.cut] * 3
    await scene.play(NODES + "client 13 app\nexpect-run LAST done 24\nclient 14 app\nmap app numbers\n")
    assert scene.failed == []
    assert [run.input for run in scene.scheduler.runs] == ["13", "14", "1", "2", "3"]
    assert len({run.id for run in scene.scheduler.runs}) == 5
    assert {run.application for run in scene.scheduler.runs} == {"app"}
    assert scene.player.work.summary() == "8 commands, 5 runs: 5 done, none failed"


@pytest_twisted.ensureDeferred
async def test_an_answer_that_never_comes(tmp_path: Path) -> None:
    """When the scheduler has gone for good the client's line has failed, once, and what stands behind it is played."""
    scene = Scene(tmp_path, deadline=0.5)
    scene.scheduler.lost = [scene.kill_scheduler]
    await scene.play(NODES + "client 13 app\ncrash w1\n")
    assert scene.failed == [5]
    assert scene.table.crashed == ["w1"]
    assert scene.player.work.counts.runs == 1
    await scene.close()


@pytest_twisted.ensureDeferred
async def test_stop_of_a_node(scene: Scene) -> None:
    """stop ends a node in order through its PCS: it counts as gone for what stands behind, and may start again."""
    await scene.play(NODES + "stop w1\nstop w1\nclient 13 app\nrestart w1\nstop nobody\nclient 13 app\n")
    assert scene.table.stopped == ["w1"]
    assert "stopped  w1     worker     localhost:4001" in scene.said
    assert scene.failed == [6, 7, 9]
    assert "script line 6: stop w1: w1 has ended: stopped by command" in scene.said
    assert "script line 7: client 13 app: missing worker: w1 stopped by command" in scene.said
    assert [start.id for start in scene.table.started].count("w1") == 2


def test_check_of_operators(scene: Scene) -> None:
    """--check knows what the workers have, and which name is meant; nothing is said when it is not known."""
    lines = scene.lines(NODES + "client 13 app\nrun 1 AddOperator Adder\nmap app data\nrun 1 Xyz\n")
    found = check(lines, scene.player.folders, [], ["AddOperator", "ReaderOperator"])
    assert [f"{line}: {problem}" for line, problem in found] == [
        "script line 6: run 1 AddOperator Adder: unknown operator 'Adder': did you mean AddOperator?",
        "script line 8: run 1 Xyz: unknown operator 'Xyz': there are AddOperator, ReaderOperator",
    ]
    found = check(lines, scene.player.folders, [], [])
    assert [line.number for line, _ in found] == [5, 6, 7, 8]
    assert found[0][1] == "unknown operator 'AddOperator': there are none"
    assert check(lines, scene.player.folders, []) == []


@pytest.mark.parametrize("table", ["documented", "good"])
def test_check(scene: Scene, table: str) -> None:
    """--check tells, of each documented error that needs no running system, just what playing tells; no error of a
    good script."""
    rows = [row for row in documented_errors() if table == "documented"] or [("client 13 app", "")]
    for text, problem in rows:
        lines = scene.lines(NODES + "client 13 app\n" + text + "\n")
        found = check(lines, scene.player.folders, [])
        said = [f"{line}: {problem}" for line, problem in found]
        pattern = ".*".join(map(re.escape, f"script line 6: {text}: {problem}".split("…")))
        assert len(said) == (table == "documented")
        assert all(re.fullmatch(pattern, each) for each in said), said


# --- failures -------------------------------------------------------------------------------------


def documented_errors() -> list[tuple[str, str]]:
    """The table of errors in docs/reference/console.md: a faulty line, and what is wrong with it."""
    text = (ROOT / "docs" / "reference" / "console.md").read_text().partition("## Errors")[2].partition("\n## ")[0]
    rows = [row.strip("|").split(" | ") for row in text.splitlines() if row.startswith("| `")]
    return [(line.strip(" `"), problem.strip()) for line, problem in rows]


@pytest.mark.parametrize(("line", "problem"), documented_errors())
@pytest_twisted.ensureDeferred
async def test_mistakes(scene: Scene, line: str, problem: str) -> None:
    """Every documented error is told as documented, with its line; the others are played."""
    await scene.play(NODES + line + "\nclient 13 app\n")
    (said,) = [text for text in scene.said if text.startswith("script line")]
    line = " ".join(line.split())
    pattern = ".*".join(map(re.escape, f"script line 5: {line}: {problem}".split("…")))
    assert re.fullmatch(pattern, said), said
    assert scene.failed == [5]
    assert scene.player.work.counts.done == 1
    assert scene.player.work.summary() == "6 commands, 1 run: 1 done; failed: line 5"


@pytest.mark.parametrize(
    ("missing", "problem"),
    [
        ("scheduler", "missing scheduler: start one with scheduler ID URL …"),
        ("worker", "missing worker: start one with worker ID URL …"),
        ("storage", "missing storage node: start one with storage ID URL …"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_missing_nodes(scene: Scene, missing: str, problem: str) -> None:
    """A client without one of the kinds of node says which, and how to start one."""
    nodes = "".join(line + "\n" for line in NODES.splitlines() if not line.startswith(missing))
    await scene.play(nodes + "client 13 app\n")
    assert scene.said[-1].endswith(f"client 13 app: {problem}")


@pytest_twisted.ensureDeferred
async def test_failed_run(scene: Scene) -> None:
    """A run that failed is its line's failure, with the reason."""
    scene.scheduler.outcomes["r1"] = Ok(("failed", "AddOperator at position 0 on w1: raised ValueError"), {})
    scene.scheduler.outcomes["r2"] = Error("no-such-run", ("r2",))
    await scene.play(NODES + "client 13 app\nclient 14 app\n")
    assert sorted(scene.said[-2:]) == [
        "script line 5: client 13 app: run r1 failed: AddOperator at position 0 on w1: raised ValueError",
        "script line 6: client 14 app: no-such-run: r2",
    ]


@pytest_twisted.ensureDeferred
async def test_endless_run(tmp_path: Path) -> None:
    """A run that does not end within the deadline after the script's end has failed."""
    scene = Scene(tmp_path, deadline=0.3)
    scene.scheduler.end_at_once = False
    await scene.play(NODES + "client 13 app\n")
    assert scene.said[-1] == "script line 5: client 13 app: not ended within 0.3 s of the script's end"
    assert scene.failed == [5]
    await scene.close()
    scene.scheduler.time_out("r1")


@pytest_twisted.ensureDeferred
async def test_scheduler_comes_back(scene: Scene) -> None:
    """A run is waited for while its scheduler is away, and until the next one has heard of it from a worker."""
    scene.scheduler.end_at_once = False
    playing = Deferred.fromCoroutine(
        scene.play(NODES + "client 13 app\nwait 100\ncrash sc\nwait 300\nscheduler sc {sc}\n")
    )
    await until(lambda: scene.table.crashed)
    scene.scheduler.outcomes["r1"] = Error("no-such-run", ("r1",))
    scene.scheduler.time_out("r1")
    await until(lambda: len(scene.scheduler.log) > 2)
    assert len(scene.table.started) == 5
    del scene.scheduler.outcomes["r1"]
    await playing
    assert scene.failed == []
    assert scene.player.work.counts.done == 1


@pytest_twisted.ensureDeferred
async def test_a_run_is_not_known_any_more(scene: Scene) -> None:
    """A run that the scheduler which began it has forgotten fails at once."""
    scene.scheduler.outcomes["r1"] = Error("no-such-run", ("r1",))
    await scene.play(NODES + "client 13 app\n")
    assert scene.said[-1] == "script line 5: client 13 app: no-such-run: r1"


@pytest_twisted.ensureDeferred
async def test_scheduler_dies(scene: Scene) -> None:
    """A run whose scheduler is gone fails at once, with the reason."""
    scene.scheduler.end_at_once = False
    playing = Deferred.fromCoroutine(scene.play(NODES + "client 13 app\n"))
    await until(lambda: "result r1" in scene.scheduler.log)
    scene.table.change("sc", state="ended", ended="signal SIGKILL")
    scene.kill_scheduler()
    await playing
    assert scene.said[-1] == "script line 5: client 13 app: missing scheduler: sc signal SIGKILL"
    scene.scheduler.time_out("r1")


# --- what is shown --------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_records(scene: Scene) -> None:
    """listServer shows one node's records, listGlobal all and who has them, page after page, keys in their order."""
    await scene.play(NODES + "listServer s1\nlistGlobal\n")
    assert scene.said[4:] == [
        "records on s1:",
        "  key  version  value",
        "  9    1.2 *    nine",
        "  13   2.1 *    two",
        "       1.1      one",
        "records on s1, s2:",
        "  key  version  on   value",
        "  9    1.2 *    all  nine",
        "  13   2.1 *    all  two",
        "       1.1      all  one",
    ]


@pytest_twisted.ensureDeferred
async def test_runs(scene: Scene) -> None:
    """runs shows what the scheduler knows, newest first; none is said, too."""
    await scene.play(NODES + "runs\nclient 13 app\n")
    await scene.play("runs\n")
    assert scene.said[4] == "  none"
    assert scene.said[-2:] == [
        "  run  state    ms  input  operators",
        "  r1   done   12.3  13     AddOperator AddOperator",
    ]


@pytest_twisted.ensureDeferred
async def test_a_storage_node_does_not_answer(scene: Scene) -> None:
    """listGlobal shows what the others have, and names the node that says nothing; when none says anything it fails."""
    scene.table.silent = {"s1"}
    await scene.play(NODES + "listGlobal\nlistGlobal --json\n")
    shown, as_json = scene.said[4:-1], json.loads(scene.said[-1])
    assert shown[0] == "records on s2:"
    assert shown[-1] == "  not of s1: timed-out: no reply in time"
    assert len(shown) == 6
    assert as_json["silent"] == {"s1": "timed-out: no reply in time"}
    assert {each["key"] for each in as_json["records"]} == {"13", "9"}
    assert scene.failed == []
    scene.table.silent = {"s1", "s2"}
    await scene.play("listGlobal\n")
    silent = "; ".join(f"{id}: timed-out: no reply in time" for id in ("s1", "s2"))
    assert scene.said[-1] == f"script line 1: listGlobal: no storage node answers: {silent}"


@pytest_twisted.ensureDeferred
async def test_json(scene: Scene) -> None:
    """--json says the same, and all the rest, in one line of JSON for each command."""
    await scene.play(NODES + "client 13 app\n")
    before = len(scene.said)
    await scene.play("crash w1\nstatus --json\nlistServer s1 --json\nlistGlobal --json\nruns --json\n")
    status, server, everything, runs = (json.loads(line) for line in scene.said[before + 1 :])
    nodes = {node["id"]: node for node in status["nodes"]}
    assert nodes["s1"]["dead"] == ["s3"] and nodes["s1"]["state"] == "ready" and nodes["s1"]["reads"] == 4
    assert nodes["w1"] == {
        "id": "w1",
        "role": "worker",
        "url": "http://localhost:4001",
        "state": "ended",
        "problem": "crashed by command",
    }
    records = {"13": [["2.1", "two"], ["1.1", "one"]], "9": [["1.2", "nine"]]}
    assert server == {"node": "s1", "records": records}
    assert [(each["key"], each["version"], each["newest"]) for each in everything["records"]] == [
        ("9", "1.2", True),
        ("13", "2.1", True),
        ("13", "1.1", False),
    ]
    assert everything["records"][0] == {
        "key": "9",
        "version": "1.2",
        "value": "nine",
        "newest": True,
        "on": ["s1", "s2"],
        "group": 1,
    }
    assert [(run["run"], run["state"]) for run in runs["runs"]] == [("r1", "done")]


@pytest_twisted.ensureDeferred
async def test_colours(scene: Scene) -> None:
    """What went well and what did not is painted, on a terminal; what is painted can't be forged."""
    scene.page.paint = Style(True)
    await scene.play("worker w1 localhost:4001 0\nfrob\x1b[31m\n")
    assert scene.said[0].startswith("\x1b[32mready\x1b[0m    w1") or scene.said[1].startswith("\x1b[32mready\x1b[0m ")
    (failed,) = [line for line in scene.said if "frob" in line]
    assert failed.startswith("\x1b[31mscript line 2: frob\\x1b[31m: unknown command")
    assert failed.endswith("\x1b[0m") and failed.count("\x1b") == 2


@pytest_twisted.ensureDeferred
async def test_what_is_going_on(scene: Scene) -> None:
    """A wait that goes on, and runs that have not ended, can be seen, until they are over; a wait can be dropped."""
    scene.scheduler.end_at_once = False
    for line in scene.lines(NODES + "client 13 app\n"):
        await scene.player.play(line)
    await until(lambda: scene.player.work.counts.going_on == 1 and "result r1" in scene.scheduler.log)
    (line,) = scene.lines("wait 60000")
    waiting = Deferred.fromCoroutine(scene.player.play(line))
    await until(lambda: scene.player.context.waits_until is not None)
    waiting.cancel()
    with pytest.raises(CancelledError):
        await waiting
    assert scene.player.context.waits_until is None
    scene.scheduler.time_out("r1")
    await scene.player.finish()
    assert scene.player.work.counts.going_on == 0


@pytest_twisted.ensureDeferred
async def test_status(scene: Scene) -> None:
    """status shows every node: where, its state, who it takes for alive and dead, what it did."""
    await scene.play("worker w1 localhost:4001 0\nworker w2 localhost:4002 0\ncrash w2\nstatus\n")
    assert scene.said[-4:] == [
        "  node  role    port  state  view  sees  lag  did",
        "  w1    worker  4001  ready        2/3        4 reads",
        "  w2    worker  4002  ended                   crashed by command",
        "  s3 is presumed dead by w1",
    ]


@pytest_twisted.ensureDeferred
async def test_debug(scene: Scene) -> None:
    """debug tells the workers where to report, as their machine can reach it; those that come later, too."""
    await scene.play(NODES + "debug\nwait 0\nworker w2 localhost:4002 0\n")
    assert "debug    1 worker reporting outputs to 127.0.0.1:10001" in scene.said
    asked = [(id, request) for id, request in scene.table.told if isinstance(request, WorkerDebug)]
    assert asked == [(id, WorkerDebug("on", to="127.0.0.1:10001")) for id in ("w1", "w2")]


ON = "debug on: workers started from now on report, too"


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("debug\n" + NODES, [ON]),
        ("debug\ndebug\n" + NODES, [ON, ON]),
        ("storage s1 {s1}\nstorage s2 {s2}\ndebug\nworker w1 localhost:4001\nscheduler sc {sc}\n", [ON]),
        (NODES.replace("scheduler", "debug\nworker w2 localhost:4002 0\nscheduler"), ["debug    1 worker reporting"]),
        (NODES + "crash w1\ndebug\n" + "worker w3 localhost:4003\n", [ON]),
    ],
)
@pytest_twisted.ensureDeferred
async def test_debug_anywhere(scene: Scene, script: str, said: list[str]) -> None:
    """debug may stand before the first worker, or between two: each worker that lives is told once, and how many
    were told at once depends on the script alone."""
    assert check(scene.lines(script), scene.player.folders, []) == []
    await scene.play(script)
    told = [line for line in scene.said if line.startswith("debug")]
    assert [line.partition(" outputs")[0] for line in told] == said
    assert scene.failed == []
    asked = [id for id, request in scene.table.told if isinstance(request, WorkerDebug)]
    living = {id for id in scene.table.rows if id[0] == "w"} - {*scene.table.crashed}
    assert len(asked) == len(set(asked))
    assert living <= set(asked)
    assert {len(start.storage) for start in scene.table.started} == {2, 0}, "the storage nodes know each other"


@pytest_twisted.ensureDeferred
async def test_a_debug_port_that_can_t_be_opened(scene: Scene) -> None:
    """The line that needs it says why."""
    scene.player = scene.another_player([scene.pcs.address])
    await scene.play(NODES + "debug\n")
    assert scene.said[-1] == "script line 5: debug: there is no debug port here"
    assert scene.failed == [5]


@pytest_twisted.ensureDeferred
async def test_words_with_blanks(scene: Scene, tmp_path: Path) -> None:
    """An input, and a file's name, may have blanks in them, as JSON strings."""
    (tmp_path / "my app").write_text("operator AddOperator 0\n")
    script = NODES + 'client "hello world" app\nclient "" "my app"\n'
    assert check(scene.lines(script), scene.player.folders, []) == []
    await scene.play(script)
    assert scene.failed == []
    assert [run.input for run in scene.scheduler.runs] == ["hello world", ""]
    assert any('"hello world" app -> 24' in line for line in scene.said)


def test_debug_port() -> None:
    """What workers report is shown on two lines: the output, and the meta record."""
    said: list[str] = []
    connection = LineServerFactory(DebugCommands(said.append), Clock()).buildProtocol(None)
    wire = Wire()
    connection.makeConnection(wire)
    connection.dataReceived(
        b'output {"run":"r1","position":0,"operator":"AddOperator","worker":"w1","output":"a\\nb",'
        b'"meta":{"run":"r1","scheduler":"localhost:2000","versions":{"13":"2.1"},"after":{"1":4}}}\r\n'
        b"status\r\n"
    )
    assert wire.lines() == ["ok", f'ok {{"id":"puppetmaster","role":"puppetmaster","pid":{os.getpid()},"ready":true}}']
    assert said == [
        "debug    r1 AddOperator at 0 on w1 -> a\\nb",
        "         read or wrote 13 2.1; after 1:4; view 0 of 0",
    ]


@pytest_twisted.ensureDeferred
async def test_what_the_puppetmaster_knows_of_the_system(scene: Scene) -> None:
    """The debug port answers `system` with what commands have started and runs, the PCS with what it has started."""
    await scene.play(NODES)
    known = scene.player.cluster.known().object
    assert {each["id"]: each["replica"] for each in known["storage"]} == {"s1": 1, "s2": 2}
    assert [each["id"] for each in known["schedulers"] + known["workers"]] == ["sc", "w1"]
    assert [each["id"] for each in known["pcs"]] == [""]
    connection = LineServerFactory(DebugCommands(scene.said.append, scene.player.cluster.known), Clock()).buildProtocol(
        None
    )
    wire = Wire()
    connection.makeConnection(wire)
    connection.dataReceived(b"system\r\n")
    assert object_of(wire.lines()[0]) == known


# --- consoles -------------------------------------------------------------------------------------


class Heard(ConsoleListener):
    """What has come in from a console."""

    def __init__(self) -> None:
        self.events: list[str | bytes] = []

    def script_read(self, data: bytes) -> None:
        self.events.append(data)

    def line_typed(self, text: str) -> None:
        self.events.append(text)

    def input_ended(self) -> None:
        self.events.append("ended")

    def output_closed(self) -> None:
        self.events.append("closed")


def test_script_console() -> None:
    """A script is handed over whole, whatever pieces it comes in; a closed output is noticed."""
    heard = Heard()
    console = ScriptConsole(heard)
    wire = Wire()
    console.makeConnection(wire)
    console.dataReceived(b"wait 1\nwa")
    console.dataReceived(b"it 2")
    assert heard.events == []
    console.readConnectionLost()
    assert heard.events == [b"wait 1\nwait 2"]
    console.say("hello")
    assert wire.value() == b"hello\n"
    console.writeConnectionLost()
    assert heard.events[1:] == ["closed"]


def test_progress() -> None:
    """How far something is stays below what is said, until it is something else, or nothing."""
    console = ScriptConsole(Heard())
    wire = Wire()
    console.makeConnection(wire)
    console.progress("")
    assert wire.value() == b""
    screen = Screen()
    console.progress("| waiting for s1")
    console.say("ready    s2")
    screen.put(wire.value())
    assert screen.lines == ["ready    s2", "| waiting for s1"]
    console.rest()
    console.say("ready    s1")
    screen.put(wire.value())
    assert screen.lines[-2:] == ["ready    s1", ""]


def test_typed_console() -> None:
    """Typed lines come one by one; what is said while a line is being typed leaves the prompt behind it."""
    heard = Heard()
    console = TypedConsole(heard)
    wire = Wire()
    console.makeConnection(wire)
    console.prompt()
    console.say("ready")
    console.dataReceived(b"status\nhel")
    console.dataReceived(b"p\n" + b"x" * 20_000)
    console.readConnectionLost()
    assert heard.events == ["status", "help", "ended"]
    text: Any = wire.value().decode()
    assert text.startswith("dida> \nready\ndida> dida> dida> ")
    assert "longer than 10000 bytes: it was dropped" in text
    assert "\x1b" not in text


def test_keys() -> None:
    """Each Enter is one key press."""
    pressed: list[bool] = []
    keys = KeyReader(lambda: pressed.append(True))
    keys.dataReceived(b"\nq\n")
    assert pressed == [True, True]
