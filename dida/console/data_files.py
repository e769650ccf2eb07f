"""The files that commands name: where they are sought, how they are read, and the form of a data file."""

from __future__ import annotations

import os
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator, Sequence
from contextlib import suppress
from difflib import get_close_matches
from typing import NamedTuple

from dida.errors import UserError

MAX_SIZE = 2**24
"""Bytes of a script, or of a file that a command names."""
SHOWN = 60
"""Characters of a faulty word that an error shows."""


def shown(word: str) -> str:
    """A faulty word as an error shows it."""
    return repr(word if len(word) <= SHOWN else word[:SHOWN] + "…")


def decoded_lines(data: bytes) -> Iterator[tuple[int, str, str]]:
    """(number, text, what is wrong with its bytes) of each line, however it ends.

    UTF-16 is known by its byte-order mark.
    """
    if data.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
        with suppress(UnicodeDecodeError):
            data = data.decode("utf-16").encode()
    for number, raw in enumerate(data.removeprefix(b"\xef\xbb\xbf").splitlines(), start=1):
        try:
            yield number, raw.decode(), ""
        except UnicodeDecodeError as problem:
            yield number, raw.decode(errors="replace"), f"not UTF-8 at byte {problem.start + 1}: save it as UTF-8"


class Row(NamedTuple):
    """A line of a data file: its number, from 1, and the record that it names."""

    line: int
    key: str
    value: str


def parse_data(data: bytes, name: str) -> tuple[Row, ...]:
    """The rows of a data file: `key,value` a line, split at the first comma.

    Blanks around the line are dropped, blank lines skipped. UserError names file and line.
    """
    rows: list[Row] = []
    for number, text, problem in decoded_lines(data):
        if problem:
            raise UserError(f"{name} line {number}: {problem}")
        if not text.strip():
            continue
        key, comma, value = text.partition(",")
        if not comma:
            raise UserError(f"{name} line {number}: no comma in {shown(text.strip())}: write key,value")
        rows.append(Row(number, key.strip(), value.strip()))
    return tuple(rows)


def parse_inputs(data: bytes, name: str) -> tuple[tuple[int, str], ...]:
    """The (line number, input) pairs of a file of inputs, one a line.

    Blanks around the line are dropped, blank lines skipped. UserError names file and line.
    """
    inputs: list[tuple[int, str]] = []
    for number, text, problem in decoded_lines(data):
        if problem:
            raise UserError(f"{name} line {number}: {problem}")
        if text.strip():
            inputs.append((number, text.strip()))
    if not inputs:
        raise UserError(f"{name}: no input in it: write one a line")
    return tuple(inputs)


def find_file(name: str, folders: Sequence[str]) -> str:
    """The path of a file that a command names: in the current folder, else in `folders` and below them.

    UserError names the places, and a file of nearly that name.
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
        raise UserError(f"{shown(name)} is a folder: name a file in it")
    here = _files_beside(name)
    near = get_close_matches(os.path.basename(name), [*here, *found], n=1)
    if not near:
        hint = "check the name"
    elif near[0] in here:
        hint = f"did you mean {os.path.join(os.path.dirname(name), near[0])}?"
    else:
        hint = f"did you mean {near[0]} (in {os.path.dirname(found[near[0]])})?"
    raise UserError(f"no file {shown(name)} in the current folder or below {', '.join(folders) or 'it'}: {hint}")


def _files_beside(path: str) -> list[str]:
    """The names of the files in that path's folder."""
    try:
        with os.scandir(os.path.dirname(path) or ".") as entries:
            return sorted(entry.name for entry in entries if entry.is_file())
    except OSError:
        return []


def read_file(name: str, folders: Sequence[str]) -> tuple[str, bytes]:
    """Path and content of a file that a command names."""
    path = find_file(name, folders)
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_SIZE + 1)
    except OSError as problem:
        raise UserError(f"can't read {path}: {os.strerror(problem.errno or 0).lower()}") from None
    if len(data) > MAX_SIZE:
        raise UserError(f"{path} is longer than {MAX_SIZE} bytes: cut it in two")
    return path, data
