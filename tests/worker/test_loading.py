"""Operator classes by name out of a folder."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from types import CodeType, ModuleType
from typing import Any

import pytest

from dida.worker.loaded import Loader
from dida.worker.loading import (
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
    assert [name for name in set(sys.modules) - before if name.endswith(".json")] == [second.__module__]


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
    """What is not a class name is never looked for."""
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


# --- modules that operators share -----------------------------------------------------------------


def importing(statement: str, value: str) -> str:
    """An operator whose output comes from a module that it imports."""
    return statement + operator().replace("'hello'", value)


@pytest.mark.parametrize(
    ("statement", "value"),
    [
        ("from helper import x", "x"),
        ("from .helper import x", "x"),
        ("import helper", "helper.x"),
        ("import helper as h, json", "h.x + json.loads('\"\"')"),
        ("from . import helper", "helper.x"),
        ("from helper import *", "x"),
        ("import sub.deep", "sub.deep.x"),
        ("import sub.deep as d", "d.x"),
        ("from sub.deep import x", "x"),
        ("from sub import deep", "deep.x"),
        ("from .sub.deep import x", "x"),
        ("from package import x", "x"),
        ("import package", "package.x"),
        ("from package.inner import up", "up"),
        ("try:\n    from nowhere import x\nexcept ImportError:\n    from helper import x", "x"),
        ("def lazily():\n    import sub.deep\n    return sub.deep.x", "lazily()"),
    ],
)
@pytest.mark.parametrize("where", ["", "sub"])
def test_modules_of_the_folder(tmp_path: Path, statement: str, value: str, where: str) -> None:
    """An operator imports modules and packages of its folder, relatively and absolutely, also from a sub-folder; a
    changed one is picked up with it, and what does not import it keeps its module."""
    for name in ("sub", "package"):
        (tmp_path / name).mkdir()
    put(tmp_path, "helper.py", "x = 'one'\n")
    put(tmp_path, "sub/deep.py", "from helper import x\n")
    put(tmp_path, "package/__init__.py", "from .inner import x\n")
    put(tmp_path, "package/inner.py", "from ..helper import x\nfrom helper import x as up\n")
    if where:
        statement = statement.replace("from .", "from ..")
    put(tmp_path, f"{where}/ops.py" if where else "ops.py", importing(statement, value))
    put(tmp_path, "other.py", operator("Other"))
    folder = OperatorFolder(str(tmp_path))
    other = folder.find("Other")
    first = folder.find("Hello")
    assert output_of(first) == "one"
    assert folder.known("Hello") is first
    put(tmp_path, "helper.py", "x = 'two'\n")
    assert folder.known("Hello") is None
    assert output_of(folder.find("Hello")) == "two"
    assert folder.known("Other") is other
    assert set(folder.operators()) == {"Hello", "Other"}
    assert folder.operators()["Hello"] == (f"{where}/ops.py" if where else "ops.py")


def test_a_neighbour_hides_nothing(tmp_path: Path) -> None:
    """A neighbour named like a module of Python, or like an installed package, is imported relatively alone."""
    for name in ("json", "attrs", "dida", "mmh3"):
        put(tmp_path, f"{name}.py", "mine = True\n")
    put(
        tmp_path,
        "ops.py",
        "import json, attrs, mmh3\nfrom dida.errors import DidaError\nfrom . import json as own, attrs as other\n"
        + operator().replace("'hello'", "repr((own.mine, other.mine, json.dumps(1), attrs.define is not None))"),
    )
    assert output_of(OperatorFolder(str(tmp_path)).find("Hello")) == "(True, True, '1', True)"


def test_a_neighbour_goes_before_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that happens to lie in the current folder is not taken for the operator's neighbour."""
    folder = tmp_path / "operators"
    folder.mkdir()
    put(tmp_path, "helper.py", "x = 'not this one'\n")
    put(folder, "helper.py", "x = 'this one'\n")
    put(folder, "ops.py", importing("from helper import x", "x"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert output_of(OperatorFolder(str(folder)).find("Hello")) == "this one"
    assert "helper" not in sys.modules


def test_two_folders_do_not_mix(tmp_path: Path) -> None:
    """Modules of the same name in two folders are two modules."""
    folders = []
    for name in ("a.b", "a%b"):
        (tmp_path / name).mkdir()
        put(tmp_path / name, "helper.py", f"x = {name!r}\n")
        put(tmp_path / name, "ops.py", importing("from helper import x", "x"))
        folders.append(OperatorFolder(str(tmp_path / name)))
    assert [output_of(folder.find("Hello")) for folder in folders] == ["a.b", "a%b"]
    assert [output_of(folder.known("Hello")) for folder in folders] == ["a.b", "a%b"]


def test_two_looks_at_one_folder(tmp_path: Path) -> None:
    """When one has taken a changed helper anew, the other does not go on with the operator of before."""
    put(tmp_path, "helper.py", "x = 'one'\n")
    put(tmp_path, "ops.py", importing("from helper import x", "x"))
    first, second = OperatorFolder(str(tmp_path)), OperatorFolder(str(tmp_path))
    assert first.find("Hello") is second.find("Hello")
    put(tmp_path, "helper.py", "x = 'two'\n")
    assert output_of(first.find("Hello")) == "two"
    assert second.known("Hello") is None
    assert second.find("Hello") is first.known("Hello")


def test_a_module_that_comes_later(tmp_path: Path) -> None:
    """An operator that went without a module is loaded anew when the folder has it."""
    put(tmp_path, "ops.py", importing("try:\n    from extra import x\nexcept ImportError:\n    x = 'without'", "x"))
    folder = OperatorFolder(str(tmp_path))
    assert output_of(folder.find("Hello")) == "without"
    put(tmp_path, "extra.py", "x = 'with'\n")
    assert output_of(folder.find("Hello")) == "with"
    (tmp_path / "extra.py").unlink()
    assert output_of(folder.find("Hello")) == "without"


@pytest.mark.parametrize(
    ("helper", "message"),
    [
        ("x = (\n", r"helper\.py line 1: '\(' was never closed \(imported by \S+ops\.py line 2\)"),
        ("x = 1\nx / 0\n", r"helper\.py line 2: ZeroDivisionError: division by zero \(imported by \S+ops\.py line 2\)"),
        ("y = 1\n", r"ops\.py line 2: ImportError: cannot import name 'x' from 'helper'"),
        ("from .deep.er import x", r"helper\.py line 1: ModuleNotFoundError: No module named 'deep' \(imported by"),
        ("raise SystemExit", r"helper\.py line 1: SystemExit: +\(imported by"),
    ],
)
def test_a_broken_helper(tmp_path: Path, helper: str, message: str) -> None:
    """A helper that does not import is named with the line; put right, it is found at once."""
    put(tmp_path, "helper.py", helper)
    put(tmp_path, "ops.py", importing("import json\nfrom helper import x", "x"))
    folder = OperatorFolder(str(tmp_path))
    with pytest.raises(BrokenFile, match=message):
        folder.find("Hello")
    put(tmp_path, "helper.py", "x = 'right'\n")
    assert output_of(folder.find("Hello")) == "right"


def test_classes_in_sub_folders(tmp_path: Path) -> None:
    """The class that is nearest to the folder counts; hidden folders and virtual environments are not looked into."""
    for name in ("old", "old/er", ".git", "venv", "other"):
        (tmp_path / name).mkdir()
    put(tmp_path, "venv/pyvenv.cfg", "")
    for number, name in enumerate(("old/er", ".git", "venv")):
        put(tmp_path, f"{name}/ops.py", operator("Hello", name) + operator(f"Hidden{number}"))
    folder = OperatorFolder(str(tmp_path))
    assert folder.operators() == {"Hello": "old/er/ops.py", "Hidden0": "old/er/ops.py"}
    assert output_of(folder.find("Hello")) == "old/er"
    put(tmp_path, "old/ops.py", operator("Hello", "old"))
    assert output_of(folder.find("Hello")) == "old"
    assert folder.operators()["Hello"] == "old/ops.py"
    put(tmp_path, "other/ops.py", operator("Hello", "other"))
    with pytest.raises(AmbiguousOperator, match=r"old/ops\.py and other/ops\.py|other/ops\.py and old/ops\.py"):
        folder.find("Hello")


def test_what_looks_like_an_operator(tmp_path: Path) -> None:
    """A class whose base is in another file, or comes from elsewhere, is listed; an enum or an exception is not."""
    put(tmp_path, "base.py", "class Base:\n    def process_record(self, m, i, p): ...\nclass Empty: pass\n")
    classes = (
        "A(Base)", "B(base.Base)", "C(b.Base)", "D(Foreign)", "E(attrs.Foreign)", "F(A)",
        "N1(Empty)", "N2(str, Enum)", "N3(Exception)", "N4(base.Nowhere)", "N5(Generic[T])", "N6(N1)",
    )  # fmt: skip
    put(
        tmp_path,
        "ops.py",
        "import base, attrs\nimport base as b\nfrom base import Base, Empty\nfrom attrs import Foreign\n"
        "from enum import Enum\nfrom typing import Generic\n" + "".join(f"class {each}: pass\n" for each in classes),
    )
    assert "".join(sorted(OperatorFolder(str(tmp_path)).operators())) == "ABBaseCDEF"


def test_many_files(tmp_path: Path) -> None:
    """A glance at a known class asks for its own file and the folders alone, however many files there are."""
    for number in range(300):
        put(tmp_path, f"op{number}.py", operator(f"Op{number}"))
    folder = OperatorFolder(str(tmp_path))
    found = folder.find("Op7")
    asked: list[Any] = []
    stat = os.stat

    def noted(path: Any) -> os.stat_result:
        asked.append(path)
        return stat(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "stat", noted)
        assert folder.known("Op7") is found
    assert len(asked) == 2


LATER = """
class Later:
    def configure_storage(self, storage):
        pass

    def process_record(self, meta, input, previous_output):
        from . import words
        return words.WORD
"""


def before_reading(monkeypatch: pytest.MonkeyPatch, file: str, call: Callable[[], Any]) -> None:
    """Have something happen when the module is among the imported ones, and nothing of its file has been read."""
    original = Loader.get_code

    def get_code(self: Loader, name: str) -> CodeType:
        if self.path.endswith(file):
            call()
        return original(self, name)

    monkeypatch.setattr(Loader, "get_code", get_code)


def once_executed(monkeypatch: pytest.MonkeyPatch, file: str, call: Callable[[], Any]) -> None:
    """Have something happen, once, when the module's file was executed, and its import has not ended."""
    original = Loader.exec_module
    calls = [call]

    def exec_module(self: Loader, module: ModuleType) -> None:
        original(self, module)
        if self.path.endswith(file) and calls:
            calls.pop()()

    monkeypatch.setattr(Loader, "exec_module", exec_module)


def test_a_look_while_a_file_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks at the folder, from whichever thread, take no module away that is being imported."""
    put(tmp_path, "one.py", "from .words import WORD\n" + operator())
    put(tmp_path, "words.py", "WORD = 'abc'\n")
    other = OperatorFolder(str(tmp_path))
    before_reading(monkeypatch, ".py", other.operators)
    folder = OperatorFolder(str(tmp_path))
    found = folder.find("Hello")
    assert folder.known("Hello") is found
    assert other.find("Hello") is found


def test_a_look_while_an_operator_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator that imports a neighbour when it is executed gets it, whoever looks at the folder meanwhile."""
    put(tmp_path, "later.py", LATER)
    put(tmp_path, "words.py", "WORD = 'abc'\n")
    folder = OperatorFolder(str(tmp_path))
    found = folder.find("Later")
    before_reading(monkeypatch, "words.py", folder.operators)
    assert output_of(found) == "abc"


def test_a_file_that_changes_while_it_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asked for a class gets it as it is now; who imports a neighbour gets what it was, and then what it is."""

    def change(file: str, text: str) -> None:
        put(tmp_path, file, text)
        OperatorFolder(str(tmp_path)).operators()

    put(tmp_path, "one.py", operator())
    put(tmp_path, "later.py", LATER)
    put(tmp_path, "words.py", "WORD = 'abc'\n")
    folder = OperatorFolder(str(tmp_path))
    once_executed(monkeypatch, "one.py", lambda: change("one.py", operator(output="HELLO")))
    assert output_of(folder.find("Hello")) == "HELLO"
    once_executed(monkeypatch, "words.py", lambda: change("words.py", "WORD = 'ABC'\n"))
    assert output_of(folder.find("Later")) == "abc"
    assert folder.known("Later") is None
    assert output_of(folder.find("Later")) == "ABC"


def test_two_threads_that_find_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one of them imports anew the other one does not take away."""
    put(tmp_path, "one.py", operator())
    folders = [OperatorFolder(str(tmp_path)) for _ in range(2)]
    folders[0].find("Hello")
    put(tmp_path, "one.py", operator(output="HELLO"))
    outputs: list[str] = []
    importing, goes_on = Event(), Event()
    second = Thread(target=lambda: outputs.append(output_of(folders[1].find("Hello"))), daemon=True)

    def in_the_second() -> None:
        importing.set()
        goes_on.wait(10)

    original = Loader.is_fresh

    def is_fresh(self: Loader, seen: set[str] | None = None) -> bool:
        fresh = original(self, seen)
        if not fresh and second.ident is None:
            before_reading(monkeypatch, "one.py", in_the_second)
            second.start()
            assert importing.wait(10)
        return fresh

    monkeypatch.setattr(Loader, "is_fresh", is_fresh)
    folders[0].operators()
    goes_on.set()
    second.join(10)
    assert outputs == ["HELLO"]
