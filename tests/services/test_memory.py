"""How much memory a storage node may take: what an option says, what the machine has, and the shares of several."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from dida.errors import UserError
from dida.pcs.messages import Start
from dida.pcs.table import Processes
from dida.services import memory, storage
from dida.services.memory import BUFFERS, MIB, half_of_memory, limits, memory_size, own_memory
from tests.support.fakes import the_reactor
from tests.support.nodes import NodeProcess, free_port


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1073741824", 2**30),
        ("1024M", 2**30),
        ("1G", 2**30),
        ("1g", 2**30),
        ("1GiB", 2**30),
        ("1GB", 2**30),
        ("1.5G", 3 * 2**29),
        ("64k", 2**16),
        (" 2T ", 2**41),
        ("100b", 100),
    ],
)
def test_sizes(text: str, size: int) -> None:
    """Bytes, or as people say them, by 1024."""
    assert memory_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "-1", "half", "1X", "1 2", "M", "1e9", "0.1", "9999T", "1" * 400])
def test_what_is_no_size(text: str) -> None:
    """One line with what may stand there; with the option's name in front when a node is started so."""
    with pytest.raises(UserError, match=": write bytes, or a number with K, M, G or T behind it"):
        memory_size(text)
    with pytest.raises(SystemExit) as caught:
        storage.Options().parseOptions(["--id", "s", "--replica", "1", "--url", "localhost:1", f"--max-memory={text}"])
    assert str(caught.value.code).startswith("twistd dida-storage: --max-memory: ")


def test_half_of_the_machine_or_of_the_control_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The least of what the machine has and of the limits of all groups that the process is in, of both versions."""
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (tmp_path / "memory" / "c").mkdir(parents=True)
    (inner / "memory.max").write_text("max\n")
    (tmp_path / "a" / "memory.max").write_text("5000\n")
    (tmp_path / "memory" / "c" / "memory.limit_in_bytes").write_text("7000\n")
    (tmp_path / "cgroup").write_text("3:cpu,cpuacct:/x\n2:memory:/c\n0::/a/b\n")
    assert sorted(limits(str(tmp_path), str(tmp_path / "cgroup"))) == [5000, 7000]
    assert list(limits(str(tmp_path), str(tmp_path / "nothing"))) == []
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < half_of_memory() <= machine // 2
    monkeypatch.setattr(memory, "limits", lambda: iter([5000]))
    assert half_of_memory() == 2500


def test_what_a_node_takes_by_itself() -> None:
    """What the process has now, and room for what is under way; a small limit leaves a quarter for records."""
    assert own_memory(2**40) > BUFFERS + 10 * MIB
    assert own_memory(4000) == 3000


def test_the_storage_nodes_of_one_machine_share(tmp_path: Path) -> None:
    """Those that run there, and those on its host that a new one names, get as much each; others don't count."""
    table = Processes(the_reactor(), str(tmp_path), 10, False)
    table.max_memory = 1200
    members = ["1=s1@localhost:1", "2=s2@localhost:2", "3=s3@elsewhere:3"]

    def share(id: str, *named: str) -> int:
        return table._share(Start("storage", id, "localhost:9", storage=list(named)))

    assert (share("s1", *members), share("s2", *members), share("s9"), share("s9", *members)) == (600, 600, 1200, 400)


@pytest.mark.system
@pytest.mark.timeout(120)
def test_a_node_stays_within_its_limit(tmp_path: Path) -> None:
    """Under a load of growing writes it refuses them before it takes more than it may, and goes on serving."""
    port = free_port()
    most = 100 * MIB
    options = ("--id", "s1", "--replica", "1", "--url", f"http://127.0.0.1:{port}", "--max-memory", "100M")
    node = NodeProcess("dida-storage", *options, folder=tmp_path, port=port).wait_ready()
    try:
        value = "x" * 5000
        refused = 0
        with socket.create_connection(("127.0.0.1", port), 30) as connection, connection.makefile("rb") as answers:
            for batch in range(0, 30_000, 500):
                lines = [f"#{n} write key{n} {value}\n" for n in range(batch, batch + 500)]
                connection.sendall("".join(lines).encode())
                heard = [answers.readline() for _ in lines]
                refused += sum(b" error storage-full " in line for line in heard)
                assert all(b" ok " in line or b" error storage-full " in line for line in heard)
                if refused > 1000:
                    break
            assert refused > 1000
        resident = int(Path(f"/proc/{node.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        assert 0.7 * most < resident <= most
        assert node.ask("read key7").startswith(f"ok {value} 1.1 ")
        long = "x" * 900_000  # the log may have been cut since: there is room for a few of these at most
        assert any(node.ask(f"write long{n} {long}").startswith("error storage-full ") for n in range(10))
        status = node.status()
        assert status["nearly_full"] is True
        assert abs(status["memory"] - resident) < 0.15 * most
        assert "memory: " in node.output
        assert json.dumps(status["notes"]).count("storage-full") == 1
    finally:
        node.end()
