"""Parsers of data files, of files of inputs, and of the lines of any file that a command names."""

from __future__ import annotations

from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from dida.errors import UserError, shown

MAX_SIZE = 2**24
"""Maximum size of a script, or of a file that a command names, in bytes."""


def decoded_lines(data: bytes) -> Iterator[tuple[int, str, str]]:
    """Yield (number, text, problem of its bytes) of each line, with any line ending.

    A byte-order mark indicates UTF-16.
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
    """A line of a data file: its number, from 1, and its record."""

    line: int
    key: str
    value: str


def parse_data(data: bytes, name: str) -> tuple[Row, ...]:
    """Return the rows of a data file: lines `key,value`, split at the first comma.

    Skip blanks around a line, and blank lines. UserError names file and line.
    """
    rows: list[Row] = []
    for number, text, problem in decoded_lines(data):
        if problem:
            raise UserError(f"{name} line {number}: {problem}")
        if not text.strip():
            continue
        key, comma, value = text.partition(",")
        if not comma:
            raise UserError(f"{name} line {number}: missing comma in {shown(text.strip())}: write key,value")
        rows.append(Row(number, key.strip(), value.strip()))
    return tuple(rows)


def parse_inputs(data: bytes, name: str) -> tuple[tuple[int, str], ...]:
    """Return the (line number, input) pairs of a file of inputs, one per line.

    Skip blanks around a line, and blank lines. UserError names file and line.
    """
    inputs: list[tuple[int, str]] = []
    for number, text, problem in decoded_lines(data):
        if problem:
            raise UserError(f"{name} line {number}: {problem}")
        if text.strip():
            inputs.append((number, text.strip()))
    if not inputs:
        raise UserError(f"{name}: missing input: write one per line")
    return tuple(inputs)
