"""Operator files as text: which classes they define, and which modules of their folder they import.

Nothing here executes a file. `Text` is one file as it was read; `neighbourly` turns its `import helper` into an import
of the folder's own `helper.py`, and returns the modules of the folder that it may import, so that a change of one is
noticed.
"""

from __future__ import annotations

import ast
import builtins
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property

from attrs import define, field, frozen

MAX_FILE = 4 * 2**20
"""The most bytes of an operator file."""
MAX_DEPTH = 20
"""The most levels of base classes that are followed."""

_CLASS = re.compile(r"\bclass[\s\\]+(\w+)")

Stamp = tuple[int, ...]
"""Device, inode, size and times: they differ if a file or folder has changed."""
Parts = tuple[str, ...]
"""A module's name within its folder: `("sub", "helper")`."""


def stamp_of(status: os.stat_result) -> Stamp:
    """Return the stamp of a file or folder."""
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino


class Unreadable(Exception):
    """The file can't be compiled; the text, to be read after the file's name, is the reason."""


@frozen
class Class:
    """A class that a file defines at its top level."""

    processes: bool
    """True if it defines process_record itself."""
    bases: tuple[ast.expr, ...]


@frozen
class Text:
    """One file, as it was when it had that stamp."""

    path: str
    module: Parts
    package: bool
    """True if it is an `__init__.py`, which is its package."""
    stamp: Stamp
    content: bytes

    @classmethod
    def read(cls, path: str, module: Parts, package: bool) -> Text:
        """Read the file. Raises OSError."""
        stamp = stamp_of(os.stat(path))
        with open(path, "rb") as stream:
            return cls(path, module, package, stamp, stream.read(MAX_FILE + 1))

    @property
    def parents(self) -> Parts:
        """The package from which its relative imports start."""
        return self.module if self.package else self.module[:-1]

    def tree(self) -> ast.Module:
        """Return its syntax tree. Raises Unreadable."""
        if len(self.content) > MAX_FILE:
            raise Unreadable(f"is larger than {MAX_FILE} bytes")
        try:
            return ast.parse(self.content, self.path)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as problem:
            line = getattr(problem, "lineno", None)
            text = problem.msg if isinstance(problem, SyntaxError) else str(problem)
            raise Unreadable(f"line {line}: {text}" if line else text) from None


@define(slots=False)
class Outline:
    """What a file defines, found on first use."""

    name: str
    """The file's name within the folder."""
    text: Text
    mentioned: frozenset[str] = field(init=False)
    """Names of classes, and maybe others, that occur in it."""

    def __attrs_post_init__(self) -> None:
        self.mentioned = frozenset(_CLASS.findall(self.text.content.decode(errors="replace")))

    @cached_property
    def problem(self) -> str:
        """Why it can't be compiled; empty if it can."""
        try:
            compile(self.text.tree(), self.text.path, "exec", dont_inherit=True)
        except Unreadable as problem:
            return str(problem)
        except (SyntaxError, ValueError, RecursionError) as problem:
            line = getattr(problem, "lineno", None)
            text = problem.msg if isinstance(problem, SyntaxError) else str(problem)
            return f"line {line}: {text}" if line else text
        return ""

    @cached_property
    def tree(self) -> ast.Module:
        """Empty if it can't be parsed."""
        try:
            return self.text.tree()
        except Unreadable:
            return ast.Module([], [])

    @cached_property
    def classes(self) -> dict[str, Class]:
        """The classes at its top level, also within an if or try; of a broken file all names that occur in it."""
        if not self.tree.body and self.problem:
            return {name: Class(False, ()) for name in self.mentioned}
        return {node.name: _class(node) for node in _classes(self.tree.body)}

    @cached_property
    def imported(self) -> dict[str, tuple[int, str, str]]:
        """Imported name to (level, module, name in it); for a module the last is empty."""
        found = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    found[alias.asname or alias.name] = (node.level, node.module or "", alias.name)
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    top = alias.name.partition(".")[0]
                    found[alias.asname or top] = (0, alias.name if alias.asname else top, "")
        return found


def processes(name: str, file: Outline, modules: dict[Parts, Outline], depth: int = MAX_DEPTH) -> bool:
    """Return True if a class of the file, or a base of it, has or may have the method of an operator.

    Bases are looked up in the files of the folder, `modules`; a base from elsewhere, except from Python itself, may
    have it.
    """
    found = file.classes.get(name)
    if found is None or not depth:
        return False
    return found.processes or any(_base_processes(base, file, modules, depth - 1) for base in found.bases)


def _base_processes(base: ast.expr, file: Outline, modules: dict[Parts, Outline], depth: int) -> bool:
    if isinstance(base, ast.Subscript):
        base = base.value
    words: list[str] = []
    while isinstance(base, ast.Attribute):
        words.insert(0, base.attr)
        base = base.value
    if not isinstance(base, ast.Name):
        return True
    if not words and base.id in file.classes:
        return processes(base.id, file, modules, depth)
    if base.id not in file.imported:
        return bool(words) or not hasattr(builtins, base.id)
    level, module, attribute = file.imported[base.id]
    parents = file.text.parents
    start = parents[: len(parents) - level + 1] if level else ()
    path = (*start, *filter(None, (*module.split("."), attribute)), *words)
    for end in range(len(path) - 1, 0, -1):
        if path[:end] in modules:
            return processes(path[-1], modules[path[:end]], modules, depth)
    return level > 0 or path[0] not in sys.stdlib_module_names


def neighbourly(
    text: Text, tree: ast.Module, owns: Callable[[str], bool]
) -> tuple[ast.Module, frozenset[Parts], frozenset[str]]:
    """Return the file with absolute imports of modules that the folder `owns` made relative; the modules of the
    folder that it may import (attributes of such modules included); and the names that it imports from elsewhere."""
    rewriting = _Neighbours(text, owns)
    tree = rewriting.visit(tree)
    return tree, frozenset(rewriting.needs), frozenset(rewriting.elsewhere)


class _Neighbours(ast.NodeTransformer):
    def __init__(self, text: Text, owns: Callable[[str], bool]) -> None:
        self.needs: set[Parts] = set()
        self.elsewhere: set[str] = set()
        self._parents = text.parents
        self._to_the_top = len(text.parents) + 1
        self._owns = owns

    def visit_Import(self, node: ast.Import) -> list[ast.stmt]:
        statements: list[ast.stmt] = []
        for alias in node.names:
            top, _, rest = alias.name.partition(".")
            if not self._is_own(top):
                statements.append(ast.Import([alias]))
                continue
            if rest:  # bound to its own name, or, as the package, to that of the top
                package, _, last = alias.name.rpartition(".")
                bound = ast.alias(last, alias.asname or top)
                statements.append(ast.ImportFrom(package, [bound], self._to_the_top))
            if not rest or alias.asname is None:
                statements.append(ast.ImportFrom(None, [ast.alias(top, alias.asname)], self._to_the_top))
        for statement in statements:
            ast.copy_location(statement, node)
            ast.fix_missing_locations(statement)
            if isinstance(statement, ast.ImportFrom):
                self._note(statement)
        return statements

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.ImportFrom:
        if not node.level and node.module and self._is_own(node.module.partition(".")[0]):
            node.level = self._to_the_top
        self._note(node)
        return node

    def _is_own(self, top: str) -> bool:
        if top in sys.stdlib_module_names:
            return False
        if self._owns(top):
            return True
        self.elsewhere.add(top)
        return False

    def _note(self, node: ast.ImportFrom) -> None:
        if not 0 < node.level <= self._to_the_top:
            return
        start = self._parents[: len(self._parents) - node.level + 1]
        path = (*start, *(node.module.split(".") if node.module else ()))
        self.needs.update(path[:end] for end in range(1, len(path) + 1))
        self.needs.update((*path, alias.name) for alias in node.names)


def _class(node: ast.ClassDef) -> Class:
    methods = (each.name for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef))
    return Class("process_record" in methods, tuple(node.bases))


def _classes(body: Iterable[ast.stmt]) -> Iterator[ast.ClassDef]:
    """Return the classes that a module defines, also within an if or try."""
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield node
        elif isinstance(node, ast.If | ast.Try):
            for part in (node.body, node.orelse, getattr(node, "finalbody", [])):
                yield from _classes(part)
            for caught in getattr(node, "handlers", []):
                yield from _classes(caught.body)
