"""The forms of data files, of files of inputs, and of the lines of any file that a command names."""

from __future__ import annotations

from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from dida.errors import UserError, shown

MAX_SIZE = 2**24
"""Bytes of a script, or of a file that a command names."""


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
            raise UserError(f"{name} line {number}: missing comma in {shown(text.strip())}: write key,value")
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
        raise UserError(f"{name}: missing input: write one per line")
    return tuple(inputs)
