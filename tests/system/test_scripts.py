"""The puppetmaster as its user runs it: a process that plays a script, or is typed at in a terminal."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.netcat import Netcat
from tests.support.nodes import ROOT, TWISTD, environment, free_port, until
from tests.support.terminals import Terminal

pytestmark = [pytest.mark.long, pytest.mark.system, pytest.mark.timeout(180)]

SCRIPTS = ROOT / "pmscripts"
TIMEOUT = 150.0
"""Seconds for a whole script, on a machine that is busy with other things."""
STORAGE = "storage s1 localhost:5001 10\n"
ONE_OF_EACH = STORAGE + "worker w1 localhost:4001 0\nscheduler sc localhost:2000\n"


class Console:
    """A puppetmaster process, with a PCS port and a debug port of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pcs = free_port()
        self.debug = free_port()
        self.ports: dict[str, int] = {}
        self.process: subprocess.Popen[bytes] | None = None
        self.script_file = folder / "script"
        self.output_file = folder / "console.output"

    def text(self, script: str) -> str:
        """The script with a free port for each of its ports."""
        for port in re.findall(r"localhost:(\d+)", script):
            self.ports.setdefault(port, free_port())
        return re.sub(r"localhost:(\d+)", lambda found: f"localhost:{self.ports[found[1]]}", script)

    def arguments(self, *options: str) -> list[str]:
        ports = ["--pcs", f"http://localhost:{self.pcs}", "--debug-port", str(self.debug)]
        folders = ["--files", str(SCRIPTS), "--operators", str(ROOT / "operators"), "--logs", str(self.folder / "logs")]
        folders += ["--history", str(self.folder / "history")]
        return [*TWISTD, "-n", "puppetmaster", *ports, *folders, *options]

    def start(self, script: str, *options: str) -> subprocess.Popen[bytes]:
        """Play a script from a file."""
        path = self.script_file
        path.write_text(self.text(script))
        with path.open("rb") as source, self.output_file.open("wb") as output:
            self.process = subprocess.Popen(
                self.arguments(*options),
                cwd=self.folder,
                env=environment(),
                stdin=source,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self.process

    def play(self, script: str, *options: str) -> tuple[int, list[str]]:
        """Exit status, and the lines that were printed."""
        status = self.start(script, *options).wait(TIMEOUT)
        return status, self.output

    @property
    def output(self) -> list[str]:
        return self.output_file.read_text().splitlines()

    def nobody_listens(self) -> bool:
        """Whether all nodes and the PCS are gone."""
        return not any(_listens(port) for port in (self.pcs, *self.ports.values()))

    def end(self) -> None:
        """Whatever the test left running."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(20)
        if _listens(self.pcs):
            with Netcat(self.pcs) as pcs:
                pcs.ask("stop")
                pcs.send("crash")


def _listens(port: int) -> bool:
    try:
        Netcat(port, timeout=1).close()
    except OSError:
        return False
    return True


@pytest.fixture
def console(tmp_path: Path) -> Iterator[Console]:
    made = Console(tmp_path)
    yield made
    made.end()


def runs(lines: list[str]) -> list[list[str]]:
    """Input, application, output and workers of each run, in the order in which they ended."""
    return [[*line.split()[2:4], line.split()[5], *line.split()[6:-2]] for line in lines if line.startswith("run ")]


def records(lines: list[str]) -> dict[str, str]:
    """The newest value of each key in the last table, all of which must be on all nodes."""
    start = max(number for number, line in enumerate(lines) if line.startswith("records on"))
    newest: dict[str, str] = {}
    for line in lines[start + 2 :]:
        if not line.startswith("  "):
            break
        words = line.split()
        assert "all" in words, f"not on all nodes: {line}"
        if not line.startswith("    "):
            newest[words[0]] = words[-1]
    return newest


FAILED = "int_conversion_failed"
ADDED = {"13": FAILED, "14": "one_ahead_of_13", "23": FAILED, "24": "one_ahead_of_23"}


@pytest.mark.parametrize(
    ("script", "nodes", "outputs", "at_the_end"),
    [
        ("baseline", 7, {"23": [FAILED], "13": [FAILED, FAILED]}, ADDED),
        ("baseline_1", 4, {"23": [FAILED], "13": [FAILED, FAILED]}, ADDED),
        ("worst_case", 7, {"13": [FAILED]}, ADDED | {"23": "11"}),
        ("best_case", 7, {"23": ["14"], "13": ["4", "7"]}, ADDED | {"23": "14", "13": "7"}),
    ],
)
def test_experiments(
    console: Console, script: str, nodes: int, outputs: dict[str, list[str]], at_the_end: dict[str, str]
) -> None:
    """Each script ends as its comment says: all runs done, by both workers, the same records everywhere, nothing
    left running."""
    status, lines = console.play((SCRIPTS / script).read_text())
    assert status == 0, "\n".join(lines)
    found: dict[str, list[str]] = {}
    took_part: set[str] = set()
    for input, _, output, *workers in runs(lines):
        found.setdefault(input, []).append(output)
        took_part.update(workers)
        assert len(workers) == 3
    assert took_part == {"w1", "w2"}
    assert found == outputs
    assert records(lines) == at_the_end
    assert lines[-1] == f"stopped  {nodes} nodes"
    assert lines[-2].endswith("none failed")
    assert console.nobody_listens()
    assert not [line for line in lines if len(line) > 80 and not line.startswith("playing")]


@pytest.mark.parametrize("moment", [0, 100, 300, 900])
def test_worst_case_crash(console: Console, moment: int) -> None:
    """Whenever the coordinating storage node is killed, the run ends as without the crash: what was lost is redone."""
    script = (SCRIPTS / "worst_case_crash").read_text()
    status, lines = console.play(script.replace("crash s4", f"wait {moment}\ncrash s4"))
    assert status == 0, "\n".join(lines)
    assert [[input, output] for input, _, output, *_ in runs(lines)] == [["13", FAILED]]
    assert records(lines) == ADDED | {"23": "11"}
    assert [line.split()[:2] for line in lines if line.startswith("crashed")] == [["crashed", "s4"]]
    assert lines[-1] == "stopped  6 nodes"
    assert console.nobody_listens()


def test_failing_lines(console: Console) -> None:
    """Every line that fails is named with the reason, the others are played, and the exit status is 1."""
    script = (
        "\ufeff" + ONE_OF_EACH.replace("\n", "\r\n") + "frobnicate\r\nclient 1 nofile\r\npopulate four_records\r\n"
        "worker w2 localhost:5001 0\r\nclient 99 add_update_add\r\nclient\t13   three_increments # fine"
    )
    status, lines = console.play(script)
    failed = sorted(line for line in lines if line.startswith("script line"))
    assert status == 1
    assert failed[0] == "script line 4: frobnicate: unknown command 'frobnicate': help lists the commands"
    assert failed[1].startswith(
        "script line 5: client 1 nofile: cannot find file 'nofile' in the current folder or below"
    )
    assert failed[2].endswith(f"already in use: localhost:{console.ports['5001']}, by s1: choose another port")
    assert re.fullmatch(
        r"script line 8: client 99 add_update_add: run \S+ failed: AddOperator at position 0 on w1 failed: "
        r"no-such-record: 99",
        failed[3],
    )
    assert runs(lines) == [["13", "three_increments", "4", "w1", "w1", "w1"]]
    assert lines[-2] == "played   9 commands, 2 runs: 1 done; failed: lines 4, 5, 7, 8"
    assert "Traceback" not in "\n".join(lines)


def test_port_taken(console: Console) -> None:
    """A node whose port is taken says so on its line; what needs it fails, too; nothing hangs."""
    script = STORAGE + "populate four_records\n"
    console.text(script)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", console.ports["5001"]))
        taken.listen()
        status, lines = console.play(script)
    assert status == 1
    failed = [line for line in lines if line.startswith("script line")]
    assert "ended before it was ready (exit status 1): twistd dida-storage: cannot listen on" in failed[0]
    assert "address already in use: choose another port" in failed[0]
    assert failed[1].startswith("script line 2: populate four_records: missing storage node: s1 ended")


def test_debug(console: Console) -> None:
    """debug shows what every worker outputs, with the meta record."""
    status, lines = console.play(ONE_OF_EACH + "populate four_records\ndebug\nclient 13 three_increments\nwait 300\n")
    assert status == 0, "\n".join(lines)
    shown = [line.split()[2:] for line in lines if line.startswith("debug    r")]
    assert shown == [
        ["IncrementOperator", "at", str(position), "on", "w1", "->", str(position + 2)] for position in range(3)
    ]
    assert sum("read or wrote 13 " in line for line in lines) == 3


def test_signals(console: Console) -> None:
    """SIGTERM ends the puppetmaster and all that it has started, and the summary counts the run that was going on."""
    (console.folder / "wait").write_text("operator WaitOperator 0\n")
    process = console.start(ONE_OF_EACH + "client 13 wait\nwait 60000\n")
    until("the nodes are ready", lambda: sum(line.startswith("ready") for line in console.output) == 3, 60)
    with Netcat(console.ports["2000"]) as scheduler:
        until("the run is going on", lambda: "going on" in scheduler.ask("runs"))
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == -signal.SIGTERM
    assert console.output[-3:] == [
        "script line 4: client 13 wait: cut off by the end of the puppetmaster",
        "played   5 commands, 1 run: 0 done; failed: line 4",
        "stopped  3 nodes",
    ]
    assert console.nobody_listens()


def test_killed(console: Console) -> None:
    """Killing the puppetmaster with SIGKILL leaves no node behind."""
    process = console.start(STORAGE + "wait 60000\n")
    until("the node is ready", lambda: any(line.startswith("ready") for line in console.output), 60)
    process.kill()
    process.wait(10)
    until("all are gone", console.nobody_listens, 10)


def test_keep(console: Console) -> None:
    """--keep leaves nodes and PCS running, and says how to end them; a second script can use the PCS."""
    status, lines = console.play(STORAGE + "populate four_records\n", "--keep")
    assert status == 0, "\n".join(lines)
    assert lines[-1].startswith("kept     1 node and the PCS; they end with it: kill ")
    with Netcat(console.ports["5001"]) as storage:
        assert storage.ask("read 13").startswith("ok 1 1.1 ")
    status, lines = console.play("worker w1 localhost:4001 0\nworker s1 localhost:4002 0\n")
    assert status == 1
    (failed,) = [line for line in lines if line.startswith("script line")]
    assert "s1 runs already, as storage at" in failed
    assert lines[-1] == "stopped  1 node"
    assert _listens(console.ports["5001"])
    with Netcat(console.pcs) as pcs:
        assert pcs.ask("stop") == "ok"
    assert not _listens(console.ports["5001"])


@pytest.fixture
def terminal(console: Console) -> Iterator[Callable[..., Terminal]]:
    made: list[Terminal] = []

    def start(*options: str, script: Path | None = None) -> Terminal:
        made.append(Terminal(console.arguments(*options), console.folder, script))
        return made[-1]

    yield start
    for each in made:
        each.close()


def test_typed_commands(console: Console, terminal: Callable[..., Terminal]) -> None:
    """On a terminal: a prompt, typed commands, a mistyped one, answers as they come, Ctrl-D to end; exit status 0."""
    typed = terminal()
    typed.until("dida> ")
    typed.type("hlep\n")
    typed.until("unknown command 'hlep': did you mean help?")
    typed.type("help\n")
    typed.until("client INPUT APP_FILE")
    typed.type(console.text(ONE_OF_EACH) + "populate four_records\nclient 13 three_increments\n")
    typed.until("13 three_increments -> 4")
    typed.type("status\n")
    typed.until("sees")
    typed.type("\x04")
    typed.until("stopped  3 nodes")
    assert typed.process.wait(20) == 0
    assert console.nobody_listens()


def test_interrupt(console: Console, terminal: Callable[..., Terminal]) -> None:
    """Ctrl-C twice ends the puppetmaster, and it ends its nodes."""
    typed = terminal()
    typed.until("dida> ")
    typed.type(console.text(STORAGE))
    typed.until("ready    s1")
    typed.type("\x03\x03")
    typed.until("stopped  1 node")
    assert typed.process.wait(20) == -signal.SIGINT
    assert console.nobody_listens()


def test_step(console: Console, terminal: Callable[..., Terminal]) -> None:
    """--step shows each command of a script and waits for Enter before it."""
    path = console.folder / "script"
    path.write_text(console.text(STORAGE + "populate four_records\n"))
    steps = terminal("--step", script=path)
    steps.until("next     script line 1: storage s1")
    steps.type("\n")
    steps.until("next     script line 2: populate")
    steps.until("ready    s1")
    assert "records written" not in steps.seen
    steps.type("\n")
    steps.until("4 records written")
    steps.until("stopped  1 node")
    assert steps.process.wait(20) == 0


def test_step_without_terminal(console: Console) -> None:
    """--step where no key can be pressed says so at once."""
    status, lines = console.play(STORAGE, "--step")
    assert status == 1
    assert lines == [
        "twistd puppetmaster: --step waits for a key at each command, and there is no terminal to press it on"
    ]
