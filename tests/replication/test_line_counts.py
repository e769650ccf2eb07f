"""How many lines storage nodes send each other for one operation, and how many bytes; concurrent ones share them."""

from __future__ import annotations

from typing import Any, cast

import pytest
from attrs import evolve

from dida.wire import grammar
from dida.wire.messages import Read, Request, UpdateIf, Write
from tests.support.simnet import Hand

KEY_AT = 2


def counted(hand: Hand, request: Request, number: int) -> tuple[dict[str, int], int]:
    """Have a replica do it, and return the lines by verb, replies included, and their bytes; heartbeats don't count."""
    lines: dict[str, int] = {}
    size = 0
    token = hand.ask(number, request)
    for _ in range(1000):
        found = [letter for letter in hand.letters if letter.verb != "heartbeat"]
        if not found:
            break
        for letter in found:
            reply = letter.answer if letter.is_answer else None
            line = grammar.encode_reply(reply, "1") if reply is not None else grammar.encode(letter.send.message, "1")
            lines[letter.verb] = lines.get(letter.verb, 0) + 1
            size += len(line) + 1
            hand.deliver(letter)
    assert token in hand.replies
    return lines, size


# verb, node that is asked, lines of 4 nodes by verb
CASES: dict[str, tuple[Request, int, dict[str, int]]] = {
    "the home has the newest, and it is equal": (UpdateIf("", "a", "b"), KEY_AT, {"prepare": 12}),
    "another node is asked": (UpdateIf("", "a", "b"), 1, {"prepare": 12, "forward": 2}),
    "the value is another one": (UpdateIf("", "x", "b"), KEY_AT, {"prepare": 6, "release": 6}),
    "it may be a retry": (UpdateIf("", "a", "b", id="s:1", retry=True), KEY_AT, {"prepare": 18}),
    "a latest read": (Read("", latest=True), KEY_AT, {"prepare": 6, "release": 6}),
}


@pytest.mark.parametrize("case", CASES)
def test_lines_of_one_operation(case: str) -> None:
    """4 (N - 1) lines for an updateif, two more if it is passed on; N is 4."""
    request, number, expected = CASES[case]
    hand = Hand(4)
    key = hand.key_at(KEY_AT)
    hand.answer(1, Write(key, "a"))
    assert hand.run(2.0, hand.quiet)
    lines, size = counted(hand, evolve(cast(Any, request), key=key), number)
    assert lines == expected
    assert size < 250 * sum(lines.values())
