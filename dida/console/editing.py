"""The line editor: text, cursor, history, search. `dida.protocols.terminal` binds the keys and draws the line.

Its own code, as readline and prompt_toolkit read the terminal themselves and block: here the line is a value, and the
reactor goes on between two keys. The commands have readline's names. Lines of the history may be edited before they
are entered; the history itself stays as it was.
"""

from __future__ import annotations

from attrs import define, field

from dida.console.style import columns, graphemes

MAX_TYPED = 10_000
"""Characters of a typed line."""
MAX_HISTORY = 1000
"""Lines of the history."""


@define
class EditedLine:
    """The line being typed."""

    history: list[str] = field(factory=list)
    """Oldest first."""
    text: str = ""
    cursor: int = 0
    """In front of which character it stands."""
    overlong: bool = False
    """More than MAX_TYPED characters were typed: some are missing."""
    sought: str | None = None
    """What is being searched for in the history; None: nothing."""
    _killed: str = ""
    _place: int = 0
    """In the history; its length for the line that is new."""
    _drafts: dict[int, str] = field(factory=dict)
    """Lines of the history as they were edited, by place."""

    def __attrs_post_init__(self) -> None:
        self._place = len(self.history)

    # --- text -----------------------------------------------------------------------------------

    def put(self, text: str) -> None:
        """Put a text at the cursor, without what is not printable; in a search it is what is sought."""
        text = "".join(char for char in text if char.isprintable())
        if self.sought is not None:
            self.sought += text
            self._find(self._place)
            return
        room = MAX_TYPED - len(self.text)
        self.overlong |= len(text) > room
        text = text[: max(0, room)]
        self.text = self.text[: self.cursor] + text + self.text[self.cursor :]
        self.cursor += len(text)

    def replace(self, start: int, text: str) -> None:
        """Put a text in place of what stands between `start` and the cursor."""
        self._cut(start, self.cursor)
        self.put(text)

    def backspace(self) -> None:
        if self.sought is not None:
            self.sought = self.sought[:-1]
            self._find(len(self.history) - 1)
            return
        self._cut(max(0, self.cursor - 1), self.cursor)

    def delete(self) -> None:
        self._cut(self.cursor, self.cursor + 1)

    def kill_to_end(self) -> None:
        self._kill(self.cursor, len(self.text))

    def kill_to_start(self) -> None:
        self._kill(0, self.cursor)

    def kill_word_left(self) -> None:
        self._kill(self._word_left(), self.cursor)

    def kill_word_right(self) -> None:
        self._kill(self.cursor, self._word_right())

    def yank(self) -> None:
        """Put what was killed last at the cursor."""
        self.put(self._killed)

    def transpose(self) -> None:
        """Swap the two characters before the cursor, or around it."""
        at = min(self.cursor, len(self.text) - 1)
        if at > 0:
            self.text = self.text[: at - 1] + self.text[at] + self.text[at - 1] + self.text[at + 1 :]
            self.cursor = at + 1

    def _cut(self, start: int, end: int) -> str:
        gone = self.text[start:end]
        self.text = self.text[:start] + self.text[end:]
        self.cursor = start
        return gone

    def _kill(self, start: int, end: int) -> None:
        self._killed = self._cut(start, end) or self._killed

    # --- the cursor -----------------------------------------------------------------------------

    def left(self) -> None:
        self.cursor = max(0, self.cursor - 1)

    def right(self) -> None:
        self.cursor = min(len(self.text), self.cursor + 1)

    def home(self) -> None:
        self.cursor = 0

    def end(self) -> None:
        self.cursor = len(self.text)

    def word_left(self) -> None:
        self.cursor = self._word_left()

    def word_right(self) -> None:
        self.cursor = self._word_right()

    def _word_left(self) -> int:
        before = self.text[: self.cursor].rstrip(" ")
        return before.rfind(" ") + 1

    def _word_right(self) -> int:
        after = self.text[self.cursor :]
        start = self.cursor + len(after) - len(after.lstrip(" "))
        end = self.text.find(" ", start)
        return len(self.text) if end < 0 else end

    # --- history --------------------------------------------------------------------------------

    def older(self) -> None:
        """The line before this one in the history."""
        if self._place > 0:
            self._go(self._place - 1)

    def newer(self) -> None:
        """The line after this one, in the end the new one."""
        if self._place < len(self.history):
            self._go(self._place + 1)

    def _go(self, place: int) -> None:
        self._drafts[self._place] = self.text
        self._place = place
        self._show(self._drafts.get(place, self.history[place] if place < len(self.history) else ""))

    def _show(self, text: str) -> None:
        self.text = text
        self.cursor = len(text)

    def search(self) -> None:
        """Begin to search the history backwards, or go on to the next older line that has what is sought."""
        if self.sought is None:
            self.sought = ""
        elif self.sought:
            self._find(self._place - 1)

    def _find(self, newest: int) -> None:
        assert self.sought is not None
        for place in range(min(newest, len(self.history) - 1), -1, -1):
            if self.sought in self.history[place]:
                self._place = place
                self._show(self.history[place])
                return

    def found(self) -> None:
        """End the search: the line that it has found is edited from now on."""
        self.sought = None

    def take(self) -> str:
        """The line, and begin a new one; it is the newest of the history unless it is blank, or there again."""
        text = self.text
        if text.strip() and not self.overlong and self.history[-1:] != [text.strip()]:
            self.history.append(text.strip())
            del self.history[:-MAX_HISTORY]
        self.drop()
        return text

    def drop(self) -> None:
        """Begin a new line in place of this one."""
        self._show("")
        self.sought = None
        self.overlong = False
        self._drafts.clear()
        self._place = len(self.history)

    # --- drawing --------------------------------------------------------------------------------

    def window(self, room: int) -> tuple[str, int]:
        """As much of the text as fits `room` columns, the cursor among them; and the cursor's column."""
        at = columns(self.text[: self.cursor])
        room = max(2, room)
        half = room // 2
        start = 0 if at < room else ((at - room) // half + 1) * half
        shown, first, column = "", -1, 0
        for char, wide in graphemes(self.text):
            if column >= start and column + wide <= start + room:
                first = column if first < 0 else first
                shown += char
            column += wide
        return shown, at - (first if first >= 0 else start)
