"""Members of a line's object that the verb does not have: ignored, and named in the reply to a client."""

from __future__ import annotations

from contextlib import suppress

import pytest

from dida.errors import BadRequest
from dida.wire import grammar
from dida.wire.messages import Error, No, Ok, Read, form_of, vocabulary
from dida.wire.runs import ListRuns
from tools.doc_tables import NODES


def ignored(line: str, node: str = "storage") -> list[str]:
    """What of a line is ignored there."""
    found: list[str] = []
    grammar.decode(line.encode(), NODES[node], found)
    return found


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ('read k {"afer": {}}', ["afer"]),
        ('read k {"after": {}, "deadline": 1}', []),
        ('read k 1.1 {"sate": 1, "latest": true, "x y": {"deep": []}}', ["sate", "x y"]),
        ('list {"from": "k", "form": "k", "from_": "k"}', ["form", "from_"]),
        ('#1 ping {"": 1}', [""]),
        ('ping {"deadline": 5}', []),
        ('read k {"key": "other"}', ["key"]),
        ('read k {"version": "1.1"}', []),
        ('read k 1.1 {"version": "2.1"}', ["version"]),
        ('read k {"afer": 1, "afer": 2}', ["afer"]),
        ("ping {}", []),
        ("ping", []),
    ],
)
def test_what_is_ignored_is_known(line: str, names: list[str]) -> None:
    """Each member that the verb does not have, once, in their order; also one that a word says already."""
    assert ignored(line) == names


def test_it_changes_nothing() -> None:
    """A line with unknown members is the line without them, also where their names are those of Python fields."""
    for said, meant in (
        ('list {"from_": "k", "from": "j"}', 'list {"from": "j"}'),
        ('read k {"key": "other", "x": 1}', "read k"),
    ):
        assert grammar.decode(said.encode(), NODES["storage"]) == grammar.decode(meant.encode(), NODES["storage"])


@pytest.mark.parametrize("node", NODES)
def test_nodes_are_not_told(node: str) -> None:
    """What only nodes say to each other may have members of a later version; every other verb names them."""
    for verb, kind in NODES[node].items():
        words = " on" if verb == "debug" else " 1.1" * form_of(kind).required
        found: list[str] = []
        with suppress(BadRequest):  # of those whose words or members are not all there
            grammar.decode(f'{verb}{words} {{"later": 1}}'.encode(), NODES[node], found)
        assert found == ([] if kind.between_nodes else ["later"]), verb


@pytest.mark.parametrize(
    "reply", [Ok(), Ok(("a",), {"after": {}}), No(), No(("4.1", "v")), Error("unavailable", ("x",))]
)
def test_every_reply_can_name_it(reply: Ok | No | Error) -> None:
    """Replies of all kinds, with an object and without, get the member `ignored` beside what they have."""
    said = grammar.with_ignored(reply, ["sate"])
    assert type(said) is type(reply)
    assert said.words == reply.words
    assert said.object == {**reply.object, "ignored": ["sate"]}
    assert grammar.with_ignored(reply, []) is reply


def test_a_refused_line_names_it_too() -> None:
    """When another member is wrong, the names of those that do not exist are told with that."""
    found: list[str] = []
    with pytest.raises(BadRequest):
        grammar.decode(b'runs {"sate": "failed", "limit": "many"}', vocabulary(ListRuns), found)
    assert found == ["sate"]


def test_not_without_bound() -> None:
    """A line of nothing but unknown members gets a short answer."""
    names = ", ".join(f'"{"x" * 1000}{number}": 0' for number in range(1000))
    found = ignored(f"ping {{{names}}}")
    assert len(found) == grammar.MAX_IGNORED
    assert {len(name) for name in found} == {grammar.MAX_NAME}


def test_a_name_that_is_no_text() -> None:
    """Half a surrogate pair in a name is refused as everywhere."""
    with pytest.raises(BadRequest):
        grammar.decode(rb'read k {"\ud800": 1}', vocabulary(Read))
