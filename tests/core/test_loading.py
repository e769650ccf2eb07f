"""Operator classes by name out of a folder."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from dida.loading import (
    AmbiguousOperator,
    BrokenFile,
    FolderMissing,
    LoadingError,
    NoOperator,
    NoSuchOperator,
    OperatorFolder,
)

OPERATOR = """
class {name}:
    def configure_storage(self, storage):
        pass

    def process_record(self, meta, input, previous_output):
        return {output!r}
"""


def put(folder: Path, file: str, text: str) -> None:
    """Write a file in the way that is hardest to notice: the same length, the same second."""
    (folder / file).write_text(text)


def operator(name: str = "Hello", output: str = "hello") -> str:
    return OPERATOR.format(name=name, output=output)


def output_of(kind: Any) -> str:
    return str(kind().process_record(None, "", ""))


def test_found_by_name(tmp_path: Path) -> None:
    """A class is found in whichever file has it, and then known at a glance."""
    put(tmp_path, "one.py", operator("A") + operator("B", "b"))
    folder = OperatorFolder(str(tmp_path))
    assert folder.known("B") is None
    found = folder.find("B")
    assert output_of(found) == "b"
    assert folder.known("B") is found
    assert folder.operators() == {"A": "one.py", "B": "one.py"}


def test_changes_are_picked_up(tmp_path: Path) -> None:
    """A file that is changed, added, replaced or removed counts from then on, without a restart."""
    folder = OperatorFolder(str(tmp_path))
    with pytest.raises(NoSuchOperator):
        folder.find("Hello")
    put(tmp_path, "one.py", operator())
    assert output_of(folder.find("Hello")) == "hello"
    put(tmp_path, "one.py", operator(output="HELLO"))
    assert folder.known("Hello") is None
    assert output_of(folder.find("Hello")) == "HELLO"
    (tmp_path / "two.py").write_text(operator("Other"))
    assert folder.known("Hello") is None
    folder.find("Other")
    (tmp_path / "one.py").unlink()
    with pytest.raises(NoSuchOperator):
        folder.find("Hello")


def test_modules_are_fresh_and_clash_with_nothing(tmp_path: Path) -> None:
    """A file named like a module of Python hides nothing, and a replaced one leaves nothing behind."""
    put(tmp_path, "json.py", "from dataclasses import dataclass\n@dataclass\nclass Pair:\n    a: 'int'\n" + operator())
    import json

    before = set(sys.modules)
    folder = OperatorFolder(str(tmp_path))
    first = folder.find("Hello")
    put(tmp_path, "json.py", operator(output="x"))
    second = folder.find("Hello")
    assert first is not second
    assert sys.modules["json"] is json
    assert [name for name in set(sys.modules) - before if "operators" in name] == [second.__module__]


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("class Hello\n", BrokenFile, "one.py line 1: expected ':'"),
        ("import os\nimport no_such_module\nclass Hello: pass\n", BrokenFile, "one.py line 2: ModuleNotFoundError: "),
        ("raise SystemExit('no')\nclass Hello: pass\n", BrokenFile, "one.py line 1: SystemExit: no"),
        ("raise KeyboardInterrupt\nclass Hello: pass\n", BrokenFile, "one.py line 1: KeyboardInterrupt"),
        ("raise GeneratorExit\nclass Hello: pass\n", BrokenFile, "one.py line 1: GeneratorExit"),
        ("class Hello: pass\n", NoOperator, "it has no method configure_storage"),
        ("class Hello:\n    def configure_storage(self, s): pass\n", NoOperator, "it has no method process_record"),
        (operator().replace(", previous_output", ""), NoOperator, "write process_record(self, meta, input"),
        ("class Hello: pass\nHello = 3\n", NoOperator, "Hello in "),
        ("class Hello: pass\n\0", BrokenFile, "null bytes"),
        ("class Other: pass\n", NoSuchOperator, "no class Hello in the files of "),
        ("class Other(\n", NoSuchOperator, "; not readable: one.py line 1: "),
    ],
)
def test_distinct_errors(tmp_path: Path, text: str, error: type[LoadingError], message: str) -> None:
    """Each way in which an operator can't be had is an error of its own that says where and why."""
    put(tmp_path, "one.py", text)
    with pytest.raises(error) as caught:
        OperatorFolder(str(tmp_path)).find("Hello")
    assert message in str(caught.value)
    assert type(caught.value) is error


def test_two_files_with_the_class(tmp_path: Path) -> None:
    """A class that two files define is ambiguous, and both are named."""
    put(tmp_path, "one.py", operator())
    put(tmp_path, "two.py", operator())
    with pytest.raises(AmbiguousOperator, match=r"one\.py and two\.py"):
        OperatorFolder(str(tmp_path)).find("Hello")


def test_missing_folder(tmp_path: Path) -> None:
    """A folder that is not there is named."""
    with pytest.raises(FolderMissing, match="nowhere: no such file or directory"):
        OperatorFolder(str(tmp_path / "nowhere")).find("Hello")


def test_a_broken_file_hurts_nobody_else(tmp_path: Path) -> None:
    """Files are executed only when their class is asked for."""
    put(tmp_path, "one.py", operator())
    put(tmp_path, "broken.py", "class (\n")
    put(tmp_path, "angry.py", "raise RuntimeError\nclass Angry: pass\n")
    assert output_of(OperatorFolder(str(tmp_path)).find("Hello")) == "hello"


@pytest.mark.parametrize("name", ["../one", "one.Hello", "", "class", "Hello()", "__import__('os')", "/etc/passwd"])
def test_names_are_class_names(tmp_path: Path, name: str) -> None:
    """What is no class name is never looked for."""
    put(tmp_path, "one.py", operator())
    with pytest.raises(NoSuchOperator):
        OperatorFolder(str(tmp_path)).find(name)


def test_nothing_from_outside_the_folder(tmp_path: Path) -> None:
    """A link that leads out of the folder is not followed; one within it, and one to the folder, are."""
    inside = tmp_path / "operators"
    inside.mkdir()
    put(tmp_path, "secret.py", operator("Secret"))
    put(inside, "one.py", operator())
    os.symlink(tmp_path / "secret.py", inside / "link.py")
    os.symlink(inside, tmp_path / "door")
    folder = OperatorFolder(str(tmp_path / "door"))
    assert output_of(folder.find("Hello")) == "hello"
    with pytest.raises(NoSuchOperator):
        folder.find("Secret")


def test_stock_operators_are_found() -> None:
    """The stock operators are there, each in one file."""
    stock = OperatorFolder(str(Path(__file__).parent.parent.parent / "operators"))
    names = {"AddOperator", "UpdateAndChainOperator", "IncrementOperator", "CounterOperator"}
    names |= {"ReaderOperator", "WriterOperator", "WaitOperator", "LoginOperator"}
    assert set(stock.operators()) >= names
    for name in names:
        stock.find(name)
