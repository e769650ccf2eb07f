"""The worker's options and service."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from dida.services.node import Listening
from dida.services.worker import Options, makeService
from dida.worker.node import WorkerNode
from tests.support.fakes import the_reactor
from tests.support.netcat import ask
from tests.support.nodes import NodeProcess, free_port


def parsed(*words: str) -> Options:
    options = Options()
    options.parseOptions(list(words))
    return options


def test_options(tmp_path: Path) -> None:
    """Every option reaches the node, in the unit that it is given in."""
    url = f"http://127.0.0.1:{free_port()}"
    given = ["--gossip-delay", "250", "--operators", str(tmp_path), "--operator-timeout", "2.5", "--threads", "7"]
    at = ["--scheduler", "http://localhost:1", "--scheduler", "localhost:2"]
    options = parsed("--id", "w1", "--url", url, *given, *at, "--max-line", "2048", "--debug")
    service = makeService(options, the_reactor())
    node: Any = service.node
    assert (node.me.id, f"http://{node.me.address}") == ("w1", url)
    assert (node.gossip_delay, node.max_line, node.debug) == (0.25, 2048, True)
    assert (node.operators.timeout, node.operators.threads.size) == (2.5, 7)
    assert node.operators.folder.path == str(tmp_path)
    assert node.registration.states == dict.fromkeys(("localhost:1", "localhost:2"), "not reached")
    assert isinstance(node, WorkerNode)
    children: list[Any] = list(service)
    assert [type(child) for child in children] == [Listening]
    children[0]._socket.close()


def test_stock_operators_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without --operators the stock ones are used, wherever the worker is started."""
    monkeypatch.chdir(tmp_path)
    options = parsed("--id", "w1", "--url", "localhost:4001")
    assert (Path(options["operators"]) / "arithmetic.py").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "missing --id"),
        (("--id", "w1"), "missing --url"),
        (("--id", "w1", "--url", "nowhere"), "invalid URL 'nowhere'"),
        (("--id", "w1", "--url", "localhost:1", "--gossip-delay", "-5"), "invalid number '-5': expected milliseconds"),
        (("--id", "w1", "--url", "localhost:1", "--operator-timeout", "0"), "invalid number '0': expected seconds"),
        (("--id", "w1", "--url", "localhost:1", "--scheduler", "nowhere"), "--scheduler: invalid URL 'nowhere'"),
        (("--id", "w1", "--url", "localhost:1", "--threads", "many"), "invalid number 'many': expected threads"),
        (("--id", "w1", "--url", "localhost:1", "--operators", "/nowhere"), "--operators /nowhere: no such folder"),
        (("--id", "w1", "--url", "localhost:1", "--color", "red"), "option --color not recognized"),
    ],
)
def test_wrong_options(words: tuple[str, ...], message: str) -> None:
    """A wrong option ends the command in one line that names it."""
    with pytest.raises(SystemExit) as ended:
        parsed(*words)
    text = str(ended.value)
    assert text.startswith("twistd dida-worker: ")
    assert message in text
    assert "\n" not in text


@pytest_twisted.ensureDeferred
async def test_it_listens_while_it_runs(tmp_path: Path, port: int) -> None:
    """The service answers from its start, and its port is closed after its end."""
    options = parsed("--id", "w1", "--url", f"127.0.0.1:{port}", "--operators", str(tmp_path))
    service = makeService(options, the_reactor())
    service.startService()
    assert await deferToThread(ask, port, "ping") == "ok"
    await service.stopService()
    with pytest.raises(ConnectionRefusedError):
        await deferToThread(ask, port, "ping")


def test_a_drained_worker_ends_with_status_0(start_node: Callable[..., NodeProcess], port: int, tmp_path: Path) -> None:
    """`drain` is answered when nothing is in hand any more, and the process ends well."""
    worker = start_node("dida-worker", "--id", "w1", "--operators", str(tmp_path), port=port)
    assert worker.ask("drain") == "ok drained"
    assert worker.wait_end() == 0
    assert "Traceback" not in worker.output
