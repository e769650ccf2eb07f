"""What real storage nodes do when one of them dies, falls silent, or comes back."""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from tests.support.clusters import StorageCluster
from tests.support.nodes import environment, until

pytestmark = pytest.mark.alone

LONG = bool(os.environ.get("DIDA_LONG"))
"""Whether the tests take the time that users' nodes may take: `make endurance`."""
INTERVAL, TIMEOUT = 0.5, 2.0
"""Seconds: the default --ping-interval and --ping-timeout."""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., StorageCluster]]:
    """Starts storage nodes; they end with the test."""
    started: list[StorageCluster] = []

    def start(count: int, *options: str) -> StorageCluster:
        started.append(StorageCluster(tmp_path, count, *options))
        return started[-1]

    yield start
    for cluster in started:
        for node in cluster.nodes.values():
            node.resume()
        cluster.end()


def words_of(reply: str) -> list[str]:
    return reply.partition(" {")[0].split()


def test_a_storm_of_compare_and_swaps(start: Callable[..., StorageCluster]) -> None:
    """200 rounds of one updateIf per node, all of one key and from the same value: one success a round, no
    answer but ok and no, none over 2 s."""
    cluster = start(5)
    connections = [node.connect() for node in cluster.nodes.values()]
    connections[0].ask("write key 0")
    cluster.wait_equal(*cluster.nodes)
    slowest, winner = 0.0, "0"
    for turn in range(200):
        begun = time.monotonic()
        for number, connection in enumerate(connections):
            connection.send(f"updateif key {winner} {turn + 1}-{number}")
        replies = [words_of(connection.line()) for connection in connections]
        slowest = max(slowest, time.monotonic() - begun)
        assert sorted(reply[0] for reply in replies) == ["no"] * 4 + ["ok"], replies
        (number,) = [n for n, reply in enumerate(replies) if reply[0] == "ok"]
        winner = f"{turn + 1}-{number}"
        assert {reply[2] for reply in replies if reply[0] == "no"} == {winner}
    for connection in connections:
        connection.close()
    assert slowest <= 2.0


def test_a_killed_node_is_out_of_the_view_at_once(start: Callable[..., StorageCluster]) -> None:
    """From SIGKILL to the new view at a survivor, with its transactions finished: 100 ms at most (the median
    of five)."""
    cluster = start(3)
    taken = []
    with cluster.nodes[3].connect() as survivor:
        for victim in (1, 2, 1, 2, 1):
            cluster.wait_members(1, 2, 3)
            before = survivor.ask_object("status")["view"]
            begun = time.monotonic()
            cluster.nodes[victim].kill()
            while f"s{victim}" in survivor.ask_object("status")["alive"]:
                assert time.monotonic() - begun < 5
            assert words_of(survivor.ask("updateif nothing a b")) == ["no"]
            taken.append(time.monotonic() - begun)
            assert survivor.ask_object("status")["view"] > before
            cluster.start(victim, ready=False)
    assert statistics.median(taken) <= 0.1, taken


@pytest.mark.long
@pytest.mark.timeout(900)
def test_busy_cores_and_short_pauses_remove_nobody(start: Callable[..., StorageCluster]) -> None:
    """With every core busy with something else, and nodes paused for up to 1.5 s now and then, all stay members
    of the first view, and an updateif through all of them ends within its deadline."""
    cluster = start(5)
    rng = Random(1)
    views = {n: node.status()["view"] for n, node in cluster.nodes.items()}
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        end = time.monotonic() + (600 if LONG else 12)
        with cluster.nodes[1].connect(timeout=15) as netcat:
            netcat.ask("write key 0")
            for number in itertools.count():
                if time.monotonic() > end:
                    break
                paused = cluster.nodes[rng.randint(2, 5)]
                paused.pause()
                netcat.send(f"updateif key {number} {number + 1}")
                time.sleep(rng.uniform(0.1, 1.5))  # the length of the pause is what is tested
                paused.resume()
                assert netcat.line().startswith("ok ")
                assert {n: node.status()["view"] for n, node in cluster.nodes.items()} == views
    finally:
        for process in busy:
            process.kill()
            process.wait()


def test_a_silent_node_is_removed_after_the_timeout(start: Callable[..., StorageCluster]) -> None:
    """A paused node leaves the view within ping-timeout, one period and 100 ms; it serves nothing of its old
    state when it goes on, and is a member again within 10 s."""
    cluster = start(3)
    for node in cluster.nodes.values():
        node.ask("write seed 1")
    cluster.wait_equal(1, 2, 3)
    old = cluster.nodes[2].status()["component"]
    with cluster.nodes[1].connect(timeout=30) as survivor, cluster.nodes[2].connect(timeout=30) as paused:
        survivor.ask("write key before")
        begun = time.monotonic()
        cluster.nodes[2].pause()
        while "s2" in survivor.ask_object("status")["alive"]:
            assert time.monotonic() - begun < 10
        taken = time.monotonic() - begun
        assert survivor.ask('updateif key before "after removal"').startswith("ok ")
        # these lie in the paused node's socket when it goes on
        paused.send("#1 read key")
        paused.send('#2 updateif key before "stale authority"')
        paused.send("#3 write key stale")
        time.sleep(60 if LONG else 0)  # the length of the pause is what is tested
        cluster.nodes[2].resume()
        resumed = time.monotonic()
        replies = {line.split()[0]: line.split(" ", 1)[1] for line in (paused.line() for _ in range(3))}
        assert replies["#1"].startswith(("error fenced", 'ok "after removal"', "ok stale")), replies
        assert "stale authority" not in survivor.ask("versions key")
        assert replies["#2"].startswith(("error fenced", "error unknown-outcome", "no "))
    cluster.wait_members(1, 2, 3)
    assert time.monotonic() - resumed < 10
    assert cluster.nodes[2].status()["component"] != old
    cluster.wait_equal(1, 2, 3)
    assert taken <= TIMEOUT + INTERVAL + 0.1, taken


def test_a_short_pause_removes_nobody(start: Callable[..., StorageCluster]) -> None:
    """A node that is paused for 1.5 s stays a member, and what was asked meanwhile is answered."""
    cluster = start(3)
    before = {n: node.status()["component"] for n, node in cluster.nodes.items()}
    view = cluster.nodes[1].status()["view"]
    with cluster.nodes[1].connect() as netcat:
        cluster.nodes[3].pause()
        netcat.send("updateif nothing a b")
        time.sleep(1.5)  # the length of the pause is what is tested
        cluster.nodes[3].resume()
        assert netcat.line() == "no"
    cluster.wait_members(1, 2, 3)
    assert {n: node.status()["component"] for n, node in cluster.nodes.items()} == before
    assert cluster.nodes[1].status()["view"] == view


def test_a_node_started_later_joins_with_the_state(start: Callable[..., StorageCluster]) -> None:
    """A storage node that nobody had named gets the state and counts as a member; one that restarts, too."""
    cluster = start(2)
    with cluster.nodes[1].connect() as netcat:
        for number in range(3000):
            netcat.send(f"write key{number} {'v' * 200}")
        for _ in range(3000):
            assert netcat.line().startswith("ok ")
    cluster.start(3)
    cluster.wait_members(1, 2, 3)
    cluster.nodes[1].kill()
    cluster.start(1, ready=False)
    cluster.wait_members(1, 2, 3)
    cluster.wait_equal(1, 2, 3)
    assert cluster.nodes[3].status()["records"] == 3000
    assert words_of(cluster.nodes[3].ask(f"updateif key7 {'v' * 200} new"))[0] == "ok"


def test_two_nodes_with_one_number(start: Callable[..., StorageCluster], tmp_path: Path) -> None:
    """A second node with a replica number that is taken is told so, and the first goes on."""
    cluster = start(2)
    cluster.ports[9] = cluster.ports[2]
    from tests.support.nodes import NodeProcess, free_port

    port = free_port()
    url = f"http://127.0.0.1:{port}"
    options = [
        "--id",
        "other",
        "--replica",
        "2",
        "--url",
        url,
        "--storage",
        f"1=s1@http://127.0.0.1:{cluster.ports[1]}",
    ]
    other = NodeProcess("dida-storage", *options, folder=tmp_path, port=port)
    try:
        until("it says why it can't join", lambda: "give this node another number" in other.output)
        assert cluster.nodes[2].status()["alive"] == ["s1", "s2"]
        assert other.status()["ready"] is False
    finally:
        other.end()


CLIENT = """
import json, sys
from dida.client import connect

with connect(f"localhost:{sys.argv[1]}") as storage:  # one node names the others, of all groups
    storage.write("key0", "w")
    first = storage.records(limit=25)
    keys = [*first.records, *storage.records(first.next).records]
    print(json.dumps([keys, [storage.write(key, "w").number for key in keys if key != "key0"]]))
"""


def in_python(program: str, *words: str) -> str:
    """What a Python program prints, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_partial_replication(start: Callable[..., StorageCluster]) -> None:
    """With a replication factor of 2, four nodes are two groups: each key lives on one of them, the others say
    `not-here` and where, and a group goes on without its dead member."""
    cluster = start(4, "--replication-factor", "2")
    groups = {"1": (1, 2), "2": (3, 4)}
    assert [cluster.nodes[n].status()["alive"] for n in (1, 3)] == [["s1", "s2"], ["s3", "s4"]]
    written: dict[str, set[str]] = {"1": set(), "2": set()}
    after: dict[str, int] = {}
    for number in range(40):
        key = f"key{number}"
        reply = cluster.nodes[1].ask(f"write {key} v {json.dumps({'after': after})}")
        if reply.startswith("error not-here"):
            assert words_of(reply) == ["error", "not-here", key]
            assert json.loads(reply[reply.index("{") :])["replicas"] == [3, 4]
            reply = cluster.nodes[3].ask(f"write {key} v {json.dumps({'after': after})}")
            written["2"].add(key)
        else:
            written["1"].add(key)
        assert reply.startswith("ok "), reply
        after.update(json.loads(reply[reply.index("{") :])["after"])
    assert min(map(len, written.values())) > 5
    for group, members in groups.items():
        listed = json.loads(cluster.wait_equal(*members).partition(" ")[2])["records"]
        assert set(listed) == written[group]
    keys, versions = json.loads(in_python(CLIENT, str(cluster.ports[2])))
    assert keys == sorted(written["1"] | written["2"])
    assert set(versions) == {2}
    cluster.nodes[4].kill()
    cluster.wait_members(3)
    key = min(written["2"])
    cluster.nodes[3].ask(f"write {key} v")
    assert words_of(cluster.nodes[3].ask(f"updateif {key} v w"))[0] == "ok"
    assert cluster.nodes[1].status()["dead"] == []


@pytest.mark.long
@pytest.mark.timeout(240)
def test_a_node_joins_where_many_records_are(start: Callable[..., StorageCluster]) -> None:
    """While a node that joins is given 600,000 records, nobody keeps a client waiting for long, or is suspected."""
    cluster = start(2)
    with cluster.nodes[1].connect() as writer:
        for first in range(0, 600_000, 1000):
            writer.send_raw("".join(f"write key{n} {n}\n" for n in range(first, first + 1000)).encode())
            assert all(writer.line().startswith("ok") for _ in range(1000))
    until("the other node has all", lambda: cluster.nodes[2].status()["records"] == 600_000, 20)
    joiner, slowest = cluster.start(3, ready=False), 0.0
    with cluster.nodes[1].connect() as giver, cluster.nodes[2].connect() as other:
        while (status := giver.ask_object("status"))["alive"] != ["s1", "s2", "s3"]:
            assert status["dead"] == []
            for connection in (giver, other):
                begun = time.monotonic()
                assert connection.ask("read key1").startswith("ok 1 ")
                slowest = max(slowest, time.monotonic() - begun)
    assert slowest < 1.0
    assert joiner.status()["records"] == 600_000
