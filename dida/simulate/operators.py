"""The operators of a simulation's runs: generators that yield their storage calls, and return their outputs.

A call is `r` key, `w` key value, or `c` key old new. Its result is the value, None without a record; of `w` and `c`
True, or what was found. They are the programs of the model of the rules, and some more: each is deterministic, but for
`chance`, which asks for a number that is another one each time.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Generator
from typing import Any

Program = Callable[[str, str], Generator[tuple[str, ...], Any, str]]


class Raised(Exception):
    """An operator has failed."""


def crc(*values: str | None) -> int:
    """Return a number that depends on values; None: there is no record."""
    return zlib.crc32(" ".join(map(str, values)).encode())


def odd(value: str | None) -> bool:
    """Return a decision that depends on a value."""
    return crc(value) % 2 == 1


def stock(run: str, previous: str) -> Generator[tuple[str, ...], Any, str]:
    """Sell an item, if there is one."""
    while True:
        n = yield "r", "stock"
        if n == "0":
            return "sold out"
        if (yield "c", "stock", n, str(int(n) - 1)) is True:
            return f"sold {n}"


def branch(run: str, previous: str) -> Generator[tuple[str, ...], Any, str]:
    """What it reads decides what it changes."""
    a = yield "r", "a"
    yield "w", "b" if odd(a) else "c", f"{run}.b{crc(a):x}"
    return str(a)


def two(run: str, previous: str) -> Generator[tuple[str, ...], Any, str]:
    """Two updates, each computed from a read."""
    b = yield "r", "b"
    yield "w", "a", f"{run}.t{crc(b):x}"
    c = yield "r", "c"
    yield "w", "d", f"{run}.u{crc(b, c):x}"
    return f"{b}+{c}"


def transfer(run: str, previous: str) -> Generator[tuple[str, ...], Any, str]:
    """Take from one account, give to another."""
    for key, by in (("x", -1), ("y", 1)):
        while True:
            n = yield "r", key
            if (yield "c", key, n, str(int(n) + by)) is True:
                break
    return "moved"


def own(run: str, previous: str) -> Generator[tuple[str, ...], Any, str]:
    """Read what it has written, and go on from that."""
    yield "w", "a", f"{run}.o{crc(previous):x}"
    a = yield "r", "a"
    swapped = yield "c", "a", a, f"{a}'"
    return str(swapped)


def refused(run: str, previous: str) -> Generator[tuple[str, ...], Any, str]:
    """What a refused compare-and-swap has found decides."""
    swapped = yield "c", "d", "initial-d", f"{run}.r"
    yield "w", "b" if swapped is True else "c", f"{run}.s{swapped}"
    return str(swapped)


def tail(run: str, previous: str) -> Generator[tuple[str, ...], Any, str]:
    """A read after an update may lead to another one."""
    yield "w", "c", f"{run}.v{crc(previous):x}"
    a = yield "r", "a"
    if odd(a):
        yield "w", "d", f"{run}.w"
    return str(a)


def looks(run: str, previous: str) -> Generator[tuple[str, ...], Any, str]:
    """Only read: the next step acts on the output."""
    a = yield "r", "a"
    d = yield "r", "d"
    return f"{a}/{d}"


def acts(run: str, previous: str) -> Generator[tuple[str, ...], Any, str]:
    """Act on the output of the step before."""
    yield "w", "b" if odd(previous) else "d", f"{run}.x{crc(previous):x}"
    return "acted"


def create(run: str, previous: str) -> Generator[tuple[str, ...], Any, str]:
    """An error is a result, too."""
    n = yield "r", "missing"
    yield "w", "c" if n is None else "missing", f"{run}.y{n is None}"
    return str(n)


def flaky(run: str, previous: str) -> Generator[tuple[str, ...], Any, str]:
    """Fail until it reads what it likes: what it has done by then counts once."""
    b = yield "r", "b"
    yield "w", "d", f"{run}.z{crc(b):x}"
    a = yield "r", "a"
    if odd(a):
        raise Raised(a)
    return f"{b}{a}"


def chance(run: str, previous: str) -> Generator[tuple[str, ...], Any, str]:
    """Executed again it asks for something else: then the run must fail."""
    n = yield (CHANCE,)
    yield "w", "c", f"{run}.n{n}"
    a = yield "r", "a"
    yield "w", "d" if odd(n) else "b", f"{run}.m{crc(a, n):x}"
    return str(n)


PROGRAMS: dict[str, Program] = {
    each.__name__: each
    for each in (stock, branch, two, transfer, own, refused, tail, looks, acts, create, flaky, chance)
}
CHANCE = "chance"
RETRIES = {"flaky": 3, "two": 2, "transfer": 2, "own": 1}
INITIAL = {"stock": "3", "x": "5", "y": "5", **{key: f"initial-{key}" for key in "abcd"}}
