"""Operator classes by name, out of the files of one folder, at run time.

The files are read with `ast` to learn which classes they define, and only a file whose class is asked
for is executed: a broken file hurts nobody who does not need it. A file that was changed or added is
taken anew, as a fresh module under a name made of its content, so that it never meets another module.
What lies outside the folder, also through a link, is never loaded.

`known` is a glance (two calls of stat), `find` may read and execute files. Both may be called from
threads, `find` from one at a time.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import os
import re
import sys
import traceback
from collections.abc import Iterable, Iterator
from types import CodeType, ModuleType
from typing import Any

from attrs import define, field

from dida.chain import is_class_name
from dida.errors import DidaError

MAX_FILE = 4 * 2**20
"""Bytes of an operator file."""
METHODS = {"configure_storage": (None,), "process_record": (None, "", "")}
"""What an operator has, and what it is called with."""

_CLASS = re.compile(r"^class[ \t]+(\w+)", re.MULTILINE)

Stamp = tuple[int, ...]
"""What tells that a file or folder has changed."""


class LoadingError(DidaError):
    """The operator can't be had; each subclass is one reason."""

    code_on_wire = ""

    def __init__(self, text: str) -> None:
        super().__init__(self.code_on_wire, text)

    def __str__(self) -> str:
        return self.words[0]


class FolderMissing(LoadingError):
    """There is no such operators folder."""

    code_on_wire = "no-operators-folder"


class NoSuchOperator(LoadingError):
    """No file of the folder defines a class of that name."""

    code_on_wire = "no-such-operator"


class BrokenFile(LoadingError):
    """The file does not import."""

    code_on_wire = "broken-operator-file"


class NoOperator(LoadingError):
    """The class lacks what an operator has."""

    code_on_wire = "no-operator"


class AmbiguousOperator(LoadingError):
    """Several files define a class of that name."""

    code_on_wire = "ambiguous-operator"


@define
class _File:
    """One file of the folder, as it was when it had that stamp."""

    name: str
    path: str
    stamp: Stamp
    classes: tuple[str, ...] = ()
    operators: tuple[str, ...] = ()
    code: CodeType | None = None
    problem: str = ""
    digest: str = ""
    module: ModuleType | None = None


@define
class OperatorFolder:
    """The operators of one folder."""

    path: str
    _files: dict[str, _File] = field(factory=dict, init=False)
    _found: dict[str, tuple[type[Any], Stamp, _File]] = field(factory=dict, init=False)

    def known(self, name: str) -> type[Any] | None:
        """The class, if it was found before and neither its file nor the folder has changed since."""
        found = self._found.get(name)
        if found is None:
            return None
        kind, folder, file = found
        try:
            return kind if _stamp(os.stat(file.path)) == file.stamp and _stamp(os.stat(self.path)) == folder else None
        except OSError:
            return None

    def find(self, name: str) -> type[Any]:
        """The class; a LoadingError says why it can't be had."""
        if not is_class_name(name):
            raise NoSuchOperator(f"{name!r} is no class name")
        folder = self._scan()
        holders = [file for file in self._files.values() if name in file.classes]
        if not holders:
            raise NoSuchOperator(f"no class {name} in the files of {self.path}{self._broken()}")
        if len(holders) > 1:
            where = " and ".join(sorted(file.name for file in holders))
            raise AmbiguousOperator(f"{name} is defined in {where} of {self.path}: keep one of them")
        kind = _checked(getattr(_module(holders[0]), name, None), name, holders[0])
        self._found[name] = (kind, folder, holders[0])
        return kind

    def operators(self) -> dict[str, str]:
        """Class name to file name of all that look like operators; no file is executed for it."""
        self._scan()
        return {name: file.name for file in self._files.values() for name in file.operators}

    def defined(self) -> list[str]:
        """The names of all classes that `find` would look for, also in files that can't be read any further."""
        self._scan()
        return [name for file in self._files.values() for name in file.classes]

    def _scan(self) -> Stamp:
        """Take note of what has changed in the folder."""
        try:
            folder = _stamp(os.stat(self.path))
            root = os.path.realpath(self.path)
            with os.scandir(self.path) as entries:
                paths = sorted(entry.path for entry in entries if entry.name.endswith(".py") and entry.name[0] != ".")
        except OSError as problem:
            why = (problem.strerror or "can't be read").lower()
            raise FolderMissing(f"operators folder {self.path}: {why}: name another with --operators") from None
        files = {}
        for path in paths:
            name = os.path.basename(path)
            try:
                if os.path.dirname(os.path.realpath(path)) != root:
                    continue
                stamp = _stamp(os.stat(path))
                old = self._files.get(name)
                if old is not None and old.stamp == stamp:
                    files[name] = old
                elif os.path.isfile(path):
                    files[name] = _read(name, path, stamp)
            except OSError:
                continue  # it went away just now
        for name, old in self._files.items():
            if old is not files.get(name) and old.module is not None:
                sys.modules.pop(old.module.__name__, None)
        self._files = files
        self._found = {name: found for name, found in self._found.items() if found[2] is files.get(found[2].name)}
        return folder

    def _broken(self) -> str:
        broken = [f"{file.name} {file.problem}" for file in self._files.values() if file.problem]
        return f"; not readable: {', '.join(broken)}" if broken else ""


def _stamp(status: os.stat_result) -> Stamp:
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino


def _read(name: str, path: str, stamp: Stamp) -> _File:
    """What a file defines."""
    file = _File(name, os.path.abspath(path), stamp)
    if stamp[2] > MAX_FILE:
        file.problem = f"is larger than {MAX_FILE} bytes"
        return file
    with open(path, "rb") as stream:
        source = stream.read(MAX_FILE)
    file.digest = hashlib.sha256(file.path.encode("utf-8", "surrogateescape") + b"\0" + source).hexdigest()[:16]
    try:
        tree = ast.parse(source, file.path)
        file.code = compile(tree, file.path, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError) as problem:
        line = getattr(problem, "lineno", None)
        text = problem.msg if isinstance(problem, SyntaxError) else str(problem)
        file.problem = f"line {line}: {text}" if line else text
        file.classes = tuple(_CLASS.findall(source.decode(errors="replace")))
        return file
    classes = {node.name: node for node in _classes(tree.body)}
    file.classes = tuple(classes)
    file.operators = tuple(name for name in classes if name[0] != "_" and _processes(name, classes))
    return file


def _classes(body: Iterable[ast.stmt]) -> Iterator[ast.ClassDef]:
    """The classes that a module defines, also those within an if or try."""
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield node
        elif isinstance(node, ast.If | ast.Try):
            for part in (node.body, node.orelse, getattr(node, "finalbody", [])):
                yield from _classes(part)
            for caught in getattr(node, "handlers", []):
                yield from _classes(caught.body)


def _processes(name: str, classes: dict[str, ast.ClassDef], depth: int = 20) -> bool:
    """Whether the class, or a base of it in the same file, has the method of an operator."""
    node = classes.get(name)
    if node is None or not depth:
        return False
    methods = (each.name for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef))
    bases = (base.id for base in node.bases if isinstance(base, ast.Name))
    return "process_record" in methods or any(_processes(base, classes, depth - 1) for base in bases)


def _module(file: _File) -> ModuleType:
    """The file as a module, executed once."""
    if file.module is not None:
        return file.module
    if file.code is None:
        raise BrokenFile(f"{file.path} {file.problem}")
    module = ModuleType(f"_dida_operators_{file.digest}")
    module.__file__ = file.path
    sys.modules[module.__name__] = module  # dataclasses and the like look their module up there
    try:
        exec(file.code, module.__dict__)  # noqa: S102 - loading an operator is executing its file
    except BaseException as problem:  # noqa: BLE001 - whatever the author's code raises
        del sys.modules[module.__name__]
        lines = [each.lineno for each in traceback.extract_tb(problem.__traceback__) if each.filename == file.path]
        where = f"line {lines[-1]}: " if lines else ""
        raise BrokenFile(f"{file.path} {where}{type(problem).__name__}: {problem}") from None
    file.module = module
    return module


def _checked(kind: object, name: str, file: _File) -> type[Any]:
    """The class; NoOperator unless it can be used as an operator."""
    if not isinstance(kind, type):
        raise NoOperator(f"{name} in {file.path} is no class")
    for method, arguments in METHODS.items():
        function = getattr(kind, method, None)
        if not callable(function):
            raise NoOperator(f"{name} in {file.path} is no operator: it has no method {method}")
        try:
            inspect.signature(function).bind(None, *arguments)
        except TypeError:
            expected = "(self, storage)" if len(arguments) == 1 else "(self, meta, input, previous_output)"
            raise NoOperator(f"{name} in {file.path} is no operator: write {method}{expected}") from None
        except ValueError:
            continue  # a callable that does not tell its signature
    return kind
