"""The documents say what the code does: tables are made from it, examples are run, links lead somewhere.

`python -m tools.doc_tables` writes the tables anew. An example is a block of a document: a file (a block behind its
name), shell commands (`$ …`), a session (`$ nc HOST PORT`, then what is typed behind `> `) or a Python script. Its
ports are replaced by free ones. Replies are compared without what changes from run to run; `…` stands for anything.
"""

from __future__ import annotations

import ast
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve, field, frozen

import dida.errors
from dida.console.commands import COMMANDS as CONSOLE_COMMANDS
from dida.placement import Ring
from dida.replication.outputs import CHANGING, OTHER_VIEW
from tests.support.netcat import Netcat
from tests.support.nodes import ROOT, environment, free_port, until
from tools.doc_tables import (
    _TABLE,
    ARCHITECTURE,
    COMMANDS,
    DOCS,
    DOCUMENTS,
    ERRORS,
    NODES,
    OPTIONS,
    PROTOCOL,
    PYTHON,
    README,
    RELIABILITY,
    SHAPES,
    STATUS,
    TELNET,
    cells,
    with_tables,
)

# --- what the tables of docs/reference/protocol.md are made from --------------------------------------------


def test_the_states_in_reliability_md_are_those_of_the_code() -> None:
    """The table of a transaction's states is drawn from the transitions that the code asserts."""
    text = RELIABILITY.read_text()
    assert with_tables(text) == text, "run: python -m tools.doc_tables"
    assert [match[2] for match in _TABLE.finditer(text)] == ["transitions"]


# --- tables and links -------------------------------------------------------------------------------


def test_the_verbs_in_protocol_md_are_those_of_the_code() -> None:
    """Every verb of every node is in docs/reference/protocol.md, with its words, members, types and defaults."""
    text = PROTOCOL.read_text()
    assert with_tables(text) == text, "run: python -m tools.doc_tables"
    tables = {(match[2], match[3]) for match in _TABLE.finditer(text)}
    assert tables == {
        ("types", ""),
        *(("verbs", n) for n in ("every node", *NODES, "peers")),
        *(("shapes", n) for n in SHAPES),
    }


def test_the_options_are_those_of_the_code() -> None:
    """Every option of every command is in docs/reference/options.md, with its meaning and its default."""
    text = OPTIONS.read_text()
    assert with_tables(text) == text, "run: python -m tools.doc_tables"
    assert {match[3] for match in _TABLE.finditer(text)} == {"every node", *COMMANDS}


def test_the_interfaces_are_those_of_the_code() -> None:
    """Every call of the two interfaces of operators is in docs/reference/python.md."""
    text = PYTHON.read_text()
    assert with_tables(text) == text, "run: python -m tools.doc_tables"
    assert {match[3] for match in _TABLE.finditer(text)} == {"IOperator", "IStorage"}


def test_every_command_of_the_console_is_explained() -> None:
    """The table of commands has each command in the form that its help shows, and no other."""
    text = CONSOLE.read_text().partition("## Commands")[2].partition("\n## ")[0]
    listed = [cells(line)[0].strip("`") for line in text.splitlines() if line.startswith("| `")]
    assert sorted(listed) == sorted(kind.usage for kind in CONSOLE_COMMANDS)


def test_every_verb_has_a_reply() -> None:
    """Of every verb the document says what it is answered."""
    for match in _TABLE.finditer(PROTOCOL.read_text()):
        if match[2] == "verbs":
            for line in match[4].splitlines()[2:]:
                assert cells(line)[-1], f"no reply: {line}"


def test_every_error_code_is_explained() -> None:
    """The table of errors has the codes of dida.errors, and those between storage nodes, and no others."""
    listed = {cells(line)[0].strip("`") for line in ERRORS.read_text().splitlines() if line.startswith("| `")}
    codes = {v for n, v in vars(dida.errors).items() if n.isupper() and isinstance(v, str)}
    assert listed == codes | {OTHER_VIEW, CHANGING}


def test_every_module_is_in_architecture_md() -> None:
    """The table of modules names every module, and no other."""
    there = {str(path.relative_to(ROOT)) for path in ROOT.glob("dida/**/*.py") if path.name != "__init__.py"}
    there |= {"twisted/plugins/dida_plugins.py"}
    named = re.findall(r"^\| `([\w/]+\.py)` \|", ARCHITECTURE.read_text(), re.MULTILINE)
    assert sorted(named) == sorted(there)


def members_of_classes() -> dict[str, set[str]]:
    """What the classes of dida define themselves, by the name of the class."""
    own: dict[str, set[str]] = {}
    for path in ROOT.glob("dida/**/*.py"):
        for kind in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)):
            found = own.setdefault(kind.name, set())
            for node in kind.body:
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    found.add(node.name)
                elif isinstance(node, ast.Assign):
                    found.update(target.id for target in node.targets if isinstance(target, ast.Name))
                elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                    found.add(node.target.id)
    return own


@pytest.mark.parametrize("page", sorted((DOCS / "explanation").glob("*.md")), ids=lambda path: path.name)
def test_the_methods_that_pages_name_exist(page: Path) -> None:
    """Each `Class.method` of an explanation is one of the code."""
    there = members_of_classes()
    named = re.findall(r"`([A-Z]\w+)\.(\w+)`", page.read_text())
    assert [f"{kind}.{name}" for kind, name in named if name not in there.get(kind, ())] == []
    assert named or page != ARCHITECTURE


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda path: path.name)
def test_the_files_that_pages_name_exist(page: Path) -> None:
    """Each file and folder of the code, the tests and the tools that a page names is there."""
    named = re.findall(r"`((?:dida|tests|tools|benchmarks|pmscripts)/[\w/.]*)`", page.read_text())
    assert [path for path in named if not (ROOT / path).exists()] == []


def heading_anchors(text: str) -> set[str]:
    """The anchors that a document's headings have."""
    headings = re.findall(r"^#+ (.+)$", without_blocks(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def without_blocks(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    """Files and headings that a document links to are there."""
    for target in re.findall(r"\]\(([^)\s]+)\)", without_blocks(document.read_text())):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = document.parent / name if name else document
        assert path.exists(), f"{document.name} links to {target}"
        assert not anchor or anchor in heading_anchors(path.read_text()), f"{document.name} links to {target}"


CONSOLE = DOCS / "reference" / "console.md"
FIRST_RUN = DOCS / "tutorial" / "first-run.md"
FIRST_OPERATOR = DOCS / "tutorial" / "first-operator.md"
BY_HAND = DOCS / "howto" / "start-by-hand.md"
FROM_PYTHON = DOCS / "howto" / "use-from-python.md"

# --- examples -----------------------------------------------------------------------------------------

_BLOCK = re.compile(r"(?:^`([^`\n]+)`:?\n\n?)?^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_DYNAMIC = re.compile(r'\br\d+-[A-Za-z0-9]{6,}\b|\b\d+:[0-9a-z]{10,13}\b|\{(?:"\d+:[0-9a-z]{10,13}!?":\d+,?)*\}')
"""Runs, components, and timestamps."""
_PORTS = re.compile(r"""(localhost(?:[: ]|", ))(\d{4,5})\b""")


@frozen
class Block:
    """A block of a document; `name` is the file that it is said to be."""

    name: str
    language: str
    text: str


def blocks(document: Path, heading: str) -> list[Block]:
    """The blocks under a heading, up to the next heading of that depth."""
    depth = heading.split()[0]
    text = f"\n{document.read_text()}\n".partition(f"\n{heading}\n")[2]
    assert text, f"{document.name} has no heading {heading!r}"
    text = re.split(rf"^{depth} ", text, flags=re.MULTILINE)[0]
    return [Block(match[1] or "", match[2], match[3]) for match in _BLOCK.finditer(text)]


def plain(reply: str) -> str:
    """A reply without what differs from run to run."""
    reply = re.sub(r'"(ms|start|pid|number|view|log)":"?[\d.]+(@[^"]*")?', r'"\1":0', reply)
    reply = re.sub(r"\b\d+(?:\.\d+)? (ms|s)\b", r"0 \1", reply)
    reply = re.sub(r'(?<![\w"])(/[\w.\-]+)+/', "/", reply)
    reply = re.sub(r"^ok \d{3,}$", "ok PID", reply)
    reply = re.sub(r"\bw[12]\b", "w1", reply)
    return re.sub(r" +", " ", _DYNAMIC.sub("ID", reply)).rstrip()


def alike(expected: str, got: str) -> bool:
    """Whether a line is what the document says; `…` stands for anything."""
    pattern = (
        ".*".join(re.escape(plain(part)) for part in expected.split("…"))
        if "…" in expected
        else re.escape(plain(expected))
    )
    return re.fullmatch(pattern, plain(got)) is not None


@frozen
class Place:
    """Where examples are run: a folder, and free ports in place of those that the documents name."""

    folder: Path
    ports: dict[str, int] = field(factory=dict)
    ids: dict[str, str] = field(factory=dict)
    """Runs, components and timestamps of the documents to those of here."""

    def here(self, text: str) -> str:
        """The text with the ports of this place."""

        def port(match: re.Match[str]) -> str:
            return f"{match[1]}{self.ports.setdefault(match[2], free_port())}"

        return _PORTS.sub(port, text)

    def there(self, text: str) -> str:
        """The text with the ports of the documents."""
        for said, port in self.ports.items():
            text = re.sub(rf"\b{port}\b", said, text)
        return text

    def shell(self, script: str, seconds: float = 50.0) -> str:
        """What shell commands print; they must end well."""
        path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
        process = subprocess.Popen(
            ["bash", "-eu", "-c", self.here(script)],
            cwd=self.folder,
            env={**environment(), "PATH": path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        text = self.there(output.decode())
        assert process.returncode == 0, text
        return text

    def session(self, text: str) -> None:
        """Type what is behind `> `, and compare what comes."""
        first, *lines = text.splitlines()
        match = re.fullmatch(r"\$ (?:nc|telnet) localhost (\d+)", self.here(first))
        assert match is not None, first
        with connected(int(match[1])) as netcat:
            for line in lines:
                if line.startswith("> "):
                    typed = self.here(line.removeprefix("> ").replace("⌫", "\x7f"))
                    netcat.send(
                        _DYNAMIC.sub(
                            lambda found: self.ids.get(found[0], found[0]) if found[0] != "{}" else "{}", typed
                        )
                    )
                else:
                    got = self.there(netcat.line())
                    assert alike(line, got), f"the document says: {line}\nthe node says:     {got}"
                    if "…" not in line:
                        self.ids.update(zip(_DYNAMIC.findall(line), _DYNAMIC.findall(got), strict=True))

    def compare(self, expected: str, got: str) -> None:
        """Compare what commands printed; nodes may become ready, and runs end, in another order."""

        def ordered(text: str) -> list[str]:
            lines = text.strip().splitlines()
            free = [line for line in lines if line.startswith(("ready", "run "))]
            return [line for line in lines if line not in free] + sorted(free, key=lambda line: plain(line))

        said, came = ordered(expected), ordered(got)
        assert len(said) == len(came), got
        for one, other in zip(said, came, strict=True):
            assert alike(one, other), f"the document says: {one}\nit printed:        {other}"

    def run(self, block: Block) -> None:
        """Do what a block shows."""
        if block.text.startswith(("$ nc ", "$ telnet ")):
            self.session(block.text)
        elif block.name:
            path = self.folder / block.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self.here(block.text))
        elif block.language == "console":
            commands, output = commands_of(block.text)
            self.compare(output, self.shell(commands))

    def end(self) -> None:
        """End the nodes that commands have put into the background here."""
        for file in self.folder.glob("*.pid"):
            os.kill(int(file.read_text()), signal.SIGTERM)


def connected(port: int) -> Netcat:
    """A connection, as soon as there is somebody; a node that was just started takes a moment."""

    def connect() -> Netcat | None:
        try:
            return Netcat(port)
        except ConnectionRefusedError:
            return None

    netcat = until("somebody listens", connect)
    assert netcat is not None
    return netcat


def commands_of(text: str) -> tuple[str, str]:
    """The commands of a console block (with the lines that continue them), and what they print."""
    commands, output, more = [], [], False
    for line in text.splitlines():
        if line.startswith("$ ") or more:
            commands.append(line.removeprefix("$ "))
            more = line.endswith("\\")
        else:
            output.append(line)
    return "\n".join(commands), "\n".join(output)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A folder of the test's own."""
    return Place(tmp_path)


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The system that the guide starts by hand."""
    found = Place(tmp_path_factory.mktemp("by-hand"))
    (start,) = blocks(BY_HAND, "## Start the nodes")
    try:
        found.run(start)
        yield found
    finally:
        found.end()


# --- the pages, run ------------------------------------------------------------


def test_the_demo(place: Place) -> None:
    """`make demo` prints what README.md shows."""
    shown = next(block for block in blocks(README, "# DIDA") if "make demo" in block.text)
    _, output = commands_of(shown.text)
    (place.folder / "demo").write_text(place.here((ROOT / "pmscripts" / "demo").read_text()))
    played = place.shell(f"twistd -n puppetmaster --pcs localhost:10000 --files {ROOT}/pmscripts < demo")
    end = output.index("Next:")
    place.compare(output[output.index("playing") : end], played)
    alone = {name: value for name, value in os.environ.items() if name not in ("PYTHON", "MAKEFLAGS", "MAKELEVEL")}
    make = ["make", "-n", "-o", ".venv/.ready", "demo"]
    recipe = subprocess.run(make, cwd=ROOT, env=alone, capture_output=True, text=True)
    play, _, hints = recipe.stdout.partition("\n")
    assert play.endswith("twistd -n puppetmaster < pmscripts/demo")
    hinted = subprocess.run(hints, shell=True, capture_output=True, text=True)
    assert hinted.stdout.strip() == output[end:].strip()


def test_the_first_run(place: Place) -> None:
    """The baseline prints what the tutorial shows."""
    demo, baseline = blocks(FIRST_RUN, "# The first run")
    assert demo.text == "$ make demo\n"
    command, output = commands_of(baseline.text)
    assert command == ".venv/bin/twistd -n puppetmaster < pmscripts/baseline"
    (place.folder / "baseline").write_text(place.here((ROOT / "pmscripts" / "baseline").read_text()))
    played = place.shell(f"twistd -n puppetmaster --pcs localhost:10000 --files {ROOT}/pmscripts < baseline")
    place.compare(output, played)


def test_the_first_operator(place: Place) -> None:
    """The operators, application and script of the tutorial are all that it takes, and print what it shows."""
    for block in blocks(FIRST_OPERATOR, "# The first operator"):
        place.run(evolve(block, text=block.text.replace("puppetmaster <", "puppetmaster --pcs localhost:10000 <")))


@pytest.mark.parametrize(
    ("page", "heading"),
    [
        (BY_HAND, "## Talk to the nodes"),
        (FROM_PYTHON, "## Use the storage without a reactor"),
        (FROM_PYTHON, "## Run a chain with Twisted"),
    ],
    ids=["by hand", "storage", "chain"],
)
def test_the_system_by_hand(by_hand: Place, page: Path, heading: str) -> None:
    """The system that the guide starts by hand answers as shown, to nc and to Python."""
    found = blocks(page, heading)
    assert found
    for block in found:
        until("all nodes have the records", lambda: len({_listed(by_hand, port) for port in STORAGE}) == 1)
        by_hand.run(block)


def test_the_script_that_is_a_test(place: Place) -> None:
    """The script of the guide is taken by --check, and all that it expects comes."""
    script, played = blocks(DOCS / "howto" / "write-a-script.md", "## A script that is a test")
    place.run(script)
    command = f"{commands_of(played.text)[0].removesuffix(' < script')} --files {ROOT}/pmscripts --pcs localhost:10000"
    place.shell(f"{command} --operators {ROOT}/operators --check < script")
    output = place.shell(f"{command} --operators {ROOT}/operators < script")
    assert output.count("expected ") == 4
    assert "played   12 commands, 2 runs: 1 done, none failed" in output


def test_the_units_of_systemd(tmp_path: Path) -> None:
    """Each ExecStart of the guide is a command line that DIDA takes."""
    text = (DOCS / "howto" / "systemd.md").read_text()
    members = re.findall(r'^Environment="MEMBERS=(.*)"$', text, re.MULTILINE)
    lines = re.findall(r"^ExecStart=\S+/twistd -n dida-(\w+) (.*)$", text, re.MULTILINE)
    assert [role for role, _ in lines] == ["storage", "worker", "scheduler"]
    for role, words in lines:
        typed = words.replace("$MEMBERS", *members).replace("http://%H:5001", "http://anna:5001")
        COMMANDS[role]().parseOptions(
            typed.replace("%i", "1").replace("%H", "anna").replace("/var/lib/dida/operators", str(tmp_path)).split()
        )


def test_the_seeds(place: Place) -> None:
    """The commands of the guide to seeds are taken, and find nothing."""
    for block in blocks(DOCS / "howto" / "reproduce-a-seed.md", "# Reproduce a seed"):
        place.shell(commands_of(block.text)[0])


STORAGE = ("5001", "5002", "5003", "5004")


def _listed(place: Place, port: str) -> str:
    with Netcat(place.ports[port]) as netcat:
        return netcat.ask("list")


SESSIONS = ["## Replies", "## Every node", "## Storage", "## Scheduler", "## Workers", "## PCS"]


@pytest.fixture(scope="module")
def conversed(by_hand: Place) -> Place:
    """The same after the exchanges of docs/reference/protocol.md, one after the other; they start a PCS."""
    for heading in SESSIONS:
        for block in blocks(PROTOCOL, heading):
            by_hand.run(block)
    return by_hand


def test_exchanges_in_protocol_md(conversed: Place) -> None:
    """The exchanges of docs/reference/protocol.md are answered as they stand there."""
    assert "10000" in conversed.ports


def test_the_tour_of_telnet_md(place: Place) -> None:
    """Each exchange of docs/tutorial/telnet.md is answered as it stands there, one after the other."""
    headings = re.findall(r"^## .+$", without_blocks(TELNET.read_text()), re.MULTILINE)
    try:
        for heading in headings:
            for block in blocks(TELNET, heading):
                place.run(block)
    finally:
        place.end()


@pytest.mark.parametrize("piece", [1, 3])
def test_partial_lines(by_hand: Place, piece: int) -> None:
    """Lines in pieces, with CR LF or LF, with characters taken back and what telnet sends beside the text."""
    typed = b"writ\x7fte kex\x08y 1\r\nread key\n\xff\xf4\xff\xfd\x06read k\xc3\xa9\x7fey\r\nquit\r\n"
    with Netcat(by_hand.ports["5001"]) as netcat:
        for at in range(0, len(typed), piece):
            netcat.send_raw(typed[at : at + piece])
        first, *following = netcat.rest()
    assert first.startswith("ok ")
    assert [line.split()[:2] for line in following] == [["ok", "1"], ["ok", "1"], ["ok"]]


def test_help_on_every_port(by_hand: Place) -> None:
    """`help` lists every verb, one a line with what it does, then ok. (The telnet tour shows that of the PCS.)"""
    for role, port in [("storage", "5001"), ("scheduler", "2000"), ("worker", "4001")]:
        with Netcat(by_hand.ports[port]) as netcat:
            netcat.send("help")
            netcat.send("quit")
            *lines, last, quitted = netcat.rest()
        assert [line.split()[0] for line in lines] == list(NODES[role])
        assert all(len(line.split("  ")) > 1 for line in lines)
        assert last == quitted == "ok"


@pytest.mark.parametrize("first", ["5003", "4002", "2000"])
def test_any_node_leads_to_all_others(by_hand: Place, first: str) -> None:
    """Who has the address of one node asks it for the system, then those that it names, and so finds all of them."""

    def walk() -> set[tuple[str, str]]:
        """Whom one comes to: kind and id."""
        found, left = {}, [f"localhost:{by_hand.ports[first]}"]
        while left:
            with Netcat(int(left.pop().rpartition(":")[2])) as netcat:
                known = netcat.ask_object("system")
            for kind, nodes in known.items():
                left += [node["url"] for node in nodes if (kind, node["id"]) not in found]
                found.update({(kind, node["id"]): node["url"] for node in nodes})
        return set(found)

    ids = ["s1", "s2", "s3", "s4"]
    everybody = {("schedulers", "sc1"), ("workers", "w1"), ("workers", "w2"), *(("storage", id) for id in ids)}
    until("all nodes are found", lambda: walk() == everybody)


@pytest.mark.parametrize("port", ["5001", "4001", "2000"])
def test_no_web_page_reaches_a_node(by_hand: Place, port: str) -> None:
    """A form that a page posts, its preflight, and a TLS hello end their connections; the node lives, and has done
    nothing."""
    head = "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n\r\n"
    for said in (
        head,
        head.replace("POST", "OPTIONS"),
        head.replace("POST", "crash"),
        "Origin: null\r\n",
        "\x16\x03\x01",
    ):
        with Netcat(by_hand.ports[port]) as netcat:
            netcat.send_raw(said.encode() + b"write page 1\r\ncrash\r\n")
            assert all(line.startswith("error bad-request") for line in netcat.rest())
        with Netcat(by_hand.ports[port]) as netcat:
            assert netcat.ask("ping") == "ok"
    with Netcat(by_hand.ports["5001"]) as netcat:
        assert netcat.ask("read page") == "error no-such-record page"


def test_pasted_lines_are_done_in_order(by_hand: Place) -> None:
    """A read that is pasted behind an updateif sees what that has written."""
    with Netcat(by_hand.ports["5001"]) as netcat:
        netcat.send("write pasted 1\nupdateif pasted 1 2\nread pasted\nquit")
        assert [line.split()[1] for line in netcat.rest()[1:3]][1] == "2"


def test_the_ring_in_protocol_md() -> None:
    """Who owns a key can be found out with what the document says."""
    (code,) = (block.text for block in blocks(PROTOCOL, "## Storage") if block.language == "python")
    found: dict[str, Any] = {}
    exec(code, found)
    for names in (["1", "2", "3", "4"], ["2", "7"], ["0", "1", "2"]):
        ring = Ring(names)
        for key in ("13", "", "hello world", "é", "x" * 1000):
            assert found["owner"](key, names) == ring.owner(key)


def test_status_is_explained(conversed: Place) -> None:
    """Every member of `status`, of every kind of node, is in the document."""
    text = STATUS.read_text()
    explained = {name for line in text.splitlines() for name in re.findall(r"`(\w+)`", (cells(line) or [""])[0])}
    for port in ("5001", "2000", "4001", "10000"):
        with Netcat(conversed.ports[port]) as netcat:
            assert set(netcat.ask_object("status")) <= explained, port
