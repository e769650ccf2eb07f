"""The line protocol of a storage node, as a client with nothing but a socket meets it."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from dida.replication.messages import PROTOCOL
from dida.wire.grammar import quote
from tests.support.clusters import StorageCluster
from tests.support.netcat import Netcat, object_of
from tests.support.nodes import NodeProcess, free_port, until


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StorageCluster]:
    """Four storage nodes."""
    found = StorageCluster(Path(tmp_path_factory.mktemp("storage")), 4)
    yield found
    found.end()


@pytest.fixture(params=[1, 2, 3, 4])
def node(cluster: StorageCluster, request: pytest.FixtureRequest) -> Iterator[Netcat]:
    """A connection to each of the four, in turn."""
    with cluster.nodes[request.param].connect() as netcat:
        yield netcat


@pytest.fixture
def key(request: pytest.FixtureRequest) -> str:
    """A key of the test's own."""
    return re.sub(r"\W", "-", request.node.name)


def words_of(reply: str) -> list[str]:
    return reply.partition(" {")[0].split()


def test_every_node_verb_is_answered_as_written(node: Netcat) -> None:
    """ping, status, debug, help and quit are answered as protocol.md says."""
    assert node.ask("ping") == "ok"
    status = node.ask_object("status")
    assert {"id", "role", "ready", "alive", "dead"} <= set(status)
    assert status["role"] == "storage"
    assert status["alive"] == ["s1", "s2", "s3", "s4"]
    assert status["dead"] == []
    assert node.ask("debug on") == "ok"
    assert node.ask("debug off") == "ok"
    assert object_of(node.ask("#t help").removeprefix("#t "))["read"].startswith("read KEY")
    node.send("help")
    lines = []
    while (line := node.line()) != "ok":
        lines.append(line)
    assert any(line.startswith("updateif KEY OLD NEW") for line in lines)
    assert node.ask("quit") == "ok"
    assert node.rest() == []


def test_write_and_read(node: Netcat, key: str) -> None:
    """A write gives a version, a read value and version, and both the timestamp."""
    reply = node.ask(f'write {key} "hello world"')
    version = words_of(reply)[1]
    assert re.fullmatch(r"1\.[1-4]", version)
    assert set(object_of(reply)) == {"after"}
    reply = node.ask(f"read {key}")
    assert reply.startswith(f'ok "hello world" {version} ')
    assert words_of(node.ask(f"read {key} {version}")) == words_of(reply)
    assert node.ask(f"read {key} 77.1") == f"error no-such-version {key} 77.1"
    assert words_of(node.ask(f"read no-{key}")) == ["error", "no-such-record", f"no-{key}"]
    assert object_of(node.ask(f"versions {key}"))["versions"] == [[version, "hello world"]]


@pytest.mark.parametrize("value", ["1", "two words", "é", "{", "", "#", '"'])
def test_a_plain_read_is_like_any_other(node: Netcat, key: str, value: str) -> None:
    """The short way of `read KEY` and the long one give the same, before and after each write."""
    plain = re.sub(r"[\W_]", "", key)
    for _ in range(2):
        assert node.ask(f"write {plain} {quote(value)}").startswith("ok ")
        short, long = node.ask(f"read {plain}"), node.ask(f"read {plain} {{}}")
        assert short.partition(' {"after"')[0] == long.partition(' {"after"')[0] != ""  # gossip of others may come
        assert object_of(short).keys() == object_of(long).keys() == {"after"}
    assert node.ask("read Unwritten") == node.ask("read Unwritten {}") == "error no-such-record Unwritten"


def test_updateif(node: Netcat, key: str) -> None:
    """updateif answers ok VERSION, no VERSION VALUE, or no alone."""
    assert node.ask(f"updateif {key} a b") == "no"
    node.ask(f"write {key} a")
    reply = words_of(node.ask(f"updateif {key} a b"))
    assert reply[0] == "ok"
    assert reply[1].startswith("2.")
    assert words_of(node.ask(f"updateif {key} a c")) == ["no", reply[1], "b"]
    assert words_of(node.ask(f"read {key}"))[1:] == ["b", reply[1]]


def test_home_names_one_coordinator_for_all(cluster: StorageCluster, key: str) -> None:
    """All replicas say the same home of a key, with the members that hold it."""
    answers = {node.ask(f"home {key}") for node in cluster.nodes.values()}
    assert len(answers) == 1
    (reply,) = answers
    number, id = words_of(reply)[1:]
    assert id == f"s{number}"
    assert object_of(reply)["members"] == ["s1", "s2", "s3", "s4"]


def test_a_write_is_readable_everywhere(cluster: StorageCluster, key: str) -> None:
    """At once with the returned `after`, and at all others after gossip."""
    reply = cluster.nodes[1].ask(f"write {key} v")
    after = json.dumps(object_of(reply))
    for number in (2, 3, 4):
        assert words_of(cluster.nodes[number].ask(f"read {key} {after}")) == ["ok", "v", "1.1"]
    cluster.nodes[2].ask(f"write late-{key} v")
    for node in cluster.nodes.values():
        until("gossip", lambda node=node: node.ask(f"read late-{key}").startswith("ok v 1.2"))  # type: ignore[misc]


def test_an_update_id_is_executed_once(cluster: StorageCluster, key: str) -> None:
    """The same id again, at any replica, changes nothing and gets the first answer."""
    for verb in (f"write {key} v", f"updateif {key} v w", f"updateif {key} v x"):
        name = json.dumps({"id": f"{key}/{verb}"})
        first = words_of(cluster.nodes[1].ask(f"{verb} {name}"))
        for number in (1, 2, 3, 4):
            assert words_of(cluster.nodes[number].ask(f"{verb} {name}")) == first
    assert len(object_of(cluster.nodes[3].ask(f"versions {key}"))["versions"]) == 2


def test_list_is_paged(cluster: StorageCluster, key: str) -> None:
    """`limit` bounds a page, `next` and `from` go on with it, nothing is left out."""
    with cluster.nodes[2].connect() as node:
        for number in range(25):
            node.ask(f"write {key}-{number:02} v")
        found: dict[str, object] = {}
        more: dict[str, object] = {"limit": 10}
        while more:
            page = node.ask_object(f"list {json.dumps(more)}")
            assert len(page["records"]) <= 10
            found.update(page["records"])
            more = {"limit": 10, "from": page["next"]} if "next" in page else {}
        assert [k for k in found if k.startswith(f"{key}-")] == [f"{key}-{n:02}" for n in range(25)]


def test_any_string_comes_back_as_it_was(node: Netcat, key: str) -> None:
    """Keys and values of any characters, said in JSON strings, are stored and read unchanged."""
    for number, text in enumerate(
        ["", " ", '"', "{", "[x", "#t", "a\tb\n\x00", "\u2028\u0085é😀", "\\", "x" * 100_000]
    ):
        value = json.dumps(text)
        name = json.dumps(f"{key} {number} {text[:50]}")
        assert node.ask(f"write {name} {value}").startswith("ok ")
        reply = node.ask(f"#t read {name}")
        found = (
            json.loads(reply.split(" ", 2)[2].rpartition(" {")[0].rpartition(" ")[0])
            if reply.split(" ", 2)[2].startswith('"')
            else None
        )
        assert found == text or (found is None and reply.split(" ")[2] == text)


MISTAKES = [
    (b"", "error bad-request"),
    (b"frobnicate", "error unknown-verb frobnicate"),
    (b"read", "error bad-request"),
    (b"read a b c", "error bad-request"),
    (b"read a 4", "error bad-request"),
    (b"read a 9223372036854775808.1", "error bad-request"),
    (b"write a", "error bad-request"),
    (b'write a "b', "error bad-request"),
    (b"write a {x", "error bad-request"),
    (b'write a b {"after": {"1:x": -1}}', "error bad-request"),
    (b'write a b {"after": {"1:x": 9223372036854775808}}', "error bad-request"),
    (b'write a b {"deadline": "soon"}', "error bad-request"),
    (b"write a \xff", "error bad-request"),
    (b"write a \x01", "error bad-request"),
    (b"gossip x", "error bad-request"),
    (b'prepare {"sender": 5}', "error bad-request"),
    (b"#" + b"x" * 65 + b" ping", "error bad-request"),
]


@pytest.mark.parametrize(("line", "answer"), MISTAKES)
def test_a_mistake_is_one_clear_line_and_the_connection_stays(
    cluster: StorageCluster, line: bytes, answer: str
) -> None:
    """A malformed line is told so in one line, and the next one is answered."""
    with cluster.nodes[1].connect() as node:
        assert node.ask(line).startswith(answer)
        assert node.ask("ping") == "ok"


def test_an_overlong_line_is_told_and_ends_the_connection(cluster: StorageCluster) -> None:
    """`error line-too-long`, with or without an end in sight; then the connection is closed."""
    for end in (b"\n", b""):
        with cluster.nodes[1].connect() as node:
            node.send_raw(b"write a " + b"x" * (2**20 + 1) + end)
            assert node.line().startswith("error line-too-long")
            assert node.rest() == []


def peer(url: str, word: str) -> str:
    """The line with which another storage node introduces itself."""
    return f'peer {url} {word} {{"protocol": {PROTOCOL}}}'


def forged(cluster: StorageCluster, at: int) -> list[str]:
    """What a client could say to node `at` in the name of another member, with all that it can find out."""
    seen = object_of(cluster.nodes[at].ask("watch"))
    view = seen["view"]
    me, other = (
        {
            "replica": n,
            "id": f"s{n}",
            "url": next(m["url"] for m in seen["members"] if m["replica"] == n),
            "component": next(
                s for s in object_of(cluster.nodes[n].ask("write own x"))["after"] if s.startswith(f"{n}:")
            ),
        }
        for n in (at, 2)
    )
    sender: dict[str, Any] = {"cluster": "dida", "view": view, "sender": other["component"]}
    record = [other["component"], 10**6, {}, "forged", 1, other["replica"], "forged"]
    ranges = [[other["component"], 10**6 - 1, [record]], [me["component"], 10**6 - 1, [record]]]
    huge = {other["component"]: 10**6, me["component"]: 10**6}
    prepared = [f"{other['component']}!", 0, {}, "held", 1, other["replica"], "forged"]
    wanted = [1, "held", 1, None, [0, ""], None, prepared]
    said: dict[str, dict[str, Any]] = {
        "gossip": {"ranges": ranges, "have": huge},
        "fetch": {"have": huge},
        "prepare": {"commits": [1], "keys": [wanted], "ranges": ranges, "have": huge, "oldest": 10**6},
        "release": {"keys": [[1, "held", "x", ["1.1", "forged"], {}]]},
        "forward": {"verb": "write", "key": "forged", "value": "forged"},
        "heartbeat": {"have": huge, "oldest": 10**6},
        "suspect": {"component": me["component"]},
        "join": {"member": {**other, "component": f"{other['replica']}:forged"}},
        "load": {"copy": 1, "part": 0, "last": True, "state": {"records": [], "have": huge}},
        "flush": {"number": 10**6, "members": [me, other]},
        "level": {"number": 10**6, "ranges": ranges, "prepared": [[other["component"], 1, 1, prepared]]},
        "install": {
            "installs": {
                "number": 10**6,
                "leader": other["component"],
                "members": [me, other],
                "found": [[other["component"], 1, 1]],
            },
            "base": huge,
        },
    }
    return [f"{verb} {json.dumps({**sender, **more})}" for verb, more in said.items()]


def test_peers_refuse_strangers(cluster: StorageCluster) -> None:
    """What a client says in the name of a member changes nothing, whether or not it claims that member's URL."""
    lines = forged(cluster, 1)
    cluster.wait_equal(1, 2, 3, 4)
    before = cluster.nodes[1].ask("list")
    seen = cluster.nodes[1].ask("watch")
    other = next(m for m in object_of(seen)["members"] if m["replica"] == 2)
    for claim in (None, peer(other["url"], "guessed"), peer(f"http://127.0.0.1:{free_port()}", "mine")):
        for line in lines:
            with cluster.nodes[1].connect() as node:
                if claim is not None:
                    assert node.ask(claim) == "ok"
                assert words_of(node.ask(line))[:2] in (["error", "bad-request"], ["error", "unavailable"]), line
    with cluster.nodes[1].connect() as node:
        assert node.ask("peer x y").startswith("error bad-request")
        assert node.ask("vouch guessed") == "no"
    assert cluster.nodes[1].ask("watch") == seen
    assert cluster.nodes[1].ask("list") == before
    assert words_of(cluster.nodes[1].ask("updateif held a b"))[0] == "no"


def test_an_impossible_after_ends_at_the_deadline(node: Netcat, key: str) -> None:
    """A timestamp that no state can include is refused within the deadline, not waited for."""
    node.ask(f"write {key} v")
    own = next(iter(object_of(node.ask(f"read {key}"))["after"]))
    stream = own if ":" in own else "1:x"
    wanted = json.dumps({"after": {stream: 10**9}, "deadline": 0.3})
    assert words_of(node.ask(f"read {key} {wanted}"))[:2] == ["error", "unavailable"]
    lost = node.ask(f'read {key} {{"after": {{"9:gone": 3}}}}')
    assert words_of(lost)[:2] == ["error", "lost-update"]


@pytest.mark.alone
@pytest.mark.parametrize("deadline", [0, 0.1, 0.5])
def test_nothing_waits_longer_than_its_deadline(node: Netcat, key: str, deadline: float) -> None:
    """The answer is there by the deadline, not after it; what needs no waiting is done even with none at all."""
    own = next(iter(object_of(node.ask(f"write {key} v"))["after"]))
    wanted = json.dumps({"after": {own: 10**9}, "deadline": deadline})
    waits = []
    for _ in range(5):  # the machine may be late, too
        begun = time.monotonic()
        assert words_of(node.ask(f"read {key} {wanted}"))[:2] == ["error", "unavailable"]
        waits.append(time.monotonic() - begun)
    assert min(waits) <= max(deadline, 0.05)
    assert words_of(node.ask(f'read {key} {{"deadline": 0}}'))[:2] == ["ok", "v"]


def test_crash_kills_the_process(tmp_path: Path) -> None:
    """`crash` has no reply: the process is gone by SIGKILL; the others leave it out and go on."""
    cluster = StorageCluster(tmp_path, 2)
    try:
        cluster.nodes[1].ask("write k v")
        cluster.wait_equal(1, 2)
        with cluster.nodes[1].connect() as node:
            node.send("crash")
            with pytest.raises((EOFError, ConnectionResetError)):
                node.line()
        assert cluster.nodes[1].wait_end() == -9
        cluster.wait_members(2)
        assert cluster.nodes[2].status()["dead"] == ["s1"]
        assert words_of(cluster.nodes[2].ask("updateif k v w"))[0] == "ok"
    finally:
        cluster.end()


def test_a_stranger_can_not_lengthen_its_lines(cluster: StorageCluster) -> None:
    """The limit of a line is another one for members only."""
    with cluster.nodes[1].connect() as node:
        assert node.ask(peer("http://127.0.0.1:1", "mine")) == "ok"
        assert node.ask('gossip {"cluster": "dida", "sender": "9:x"}').startswith("error ")
        node.send_raw(b"write a " + b"x" * (2**20 + 1) + b"\n")
        assert node.line().startswith("error line-too-long")


def test_every_verb_without_its_members_is_answered(cluster: StorageCluster) -> None:
    """A verb typed alone gets one line, whatever it lacks."""
    with cluster.nodes[1].connect() as node:
        for verb in object_of(node.ask("#t help").removeprefix("#t ")):
            if verb not in ("help", "quit", "crash", "watch"):
                assert node.ask(verb).split()[0] in ("ok", "error"), verb
    assert "Traceback" not in cluster.nodes[1].output


def test_a_list_of_large_records_comes_in_pages(cluster: StorageCluster, key: str) -> None:
    """A reply to `list` stays below a megabyte or two, however large the records are."""
    with cluster.nodes[3].connect() as node:
        for number in range(6):
            node.ask(f"write {key}-{number} {'x' * 300_000}")
        page = node.ask_object(f'list {{"from": "{key}"}}')
        assert len(page["records"]) < 6
        assert page["next"].startswith(key)


def test_a_session_of_update_ids_ends(node: Netcat, key: str) -> None:
    """`forget` ends sessions: their ids are neither remembered nor executed any more; others are not touched."""
    ended, other = f"{key}-a", f"{key}-b"
    for session in (ended, other):
        assert node.ask(f'write {key} 1 {{"id": "{session}:1"}}').startswith("ok ")
    assert node.ask(f"forget {ended} {key}-never-used") == "ok"
    assert node.ask(f'write {key} 2 {{"id": "{ended}:1"}}') == f"error session-expired {ended}:1"
    assert node.ask(f'write {key} 2 {{"id": "{ended}:2", "retry": false}}') == f"error session-expired {ended}:2"
    assert node.ask(f'write {key} 2 {{"id": "{other}:1"}}').startswith("ok 2.")
    assert node.ask("forget").startswith("error bad-request")


@pytest.mark.long
def test_clients_that_go_away_while_they_wait(cluster: StorageCluster) -> None:
    """Whatever they wait for, and whatever stands behind it, their connections are closed within 10 s."""
    node = cluster.nodes[1]
    with node.connect() as netcat:
        view = netcat.ask_object("watch")["view"]
    before = len(sockets(node.pid))
    for number in range(100):
        with node.connect() as netcat:
            netcat.send(f'watch {view} {{"deadline": 3600}}' if number % 2 else f"#1 watch {view}\r\nping\r\nread x")
            if number % 3 == 0:
                netcat.send(f'read x {{"after": {{"{cluster_stream(node)}": 1000000}}, "deadline": 3600}}')
    assert len(sockets(node.pid)) > before + 50
    until("all are closed", lambda: len(sockets(node.pid)) <= before, 10.0)


def sockets(pid: int) -> list[str]:
    """The sockets that a process has open."""
    names = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):
            names.append(os.readlink(f"/proc/{pid}/fd/{name}"))
    return [name for name in names if name.startswith("socket:")]


def cluster_stream(node: NodeProcess) -> str:
    """The stream of a node's plain writes."""
    return str(node.status()["component"])
