"""The console as a person meets it: a puppetmaster in a pseudo-terminal, typed at."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.nodes import ROOT, TWISTD, free_port
from tests.support.terminals import Terminal

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

UP = "\x1b[A"
Start = Callable[..., Terminal]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a puppetmaster with ports, logs and history of the test's own."""
    made: list[Terminal] = []
    ports = ["--pcs", f"http://localhost:{free_port()}", "--debug-port", str(free_port())]
    folders = ["--files", str(ROOT / "pmscripts"), "--operators", str(ROOT / "operators"), "--logs", "logs"]
    arguments = [*TWISTD, "-n", "puppetmaster", *ports, *folders, "--history", "history"]

    def begin(columns: int, script: Path | None = None, **variables: str) -> Terminal:
        made.append(Terminal(arguments, tmp_path, script, columns, variables))
        return made[-1]

    yield begin
    for each in made:
        each.close()


def test_typing(start: Start, tmp_path: Path) -> None:
    """Prompt, completion, a mistyped command, help, Ctrl-C, Ctrl-D; the next run knows what was typed in this one."""
    typed = start(60)
    typed.until_last("dida>")
    typed.type("hlep\r")
    typed.until("unknown command 'hlep': did you mean help?")
    typed.type("list\t")
    typed.until("listServer  listGlobal")
    typed.until_last("dida> list")
    typed.type("G\t\r")
    typed.until("missing storage node")
    typed.type("client 13 thr\t")
    typed.until_last("dida> client 13 three_increments")
    typed.type("\x03")
    typed.until("client 13 three_increments ^C")
    typed.type("help client\r")
    typed.until("example:")
    typed.until_last("dida>")
    assert all(len(line) <= 60 for line in typed.screen.lines)
    typed.type("wait 60000\r")
    typed.until_last("dida>")
    typed.type("\x03")
    typed.until("wait 60000: dropped")
    typed.type("wai\x15\x04")
    typed.until("quit")
    assert typed.end() == 0
    assert typed.mode == typed.found
    assert (tmp_path / "history").read_text().splitlines() == ["hlep", "listGlobal", "help client", "wait 60000"]

    again = start(60, NO_COLOR="1")
    again.until_last("dida>")
    again.type(UP + UP)
    again.until_last("dida> help client")
    again.type("\x03\x03")
    again.until("press Ctrl-C again")
    assert "\x1b[1m" not in again.raw
    again.type("\x03")
    assert again.end() == -signal.SIGINT
    assert again.mode == again.found


def test_a_run_ends_while_a_line_is_being_typed(start: Start) -> None:
    """What is said meanwhile leaves the line and the cursor as they were; tables fit a window of 60 columns."""
    typed = start(60)
    typed.until_last("dida>")
    storage, worker, scheduler = (free_port() for _ in range(3))
    typed.type(
        f"storage s1 localhost:{storage} 0\rworker w1 localhost:{worker} 0\rscheduler sc localhost:{scheduler}\r"
    )
    typed.type("populate four_records\rclient 13 three_increments\r")
    typed.type("client 12345\x1b[D\x1b[D")
    typed.until("-> 4")
    typed.until_last("dida> client 12345")
    assert typed.screen.column == len("dida> client 123")
    assert any(line.startswith("run ") and "-> 4" in line for line in typed.screen.lines)
    typed.type("x\x15\x0blistS\ts\t\r")
    typed.until("records on s1")
    typed.until("13   4.1 *")
    typed.type("status\rruns\r")
    typed.until("IncrementOp")
    typed.until_last("dida>")
    assert all(len(line) <= 60 for line in typed.screen.lines)
    assert "  node  role       port   state  view  sees  lag" in typed.screen.lines
    typed.resize(80)
    typed.type("help\r")
    typed.until("start a worker; the delay is in milliseconds")
    typed.type("crash \t")
    typed.until("s1  sc  w1")
    typed.process.send_signal(signal.SIGTERM)
    typed.until("stopped  3 nodes")
    assert typed.end() == -signal.SIGTERM
    assert typed.mode == typed.found


def test_a_script_on_a_terminal(start: Start, tmp_path: Path) -> None:
    """The last line shows what is being waited for, as long as it is; in the end nothing of it is left."""
    script = tmp_path / "script"
    script.write_text(f"storage s1 localhost:{free_port()} 0\nwait 600\nlistServer s1\n")
    played = start(200, script)
    played.until("starting s1")
    played.until("waiting for s1")
    played.until("wait, 0.")
    assert played.end() == 0
    first = [line.split()[0] for line in played.screen.lines if line]
    assert first == ["playing", "starting", "pcs", "ready", "records", "none", "played", "stopped"]
