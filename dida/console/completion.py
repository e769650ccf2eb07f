"""Completion of a line by Tab: the commands, node ids or files that its last word may become.

The usage line of a command says what may stand at a place, so a new command needs no code here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from attrs import frozen

from dida.console.commands import COMMANDS
from dida.console.words import Word, as_string, quoted, words_of

COMMAND = "COMMAND"
_NAMES = tuple(kind.usage.split()[0] for kind in COMMANDS)


@frozen
class Completion:
    """The words that the last word of a line may become."""

    start: int
    """Place of the last word in the line."""
    words: tuple[str, ...]

    def common(self) -> str:
        """Return the longest common beginning of the words."""
        first, last = min(self.words, default=""), max(self.words, default="")
        same = [one == other for one, other in zip(first, last, strict=False)]
        return first[: same.index(False) if False in same else len(same)]


def expected(before: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """Return what comes after these words, as the usage line names it ("": nothing), and the possible flags."""
    if not before:
        return COMMAND, ()
    for name, kind in zip(_NAMES, COMMANDS, strict=True):
        if name.lower() == before[0].lower():
            places = kind.usage.replace("[", " ").replace("]", " ").split()[1:]
            words = [place for place in places if not place.startswith("--")]
            given = sum(not word.startswith("--") for word in before[1:])
            flags = tuple(place for place in places if place.startswith("--") and place not in before)
            if given < len(words):
                return words[given], flags
            return words[-1] if words and words[-1].endswith("…") else "", flags
    return "", ()


def complete(text: str, known: Callable[[str, str, str], Iterable[str]]) -> Completion:
    """Return the words that the last word of `text` may become.

    `known` returns the words for a command, a place of its usage line, and the beginning of the word.
    """
    words = words_of(text)
    ended = not words or (text[-1:].isspace() and not words[-1].problem)
    typed = Word(len(text), "", "") if ended else words.pop()
    last, before = typed.text, [word.text for word in words]
    place, flags = expected(before)
    if place == COMMAND:
        found = [name for name in _NAMES if name.lower().startswith(last.lower())]
    else:
        offers = [*known(before[0].lower(), place, last)] if place else []
        offers += flags if last or not place else ()
        found = sorted({word for word in offers if word.startswith(last)})
    if typed.written.startswith('"') or any(quoted(word) != word for word in found):
        found = [as_string(word) for word in found]
    return Completion(typed.start, tuple(found))
