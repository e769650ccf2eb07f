"""A network that breaks in two between real storage nodes on hosts of their own."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.hosts import Hosts, Unmakeable
from tests.support.netcat import Netcat
from tests.support.nodes import TWISTD, environment, until

pytestmark = pytest.mark.long

PORT = 5001


class Partitioned:
    """Five storage nodes, two on the left and three on the right of the cable."""

    def __init__(self, hosts: Hosts, folder: Path, *options: str) -> None:
        self.hosts = hosts
        self.outputs = {n: folder / f"s{n}.output" for n in hosts.numbers}
        members = [w for n in hosts.numbers for w in ("--storage", f"{n}=s{n}@{hosts.address(n)}:{PORT}")]
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        for n in hosts.numbers:
            words = ["--id", f"s{n}", "--replica", str(n), "--url", f"http://{hosts.address(n)}:{PORT}"]
            with self.outputs[n].open("wb") as output:
                self.processes[n] = subprocess.Popen(
                    ["ip", "netns", "exec", hosts.name(n), *TWISTD, "-n", "dida-storage", *words, *members, *options],
                    cwd=folder,
                    env=environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
        self.wait_view(*hosts.numbers)

    def connect(self, number: int) -> Netcat:
        return self.hosts.connect(number, PORT)

    def ask(self, number: int, line: str) -> str:
        with self.connect(number) as netcat:
            return netcat.ask(line)

    def wait_view(self, *numbers: int, seconds: float = 20.0) -> None:
        """Until these nodes serve, in a view of just them."""
        ids = [f"s{n}" for n in numbers]

        def agreed() -> bool:
            try:
                for number in numbers:
                    with self.connect(number) as netcat:
                        status = netcat.ask_object("status")
                        if status["alive"] != ids or not status["ready"]:
                            return False
            except (OSError, EOFError):
                return False
            return True

        until(f"the view is {ids}", agreed, seconds)

    def end(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait(10)


@pytest.fixture
def partitioned(tmp_path: Path) -> Iterator[Callable[..., Partitioned]]:
    """Starts the five nodes with options; they and their hosts end with the test."""
    try:
        hosts = Hosts(2, 3)
    except Unmakeable as problem:
        pytest.skip(f"network namespaces can't be made here: {problem}")
    started: list[Partitioned] = []

    def start(*options: str) -> Partitioned:
        started.append(Partitioned(hosts, tmp_path, *options))
        return started[-1]

    yield start
    for one in started:
        one.end()
    hosts.end()


def words_of(reply: str) -> list[str]:
    return reply.partition(" {")[0].split()


def test_majority_never_forks(partitioned: Callable[..., Partitioned]) -> None:
    """`--membership majority`: of two updateIfs from one old value on both sides only the larger side's succeeds,
    the minority says unavailable within 2 s, and after healing all agree on one chain."""
    nodes = partitioned("--membership", "majority")
    nodes.ask(1, "write key start")
    until("gossip", lambda: words_of(nodes.ask(5, "read key")) == ["ok", "start", "1.1"])
    nodes.hosts.pull()
    nodes.wait_view(3, 4, 5)
    assert words_of(nodes.ask(4, "updateif key start right"))[0] == "ok"
    for number in (1, 2):
        for line in ("updateif key start left", "write key left", "read key", 'read key {"latest": true}'):
            begun = time.monotonic()
            reply = words_of(nodes.ask(number, line))
            assert reply[:2] in (["error", "unavailable"], ["error", "unknown-outcome"]), (line, reply)
            assert time.monotonic() - begun <= 2.0
    nodes.hosts.plug()
    nodes.wait_view(1, 2, 3, 4, 5)
    for number in nodes.hosts.numbers:
        assert words_of(nodes.ask(number, 'read key {"latest": true}'))[1] == "right"
    assert len({nodes.ask(number, "versions key") for number in nodes.hosts.numbers}) == 1


def test_available_goes_on_and_reports_what_it_discards(partitioned: Callable[..., Partitioned]) -> None:
    """`--membership available`: both sides go on; on healing the lower side discards its divergence, says so in
    status and log, and a client that has seen it hears lost-update once."""
    nodes = partitioned()
    nodes.ask(1, "write key start")
    until("gossip", lambda: words_of(nodes.ask(5, "read key")) == ["ok", "start", "1.1"])
    nodes.hosts.pull()
    nodes.wait_view(1, 2)
    nodes.wait_view(3, 4, 5)
    left = nodes.ask(1, "updateif key start left")
    right = nodes.ask(4, "updateif key start right")
    assert words_of(left)[0] == words_of(right)[0] == "ok"
    nodes.hosts.plug()
    nodes.wait_view(1, 2, 3, 4, 5)
    values = {words_of(nodes.ask(number, 'read key {"latest": true}'))[1] for number in nodes.hosts.numbers}
    assert len(values) == 1
    (survived,) = values
    losers = (1, 2) if survived == "right" else (3, 4, 5)
    told = []
    for number in losers:
        with nodes.connect(number) as netcat:
            told.append(netcat.ask_object("status")["discarded"])
        assert "removed from the view" in nodes.outputs[number].read_text()
    assert max(told) >= 1
    after = (left if survived == "right" else right).partition(" {")[2]
    assert words_of(nodes.ask(5, f"read key {{{after}"))[:2] == ["error", "lost-update"]
