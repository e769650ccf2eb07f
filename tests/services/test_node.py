"""What all node services share: options that end in one line, the one port."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from dida import __version__
from dida.addresses import Address, StorageAddress
from dida.services import node, own_process
from dida.services.node import NodeOptions, Options, bind, listening
from tests.support.desk import Desk
from tests.support.netcat import Netcat
from tests.support.nodes import NodeProcess, environment, free_port

COMMANDS = ("dida-storage", "dida-worker", "dida-scheduler", "dida-pcs", "puppetmaster")


class TeaOptions(NodeOptions):
    command = "dida-tea"
    optParameters = [
        ["sugar", None, 1, "lumps", node.number(0, 5, "lumps")],
        ["steep", None, 3.5, "minutes", node.number(0.5, 9, "minutes", float)],
    ]

    def __init__(self) -> None:
        super().__init__()
        self.storage: list[StorageAddress] = []

    def opt_storage(self, text: str) -> None:
        self.storage.append(StorageAddress.parse(text))


def ending(options: Options, *words: str) -> str:
    """The line with which the process would end."""
    with pytest.raises(SystemExit) as caught:
        options.parseOptions(list(words))
    line = caught.value.code
    assert isinstance(line, str)
    assert "\n" not in line
    return line


# --- options ------------------------------------------------------------------------------------


def test_good_options() -> None:
    """A node's options are parsed to what they mean."""
    options = TeaOptions()
    options.parseOptions(["--id", "t1", "--url", "tcp://LOCALHOST:4001/", "--sugar", "2", "--storage", "1=s1@h:5001"])
    assert options["id"] == "t1"
    assert options.address == Address("localhost", 4001)
    assert (options["sugar"], options["steep"], options["max-line"]) == (2, 3.5, 2**20)
    assert options.storage == [StorageAddress(1, "s1", Address("h", 5001))]


GOOD = ("--id", "t1", "--url", "localhost:4001")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ((), "missing --id"),
        (("--id", "t1"), "missing --url"),
        ((*GOOD, "--sugar", "many"), "--sugar: invalid number 'many': expected lumps from 0 to 5"),
        ((*GOOD, "--sugar", "6"), "--sugar: invalid number '6': expected lumps from 0 to 5"),
        ((*GOOD, "--sugar", "-1"), "--sugar: invalid number '-1': expected lumps from 0 to 5"),
        ((*GOOD, "--sugar", "1.5"), "--sugar: invalid number '1.5': expected lumps from 0 to 5"),
        ((*GOOD, "--sugar", ""), "--sugar: invalid number '': expected lumps from 0 to 5"),
        ((*GOOD, "--steep", "nan"), "--steep: invalid number 'nan': expected minutes from 0.5 to 9"),
        ((*GOOD, "--max-line", "10"), "--max-line: invalid number '10': expected bytes from 1024 to 1073741824"),
        (
            ("--id", "two words", *GOOD[2:]),
            "--id: invalid id 'two words': give one word of at most 200 printable characters",
        ),
        (("--id", "", *GOOD[2:]), "--id: invalid id '': give one word of at most 200 printable characters"),
        (
            ("--id", "\udcff", *GOOD[2:]),
            "--id: invalid id '\\udcff': give one word of at most 200 printable characters",
        ),
        (
            (*GOOD, "--url", "nowhere"),
            "--url: invalid URL 'nowhere': expected http://HOST:PORT, as in http://localhost:5001",
        ),
        ((*GOOD, "--sugr", "1"), "option --sugr not recognized"),
        ((*GOOD, "--sugar"), "option --sugar requires argument"),
        ((*GOOD, "surplus"), "unexpected 'surplus': everything is given by options"),
    ],
)
def test_bad_options_end_in_one_line(words: tuple[str, ...], line: str) -> None:
    """A wrong option ends the process with one line: the command, what is wrong, and where help is."""
    assert ending(TeaOptions(), *words) == f"twistd dida-tea: {line} (--help shows the options)"


def test_a_bad_repeated_option_ends_in_one_line() -> None:
    """A user's mistake in a value that is parsed by the option itself ends in one line, too."""
    assert ending(TeaOptions(), *GOOD, "--storage", "s1@localhost:5001") == (
        "twistd dida-tea: --storage: invalid storage node 's1@localhost:5001': write R=ID@URL, as in 1=s1@http://localhost:5001"
    )


@pytest.mark.parametrize(
    ("parent", "pidfile", "logfile"),
    [
        ({"pidfile": "twistd.pid", "nodaemon": 1, "logfile": None}, "", None),
        ({"pidfile": "twistd.pid", "nodaemon": 0, "logfile": None}, "t1.pid", "t1.log"),
        ({"pidfile": "twistd.pid", "nodaemon": 0, "logfile": "my.log"}, "t1.pid", "my.log"),
        ({"pidfile": "my.pid", "nodaemon": 0, "logfile": None}, "my.pid", "t1.log"),
    ],
)
def test_nodes_in_one_folder_do_not_share_files(parent: Any, pidfile: str, logfile: str | None) -> None:
    """Many nodes are started in one folder: each has its own pid and log file, unless the user names them."""
    options = TeaOptions()
    options.parent = parent
    options.parseOptions(list(GOOD))
    assert options.process is not None
    found = None if options.process.pid_file is None else options.process.pid_file.path
    assert (found, parent["logfile"]) == (os.path.abspath(pidfile) if pidfile else None, logfile)
    assert parent["pidfile"] == ""


# --- the port -----------------------------------------------------------------------------------


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_a_taken_port_ends_in_one_line(taken: int) -> None:
    """A port that somebody has ends the process with one line that says what to do."""
    with pytest.raises(SystemExit) as caught:
        bind("dida-tea", Address("127.0.0.1", taken))
    assert caught.value.code == (
        f"twistd dida-tea: cannot listen on 127.0.0.1:{taken}: address already in use: "
        "choose another port, or stop what listens there"
    )


@pytest.mark.parametrize("host", ["a..b", "x" * 70, "no.such.host.invalid"])
def test_an_unknown_host_ends_in_one_line(host: str) -> None:
    """A URL whose host can't be found ends the process with one line, whatever is wrong with the name."""
    with pytest.raises(SystemExit, match=f"^twistd dida-tea: cannot find the host of --url {host}:5001: "):
        bind("dida-tea", Address(host, 5001))


def test_a_host_of_another_machine_ends_in_one_line() -> None:
    """An address that this machine has not can't be listened on: another port would not help, and is not advised."""
    with pytest.raises(SystemExit) as caught:
        bind("dida-tea", Address("192.0.2.1", 5001))
    assert caught.value.code == (
        "twistd dida-tea: cannot listen on 192.0.2.1:5001: cannot assign requested address: "
        "this machine has no such address: listen on one that it has, by --listen HOST"
    )


def test_where_it_listens_and_where_others_reach_it(port: int) -> None:
    """--listen HOST[:PORT] is bound in place of the URL, whose port it takes when it names none."""
    url = Address("192.0.2.1", port)
    other = free_port()
    for listen, expected in ((("127.0.0.1", None), port), (("127.0.0.1", other), other)):
        with bind("dida-tea", url, listen) as bound:
            assert bound.getsockname() == ("127.0.0.1", expected)


def test_what_is_wrong_with_listen_is_said_of_listen(taken: int) -> None:
    """The line names the option that is to be changed."""
    with pytest.raises(
        SystemExit, match=rf"cannot listen on 127\.0\.0\.1:{taken} \(--listen\): address already in use"
    ):
        bind("dida-tea", Address("192.0.2.1", 5001), ("127.0.0.1", taken))
    with pytest.raises(SystemExit, match=r"cannot find the host of --listen a\.\.b:5001: "):
        bind("dida-tea", Address("192.0.2.1", 5001), ("a..b", None))


@pytest.mark.parametrize("parent", [{"nodaemon": 1}, {"debug": 1}])
def test_only_a_node_in_the_background_is_waited_for(parent: Any) -> None:
    """In the foreground the command does not return at all, so --wait is refused."""
    options = TeaOptions()
    options.parent = parent
    assert ending(options, *GOOD, "--wait", "5") == (
        "twistd dida-tea: --wait is for a node in the background: leave out -n (--help shows the options)"
    )


def test_the_version_is_dida_s(capsys: pytest.CaptureFixture[str]) -> None:
    """`twistd COMMAND --version` shows what the user asks about, not Twisted's."""
    with pytest.raises(SystemExit) as caught:
        TeaOptions().parseOptions(["--version"])
    assert (caught.value.code, capsys.readouterr().out) == (0, f"DIDA {__version__}\n")


def test_a_folder_to_run_in_that_is_missing(tmp_path: Path) -> None:
    """twistd's --rundir ends in one line, too."""
    options = TeaOptions()
    options.parent = {"rundir": str(tmp_path / "nowhere")}  # type: ignore[assignment]
    assert ending(options, *GOOD) == f"twistd dida-tea: --rundir {tmp_path}/nowhere: no such folder"


def test_localhost_is_ipv4_where_both_are_there() -> None:
    """`localhost` is 127.0.0.1, so that nodes and clients mean the same."""
    with bind("dida-tea", Address("localhost", free_port())) as bound:
        assert bound.family == socket.AF_INET


@pytest_twisted.ensureDeferred
async def test_the_listening_service(port: int) -> None:
    """From its start the service answers on the port; after its end the port is free, connections are closed."""
    from twisted.internet import reactor

    options = TeaOptions()
    options.parseOptions(["--id", "t1", "--url", f"127.0.0.1:{port}"])
    service = listening(Desk(), options, reactor)
    service.startService()
    netcat = Netcat(port)
    assert await deferToThread(netcat.ask, "ping") == "ok"
    stopped = service.stopService()
    assert stopped is not None
    await stopped
    with pytest.raises((EOFError, ConnectionError)):
        await deferToThread(netcat.ask, "ping")
    netcat.close()
    bind("dida-tea", options.address).close()


# --- the process --------------------------------------------------------------------------------


def test_a_nodes_process_is_not_searched_for_garbage_again_and_again() -> None:
    """What was imported is never looked at for cycles, and what is new only when it is much."""
    program = "import gc; gc.disable(); from dida.services import own_process; own_process.shared_reactor()"
    program += "; print(gc.get_freeze_count(), gc.get_threshold()[0] * gc.isenabled())"
    words = [sys.executable, "-c", program]
    frozen, young = subprocess.run(words, env=environment(), check=True, capture_output=True, text=True).stdout.split()
    assert int(frozen) > 10_000 and int(young) == own_process.YOUNG


# --- as processes -------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_an_unknown_option_in_one_line(command: str, tmp_path: Path) -> None:
    """`twistd COMMAND --nonsense` ends with one line and exit status 1, without a traceback."""
    process = NodeProcess(command, "--nonsense", folder=tmp_path)
    assert process.wait_end() == 1
    assert process.output == f"twistd {command}: option --nonsense not recognized (--help shows the options)\n"


@pytest.mark.parametrize("command", COMMANDS[:4])
def test_every_node_refuses_a_taken_port_in_one_line(command: str, tmp_path: Path, taken: int) -> None:
    """A node whose port is taken ends with one line and exit status 1, and leaves no pid file behind."""
    replica = ("--replica", "1") if command == "dida-storage" else ()
    process = NodeProcess(command, "--id", "n1", *replica, "--url", f"http://127.0.0.1:{taken}", folder=tmp_path)
    assert process.wait_end() == 1
    assert process.output == (
        f"twistd {command}: cannot listen on 127.0.0.1:{taken}: address already in use: "
        "choose another port, or stop what listens there\n"
    )
    assert list(tmp_path.glob("*.pid")) == []


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_its_options(command: str, tmp_path: Path) -> None:
    """`--help` has every option with a text."""
    process = NodeProcess(command, "--help", folder=tmp_path)
    assert process.wait_end() == 0
    assert "--help" in process.output
    options = [line.split() for line in process.output.splitlines() if line.strip().startswith("-")]
    assert all(len(words) > 1 for words in options)


def test_connections_are_accepted_a_few_at_a_time() -> None:
    """However many wait to be accepted, those that are there have their turn in between."""

    class Port:
        """As Twisted's: it takes more each time."""

        numberAccepts = 1

        def __init__(self) -> None:
            self.taken: list[int] = []

        def doRead(self) -> None:
            self.taken.append(self.numberAccepts)
            self.numberAccepts += 20

    port = Port()
    node.bound_accepts(port)
    for _ in range(50):
        port.doRead()
    assert port.taken[0] == 1
    assert max(port.taken) == node.MAX_ACCEPTS
