"""What `help` says: every command has an example that can be typed, and all fits the terminal."""

from __future__ import annotations

import pytest

from dida.console.commands import COMMANDS
from dida.console.guide import DETAILS, EXAMPLES, help_lines
from dida.console.script import parse_command
from dida.console.style import PLAIN, Style

NAMES = {kind.usage.split()[0]: kind for kind in COMMANDS}


def test_every_command_has_an_example() -> None:
    """Each example is a right line of its command."""
    assert set(EXAMPLES) == set(NAMES)
    assert set(DETAILS) <= set(NAMES)
    for name, examples in EXAMPLES.items():
        assert examples
        assert [type(parse_command(example)) for example in examples] == [NAMES[name]] * len(examples)


@pytest.mark.parametrize("width", [50, 60, 80])
@pytest.mark.parametrize("topic", ["", *NAMES])
def test_help_fits(topic: str, width: int) -> None:
    """No line is wider than the terminal; nothing is left out."""
    lines = help_lines(topic, width, PLAIN)
    assert max(map(len, lines)) <= width
    text = " ".join(" ".join(lines).split())
    for name, kind in NAMES.items():
        if topic in ("", name):
            assert kind.usage in text
            assert kind.about in text
    if topic:
        assert f"example: {EXAMPLES[topic][0]}" in text


def test_colours() -> None:
    """With colours the text is the same."""
    painted = "\n".join(help_lines("", 80, Style(True)))
    assert "\x1b[1mclient\x1b[0m" in painted
    assert painted.replace("\x1b[1m", "").replace("\x1b[0m", "") == "\n".join(help_lines("", 80))
