"""Request classes and the forms that are read off their usage lines."""

from __future__ import annotations

from typing import ClassVar

import pytest
from attrs import field, frozen

from dida.wire.messages import NODE, Debug, Read, Request, form_of, vocabulary


@frozen
class Order(Request):
    usage: ClassVar[str] = "order TABLE [WAITER] DISH…"
    about: ClassVar[str] = "what a table wants"
    dish: tuple[str, ...]
    table: int
    waiter: str | None = None
    from_: str = field(default="kitchen", kw_only=True)
    notes: list[str] = field(factory=list, kw_only=True)


def test_a_form_is_read_off_the_usage_line() -> None:
    """Words in capitals are fields; brackets: may be left out; an ellipsis: all the rest; other fields are members."""
    form = form_of(Order)
    assert (form.verb, form.words, form.required, form.rest) == ("order", ("table", "waiter", "dish"), 2, True)
    assert form.members == (("deadline", "deadline", 10.0), ("from", "from_", "kitchen"), ("notes", "notes", []))


def test_plain_forms() -> None:
    """Only words that any string will do for, in the order of the class's arguments, make a request without checks."""
    assert form_of(Read).plain == 1
    assert form_of(Order).plain == -1
    assert form_of(Debug).plain == 1


def test_a_vocabulary() -> None:
    """Verbs to classes; a later class replaces an earlier one of the same verb."""
    assert vocabulary(*NODE)["debug"] is Debug
    assert vocabulary(Order, Read) == {"order": Order, "read": Read}


def test_requests_do_not_change() -> None:
    """A request is frozen: who got it can keep it."""
    with pytest.raises(AttributeError):
        Read("k").key = "j"  # type: ignore[misc]
