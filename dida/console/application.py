"""The parser of application files: `operator CLASSNAME SEQ`, one line per operator of the chain."""

from __future__ import annotations

from attrs import frozen

from dida.console.data_files import decoded_lines
from dida.errors import UserError
from dida.interfaces import MAX_OPERATORS, is_class_name


@frozen
class Application:
    """A chain: the class names of its operators, in order."""

    operators: tuple[str, ...]

    @classmethod
    def parse(cls, content: bytes, file: str) -> Application:
        """Parse an application file; UserError names `file` and line."""
        found: list[tuple[int, int, str]] = []
        for number, line_text, problem in decoded_lines(content):
            if problem:
                raise UserError(f"{file} line {number}: {problem}")
            words = line_text.partition("#")[0].split()
            if words:
                found.append(_operator(words, f"{file} line {number}", number))
        if not found:
            raise UserError(f"{file}: missing operator: write lines like operator AddOperator 0")
        found.sort(key=lambda entry: entry[0])
        expected = 0
        for sequence, number, _ in found:
            if sequence > expected:
                raise UserError(
                    f"{file} line {number}: missing number {expected} before {sequence}:"
                    " number the operators 0, 1, 2 … without gaps"
                )
            expected = sequence + 1
        if len(found) > MAX_OPERATORS:
            raise UserError(f"{file}: {len(found)} operators, but a chain may have {MAX_OPERATORS}: make it shorter")
        return cls(tuple(name for _, _, name in found))


def _operator(words: list[str], where: str, number: int) -> tuple[int, int, str]:
    """Return (sequence number, line number, class name) of one line."""
    if words[0] != "operator":
        raise UserError(f"{where}: unknown word {words[0]!r}: write operator CLASSNAME SEQ")
    if len(words) != 3:
        given = len(words) - 1
        raise UserError(
            f"{where}: got {given} word{'' if given == 1 else 's'} after operator: write operator CLASSNAME SEQ"
        )
    _, name, sequence = words
    if not is_class_name(name):
        raise UserError(f"{where}: invalid class name {name!r}: write it as in the operator's file")
    if not (sequence.isascii() and sequence.isdigit() and len(sequence) <= 9):
        raise UserError(f"{where}: invalid number {sequence!r}: the operators are numbered 0, 1, 2 …")
    return int(sequence), number, name
