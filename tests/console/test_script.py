"""The puppetmaster's commands: every way to write them down, and every way to get them wrong."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dida.addresses import Address
from dida.console import commands
from dida.console.data_files import parse_data, parse_inputs
from dida.console.script import first_members, in_order, parse_command, parse_script
from dida.errors import UserError
from dida.puppetmaster.files import find_file, read_file
from dida.versions import Version


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("scheduler sc1 http://localhost:2000", commands.SchedulerCommand("sc1", Address("localhost", 2000))),
        ("scheduler 1 localhost:2000 5", commands.SchedulerCommand("1", Address("localhost", 2000), "5")),
        ("storage s1 tcp://localhost:5001 100", commands.StorageCommand("s1", Address("localhost", 5001), 100)),
        ("worker\tw1   HTTP://LOCALHOST:4001/ 0  ", commands.WorkerCommand("w1", Address("localhost", 4001), 0)),
        ("client 23 app", commands.ClientCommand("23", "app")),
        ("populate data # the four records", commands.PopulateCommand("data")),
        ("status", commands.StatusCommand()),
        ("listServer s1", commands.ListServerCommand("s1")),
        ("listglobal", commands.ListGlobalCommand()),
        ("debug", commands.DebugCommand()),
        ("stop s1", commands.StopCommand("s1")),
        ("read 13", commands.ReadCommand("13")),
        ("READ 13 4.1", commands.ReadCommand("13", Version(4, 1))),
        ('write "my key" "a value"', commands.WriteCommand("my key", "a value")),
        ('updateif k "" new', commands.UpdateIfCommand("k", "", "new")),
        ("run 13 AddOperator", commands.RunCommand("13", ("AddOperator",))),
        ('run "a b" AddOperator  IncrementOperator', commands.RunCommand("a b", ("AddOperator", "IncrementOperator"))),
        ('client "hello world" "my app"', commands.ClientCommand("hello world", "my app")),
        ('"client" "" app', commands.ClientCommand("", "app")),
        ('populate "my data" # the four records', commands.PopulateCommand("my data")),
        ('expect "my key" "a  b"', commands.ExpectCommand("my key", "a  b")),
        ('expect k a "b  c"', commands.ExpectCommand("k", "a b  c")),
        ('expect-run LAST done "a b"', commands.ExpectRunCommand(0, "done", "a b")),
        ('map "my app" "my inputs"', commands.MapCommand("my app", "my inputs")),
        ("storage s1 localhost:5001", commands.StorageCommand("s1", Address("localhost", 5001), 0)),
        ("worker w1 localhost:4001", commands.WorkerCommand("w1", Address("localhost", 4001), 0)),
        ("wait_interval 5000", commands.WaitCommand(5000)),
        ("crash 1", commands.CrashCommand("1")),
        ("wait 1000", commands.WaitCommand(1000)),
        ("", None),
        ("   # only a comment", None),
    ],
)
def test_forms(text: str, command: commands.Command | None) -> None:
    """Every command is understood, with any blanks, any form of URL and any kind of id."""
    assert parse_command(text) == command


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clinet 23 app", "unknown command 'clinet': did you mean client?"),
        ("listserver1 s1", "unknown command 'listserver1': did you mean listServer?"),
        ("frobnicate", "unknown command 'frobnicate': help lists the commands"),
        ("list", "unknown command 'list': did you mean listServer or listGlobal?"),
        ("stat", "unknown command 'stat': did you mean status?"),
        ("exit", "unknown command 'exit': did you mean quit?"),
        ("KILL s1", "unknown command 'KILL': did you mean crash?"),
        ("client 23", "expected client INPUT APP_FILE, got 1 word after client"),
        ("status now please", "expected status [--json], got 2 words after status"),
        ("status now", "unexpected 'now': only --json may follow"),
        ("help clinet", "unknown command 'clinet': did you mean client?"),
        ("wait long", "invalid number of milliseconds 'long': write one from 0 to 86400000"),
        ("wait -1", "invalid number of milliseconds '-1': write one from 0 to 86400000"),
        ("wait 99999999999999999999", "invalid number of milliseconds"),
        ("storage s1 localhost 5", "invalid URL 'localhost': expected http://HOST:PORT"),
        ("storage s1 localhost:70000 5", "invalid port in 'localhost:70000': choose one from 1 to 65535"),
        ("worker w=1 localhost:4001 5", "invalid node id 'w=1'"),
        ('worker "w 1" localhost:4001 5', "invalid node id 'w 1': write one word of up to 100 characters, without '='"),
        ('crash ""', "invalid node id ''"),
        ('client "hello world app', "missing double quote: the string that begins at column 8"),
        ('listServer s1 "', "missing double quote: the string that begins at column 15"),
        ("read 13 4", "invalid version '4': write number.replica, as in 4.1"),
        ("run 13 Add.Operator", "invalid class name 'Add.Operator': write it as in the operator's file"),
        ("run 13", "expected run INPUT OPERATOR…, got 1 word after run"),
        ("updateif 13 1", "expected updateif KEY OLD NEW, got 2 words after updateif"),
        ("get 13", "unknown command 'get': did you mean read?"),
        ("stop", "expected stop ID, got 0 words after stop"),
        ("wai", "unknown command 'wai': did you mean wait?"),
        ("scheduler sc1 localhost:2000 soon", "unexpected 'soon' after the scheduler's URL"),
    ],
)
def test_mistakes(text: str, message: str) -> None:
    """Each mistake is one line that says what is wrong and what to write."""
    with pytest.raises(UserError) as caught:
        parse_command(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_script_syntax() -> None:
    """BOM, CRLF, blank lines, comments and a missing final newline are fine; lines keep their numbers."""
    lines = parse_script(b"\xef\xbb\xbfscheduler sc localhost:2000 0\r\n\r\n# note\r\n  wait \t 5\nclinet\nstatus")
    assert [(line.number, line.text) for line in lines] == [
        (1, "scheduler sc localhost:2000 0"),
        (4, "wait 5"),
        (5, "clinet"),
        (6, "status"),
    ]
    assert [bool(line.problem) for line in lines] == [False, False, True, False]
    assert str(lines[1]) == "script line 4: wait 5"
    (quoted,) = parse_script(b'client   "hello  world"  app # note')
    assert str(quoted) == 'script line 1: client "hello  world" app'


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf_16(encoding: str) -> None:
    """What an editor, or a shell's `>`, has saved as UTF-16 is read, as its byte-order mark says what it is."""
    mark = "" if encoding == "utf-16" else "\ufeff"
    (line,) = parse_script(f"{mark}client añ app\r\n".encode(encoding))
    assert (line.number, line.command) == (1, commands.ClientCommand("añ", "app"))
    (bad,) = parse_script(b"\xff\xfe\x00\xd8")
    assert "not UTF-8 at byte 1" in bad.problem


def test_ends_of_lines() -> None:
    """A line may end in any of the three ways."""
    assert [line.number for line in parse_script(b"status\rstatus\r\n\nstatus\n")] == [1, 2, 4]


def test_bytes_that_are_no_text() -> None:
    """A line that is not UTF-8 is told with its number, and the others are still understood."""
    bad, good = parse_script(b"client \xff app\nstatus\n")
    assert (bad.number, bad.command) == (1, None)
    assert "not UTF-8 at byte 8" in bad.problem
    assert good.command == commands.StatusCommand()


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    """No script makes the parser fail."""
    for line in parse_script(data):
        assert (line.command is None) == bool(line.problem)


def test_first_members() -> None:
    """The first members are the nodes named before the first other command, wherever the scheduler stands."""
    lines = parse_script(
        b"storage 1 localhost:5001 0\nnonsense\nstorage 2 localhost:5002 0\nscheduler s localhost:2000\n"
        b"wait 5\nstorage 3 localhost:5003 0\n"
    )
    assert [node.id for node in first_members(lines)] == ["1", "2", "s"]


@pytest.mark.parametrize(
    ("script", "order"),
    [
        (b"client 1 app\nwait 5\nscheduler s localhost:2000\nstatus\n", [3, 1, 2, 4]),
        (b"scheduler s localhost:2000\nclient 1 app\n", [1, 2]),
        (b"client 1 app\n", [1]),
        (b"map app inputs\nscheduler s localhost:2000\n", [2, 1]),
    ],
)
def test_late_scheduler(script: bytes, order: list[int]) -> None:
    """A scheduler that comes behind the clients is started before them; nothing else changes its place."""
    assert [line.number for line in in_order(parse_script(script))] == order


def test_data_file() -> None:
    """Only the first comma splits; blank lines are skipped; empty values are values."""
    assert parse_data(b"13,1\r\n\r\n14,one, two \nempty,", "data") == (
        (1, "13", "1"),
        (3, "14", "one, two"),
        (4, "empty", ""),
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"13,1\n14\n", "d.txt line 2: missing comma in '14': write key,value"), (b"\xff,1", "d.txt line 1: not UTF-8")],
)
def test_bad_data_file(data: bytes, message: str) -> None:
    """A faulty data line is told with file and line."""
    with pytest.raises(UserError) as caught:
        parse_data(data, "d.txt")
    assert message in str(caught.value)


def test_file_of_inputs() -> None:
    """One input a line, with the number of its line; blank lines are skipped, nothing else is."""
    assert parse_inputs(b"\xef\xbb\xbf13\r\n\r\n  # 23, 24 \nlast", "inputs") == (
        (1, "13"),
        (3, "# 23, 24"),
        (4, "last"),
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"13\n\xff\n", "i.txt line 2: not UTF-8"), (b"\n \n", "i.txt: missing input: write one per line")],
)
def test_bad_file_of_inputs(data: bytes, message: str) -> None:
    """A faulty line is told with file and line; a file without an input is a mistake, too."""
    with pytest.raises(UserError) as caught:
        parse_inputs(data, "i.txt")
    assert str(caught.value).startswith(message)


def test_file_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are sought in the current folder, then in the given folders and below; a near name is suggested."""
    below = tmp_path / "pmscripts" / "apps"
    below.mkdir(parents=True)
    (below / "baseline_app").write_text("below")
    monkeypatch.chdir(tmp_path)
    assert read_file("baseline_app", ["pmscripts"]) == (os.path.join("pmscripts", "apps", "baseline_app"), b"below")
    assert find_file("apps/baseline_app", ["pmscripts"]) == os.path.join("pmscripts", "apps", "baseline_app")
    (tmp_path / "baseline_app").write_text("here")
    assert read_file("baseline_app", ["pmscripts"]) == ("baseline_app", b"here")
    (tmp_path / "baseline_app").unlink()
    with pytest.raises(UserError) as caught:
        find_file("baseline_ap", ["pmscripts"])
    assert "did you mean baseline_app (in pmscripts/apps)?" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("numbers", "cannot find file 'numbers' in the current folder or below it: did you mean numbers.csv?"),
        (
            "more/lettres.csv",
            "cannot find file 'more/lettres.csv' in the current folder or below it: did you mean more/letters.csv?",
        ),
        ("more", "cannot read 'more': it is a folder, name a file in it"),
        ("zzz", "cannot find file 'zzz' in the current folder or below it: check the name"),
        (
            "nowhere/numbers.csv",
            "cannot find file 'nowhere/numbers.csv' in the current folder or below it: check the name",
        ),
    ],
)
def test_files_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, problem: str) -> None:
    """A file of nearly that name is suggested where it was sought, and a folder is told to be one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "more").mkdir()
    for path in ("numbers.csv", "more/letters.csv"):
        (tmp_path / path).touch()
    with pytest.raises(UserError) as caught:
        find_file(name, [])
    assert str(caught.value) == problem


@pytest.mark.parametrize("text", ["listServer s1 --json", "LISTSERVER --json s1"])
def test_json(text: str) -> None:
    """--json may stand anywhere; elsewhere it is a word like others."""
    assert parse_command(text) == commands.ListServerCommand("s1", json=True)
    assert parse_command("client --json app") == commands.ClientCommand("--json", "app")


def test_help_of_a_command() -> None:
    """The command may be written in any case."""
    assert [parse_command("help"), parse_command("help LISTglobal")] == [
        commands.HelpCommand(),
        commands.HelpCommand("listGlobal"),
    ]
