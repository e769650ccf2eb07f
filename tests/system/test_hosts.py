"""One system on three hosts: a PCS on each, the nodes spread over them, the puppetmaster on the first."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.hosts import Hosts, Unmakeable
from tests.support.netcat import Netcat
from tests.support.nodes import ROOT, TWISTD, environment, free_port, until
from tests.system.test_scripts import ADDED, FAILED, records, runs

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

PCS = 10_000
NODES = """\
storage s1 http://10.77.0.1:5001 100
storage s2 http://10.77.0.2:5002 100
storage s3 http://10.77.0.3:5003 100
storage s4 http://10.77.0.2:5004 100
worker w1 http://10.77.0.1:4001 0
worker w2 http://10.77.0.2:4002 0
worker w3 http://10.77.0.3:4003 0
scheduler sc1 http://10.77.0.1:2000
populate four_records
"""
"""The baseline's, on three hosts; 1 and 2 are on one side of the cable, 3 on the other."""
WHERE = {"s1": 1, "s2": 2, "s3": 3, "s4": 2, "w1": 1, "w2": 2, "w3": 3, "sc1": 1}
PORTS = {"s1": 5001, "s2": 5002, "s3": 5003, "s4": 5004, "w1": 4001, "w2": 4002, "w3": 4003, "sc1": 2000}
RUNS = "client 23 add_update_add\nwait 1000\nclient 13 add_update_add\nwait 1000\nclient 13 add_update_add\nwait 1000\n"


class ThreeHosts:
    """A PCS on each of three hosts, and a puppetmaster on the first."""

    def __init__(self, hosts: Hosts, folder: Path) -> None:
        self.hosts = hosts
        self.folder = folder
        self.pcs: dict[int, subprocess.Popen[bytes]] = {}
        self.puppetmaster: subprocess.Popen[bytes] | None = None
        for number in hosts.numbers:
            self.start_pcs(number)

    def _start(self, number: int, output: str, *words: str, script: Path | None = None) -> subprocess.Popen[bytes]:
        command = ["ip", "netns", "exec", self.hosts.name(number), *TWISTD]
        return started(self.folder, output, *words, script=script, command=command)

    def start_pcs(self, number: int) -> None:
        """Start the PCS of a host, and wait until it answers."""
        url = f"http://{self.hosts.address(number)}:{PCS}"
        words = ["--url", url, "--logs", f"logs{number}", "--operators", str(ROOT / "operators")]
        self.pcs[number] = self._start(number, f"pcs{number}", "dida-pcs", *words)
        until(f"there is a PCS on host {number}", lambda: self.ask_pcs(number, "ping") == "ok")

    def ask_pcs(self, number: int, line: str) -> str:
        try:
            with self.hosts.connect(number, PCS) as netcat:
                return netcat.ask(line)
        except (OSError, EOFError):
            return ""

    def kill_pcs(self, number: int) -> None:
        self.pcs[number].kill()
        self.pcs[number].wait(10)

    def play(self, script: str, *options: str) -> None:
        """Begin to play a script on host 1."""
        path = self.folder / "script"
        path.write_text(script)
        words = [word for n in self.hosts.numbers for word in ("--pcs", f"http://{self.hosts.address(n)}:{PCS}")]
        words += ["--files", str(ROOT / "pmscripts"), *options]
        self.puppetmaster = self._start(1, "output", "puppetmaster", *words, script=path)

    @property
    def output(self) -> list[str]:
        return (self.folder / "output").read_text().splitlines()

    def said(self, text: str, seconds: float = 60.0) -> None:
        """Until the puppetmaster has said that."""
        try:
            until(f"it says {text!r}", lambda: any(text in line for line in self.output), seconds)
        except AssertionError:
            raise AssertionError(f"it never said {text!r}, but:\n" + "\n".join(self.output)) from None

    def finish(self) -> int:
        """Its exit status, once it ends by itself."""
        assert self.puppetmaster is not None
        return self.puppetmaster.wait(90)

    def listening(self) -> list[str]:
        """The nodes that listen, each at its URL."""
        return [id for id, port in PORTS.items() if self._listens(WHERE[id], port)]

    def _listens(self, number: int, port: int) -> bool:
        try:
            self.hosts.connect(number, port, timeout=1).close()
        except OSError:
            return False
        return True

    def end(self) -> None:
        if self.puppetmaster is not None and self.puppetmaster.poll() is None:
            self.puppetmaster.kill()
            self.puppetmaster.wait(10)
        for number, process in self.pcs.items():
            if process.poll() is not None and self.listening():
                self.start_pcs(number)  # it takes up what is left, to end it
        for process in self.pcs.values():
            process.terminate()
        for process in self.pcs.values():
            process.wait(20)


@pytest.fixture
def three(tmp_path: Path) -> Iterator[ThreeHosts]:
    try:
        hosts = Hosts(2, 1)
    except Unmakeable as problem:
        pytest.skip(f"network namespaces can't be made here: {problem}")
    found = ThreeHosts(hosts, tmp_path)
    yield found
    found.end()
    hosts.end()


def test_two_machines(tmp_path: Path) -> None:
    """Two PCSs, of which one is killed and comes again: the script goes on, and ends what both have started."""
    ports = [free_port() for _ in range(5)]
    addresses = [f"127.0.0.{number}:{port}" for number, port in zip((2, 3, 2, 3, 2), ports, strict=True)]
    folders = ["--operators", str(ROOT / "operators")]

    def pcs(number: int) -> subprocess.Popen[bytes]:
        url = f"http://{addresses[number]}"
        process = started(tmp_path, "pcs", "dida-pcs", "--url", url, "--logs", f"logs{number}", *folders)
        until("the PCS answers", lambda: answers(addresses[number]))
        return process

    one, two = pcs(0), pcs(1)
    script = tmp_path / "script"
    script.write_text(
        f"storage s1 {addresses[2]} 0\nworker w1 {addresses[3]} 0\nscheduler sc {addresses[4]}\n"
        "populate four_records\nclient 13 three_increments\nexpect-run LAST done 4\nexpect 14 changed\n"
        "client 13 three_increments\nexpect-run 2 done 7\n"
    )
    words = ["--pcs", addresses[0], "--pcs", addresses[1], "--files", str(ROOT / "pmscripts")]
    master = started(tmp_path, "output", "puppetmaster", *words, script=script)
    output = tmp_path / "output"
    try:
        until("a run was as expected", lambda: "expected r1" in output.read_text(), 60)
        two.kill()
        two.wait(10)
        until("it is told", lambda: f"the PCS at {addresses[1]} does not answer" in output.read_text())
        two = pcs(1)
        until("it is told", lambda: f"{addresses[1]} is back; what runs there: w1" in output.read_text())
        with Netcat(ports[2], "127.0.0.2") as storage:
            storage.ask("write 14 changed")
        assert master.wait(60) == 0, output.read_text()
        assert "done 7" in output.read_text()
        assert output.read_text().splitlines()[-1] == "stopped  3 nodes"
        assert not any(answers(address) for address in addresses[2:])
    finally:
        for process in (master, one, two):
            process.terminate()
            process.wait(20)


def started(
    folder: Path, output: str, *words: str, script: Path | None = None, command: Sequence[str] = TWISTD
) -> subprocess.Popen[bytes]:
    """A twistd command as a process."""
    with (folder / output).open("ab") as printed, (script or Path(os.devnull)).open("rb") as source:
        return subprocess.Popen(
            [*command, "-n", *words],
            cwd=folder,
            env=environment(),
            stdin=source,
            stdout=printed,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def answers(address: str) -> bool:
    host, _, port = address.partition(":")
    try:
        with Netcat(int(port), host, timeout=1) as node:
            return node.ask("ping") == "ok"
    except (OSError, EOFError):
        return False


@pytest.mark.long
def test_baseline(three: ThreeHosts) -> None:
    """The baseline ends as on one machine; each node is at its URL and nowhere else; each PCS knows all nodes; in the
    end none is left."""
    three.play(NODES + RUNS + "listGlobal\nwait 2000\n")
    three.said("records on")
    for id, number in WHERE.items():
        for other in three.hosts.numbers:
            reply = three.ask_pcs(other, f"tell {id} status")
            assert f'"id":"{id}"' in reply, (other, reply)
        with pytest.raises(OSError):
            connect_loopback(three, number, PORTS[id])
    assert three.finish() == 0, "\n".join(three.output)
    assert sorted(run[:3:2] for run in runs(three.output)) == [["13", FAILED], ["13", FAILED], ["23", FAILED]]
    assert records(three.output) == ADDED
    assert three.output[-1] == "stopped  8 nodes"
    assert three.listening() == []


def connect_loopback(three: ThreeHosts, number: int, port: int) -> None:
    three.hosts.connect(number, port, host="127.0.0.1", timeout=1).close()


@pytest.mark.long
def test_a_host_is_cut_off(three: ThreeHosts) -> None:
    """A host that can't be reached is told of, the script goes on without it; when it can be reached, that is told."""
    three.play(
        NODES + "client 23 add_update_add\nwait 15000\nclient 13 add_update_add\nwait 3000\nlistGlobal\nwait 15000\n"
    )
    three.said("run      ")
    three.hosts.pull()
    three.said("the PCS at 10.77.0.3:10000 does not answer any more")
    three.said("records on s1, s2, s4:")
    assert len(runs(three.output)) == 2
    three.hosts.plug()
    three.said("the PCS at 10.77.0.3:10000 is back; what runs there: s3 w3")
    assert three.finish() == 0, "\n".join(three.output)
    assert sorted(run[:3:2] for run in runs(three.output)) == [["13", FAILED], ["23", FAILED]]
    assert three.output[-1] == "stopped  8 nodes"
    assert three.listening() == []


@pytest.mark.long
def test_a_pcs_is_killed(three: ThreeHosts) -> None:
    """A PCS that is killed is told of, its nodes go on, and so does the script; a new one takes its nodes up, and tells
    of the one that has ended meanwhile."""
    three.play(
        NODES
        + "client 23 add_update_add\nwait 6000\nclient 13 add_update_add\nexpect 13 int_conversion_failed\nwait 8000\n"
    )
    three.said("run      ")
    three.kill_pcs(3)
    three.said("the PCS at 10.77.0.3:10000 does not answer any more")
    three.said("expected 13 int_conversion_failed")
    assert set(three.listening()) == set(PORTS)
    with three.hosts.connect(3, PORTS["w3"]) as worker:
        worker.send("crash")
    three.start_pcs(3)
    three.said("the PCS at 10.77.0.3:10000 is back; what runs there: s3")
    three.said("w3 has ended unexpectedly: while there was no PCS")
    assert three.finish() == 1, "\n".join(three.output)
    assert three.output[-1] == "stopped  7 nodes"
    assert three.listening() == []


@pytest.mark.long
def test_a_pcs_stays_away(three: ThreeHosts) -> None:
    """The nodes of a PCS that is gone can't be ended: that is told, and its successor ends them."""
    three.play(NODES + "wait 2000\n")
    three.said("populate")
    three.kill_pcs(3)
    assert three.finish() == 0
    assert three.output[-2] == "stopped  6 nodes"
    assert three.output[-1].startswith("left     s3 w3: the PCS there does not answer")
    assert three.listening() == ["s3", "w3"]
    three.start_pcs(3)
    until("they are ended", lambda: three.listening() == [], 10)


@pytest.mark.long
@pytest.mark.parametrize(("options", "left"), [((), []), (("--keep",), list(PORTS))])
def test_the_puppetmaster_is_killed(three: ThreeHosts, options: tuple[str, ...], left: list[Any]) -> None:
    """Killing the puppetmaster leaves no node behind on any host after 10 s; with --keep none dies."""
    three.play(NODES + "wait 60000\n", *options)
    three.said("populate")
    assert three.puppetmaster is not None
    three.puppetmaster.kill()
    three.puppetmaster.wait(10)
    watch_for(10, lambda: three.listening() == left and not options)
    assert three.listening() == left
    for number in three.hosts.numbers:
        three.ask_pcs(number, "stop")


def watch_for(seconds: float, enough: Callable[[], bool]) -> None:
    """So long, or until it is enough."""
    try:
        until("", enough, seconds)
    except AssertionError:
        return
