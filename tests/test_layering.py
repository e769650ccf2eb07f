"""The core is pure, and imports go down only: read off the source, no module is imported here."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*ROOT.glob("dida/**/*.py"), *ROOT.glob("operators/*.py"), *ROOT.glob("twisted/plugins/*.py")])

MAX_LINES = 400

CORE_MAY_USE = {"attrs", "mmh3", "msgspec", "sortedcontainers", "zope"}
CONSOLE_MAY_USE = {"rich"}
CORE_MAY_NOT_USE = {"asyncio", "datetime", "logging", "secrets", "select", "socket", "subprocess", "threading", "uuid"}
CLOCKS = {"time", "datetime"}
CLOCK = "dida.protocols.clock"
"""The one module that knows the machine's clocks."""
TIME_OF_DAY = {"dida.scheduler.admission", "dida.worker.node"}
"""Who asks for the time of day, for people: when a run, or a step, was begun."""


def name_of(path: Path) -> str:
    """The module that a file is."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PURE = ("chains", "console", "replication", "simulate", "wire")
"""The packages of `dida` that only compute; so do the modules that lie in `dida` itself, the values."""


def is_core(module: str) -> bool:
    """Return whether a module only computes."""
    top, _, below = module.partition(".")
    room = below.partition(".")[0]
    return top == "dida" and (room in PURE or (ROOT / "dida" / f"{room}.py").exists())


def imports(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """(module, name taken from it or nothing) of every import."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield from ((node.module or "", alias.name) for alias in node.names)


def at_import(tree: ast.Module) -> ast.Module:
    """The module without the bodies of its functions: what runs when it is imported."""

    class Bodies(ast.NodeTransformer):
        def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
            return None

        def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
            return None

    stripped = Bodies().visit(ast.parse(ast.unparse(tree)))
    assert isinstance(stripped, ast.Module)
    return stripped


each_module = pytest.mark.parametrize("path", SOURCES, ids=name_of)


def test_a_planted_import_is_found(tmp_path: Path) -> None:
    """The contracts of pyproject.toml hold, and a module that imports from above is named."""
    shutil.copytree(ROOT / "dida", tmp_path / "dida", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    linter = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    kept = subprocess.run(linter, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert kept.returncode == 0, kept.stdout
    with (tmp_path / "dida/wire/grammar.py").open("a") as module:
        module.write("\nfrom dida.protocols import lines\n")
    broken = subprocess.run(linter, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert broken.returncode == 1
    assert "dida.wire.grammar -> dida.protocols.lines" in broken.stdout


@pytest.mark.parametrize("path", [path for path in SOURCES if is_core(name_of(path))], ids=name_of)
def test_the_core_is_pure(path: Path) -> None:
    """The core knows some packages that only compute, and the standard library: no Twisted, sockets or threads."""
    may_use = CORE_MAY_USE | (CONSOLE_MAY_USE if name_of(path).startswith("dida.console") else set())
    for module, name in imports(ast.parse(path.read_text())):
        package = module.partition(".")[0]
        assert package in may_use | {"dida"} | sys.stdlib_module_names - CORE_MAY_NOT_USE, module
        assert package != "time", "the clock comes in as an argument"
        assert (module, name) == ("random", "Random") or package != "random", "a random.Random comes in as an argument"
    for node in ast.walk(ast.parse(path.read_text())):
        assert not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "open"), "a file"


@each_module
def test_a_long_module_gives_its_reason(path: Path) -> None:
    """A module of more than 400 lines says in its docstring why it is long."""
    source = path.read_text()
    assert source.count("\n") <= MAX_LINES or "long because" in (ast.get_docstring(ast.parse(source)) or "")


@each_module
def test_nobody_installs_a_reactor_by_importing(path: Path) -> None:
    """The reactor is imported in functions only, and so comes in as an argument nearly everywhere."""
    for module, name in imports(at_import(ast.parse(path.read_text()))):
        assert "reactor" not in (module.rpartition(".")[2], name) or not module.startswith("twisted.internet")


@pytest.mark.parametrize("path", [path for path in SOURCES if name_of(path) != CLOCK], ids=name_of)
def test_clock_and_chance_come_in(path: Path) -> None:
    """Nobody asks the machine for the time, or its common random numbers, behind the reactor's back."""
    for node in ast.walk(ast.parse(path.read_text())):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
        ):
            called = (node.func.value.id, node.func.attr)
            assert called[0] not in CLOCKS, ".".join(called)
            assert called[0] != "random" or called[1] in ("Random", "SystemRandom"), ".".join(called)
    for module, name in imports(ast.parse(path.read_text())):
        assert module not in CLOCKS, f"from {module} import {name}"
        assert (module, name) != ("twisted.python.runtime", "seconds"), "the time of day under another name"
        assert (module, name) != (CLOCK, "time_of_day") or name_of(path) in TIME_OF_DAY, "what is it for?"


def test_the_time_of_day_is_read_in_one_function() -> None:
    """The module with the clocks asks for the time of day in `time_of_day` alone."""
    source = ast.parse((ROOT / "dida/protocols/clock.py").read_text())
    functions = [node for node in source.body if isinstance(node, ast.FunctionDef)]
    found = {
        function.name: {
            node.attr
            for node in ast.walk(function)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "time"
        }
        for function in functions
    }
    steady = {"steady": {"clock_gettime"}, "monotonic": {"clock_gettime"}, "sleep": {"sleep"}}
    assert found == {**steady, "time_of_day": {"time"}}


@pytest.mark.parametrize("folder", ["twisted", "twisted/plugins"])
def test_the_plugins_folder_is_no_package_of_ours(folder: str) -> None:
    """An __init__.py there would hide Twisted's own packages."""
    assert not (ROOT / folder / "__init__.py").exists()
