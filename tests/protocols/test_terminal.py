"""The console on a terminal in raw mode: keys in, a screen out."""

from __future__ import annotations

import re

import pytest

from dida.console.editing import MAX_TYPED, EditedLine
from dida.console.style import Page, Style
from dida.protocols.stdio import ConsoleListener
from dida.protocols.terminal import EditedConsole
from tests.support.desk import Wire
from tests.support.screens import Screen

UP, DOWN, RIGHT, LEFT, HOME, END = (f"\x1b[{letter}" for letter in "ABCDHF")


class Typist(ConsoleListener):
    """A console, who types at it, and the screen they look at."""

    def __init__(self, columns: int = 60, history: tuple[str, ...] = ()) -> None:
        self.taken: list[str] = []
        self.events: list[str] = []
        self.page = Page(columns)
        self.known = {"ID": ["s1", "s2"]}
        self.console = EditedConsole(self.page, EditedLine(list(history)), self)
        self.wire = Wire()
        self.screen = Screen(columns)
        self.console.makeConnection(self.wire)
        self.console.prompt()
        self.type("")

    def line_typed(self, text: str) -> None:
        self.taken.append(text)

    def input_ended(self) -> None:
        self.events.append("end")

    def interrupted(self) -> None:
        self.events.append("interrupt")

    def suspended(self) -> None:
        self.events.append("suspend")

    def words_at(self, command: str, place: str, last: str) -> list[str]:
        return self.known.get(place, [])

    def type(self, text: str, at_once: bool = False) -> None:
        """Key by key, an escape sequence being one key; or all at once, as it is pasted."""
        if at_once:
            self.console.dataReceived(text.encode())
        else:
            for key in re.findall(r"\x1b\[[\d;]*[A-Za-z~]|.", text, re.DOTALL):
                self.console.dataReceived(key.encode())
        self.look()

    def say(self, text: str) -> None:
        self.console.say(text)
        self.look()

    def look(self) -> None:
        self.screen.put(self.wire.value())
        self.wire.clear()


@pytest.fixture
def typist() -> Typist:
    return Typist()


def test_a_line(typist: Typist) -> None:
    """What is typed is shown behind the prompt, and handed over at Enter; then there is a new prompt."""
    assert typist.screen.lines == ["dida>"]
    typist.type("status\r")
    assert typist.taken == ["status"]
    assert typist.screen.lines == ["dida> status", "dida>"]
    assert typist.screen.column == len("dida> ")


def test_editing(typist: Typist) -> None:
    """The cursor is where the next character goes."""
    typist.type(f"cliet 1{LEFT}{LEFT}{LEFT}n{HOME}x\x04\x7f")
    assert typist.screen.last == "dida> lient 1"
    assert typist.screen.column == len("dida> ")
    typist.type(f"c{END}3\r")
    assert typist.taken == ["client 13"]


def test_what_is_said_meanwhile(typist: Typist) -> None:
    """What is said while a line is being typed stands above it; line and cursor are as they were."""
    typist.type(f"client 13{LEFT}")
    column = typist.screen.column
    typist.say("run      r1  done")
    assert typist.screen.lines == ["run      r1  done", "dida> client 13"]
    assert typist.screen.column == column
    typist.type("2\r")
    assert typist.taken == ["client 123"]


@pytest.mark.parametrize("columns", [20, 60, 80])
def test_a_long_line(columns: int) -> None:
    """A line that is wider than the terminal takes one row, so that what is said stands above it all the same."""
    typist = Typist(columns)
    text = "populate " + "".join(f"{number:03}" for number in range(60))
    typist.type(text)
    assert len(typist.screen.lines) == 1
    assert typist.screen.last.endswith("059")
    typist.say("ready    s1")
    assert typist.screen.lines[0] == "ready    s1"
    assert len(typist.screen.lines) == 2
    typist.type("\x01")
    assert typist.screen.last.startswith("dida> populate ")
    typist.type("\r")
    assert typist.taken == [text]
    assert "".join(typist.screen.lines[1:-1]).endswith(text)


def test_history() -> None:
    """Up goes back through the lines of this run and those before it; Ctrl-R searches them."""
    typist = Typist(history=("wait 1", "crash s1"))
    typist.type("status\r")
    typist.type(UP + UP)
    assert typist.screen.last == "dida> crash s1"
    typist.type(DOWN + DOWN)
    assert typist.screen.last == "dida>"
    typist.type("\x12wa")
    assert typist.screen.last == "search 'wa': wait 1"
    typist.type(f"{END}0\r")
    assert typist.taken == ["status", "wait 10"]
    typist.type("\x12cra\x07")
    assert typist.screen.last == "dida>"


def test_completion_of_words_with_blanks(typist: Typist) -> None:
    """A name with blanks becomes a JSON string, whether or not a quote was typed; what was typed is never lost."""
    typist.known = {"APP_FILE": ["my app", "mine"]}
    typist.type('client "hello world" m\t')
    assert typist.screen.last == 'dida> client "hello world" "m'
    typist.type("\t")
    assert typist.screen.lines[-2:] == ['"mine"    "my app"', 'dida> client "hello world" "m']
    typist.type("y\t\r")
    assert typist.taken == ['client "hello world" "my app" ']
    typist.type("client 13 my\t\r")
    assert typist.taken[1:] == ['client 13 "my app" ']
    typist.type('client "13" "mi\tx\t\r')
    assert typist.taken[2:] == ['client "13" "mine" x']


def test_completion(typist: Typist) -> None:
    """Tab puts what is certain; what is not is listed above the line."""
    typist.type("cr\t")
    assert typist.screen.last == "dida> crash"
    typist.type("\t")
    assert typist.screen.last == "dida> crash s"
    typist.type("\t")
    assert typist.screen.lines == ["dida> crash s", "s1  s2", "dida> crash s"]
    typist.type("2\t\r")
    assert typist.taken == ["crash s2 "]
    typist.type("nothing\t")
    assert typist.screen.last == "dida> nothing"


def test_completion_within_a_line(typist: Typist) -> None:
    """The word at the cursor is completed; what stands behind it stays."""
    typist.type(f"wai 5{LEFT}{LEFT}\t")
    assert typist.screen.last == "dida> wait 5"
    assert typist.screen.column == len("dida> wait")


def test_pasted(typist: Typist) -> None:
    """Several lines at once are so many commands, in any form of line end; a tab that was pasted is a blank."""
    typist.type("\x1b[200~storage\ts1 localhost:1 0\r\nstatus\nwait 1\rcra\x1b[201~", at_once=True)
    assert typist.taken == ["storage s1 localhost:1 0", "status", "wait 1"]
    assert typist.screen.lines[-2:] == ["dida> wait 1", "dida> cra"]
    typist.type("\ts\t1\t\r", at_once=True)
    assert typist.taken[3:] == ["crash s1 "]


def test_ctrl_c(typist: Typist) -> None:
    """Ctrl-C drops the line, which stays to be seen; with nothing typed it is told."""
    typist.type("client 13\x03")
    assert typist.screen.lines == ["dida> client 13^C", "dida>"]
    assert typist.events == []
    typist.type("\x03")
    assert typist.events == ["interrupt"]
    assert typist.taken == []


def test_ctrl_d(typist: Typist) -> None:
    """Ctrl-D on an empty line ends, within a line it deletes; afterwards nothing is typed any more."""
    typist.type("ab\x01\x04")
    assert typist.screen.last == "dida> b"
    typist.type("\x04\x04")
    assert typist.events == ["end"]
    assert typist.screen.lines == ["dida> quit", ""]
    typist.type("more\r")
    typist.say("stopped")
    assert typist.screen.lines == ["dida> quit", "stopped", ""]


def test_ctrl_z_and_l(typist: Typist) -> None:
    """Ctrl-Z is told; Ctrl-L leaves the line alone on the screen."""
    typist.type("wait\x1a")
    assert typist.events == ["suspend"]
    typist.say("something")
    typist.type("\x0c")
    assert typist.screen.lines == ["dida> wait"]


def test_progress(typist: Typist) -> None:
    """How far something is stands where the prompt does, below what is said, as long as nothing is typed."""
    typist.console.progress("map  [##  ] 2/4")
    typist.say("something")
    assert typist.screen.lines == ["something", "map  [##  ] 2/4"]
    typist.type("st")
    assert typist.screen.last == "dida> st"
    typist.console.progress("map  [### ] 3/4")
    typist.type("\x15")
    assert typist.screen.last == "map  [### ] 3/4"
    typist.console.progress("")
    typist.look()
    assert typist.screen.last == "dida>"


def test_rest(typist: Typist) -> None:
    """At the end the prompt is taken away; what is said then stands alone. A closed input ends, too."""
    typist.type("wai")
    typist.console.rest()
    typist.say("stopped  1 node")
    assert typist.screen.lines == ["stopped  1 node", ""]
    typist.console.readConnectionLost()
    assert typist.events == ["end"]


def test_any_text() -> None:
    """UTF-8 that comes in pieces is whole; unknown keys do nothing, and none is waited for without a bound."""
    typist = Typist()
    for byte in "é✓日".encode():
        typist.console.dataReceived(bytes([byte]))
    typist.type("\x1b[15~\x1b[200~\x1bOP\x1bq\x1b[Z")
    typist.type("\x1b[" + "1" * 500, at_once=True)
    typist.type("a\r")
    assert typist.taken[0].startswith("é✓日")
    assert typist.taken[0].endswith("a")


def test_overlong() -> None:
    """A line that is too long is dropped, and that is said."""
    typist = Typist()
    typist.type("x" * (MAX_TYPED + 1) + "\r", at_once=True)
    assert typist.taken == []
    assert "that line was longer than 10000 characters" in " ".join(typist.screen.lines)


def test_colours() -> None:
    """The prompt is painted where there are colours, and nowhere else."""
    typist = Typist()
    typist.page.paint = Style(True)
    typist.console.draw()
    assert b"\x1b[1mdida> \x1b[0m" in typist.wire.value()
    typist.wire.clear()
    typist.page.paint = Style(False)
    typist.console.draw()
    assert b"m" not in typist.wire.value()
