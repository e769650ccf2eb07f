"""Scripts as they are found in the wild, however they are written down: each is played, nothing is lost or hangs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from dida.console import script
from tests.puppetmaster.test_script_runner import NODES, Scene
from tests.support.fakes import until
from tests.support.wild import WILD

APP = "client 13 app\n"


@pytest_twisted.async_yield_fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    made = Scene(tmp_path)
    yield made
    await made.close()


async def play(scene: Scene, data: bytes) -> None:
    """Play a script as it stands in a file."""
    lines = script.in_order(script.parse_script(data))
    scene.player.plan(lines)
    for line in lines:
        await scene.player.play(line)
    await scene.player.finish()


@pytest.mark.parametrize("name", WILD)
@pytest_twisted.ensureDeferred
async def test_wild(scene: Scene, name: str) -> None:
    """Whatever the script looks like: its nodes are started, its data is written, its client has run."""
    s1, s2 = (str(member.address) for member in scene.storage.addresses)
    text = WILD[name].replace("three_increments", "app").replace("four_records", "data")
    for old, new in {
        "localhost:5001": s1,
        "localhost:5002": s2,
        "localhost:2000": str(scene.scheduler_port.address),
    }.items():
        text = text.replace(old, new).replace(old.upper(), new)
    await play(scene, text.encode())
    assert scene.failed == []
    assert scene.player.work.counts.done == 1
    assert scene.storage.group.records["13"]
    assert scene.scheduler.runs[0].after, "the client came behind the data"


@pytest_twisted.ensureDeferred
async def test_twenty_nodes(scene: Scene) -> None:
    """Twenty nodes are started at once, and all know of all storage nodes."""
    nodes = [f"storage s{n} localhost:{5000 + n} 0\n" for n in range(3, 12)]
    nodes += [f"worker w{n} localhost:{4000 + n} 0\n" for n in range(2, 9)]
    await scene.play("".join(nodes) + NODES + APP)
    assert scene.failed == []
    assert len(scene.table.started) == 20
    assert {len(start.storage) for start in scene.table.started} == {11, 0}


@pytest_twisted.ensureDeferred
async def test_crash_of_a_node_that_is_starting(scene: Scene) -> None:
    """The crash comes, as each command does, when the nodes before it are there; what is behind it goes on."""
    scene.table.ready_at_once = False
    playing = Deferred.fromCoroutine(scene.play(NODES + "crash s2\npopulate data\n" + APP))
    await until(lambda: len(scene.table.rows) == 4)
    for id in ("s1", "w1", "sc", "s2"):
        assert scene.table.crashed == []
        scene.table.change(id, state="ready")
    await playing
    assert scene.table.crashed == ["s2"]
    assert scene.failed == []
    assert scene.player.work.counts.done == 1


@pytest_twisted.ensureDeferred
async def test_a_node_that_never_starts_is_killed(tmp_path: Path) -> None:
    """A node that is not ready at the deadline is killed: it is no orphan; a crash of it says that it is gone."""
    scene = Scene(tmp_path, deadline=0.2)
    scene.table.ready_at_once = False
    await scene.play("worker w1 localhost:4001 0\ncrash w1\n")
    await until(lambda: scene.table.crashed == ["w1"])
    assert scene.failed == [1, 2]
    assert scene.said[-1].endswith("crash w1: w1 has ended: not ready within 0.2 s, so it was killed")
    await scene.close()


@pytest_twisted.ensureDeferred
async def test_same_id_twice(scene: Scene) -> None:
    """The second of the same id or port fails, the first and all the others are as if it had not been there."""
    await scene.play(NODES + "storage s1 localhost:5999 0\nworker s1 localhost:4999 0\nworker w5 {s1} 0\n" + APP)
    assert scene.failed == [5, 6, 7]
    assert len(scene.table.started) == 4
    assert scene.player.work.counts.done == 1
