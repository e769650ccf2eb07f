"""The seams: what an operator is, and what of the storage it sees."""

from __future__ import annotations

from attrs import frozen
from zope.interface import Attribute, Interface

from dida.versions import Version


@frozen
class Record:
    """What a read gives: key, value, and the version that the value has."""

    key: str
    value: str
    version: Version


class IOperator(Interface):
    """One step of a chain: a plain class, made anew for each execution, without arguments."""

    def configure_storage(storage):  # type: ignore[no-untyped-def] # noqa: N805
        """Keep `storage`, an `IStorage`, for `process_record`."""

    def process_record(meta, input, previous_output):  # type: ignore[no-untyped-def] # noqa: N805
        """The operator's output, a string.

        `meta` is the `dida.chains.records.StepMeta` of the run, `input` the client's string, `previous_output` what the
        operator before returned (the empty string for the first). An ordinary method runs in a thread
        and its storage calls block; an `async def` runs on the reactor, or, with `loop = "asyncio"` on the class,
        on an asyncio loop, and awaits them.
        """


class IStorage(Interface):
    """The storage as an operator sees it. In an `async def` operator every call is awaited.

    Every call may raise `dida.errors.DidaError`: its `code` says what happened.
    """

    deadline = Attribute("seconds that a call may take")

    def read(key, version=None):  # type: ignore[no-untyped-def] # noqa: N805
        """The `Record`, newest or of that `Version`. Errors no-such-record and no-such-version."""

    def write(key, value):  # type: ignore[no-untyped-def] # noqa: N805
        """Write a new version and return its `Version`."""

    def update_if_value_is(key, old, new):  # type: ignore[no-untyped-def] # noqa: N805
        """The new `Version`, or None when the value was not `old` (or there is no such record)."""


@frozen
class Access:
    """A record that a step has read or written."""

    how: str
    """`read`, `written`, `updated` (by `update_if_value_is`), or `refused`: the value was another one."""
    key: str
    version: Version
