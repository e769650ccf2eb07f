"""The files that commands name: where they are sought, how they are read, which of them fit a command."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from difflib import get_close_matches

from dida.console.application import Application
from dida.console.data_files import MAX_SIZE, parse_data, parse_inputs
from dida.errors import UserError, shown

MAX_FILES = 500
"""Maximum number of files of a folder that completion reads."""
MAX_BYTES = 65_536
_FORMS: dict[str, Callable[[bytes, str], object]] = {
    "APP_FILE": Application.parse,
    "DATA_FILE": parse_data,
    "FILE_OF_INPUTS": parse_inputs,
}
"""The parser of each form of file that commands name."""


def find_file(name: str, folders: Sequence[str]) -> str:
    """Return the path of a file that a command names: in the current folder, else in `folders` and below them.

    UserError names the folders, and a file with a similar name.
    """
    if os.path.isfile(name):
        return name
    found: dict[str, str] = {}
    for top in folders:
        for folder, subfolders, files in os.walk(top):
            subfolders[:] = sorted(sub for sub in subfolders if not sub.startswith((".", "__")))
            path = os.path.join(folder, name)
            if os.path.isfile(path):
                return path
            found.update((file, os.path.join(folder, file)) for file in sorted(files) if file not in found)
    if os.path.isdir(name):
        raise UserError(f"cannot read {shown(name)}: it is a folder, name a file in it")
    here = _files_beside(name)
    near = get_close_matches(os.path.basename(name), [*here, *found], n=1)
    if not near:
        hint = "check the name"
    elif near[0] in here:
        hint = f"did you mean {os.path.join(os.path.dirname(name), near[0])}?"
    else:
        hint = f"did you mean {near[0]} (in {os.path.dirname(found[near[0]])})?"
    raise UserError(
        f"cannot find file {shown(name)} in the current folder or below {', '.join(folders) or 'it'}: {hint}"
    )


def _files_beside(path: str) -> list[str]:
    """Return the names of the files in that path's folder."""
    try:
        with os.scandir(os.path.dirname(path) or ".") as entries:
            return sorted(entry.name for entry in entries if entry.is_file())
    except OSError:
        return []


def read_file(name: str, folders: Sequence[str]) -> tuple[str, bytes]:
    """Return path and content of a file that a command names."""
    path = find_file(name, folders)
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_SIZE + 1)
    except OSError as problem:
        raise UserError(f"cannot read {path}: {os.strerror(problem.errno or 0).lower()}") from None
    if len(data) > MAX_SIZE:
        raise UserError(f"{path} is longer than {MAX_SIZE} bytes: cut it in two")
    return path, data


def usable_files(place: str, last: str, folders: Sequence[str]) -> list[str]:
    """Return the files of that form that a command would find by a name that begins with `last`.

    If there is none, return the subfolders of the current folder.
    """
    if place not in _FORMS:
        return []
    here, slash, _ = last.rpartition("/")
    folder = here + slash
    names = [folder + name for name in _names(folder or ".") if (folder + name).startswith(last)]
    found = [name for name in names if _is_usable(name, place)]
    for top in folders:
        for path, subfolders, files in os.walk(top):
            subfolders[:] = sorted(sub for sub in subfolders if not sub.startswith((".", "__")))
            fits = sorted(file for file in files if file.startswith(last))[:MAX_FILES]
            found += [file for file in fits if _is_usable(os.path.join(path, file), place)]
    return found or [name + "/" for name in names if os.path.isdir(name)]


def _names(folder: str) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))[:MAX_FILES]
    except OSError:
        return []


def _is_usable(path: str, place: str) -> bool:
    try:
        if not os.path.isfile(path) or os.path.getsize(path) > MAX_BYTES:
            return False
        with open(path, "rb") as file:
            return bool(_FORMS[place](file.read(), path))
    except (OSError, UserError):
        return False
