"""A storage node that dies, or is paused, at a named step: what its clients and the others see."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.support.clusters import StorageCluster
from tests.support.nodes import until

pytestmark = pytest.mark.alone

ONE_ROUND = [
    "prepare.send=kill",
    "prepare.send=kill@2",
    "prepare.answered=kill",
    "prepare.answered=kill@2",
    "prepare.send=kill@3",
    "forward.receive=kill",
    "forward.reply=kill",
]
"""Of a first try: the record to two members, their answers, the commit."""
AFTER_LOCKS = [
    "prepare.send=kill",
    "prepare.answered=kill@2",
    "prepare.send=kill@4",
    "prepare.answered=kill@4",
    "prepare.send=kill@5",
]
"""Of what may be a retry: first comes a round of locks alone."""


@pytest.fixture
def home(tmp_path: Path) -> tuple[StorageCluster, int]:
    """Three nodes, and the one that coordinates the updateIfs of the key `k`."""
    cluster = StorageCluster(tmp_path, 3)
    return cluster, int(cluster.nodes[1].ask("home k").split()[1])


@pytest.mark.parametrize(
    ("failpoint", "retry"), [*((step, "false") for step in ONE_ROUND), *((step, "true") for step in AFTER_LOCKS)]
)
def test_the_coordinator_dies_at_a_step_of_the_commit(
    home: tuple[StorageCluster, int], failpoint: str, retry: str
) -> None:
    """Whichever step of an updateIf the coordinator dies at, the client of another replica hears the one
    true answer within a second, and a retry hears the same."""
    cluster, coordinator = home
    try:
        node = cluster.nodes[coordinator]
        node.kill()
        cluster.wait_members(*(n for n in cluster.nodes if n != coordinator))
        cluster.start(coordinator, ready=False, options=("--failpoint", failpoint))
        cluster.wait_members(*cluster.nodes)
        other = next(n for n in cluster.nodes if n != coordinator)
        cluster.nodes[other].ask("write k old")
        cluster.wait_equal(*cluster.nodes)
        begun = time.monotonic()
        asked = f'updateif k old new {{"id": "c:1", "retry": {retry}}}'
        reply = cluster.nodes[other].ask(asked).partition(" {")[0].split()
        assert time.monotonic() - begun < 1.0
        assert reply[0] == "ok"
        assert cluster.nodes[coordinator].wait_end() == -9
        survivors = [n for n in cluster.nodes if n != coordinator]
        for number in survivors:
            assert cluster.nodes[number].ask('updateif k old new {"id": "c:1"}').partition(" {")[0].split() == reply
            latest = cluster.nodes[number].ask('read k {"latest": true}')
            assert latest.startswith(f"ok new {reply[1]} ")
        assert len(json.loads(cluster.nodes[other].ask("versions k").partition(" ")[2])["versions"]) == 2
    finally:
        cluster.end()


def test_a_failpoint_that_does_not_exist_is_one_clear_line(tmp_path: Path) -> None:
    """An unknown failpoint or action ends the process before it begins, with one line."""
    cluster = StorageCluster(tmp_path, 1)
    try:
        cluster.nodes[1].kill()
        for wrong in ("nowhere.send=kill", "lock.send=kill", "prepare.send=explode"):
            node = cluster.start(1, ready=False, options=("--failpoint", wrong))
            assert node.wait_end() == 1
            until("its words are there", lambda node=node: bool(node.output))  # type: ignore[misc]
            assert len(node.output.splitlines()) == 1
            assert "failpoint" in node.output
    finally:
        cluster.end()
