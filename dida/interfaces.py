"""The interfaces between operators and the system: what an operator is, and the storage that it uses."""

from __future__ import annotations

from keyword import iskeyword

from attrs import frozen
from zope.interface import Attribute, Interface

from dida.versions import Version

MAX_OPERATORS = 1000
"""The most operators of one chain."""


def is_class_name(name: str) -> bool:
    """Return True if an operator's class can have that name."""
    return name.isidentifier() and not iskeyword(name)


@frozen
class Record:
    """The result of a read: a key, its value and the version of the value."""

    key: str
    value: str
    version: Version


class IOperator(Interface):
    """One step of a chain. The class takes no arguments; each execution creates a new object."""

    def configure_storage(storage):  # type: ignore[no-untyped-def] # noqa: N805
        """Keep `storage`, an `IStorage`, for `process_record`."""

    def process_record(meta, input, previous_output):  # type: ignore[no-untyped-def] # noqa: N805
        """Return the operator's output, a string.

        `meta` is the `dida.chains.records.StepMeta` of the run, `input` the client's string, and `previous_output` the
        output of the previous operator (the empty string for the first operator). An ordinary method runs in a thread
        and its storage calls block. An `async def` method awaits its storage calls; it runs on the reactor, or on an
        asyncio loop if the class has `loop = "asyncio"`.
        """


class IStorage(Interface):
    """The storage as an operator uses it. An `async def` operator awaits every call.

    Every call may raise `dida.errors.DidaError`; its `code` names the problem.
    """

    deadline = Attribute("time-out for one call, in seconds")

    def read(key, version=None):  # type: ignore[no-untyped-def] # noqa: N805
        """Return the newest `Record`, or that `Version` of it. Errors: no-such-record and no-such-version."""

    def write(key, value):  # type: ignore[no-untyped-def] # noqa: N805
        """Write a new version and return its `Version`."""

    def update_if_value_is(key, old, new):  # type: ignore[no-untyped-def] # noqa: N805
        """Compare and swap: return the new `Version`, or None if the value is not `old` (or there is no record)."""


@frozen
class Access:
    """One access of a step to a record."""

    how: str
    """`read`, `written`, `updated` (by `update_if_value_is`), or `refused` (the value was not `old`)."""
    key: str
    version: Version
