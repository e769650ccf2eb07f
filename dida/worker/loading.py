"""Operator classes by name, loaded from the files of one folder and its sub-folders at run time.

The files are read to learn which classes they define. Only a file whose class is wanted is executed, so a broken file
affects nobody who does not need it. It is imported under `dida.worker.loaded`, where it finds its neighbours. A file
that was changed or added is loaded again, together with those that import it. Files outside the folder, also through a
link, are never loaded.

`known` is cheap (a few calls of stat); `find` may read and execute files. Both may be called from threads, `find` from
one at a time; operators, and others that use the same folder, may import its files meanwhile.
"""

from __future__ import annotations

import errno
import inspect
import os
import traceback
from importlib import import_module
from typing import Any

from attrs import define, field

from dida.chains.texts import raised
from dida.errors import DidaError
from dida.interfaces import is_class_name
from dida.worker import loaded
from dida.worker.loaded import Loader
from dida.worker.sources import Outline, Parts, Stamp, Text, processes, stamp_of

MAX_FILES = 5000
"""The most files of a folder, the nearest ones; also the most sub-folders."""
OF_THE_PROCESS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Errors of the process or the machine (too much is open), not of the folder."""
METHODS = {"configure_storage": (None,), "process_record": (None, "", "")}
"""The methods of an operator, with their arguments."""


class LoadingError(DidaError):
    """The operator is not available; each subclass is one reason."""

    code_on_wire = ""

    def __init__(self, text: str) -> None:
        super().__init__(self.code_on_wire, text)

    def __str__(self) -> str:
        return self.words[0]


class FolderMissing(LoadingError):
    """The operators folder does not exist."""

    code_on_wire = "no-operators-folder"


class NoSuchOperator(LoadingError):
    """No file of the folder defines a class of that name."""

    code_on_wire = "no-such-operator"


class BrokenFile(LoadingError):
    """The file does not import."""

    code_on_wire = "broken-operator-file"


class NoOperator(LoadingError):
    """The class is not an operator."""

    code_on_wire = "no-operator"


class AmbiguousOperator(LoadingError):
    """Several files define a class of that name."""

    code_on_wire = "ambiguous-operator"


@define
class OperatorFolder:
    """The operators of one folder."""

    path: str
    _root: str = field(init=False)
    _folders: dict[str, Stamp] = field(factory=dict, init=False)
    """The folder and its sub-folders, as they were when they were scanned."""
    _files: dict[str, Outline] = field(factory=dict, init=False)
    """By name within the folder, the nearest first."""
    _found: dict[str, tuple[type[Any], Loader]] = field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        self._root = os.path.abspath(self.path)

    def known(self, name: str) -> type[Any] | None:
        """Return the class if it was found before and neither its files nor the folder have changed since."""
        found = self._found.get(name)
        if found is None:
            return None
        kind, loader = found
        try:
            for path, stamp in self._folders.items():
                if stamp_of(os.stat(path)) != stamp:
                    return None
        except OSError:
            return None
        return kind if loader.is_fresh() and loaded.is_current(loader) else None

    def find(self, name: str) -> type[Any]:
        """Return the class. A LoadingError says why it is not available."""
        if not is_class_name(name):
            raise NoSuchOperator(f"{name!r} is not a class name")
        kind, loader = self._load(name)
        if not loader.is_fresh():  # it has changed since its import began, maybe in another thread
            kind, loader = self._load(name)
        self._found[name] = kind, loader
        return kind

    def _load(self, name: str) -> tuple[type[Any], Loader]:
        self._scan()
        holders = [file for file in self._files.values() if name in file.mentioned and name in file.classes]
        if not holders:
            raise NoSuchOperator(f"no class {name} in the files of {self.path}{self._unread()}")
        nearest = min(len(file.text.module) for file in holders)
        holders = [file for file in holders if len(file.text.module) == nearest]
        if len(holders) > 1:
            where = " and ".join(sorted(file.name for file in holders))
            raise AmbiguousOperator(f"{name} is defined in {where} of {self.path}: keep one of them")
        return load(self._root, holders[0].text.module, name)

    def operators(self) -> dict[str, str]:
        """Return all classes that look like operators, with their files; no file is executed for it."""
        self._scan()
        modules = {file.text.module: file for file in self._files.values()}
        found: dict[str, str] = {}
        for file in self._files.values():
            for name in file.classes:
                if name[0] != "_" and name not in found and processes(name, file, modules):
                    found[name] = file.name
        return found

    def defined(self) -> list[str]:
        """Return the names of all classes that `find` would look for, also in files that can't be parsed."""
        self._scan()
        return [name for file in self._files.values() for name in file.classes]

    def module_of(self, name: str) -> Parts:
        """Return the module from which a class was loaded; empty if it is not known any more."""
        found = self._found.get(name)
        return found[1].module if found is not None else ()

    def _scan(self) -> None:
        """Take note of what has changed in the folder."""
        folders: dict[str, Stamp] = {}
        files: dict[str, Outline] = {}
        waiting: list[Parts] = [()]
        for parts in waiting:
            path = os.path.join(self._root, *parts)
            try:
                stamp = stamp_of(os.stat(path))
                with os.scandir(path) as entries:
                    found = sorted(entries, key=lambda entry: entry.name)
            except OSError as problem:
                if problem.errno in OF_THE_PROCESS:
                    raise
                if parts:
                    continue  # it has just been removed
                why = (problem.strerror or "can't be read").lower()
                raise FolderMissing(f"operators folder {self.path}: {why}: name another with --operators") from None
            if any(entry.name == "pyvenv.cfg" for entry in found):
                continue  # a virtual environment
            folders[path] = stamp
            for entry in found:
                if entry.name[0] == "." or entry.name == "__pycache__":
                    continue
                if entry.name.endswith(".py") and len(files) < MAX_FILES:
                    self._look(entry, parts, files)
                elif entry.is_dir(follow_symlinks=False) and len(waiting) < MAX_FILES:
                    waiting.append((*parts, entry.name))
        self._folders, self._files = folders, files
        loaded.forget_stale(self._root)
        self._found = {name: found for name, found in self._found.items() if loaded.is_current(found[1])}

    def _look(self, entry: os.DirEntry[str], parts: Parts, files: dict[str, Outline]) -> None:
        """Add a file of the folder, as it was if it has not changed."""
        name = "/".join((*parts, entry.name))
        try:
            if entry.is_symlink() and not loaded.is_within(entry.path, self._root):
                return
            old = self._files.get(name)
            if old is not None and old.text.stamp == stamp_of(entry.stat()):
                files[name] = old
            elif entry.is_file():
                package = bool(parts) and entry.name == "__init__.py"
                module = parts if package else (*parts, entry.name.removesuffix(".py"))
                files[name] = Outline(name, Text.read(entry.path, module, package))
        except OSError as problem:
            if problem.errno in OF_THE_PROCESS:
                raise

    def _unread(self) -> str:
        broken = [f"{file.name} {file.problem}" for file in self._files.values() if file.problem]
        if broken:
            return f"; not readable: {', '.join(broken)}"
        return f"; only the nearest {MAX_FILES} files are read" if len(self._files) >= MAX_FILES else ""


def load(folder: str, module: Parts, name: str) -> tuple[type[Any], Loader]:
    """Load a class from a module of the folder, whose path is absolute; return the class and the loader."""
    path = os.path.join(folder, *module)
    try:
        found = import_module(loaded.name_of(folder, module))
    except BaseException as problem:  # it is the author's code: SystemExit, too
        if isinstance(problem, OSError) and problem.errno in OF_THE_PROCESS:
            raise
        raise BrokenFile(_where(problem, folder, path)) from None
    loader = loaded.loader_of(found)
    assert loader is not None
    return _checked(getattr(found, name, None), name, loader.path), loader


def _where(problem: BaseException, folder: str, path: str) -> str:
    """Return why a file could not be imported, with the file of the folder and the line where it happened."""
    lines = [
        (frame.filename, frame.lineno)
        for frame in traceback.extract_tb(problem.__traceback__)
        if frame.filename.startswith(os.path.join(folder, ""))
    ]
    described = raised(problem)
    text = f"{type(problem).__name__}: {described.text}".replace(loaded.name_of(folder) + ".", "")
    by = f" (imported by {lines[0][0]} line {lines[0][1]})" if lines else ""
    if isinstance(problem, SyntaxError) and (problem.filename or "").startswith(os.path.join(folder, "")):
        at = f"line {problem.lineno}: " if problem.lineno else ""
        return f"{problem.filename} {at}{problem.msg}{by}"
    if not lines:
        return f"{path}.py {text}"
    file, line = lines[-1]
    return f"{file} line {line}: {text}{by if file != lines[0][0] else ''}"


def _checked(kind: object, name: str, path: str) -> type[Any]:
    """Return the class; NoOperator if it can't be used as an operator."""
    if not isinstance(kind, type):
        raise NoOperator(f"{name} in {path} is not a class")
    for method, arguments in METHODS.items():
        function = getattr(kind, method, None)
        if not callable(function):
            raise NoOperator(f"{name} in {path} is not an operator: it has no method {method}")
        try:
            inspect.signature(function).bind(None, *arguments)
        except TypeError:
            expected = "(self, storage)" if len(arguments) == 1 else "(self, meta, input, previous_output)"
            raise NoOperator(f"{name} in {path} is not an operator: write {method}{expected}") from None
        except ValueError:
            continue  # a callable without a signature
    return kind
