"""What Tab offers: commands, and what the place of a usage line takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from dida.console.completion import complete, expected
from dida.puppetmaster.files import usable_files


def known(command: str, place: str, last: str) -> list[str]:
    if place == "ID":
        return ["s1", "s2", "sc"] if command == "crash" else ["s1", "s2"]
    return {"APP_FILE": ["add", "app"], "DATA_FILE": ["four"], "FILE_OF_INPUTS": ["my inputs", "mine"]}.get(place, [])


@pytest.mark.parametrize(
    ("text", "start", "words"),
    [
        ("st", 0, ("storage", "status", "stop")),
        ("  LIST", 2, ("listServer", "listGlobal")),
        ("x", 0, ()),
        ("crash ", 6, ("s1", "s2", "sc")),
        ("CRASH sc", 6, ("sc",)),
        ("listServer ", 11, ("s1", "s2")),
        ("listServer s1 ", 14, ("--json",)),
        ("listServer --json ", 18, ("s1", "s2")),
        ("status ", 7, ("--json",)),
        ("status --json ", 14, ()),
        ("client 13 a", 10, ("add", "app")),
        ("client 13 app ", 14, ()),
        ("populate ", 9, ("four",)),
        ("help cl", 5, ("client",)),
        ("nonsense ", 9, ()),
        ('client "hello world" a', 21, ("add", "app")),
        ('client "13" "ap', 12, ('"app"',)),
        ('client "hello ', 7, ()),
        ("map add my", 8, ('"my inputs"',)),
        ("map add mi", 8, ("mine",)),
        ("map add m", 8, ('"mine"', '"my inputs"')),
        ('map add "my in', 8, ('"my inputs"',)),
    ],
)
def test_complete(text: str, start: int, words: tuple[str, ...]) -> None:
    """The usage line of the command says what may stand there."""
    found = complete(text, known)
    assert (found.start, found.words) == (start, words)


def test_every_command() -> None:
    """The first word is a command; behind the last one nothing more is expected."""
    assert expected([]) == ("COMMAND", ())
    assert expected(["storage"]) == ("ID", ())
    assert expected(["storage", "s1", "url"]) == ("GOSSIP_DELAY", ())
    assert expected(["storage", "s1", "url", "0"]) == ("", ())
    assert expected(["run", "13"]) == expected(["run", "13", "AddOperator"]) == ("OPERATOR…", ())


@pytest.mark.parametrize(
    ("text", "common"),
    [("", ""), ("sta", "status"), ("list", "list"), ("crash s", "s"), ("x", ""), ("map add m", '"m')],
)
def test_common(text: str, common: str) -> None:
    """What all offers begin with."""
    assert complete(text, known).common() == common


def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of the right form alone, in the current folder and in the others and below; folders when there is none."""
    stock = tmp_path / "stock"
    here = tmp_path / "here"
    for folder in (stock / "apps", here / "mine"):
        folder.mkdir(parents=True)
    (stock / "apps" / "add").write_text("operator AddOperator 0\n")
    (stock / "data").write_text("13,1\n")
    (stock / "script").write_text("wait 1\n")
    (here / "mine" / "app").write_text("operator AddOperator 0\n")
    (here / "mine" / "big").write_text("13,1\n" * 50_000)
    (here / "empty").write_text("")
    monkeypatch.chdir(here)
    assert usable_files("APP_FILE", "", [str(stock)]) == ["add"]
    assert usable_files("DATA_FILE", "", [str(stock)]) == ["data"]
    assert usable_files("APP_FILE", "m", [str(stock)]) == ["mine/"]
    assert usable_files("APP_FILE", "mine/", [str(stock)]) == ["mine/app"]
    assert usable_files("DATA_FILE", "mine/", [str(stock)]) == []
    assert usable_files("APP_FILE", "nowhere/", []) == []
    assert usable_files("KEY", "", [str(stock)]) == []
