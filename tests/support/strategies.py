"""Hypothesis strategies for all messages, made from the field types of their classes."""

from __future__ import annotations

import types
from functools import cache
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin, get_type_hints

import attrs
import msgspec
from hypothesis import strategies as st

from dida.chains.messages import Execute
from dida.chains.records import Assignment
from dida.versions import MAX_NUMBER, MAX_REPLICA, Version
from dida.wire.messages import Debug, Error, No, Ok, Reply, Request
from dida.wire.runs import STATES, ListRuns

Strategy = st.SearchStrategy[Any]

HARD = ["", " ", "null", "true", "-1", "#", "#tag", "{", "[", "{}", '"', "\\", "\x00", "\r\n", "\x7f", "\x85", "\xa0"]
"""Strings that mean something in the grammar, in JSON, or to who splits lines."""

texts = st.text(max_size=20) | st.sampled_from([*HARD, "\u2028", "a b", 'say "x"', "ok", "4.1", "\ufeff", "\U0001f600"])
versions = st.builds(Version, st.integers(1, MAX_NUMBER), st.integers(0, MAX_REPLICA))
tags = st.text(st.characters(exclude_categories=["Z", "C"]), min_size=1, max_size=64)
floats = st.floats(allow_nan=False, allow_infinity=False)
objects = st.dictionaries(
    texts,
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**53), 2**53) | floats | texts,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
        max_leaves=8,
    ),
    max_size=4,
)
words = st.lists(texts, max_size=4).map(tuple)
codes = st.from_regex(r"[a-z]{1,10}(-[a-z]{1,10})?", fullmatch=True)
replies: st.SearchStrategy[Reply] = (
    st.builds(Ok, words, objects) | st.builds(No, words, objects) | st.builds(Error, codes, words, objects)
)


def requests(kind: type[Request]) -> st.SearchStrategy[Request]:
    """Any request of a class."""
    return _requests(cast(Any, kind))


@cache
def _requests(kind: Any) -> st.SearchStrategy[Request]:
    if issubclass(kind, Debug):
        return _instances(kind, switch=st.sampled_from(["on", "off"]))
    if issubclass(kind, ListRuns):
        return _instances(kind, state=st.sampled_from([None, *STATES]), operator=st.sampled_from([None, "AddOperator"]))
    if issubclass(kind, Execute):
        sizes = st.shared(st.integers(1, 4))
        chains = sizes.flatmap(lambda n: st.lists(_instances(Assignment), min_size=n, max_size=n).map(_chain))
        return _instances(kind, size=sizes, next=sizes.flatmap(lambda n: st.integers(0, n - 1)), chain=chains)
    return _instances(kind)


def _chain(steps: list[Assignment]) -> tuple[Assignment, ...]:
    return tuple(msgspec.structs.replace(step, position=number) for number, step in enumerate(steps))


def _instances(kind: type[Any], **given: Strategy) -> Strategy:
    names = [a.name for a in attrs.fields(kind)] if attrs.has(kind) else [f.name for f in msgspec.structs.fields(kind)]
    hints = get_type_hints(kind, include_extras=True)
    return st.builds(kind, **{name: given[name] if name in given else _of_type(hints[name]) for name in names})


def _of_type(hint: Any, limits: msgspec.Meta | None = None) -> Strategy:
    """Any value of a type, within the limits that msgspec has."""
    limits = limits or msgspec.Meta()
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _of_type(arguments[0], next((a for a in arguments[1:] if isinstance(a, msgspec.Meta)), None))
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin in (Union, types.UnionType):
        return st.one_of([_of_type(each) for each in arguments])
    least, most = limits.min_length or 0, limits.max_length
    if origin is dict:
        return objects if arguments[1] is Any else st.dictionaries(*map(_of_type, arguments), max_size=3)
    if origin is tuple and arguments[-1] is not Ellipsis:
        return st.tuples(*map(_of_type, arguments))
    if origin in (list, tuple):
        return st.lists(_of_type(arguments[0]), min_size=least, max_size=min(most or 3, 3)).map(origin)
    if isinstance(hint, type) and issubclass(hint, Request):
        return _requests(cast(Any, hint))
    if attrs.has(hint) or (isinstance(hint, type) and issubclass(hint, msgspec.Struct)):
        return _instances(hint)
    if hint is str:
        return texts.filter(lambda text: least <= len(text) <= (most or len(text)))
    if hint is int:
        highest = limits.le if limits.le is not None else (limits.lt or MAX_NUMBER + 1) - 1
        return st.integers(int(limits.ge or 0), int(highest))
    if hint is float:
        return st.floats(limits.ge, limits.le, allow_nan=False, allow_infinity=False)
    return {Version: versions, bool: st.booleans(), type(None): st.none(), Any: texts}[hint]
