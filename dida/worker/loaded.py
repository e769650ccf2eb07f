"""The package of the operator files: `dida.worker.loaded.FOLDER.MODULE`, where FOLDER is the folder's path.

The files of a folder are a package: they import each other, relatively and absolutely, but neither the modules of
another folder nor others. The name has all that an import needs. So a child process of an operator (`multiprocessing`)
also finds its module by name, and pickles work.

An absolute import means a module of the folder unless Python or an installed package has one of that name: a neighbour
called `json.py` hides nothing, and is imported by `from . import json`. Files outside the folder, also through a link,
are never loaded. No bytecode is written or read: every change is seen, however soon it comes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType

from dida.worker.sources import Parts, Stamp, Text, Unreadable, neighbourly, stamp_of

__path__: list[str] = []  # it is a package, whose modules the finder below finds
_PREFIX = __name__ + "."


def name_of(folder: str, module: Parts = ()) -> str:
    """Return the name under which a module of the folder is imported; the folder's path is absolute."""
    return _PREFIX + ".".join(part.replace("%", "%25").replace(".", "%2E") for part in (folder, *module))


def forget_stale(folder: str) -> None:
    """Forget the modules of the folder that have changed, and those that use one: the next import loads them again.

    Code that has the old ones continues with them.

    A module that another thread is importing stays until the next call: Python's import fails when its module goes
    away.
    """
    prefix = name_of(folder) + "."
    modules = [(name, module) for name, module in list(sys.modules.items()) if name.startswith(prefix)]
    for name, module in [(name, module) for name, module in modules if _is_stale(module)]:
        if sys.modules.get(name) is module:  # else another thread imports it anew
            sys.modules.pop(name, None)
            package, _, last = name.rpartition(".")
            vars(sys.modules.get(package, ModuleType(""))).pop(last, None)


def _is_stale(module: ModuleType) -> bool:
    loader = loader_of(module)
    if loader is None or getattr(module.__spec__, "_initializing", False):
        return False
    return not (loader.is_fresh() and loader.lacks_none())


def loader_of(module: ModuleType | None) -> Loader | None:
    """Return the loader of a module, if it is an operator file."""
    loader = getattr(getattr(module, "__spec__", None), "loader", None)
    return loader if isinstance(loader, Loader) else None


def is_current(loader: Loader) -> bool:
    """Return True if others now import the module that this loader has loaded."""
    return loader_of(sys.modules.get(loader.name)) is loader


class Loader(SourceFileLoader):
    """Loads one file, and knows what it depends on."""

    def __init__(self, name: str, path: str, folder: str, module: Parts, package: bool) -> None:
        super().__init__(name, path)
        self.module = module
        self.stamp: Stamp = ()
        self._folder = folder
        self._package = package
        self._needs: frozenset[str] = frozenset()
        """The modules of the folder that it may import."""
        self._lacks: frozenset[Parts] = frozenset()
        """Those of them, and modules from elsewhere, that the folder did not have."""

    def get_code(self, fullname: str) -> CodeType:
        """Read the file and return its code. Raises SyntaxError."""
        text = Text.read(self.path, self.module, self._package)
        self.stamp = text.stamp
        try:
            tree, needs, elsewhere = neighbourly(text, text.tree(), self._owns)
        except Unreadable as problem:
            raise SyntaxError(str(problem), (self.path, None, None, None)) from None
        parents = (text.module[:end] for end in range(1, len(text.module)))
        self._needs = frozenset(name_of(self._folder, each) for each in (*needs, *parents))
        wanted = needs | {(top,) for top in elsewhere}
        self._lacks = frozenset(each for each in wanted if not _has(self._folder, each))
        return compile(tree, self.path, "exec", dont_inherit=True)

    def is_fresh(self, seen: set[str] | None = None) -> bool:
        """Return True if neither its file nor a file that it imports, directly or not, has changed since."""
        try:
            if stamp_of(os.stat(self.path)) != self.stamp:
                return False
        except OSError:
            return False
        if not self._needs:
            return True
        seen = seen if seen is not None else {self.name}
        for name in self._needs - seen:
            seen.add(name)
            loader = loader_of(sys.modules.get(name))
            if loader is not None and loader.stamp and not loader.is_fresh(seen):
                return False
        return True

    def lacks_none(self) -> bool:
        """Return True if the folder still lacks what it lacked when this was loaded."""
        return not any(_has(self._folder, each) for each in self._lacks)

    def _owns(self, top: str) -> bool:
        return _has(self._folder, (top,)) and not _is_elsewhere(top, self._folder)


class Finder(MetaPathFinder):
    """Finds the modules of operators folders by their names."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(_PREFIX):
            return None
        parts = [part.replace("%2E", ".").replace("%25", "%") for part in fullname.removeprefix(_PREFIX).split(".")]
        folder, module = parts[0], tuple(parts[1:])
        base = os.path.join(folder, *module)
        for file, package in ((os.path.join(base, "__init__.py"), True), (base + ".py", False)) if module else ():
            if os.path.isfile(file):
                if not is_within(file, folder):
                    return None
                loader = Loader(fullname, file, folder, module, package)
                spec = ModuleSpec(fullname, loader, origin=file, is_package=package)
                spec.has_location = True
                if package:
                    spec.submodule_search_locations = [base]
                return spec
        if not os.path.isdir(base) or not is_within(base, folder):
            return None
        spec = ModuleSpec(fullname, None, is_package=True)
        spec.submodule_search_locations = [base]
        return spec


def is_within(path: str, folder: str) -> bool:
    """Return True if a file lies in the folder, links followed."""
    return (os.path.realpath(path) + os.sep).startswith(os.path.join(os.path.realpath(folder), ""))


def _has(folder: str, module: Parts) -> bool:
    base = os.path.join(folder, *module)
    return os.path.isfile(base + ".py") or os.path.isdir(base)


def _is_elsewhere(top: str, folder: str) -> bool:
    """Return True if an installed package has that name; a package in the current folder is not installed."""
    if top == "dida":
        return True
    here = {"", os.curdir, os.path.realpath(folder)}
    with suppress(OSError):  # it may have been removed
        here.add(os.getcwd())
    spec = PathFinder.find_spec(top, [entry for entry in sys.path if entry not in here])
    return spec is not None and spec.origin is not None


sys.meta_path.insert(0, Finder())  # first: `__path__` of a package leads other finders to its files
