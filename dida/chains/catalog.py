"""The operators of each worker, as far as the workers have reported them. Pure: the caller decides which to ask.

A worker that has not reported may have any operator. No worker gets an operator that it lacks, and a chain with an
operator that every worker lacks is not started.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches

from attrs import define

MAX_NAMES = 20_000
"""The most class names that are kept of one worker; a worker with more may have any operator."""
MAX_SHOWN = 10
"""The most operators that a refusal names."""

Places = Mapping[str, tuple[str, int]]
"""Reachable workers, with host and port."""


@define
class _List:
    operators: frozenset[str]
    """Classes that look like operators."""
    classes: frozenset[str]
    """All classes that may be operators."""


class Catalog:
    """The lists of all workers."""

    def __init__(self) -> None:
        self._lists: dict[str, _List] = {}

    def on_list(self, worker: str, operators: Collection[str], others: Iterable[str] = ()) -> None:
        """Take note of a worker's operators, and of other classes that may be operators."""
        classes = frozenset(operators).union(others)
        if len(classes) > MAX_NAMES:
            self.on_unknown(worker)
        else:
            self._lists[worker] = _List(frozenset(operators), classes)

    def on_unknown(self, worker: str) -> None:
        """Forget a worker's operators."""
        self._lists.pop(worker, None)

    def able(self, operator: str, workers: Places) -> Places:
        """Return the workers that are not known to lack the operator."""
        lacking = {id for id in workers if (known := self._lists.get(id)) and operator not in known.classes}
        return {id: place for id, place in workers.items() if id not in lacking} if lacking else workers

    def all_found(self, operators: Collection[str], workers: Places) -> bool:
        """Return True if each operator is known to be at one of the workers."""
        lists = [known.classes for id in workers if (known := self._lists.get(id))]
        return all(any(operator in classes for classes in lists) for operator in operators)

    def missing(self, operators: Iterable[str], workers: Places) -> str | None:
        """Return the first operator that all these workers are known to lack; None without workers."""
        return next((operator for operator in operators if workers and not self.able(operator, workers)), None)

    def hint(self, operator: str, workers: Places) -> str:
        """Return a hint what a client may have meant by an operator that all these workers lack."""
        names = {name for id in workers if (known := self._lists.get(id)) for name in known.operators}
        return meant(operator, names)


def meant(name: str, names: Collection[str]) -> str:
    """Return a hint which of `names` may have been meant."""
    by_lower = {each.lower(): each for each in sorted(names)}
    longer = [each for lower, each in by_lower.items() if lower.startswith(name.lower())]
    near = longer or [by_lower[each] for each in get_close_matches(name.lower(), by_lower, n=1)]
    if near:
        return f"did you mean {near[0]}?"
    if not names:
        return "the workers have no operators: check their operators folder (--operators)"
    rest = f" and {len(names) - MAX_SHOWN} more" if len(names) > MAX_SHOWN else ""
    return f"the workers have {', '.join(sorted(names)[:MAX_SHOWN])}{rest}: add its file to their folder, or correct it"
