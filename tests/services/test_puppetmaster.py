"""The puppetmaster's options, and what the service is made of."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any, cast

import pytest
import pytest_twisted
from twisted.application.service import Application
from twisted.logger import ILogObserver

from dida.addresses import Address
from dida.errors import UserError
from dida.protocols.links import ReconnectingClient
from dida.protocols.stdio import ScriptConsole
from dida.puppetmaster.debug_port import DebugPorts
from dida.services.puppetmaster import Options, PuppetMasterService, makeService
from dida.wire.messages import Ok, Ping
from tests.support.desk import Wire
from tests.support.fakes import the_reactor
from tests.support.nodes import free_port


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def parsed(*words: str) -> Options:
    options = Options()
    options.parseOptions(words)
    return options


def make(*words: str) -> PuppetMasterService:
    return makeService(parsed(*words), the_reactor())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--pcs", "nowhere"], "--pcs: invalid URL 'nowhere': expected http://HOST:PORT"),
        (["--files", "nowhere"], "--files nowhere: no such folder"),
        (["--deadline", "soon"], "invalid number 'soon': expected seconds from 0.1 to 86400"),
        (["--debug-port", "70000"], "invalid number '70000': expected a port from 1 to 65535"),
        (["--logs", "/proc/nothing/there"], "cannot write into the folder of --logs /proc/nothing/there"),
        (["--operators", "/nonexistent"], "twistd puppetmaster: --operators /nonexistent: no such folder"),
        (["--attach", "nowhere"], "--attach: invalid URL 'nowhere': expected http://HOST:PORT"),
        (["--attach", "localhost:1", "localhost:2"], "unexpected 'localhost:2': everything is given by options"),
        (["script"], "unexpected 'script': everything is given by options"),
        (["--frobnicate"], "option --frobnicate not recognized"),
    ],
)
def test_bad_options(words: list[str], message: str) -> None:
    """A bad option ends the process with one line, before anything is started."""
    with pytest.raises(SystemExit) as caught:
        make(*words)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_background() -> None:
    """A console without -n would have no input: that is said at once."""
    options = Options()
    options.parent = cast(Any, {"nodaemon": 0})
    with pytest.raises(SystemExit) as caught:
        makeService(options, the_reactor())
    assert "write twistd -n puppetmaster" in str(caught.value)


@pytest.mark.parametrize("stream", ["stdin", "stdout"])
def test_closed_streams(monkeypatch: pytest.MonkeyPatch, stream: str) -> None:
    """A console without an input or output, as by `>&-`, says so; its number may be another file's by now."""
    monkeypatch.setattr(f"sys.{stream}", None)
    with pytest.raises(SystemExit) as caught:
        make()
    assert f"a console needs both standard input and standard output: {stream} is closed" in str(caught.value)


def test_options(tmp_path: Path) -> None:
    """--pcs and --files repeat; the other options have defaults."""
    options = parsed("--pcs", "localhost:1", "--pcs", "http://other:2", "--files", str(tmp_path), "--keep")
    assert options["attach"] == []
    assert parsed("--attach", "localhost:1", "--attach", "tcp://other:2")["attach"] == [
        Address("localhost", 1),
        Address("other", 2),
    ]
    assert options["pcs"] == [Address("localhost", 1), Address("other", 2)]
    assert options["files"] == [str(tmp_path)]
    assert (options["deadline"], options["debug-port"], options["logs"]) == (60.0, 10_001, "logs")


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["--operators", "ops", "--logs", "mine"], {"operators": None, "logs": "/nodes"}, ["operators", "logs"]),
        (["--operators", "ops"], {"operators": "/ops", "logs": "/nodes"}, ["operators"]),
        (["--operators", "ops", "--logs", "mine"], {"operators": "{here}/ops", "logs": "{here}/mine"}, []),
        ([], {"operators": "/ops", "logs": "/nodes"}, []),
        ([], {}, []),
    ],
)
def test_options_without_effect(words: list[str], status: dict[str, Any], said: list[str], tmp_path: Path) -> None:
    """A PCS that was there before has operators and logs of its own: what was wanted here and differs is said."""
    (tmp_path / "ops").mkdir()
    session = make(*words).session
    wire = Wire()
    session.console.protocol.makeConnection(wire)
    has = {name: value.format(here=tmp_path) if value else value for name, value in status.items()}
    session.local_pcs.found(Address("localhost", 10_000), has)
    lines = wire.value().decode().splitlines()
    assert [line.partition(" has no effect: the PCS at localhost:10000 has ")[0] for line in lines] == [
        f"note: --{option}" for option in said
    ]
    wanted = {"operators": has.get("operators"), "logs": has.get("logs")}
    for option, line in zip(said, lines, strict=True):
        own = wanted[option]
        assert line.endswith(f" has its own, {own}" if own else " has the workers' default")


def test_log_goes_to_a_file(tmp_path: Path) -> None:
    """The application's log is written to the logs folder, unless twistd is told otherwise; the console is separate."""
    service = make()
    application: Any = Application("test")
    service.setServiceParent(application)
    observer = application.getComponent(ILogObserver)
    observer({"log_format": "something happened", "log_time": 0, "log_level": None, "log_namespace": "x"})
    assert "something happened" in (tmp_path / "logs" / "puppetmaster.log").read_text()
    assert isinstance(service.session.console.protocol, ScriptConsole) or os.isatty(0)

    options = parsed()
    options.parent = cast(Any, {"nodaemon": 1, "logfile": "-"})
    told: Any = Application("test")
    makeService(options, the_reactor()).setServiceParent(told)
    assert told.getComponent(ILogObserver) is None


@pytest_twisted.ensureDeferred
async def test_debug_port_taken() -> None:
    """Where the debug port is taken there is another one, and it is said which; the second time it is the same."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said: list[str] = []
        ports = DebugPorts(the_reactor(), port, said.append)
        told = Address.parse(ports.url("127.0.0.1"))
        assert ports.url("localhost") == str(told)
    assert told.port != port
    assert said == [f"debug    localhost:{port} is taken: outputs are collected at {told}"]
    link = ReconnectingClient(the_reactor(), told.host, told.port)
    assert await link.ask(Ping(), 5.0) == Ok()
    await link.stop()
    await ports.close()


def test_debug_port_that_can_t_be() -> None:
    """A port that can't be opened for another reason is one line."""
    ports = DebugPorts(the_reactor(), 10_001, print)
    with pytest.raises(UserError) as caught:
        ports.url("192.0.2.1")
    assert str(caught.value) == ("cannot listen on 192.0.2.1:10001 for debug output: cannot assign requested address")


@pytest_twisted.ensureDeferred
async def test_debug_port_for_other_machines() -> None:
    """Workers report to the address of this machine that their PCS sees; each is listened on once."""
    session = make("--debug-port", str(free_port())).session
    hosts = ["127.0.0.1", "127.0.0.2", "localhost", "127.0.0.2"]
    told = [Address.parse(session.debug_ports.url(host)) for host in hosts]
    assert [address.host for address in told] == ["localhost", "127.0.0.2", "localhost", "127.0.0.2"]
    for address in set(told):
        link = ReconnectingClient(the_reactor(), address.host, address.port)
        assert await link.ask(Ping(), 5.0) == Ok()
        assert link.local_host
        await link.stop()
    await session.stop()
