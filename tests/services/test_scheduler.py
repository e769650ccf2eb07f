"""The scheduler's options and service, and a chain through real processes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from dida.addresses import NodeAddress, StorageAddress
from dida.services.node import Listening
from dida.services.scheduler import Options, makeService
from tests.support.fakes import the_reactor
from tests.support.netcat import ask, object_of
from tests.support.nodes import NodeProcess, free_port

OPERATOR = """
class Shout:
    def configure_storage(self, storage):
        pass

    {prefix}def process_record(self, meta, input, previous_output):
        return (previous_output or input) + "!"
"""


def parsed(*words: str) -> Options:
    options = Options()
    options.parseOptions(list(words))
    return options


def test_options() -> None:
    """Every option reaches the node; --worker and --storage repeat."""
    options = parsed(
        *("--id", "sc1", "--url", f"http://127.0.0.1:{free_port()}", "--policy", "round-robin"),
        *("--worker", "w1=http://localhost:4001", "--worker", "2=localhost:4002"),
        *("--storage", "1=s1@http://localhost:5001", "--storage", "2=s2@localhost:5002"),
        *("--run-deadline", "5", "--keep-runs", "50", "--start-deadline", "1.5"),
    )
    service = makeService(options, the_reactor())
    node: Any = service.node
    assert node.runs.policy.name == "round-robin"
    assert (node.runs.deadline, node.runs.keep, node.workers.start_deadline) == (5.0, 50, 1.5)
    assert list(node.storage_client.replicas.living) == [
        StorageAddress.parse("1=s1@localhost:5001"),
        StorageAddress.parse("2=s2@localhost:5002"),
    ]
    assert options.workers == [NodeAddress.parse("w1=localhost:4001"), NodeAddress.parse("2=localhost:4002")]
    children: list[Any] = list(service)
    assert [type(child) for child in children] == [Listening]
    children[0]._socket.close()


def test_run_ids_differ_between_lives() -> None:
    """Two schedulers never give the same run id."""
    ids = set()
    for _ in range(2):
        service = makeService(parsed("--id", "sc1", "--url", f"127.0.0.1:{free_port()}"), the_reactor())
        node: Any = service.node
        node.runs.policy.on_worker("w")
        ids.add(node.runs.on_run("13", ["A"], {}, {"w": ("localhost", 1)}, 0.0).id)
        children: list[Any] = list(service)
        children[0]._socket.close()
    assert len(ids) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--policy", "random"), "--policy: invalid policy 'random': choose least-active, round-robin or affinity"),
        (("--worker", "w1"), "invalid node 'w1': write ID=URL"),
        (("--worker", "w1=nowhere"), "invalid URL 'nowhere'"),
        (("--worker", "w1=localhost:1", "--worker", "w1=localhost:2"), "w1=localhost:1 has that id or URL already"),
        (("--worker", "w1=localhost:1", "--worker", "w2=localhost:1"), "w1=localhost:1 has that id or URL already"),
        (("--storage", "s1@localhost:5001"), "invalid storage node 's1@localhost:5001': write R=ID@URL"),
        (
            ("--storage", "1=s1@localhost:1", "--storage", "1=s2@localhost:2"),
            "--storage names one replica number twice",
        ),
        (("--storage", "1=s1@localhost:1", "--storage", "2=s1@localhost:2"), "--storage names one id twice"),
        (("--storage", "1=s1@localhost:1", "--storage", "2=s2@localhost:1"), "--storage names one URL twice"),
        (("--keep-runs", "0"), "invalid number '0': expected runs"),
    ],
)
def test_wrong_options(words: tuple[str, ...], message: str) -> None:
    """A wrong option ends the command in one line that names it."""
    with pytest.raises(SystemExit) as ended:
        parsed("--id", "sc1", "--url", "localhost:2000", *words)
    text = str(ended.value)
    assert text.startswith("twistd dida-scheduler: ")
    assert message in text
    assert "\n" not in text


@pytest_twisted.ensureDeferred
async def test_it_listens_while_it_runs(port: int) -> None:
    """The service answers from its start, and its port is closed after its end."""
    options = parsed("--id", "sc1", "--url", f"127.0.0.1:{port}", "--worker", f"w1=127.0.0.1:{free_port()}")
    service = makeService(options, the_reactor())
    service.startService()
    assert await deferToThread(ask, port, "ping") == "ok"
    await service.stopService()
    with pytest.raises(ConnectionRefusedError):
        await deferToThread(ask, port, "ping")


def test_a_chain_through_processes(start_node: Callable[..., NodeProcess], tmp_path: Path) -> None:
    """A scheduler and two workers, started by their command lines in any order, run a chain typed by hand."""
    operators = tmp_path / "operators"
    operators.mkdir()
    (operators / "shout.py").write_text(OPERATOR.format(prefix=""))
    ports = [free_port() for _ in range(3)]
    workers = [f"--worker=w{number}=http://127.0.0.1:{port}" for number, port in enumerate(ports[1:], 1)]
    scheduler = start_node("dida-scheduler", "--id", "sc1", *workers, port=ports[0], ready=False)
    for number, port in enumerate(ports[1:], 1):
        start_node("dida-worker", "--id", f"w{number}", "--operators", "operators", port=port, ready=False)
    scheduler.wait_ready()
    with scheduler.connect() as client:
        run = client.ask("run hello Shout Shout Shout").split()[1]
        result = client.ask(f"result {run}")
        assert result.startswith("ok done hello!!! {")
        assert [step["worker"] for step in object_of(result)["steps"]] == ["w1", "w2", "w1"]
        (operators / "shout.py").write_text(OPERATOR.format(prefix="async ").replace("!", "?"))
        run = client.ask("run hello Shout").split()[1]
        assert client.ask(f"result {run}").startswith("ok done hello? {")
        assert client.ask("run hello Shout Shuot") == 'error no-such-operator Shuot "did you mean Shout?"'
        assert client.ask("result r9").startswith("error no-such-run r9")
    assert "Traceback" not in scheduler.output
