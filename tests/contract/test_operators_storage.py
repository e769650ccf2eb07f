"""What an operator may rely on of its storage: one suite for the storage in memory and for real storage nodes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any, cast

import pytest
import pytest_twisted
from attrs import define, evolve
from twisted.internet.defer import Deferred
from twisted.internet.threads import blockingCallFromThread, deferToThread

from dida.addresses import StorageAddress
from dida.chains.journal import History, Kept, resume
from dida.chains.messages import Ended
from dida.chains.records import Meta
from dida.chains.texts import raised
from dida.client.blocking import BlockingStorage
from dida.client.storage_client import StorageClient
from dida.errors import DidaError
from dida.interfaces import Record
from dida.testing import run_chain
from dida.testing.chains import _driven
from dida.testing.memory import MemoryClient, MemoryStorage, StepView
from dida.versions import Version
from dida.wire.messages import Epoch
from dida.worker.run_storage import RunStorage
from tests.support.clusters import StorageCluster
from tests.support.fakes import the_reactor, until
from tests.support.runs import step_request
from tests.worker.test_node import Stage, no_pipes

KEPT = 5
"""Versions that are kept of a record."""

_numbers = count(1)


@define
class Place:
    """A storage: `client` is a client of it, `step(meta, position)` one step of a run."""

    client: Any
    step: Callable[..., Any]
    key: str
    """A key of the test's own."""

    def run(self) -> Meta:
        """A run that begins."""
        return Meta(run=f"contract-{next(_numbers)}", scheduler="localhost:1")

    def put(self, key: str, *values: str) -> list[Version]:
        return [self.client.write(key, value) for value in values]


def fails(code: str, call: Callable[..., Any], *arguments: Any) -> None:
    with pytest.raises(DidaError) as caught:
        call(*arguments)
    assert caught.value.code == code


# --- the promises: of any storage, then of that of a step -----------------------------------------


def what_was_written_is_read(place: Place) -> None:
    """A write gives a version, and a read the newest of them; any strings will do."""
    for storage in (place.client, place.step(place.run())):
        for key, value in ((place.key, "a"), (place.key + " {\n✓", ""), (place.key, "\x00 #\u2028")):
            version = storage.write(key, value)
            assert storage.read(key) == Record(key, value, version)


def versions_count_up(place: Place) -> None:
    """Each version has the next number of its key, and each can be read as long as it is kept."""
    versions = place.put(place.key, "a", "b", "c")
    assert [version.number for version in versions] == [1, 2, 3]
    for value, version in zip("abc", versions, strict=True):
        assert place.client.read(place.key, version) == Record(place.key, value, version)


def two_kinds_of_nothing(place: Place) -> None:
    """No such record, and no such version of a record that there is, are told apart."""
    for storage in (place.client, place.step(place.run())):
        fails("no-such-record", storage.read, place.key)
        fails("no-such-record", storage.read, place.key, Version(1, 1))
    place.put(place.key, "a")
    for storage in (place.client, place.step(place.run())):
        fails("no-such-version", storage.read, place.key, Version(99, 1))


def the_newest_are_kept(place: Place) -> None:
    """Of each record so many versions are kept; the oldest goes first."""
    first, second, *_, newest = place.put(place.key, *map(str, range(KEPT + 1)))
    fails("no-such-version", place.client.read, place.key, first)
    assert place.client.read(place.key, second).value == "1"
    assert place.client.read(place.key).version == newest


def compare_and_swap(place: Place) -> None:
    """It gives a new version when the value is the old one; else None, also when there is no record."""
    for number, storage in enumerate((place.client, place.step(place.run()))):
        key = f"{place.key}-{number}"
        assert storage.update_if_value_is(key, "", "a") is None
        first = storage.write(key, "a")
        second = storage.update_if_value_is(key, "a", "b")
        assert second is not None
        assert second.number == first.number + 1
        assert storage.update_if_value_is(key, "a", "c") is None
        assert storage.read(key) == Record(key, "b", second)


def only_strings(place: Place) -> None:
    """Keys and values are strings; anything else is refused before it is asked for."""
    for storage in (place.client, place.step(place.run())):
        fails("bad-request", storage.read, 13)
        fails("bad-request", storage.write, place.key, 1)
        fails("bad-request", storage.update_if_value_is, place.key, None, "a")
    fails("no-such-record", place.client.read, place.key)


def reads_of_a_run_are_repeatable(place: Place) -> None:
    """What a run has read it reads again, in later steps too, whatever others have written meanwhile."""
    place.put(place.key, "a")
    meta = place.run()
    assert place.step(meta).read(place.key).value == "a"
    place.put(place.key, "b")
    assert place.step(meta, 1).read(place.key).value == "a"
    assert place.step(place.run()).read(place.key).value == "b"


def a_run_reads_its_own_writes(place: Place) -> None:
    """A later step reads the very version that an earlier one wrote, though others wrote after it."""
    meta = place.run()
    place.step(meta).read(place.put(place.key, "a") and place.key)
    mine = place.step(meta, 1).write(place.key, "mine")
    place.put(place.key, "theirs")
    assert place.step(meta, 2).read(place.key) == Record(place.key, "mine", mine)


def what_was_refused_counts_as_read(place: Place) -> None:
    """The value that made a compare-and-swap fail is read by the steps after it."""
    meta = place.run()
    place.put(place.key, "a")
    assert place.step(meta).read(place.key).value == "a"
    place.put(place.key, "b")
    step = place.step(meta, 1)
    assert step.update_if_value_is(place.key, "a", "c") is None
    place.put(place.key, "d")
    assert step.read(place.key).value == place.step(meta, 2).read(place.key).value == "b"


def a_version_that_was_discarded(place: Place) -> None:
    """When the version that a run has seen was discarded, it is told just that."""
    meta = place.run()
    place.put(place.key, "a")
    place.step(meta).read(place.key)
    place.put(place.key, *map(str, range(KEPT)))
    fails("no-such-version", place.step(meta, 1).read, place.key)


def updates_of_a_step_happen_once(place: Place) -> None:
    """A step that is executed again gets the first answers to its updates, and changes nothing."""
    meta, other = place.run(), place.key + "-other"
    first = place.step(meta)
    written = [first.write(place.key, "a"), first.write(other, "b"), first.update_if_value_is(other, "b", "c")]
    place.put(place.key, "theirs")
    again = place.step(Meta(run=meta.run, scheduler=meta.scheduler), again=True)
    answers = [again.write(place.key, "a"), again.write(other, "b"), again.update_if_value_is(other, "b", "c")]
    assert answers == written
    assert (place.client.read(place.key).value, place.client.read(other).value) == ("theirs", "c")
    fresh = again.write(other, "more")
    assert fresh.number == 3, "what the first execution has not done is done"
    fails("superseded", first.write, other, "late")


def another_value_is_not_deterministic(place: Place) -> None:
    """A step that is executed again and writes another value is refused, and has changed nothing."""
    meta = place.run()
    place.step(meta).write(place.key, "a")
    again = place.step(Meta(run=meta.run, scheduler=meta.scheduler), again=True)
    fails("not-deterministic", again.write, place.key, "b")
    assert place.client.read(place.key).value == "a"


PROMISES = [
    what_was_written_is_read,
    versions_count_up,
    two_kinds_of_nothing,
    the_newest_are_kept,
    compare_and_swap,
    only_strings,
    reads_of_a_run_are_repeatable,
    a_run_reads_its_own_writes,
    what_was_refused_counts_as_read,
    a_version_that_was_discarded,
    updates_of_a_step_happen_once,
    another_value_is_not_deterministic,
]
each_promise = pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)


@pytest.fixture
def key(request: pytest.FixtureRequest) -> str:
    """A key of the test's own."""
    return re.sub(r"\W", "-", request.node.name)


@each_promise
def test_in_memory(promise: Callable[[Place], None], key: str) -> None:
    """The storage for the tests of operators keeps the promise."""
    storage = MemoryStorage(max_versions=KEPT)

    def step(meta: Meta, position: int = 0, again: bool = False) -> StepView:
        request = step_request(meta, position)
        known: Mapping[int, Kept] = {}
        if again:
            request, known = resume(request, _driven(MemoryClient(storage).fence(meta.run, Epoch(1, "test"), 10.0)))
            request = evolve(request, epoch=Epoch(1, "test"))
        return StepView(storage, request.meta, History(request, known))

    promise(Place(storage, step, key))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StorageCluster]:
    """Two storage nodes."""
    found = StorageCluster(Path(tmp_path_factory.mktemp("storage")), 2, "--max-versions", str(KEPT))
    yield found
    found.end()


@each_promise
@pytest_twisted.ensureDeferred
async def test_on_storage_nodes(promise: Callable[[Place], None], key: str, cluster: StorageCluster) -> None:
    """The real storage keeps the promise."""
    reactor = the_reactor()
    members = [StorageAddress.parse(f"{n}=s{n}@127.0.0.1:{port}") for n, port in cluster.ports.items()]
    storage_client = StorageClient(reactor, members)

    def step(meta: Meta, position: int = 0, again: bool = False) -> BlockingStorage:
        meta.after.update(storage_client.after)  # a run begins from what its client has seen
        request = step_request(meta, position)
        known: Mapping[int, Kept] = {}
        if again:
            fence = Deferred.fromCoroutine(storage_client.fence(meta.run, Epoch(1, "test"), 10.0))
            request, known = resume(request, blockingCallFromThread(reactor, lambda: cast(Any, fence)))
            request = evolve(request, epoch=Epoch(1, "test"))
        return BlockingStorage(reactor, RunStorage(storage_client, request.meta, 10.0, History(request, known)))

    try:
        await deferToThread(promise, Place(BlockingStorage(reactor, storage_client), step, key))
    finally:
        storage_client.stop()


# --- the promises to an operator, in whichever way it is executed --------------------------------------------------

PROBE = """
from enum import Enum

from dida.errors import DidaError


class Colour(str, Enum):
    RED = "red"
    GREEN = "green"


class Loud(str):
    def __str__(self):
        return "LOUD"

    __repr__ = __format__ = __str__


class Base:
    def configure_storage(self, storage):
        self.storage = storage


class Converts(Base):
    async def process_record(self, meta, input, previous_output):
        s = self.storage
        await s.write(Colour.RED, Colour.RED)
        told = [(await s.read("red")).value, (await s.read(Colour.RED)).key]
        told.append(str(await s.update_if_value_is(Loud("red"), Colour.RED, Colour.GREEN)))
        told.append(str(await s.update_if_value_is("red", Loud("green"), Loud("soft"))))
        told.append((await s.read("red", Version.parse("2.1"))).value)
        told.append((await s.read("red")).value)
        return " ".join(map(str.__str__, [type(told[1]).__name__, *told]))


class Returns(Base):
    async def process_record(self, meta, input, previous_output):
        return Loud("returned") if previous_output else Colour.GREEN


class Refuses(Base):
    async def process_record(self, meta, input, previous_output):
        s, told = self.storage, []
        for bad in (13, None, b"red", object(), "\\udc00", "x" * 2_000_000):
            for call, words in (
                (s.read, (bad,)),
                (s.write, (bad, "v")),
                (s.write, ("k", bad)),
                (s.update_if_value_is, ("k", bad, "v")),
                (s.update_if_value_is, ("k", "v", bad)),
            ):
                try:
                    await call(*words)
                except DidaError as problem:
                    told.append(str(problem))
        try:
            await s.read("k", "1.1")
        except DidaError as problem:
            told.append(str(problem))
        return "\\n".join(dict.fromkeys(told)) + f"\\n{len(told)}"


class Position(Base):
    async def process_record(self, meta, input, previous_output):
        return f"{previous_output}{meta.position}"


class Surrogate(Base):
    async def process_record(self, meta, input, previous_output):
        raise ValueError("half \\udc00 of it")


class Number(Base):
    async def process_record(self, meta, input, previous_output):
        return 13


class HalfAPair(Base):
    async def process_record(self, meta, input, previous_output):
        return "\\udc00"


class Long(Base):
    async def process_record(self, meta, input, previous_output):
        return Loud("é" * 300_000)
""".replace("from dida.errors", "from dida.versions import Version\nfrom dida.errors")
OUTPUTS = {
    "Converts": ["str red red 2.1 3.1 green soft"],
    "Returns Returns": ["green", "returned"],
    "Position Position Position": ["0", "01", "012"],
    "Refuses": [
        """\
bad-request: keys and values are strings, not int
bad-request: keys and values are strings, not NoneType
bad-request: keys and values are strings, not bytes
bad-request: keys and values are strings, not object
bad-request: half a surrogate pair: text that can't be encoded as UTF-8
line-too-long: 2004096 bytes are more than a line may have (1048576)
line-too-long: 2004097 bytes are more than a line may have (1048576)
line-too-long: 2004098 bytes are more than a line may have (1048576)
bad-request: a version must be a Version, not str: use Version.parse
31"""
    ],
}
REASONS = {
    "Surrogate": "raised ValueError: half ? of it",
    "Number": "returned int, not a string",
    "HalfAPair": "returned text that can't be encoded as UTF-8 (half a surrogate pair)",
    "Long": "returned 600000 bytes, more than the 524288 of an output: write it into the storage",
}
PLAIN = PROBE.replace("async def", "def").replace("await ", "")
WAYS = {
    "thread": PLAIN,
    "async": PROBE,
    "asyncio": PROBE.replace("class Base:\n", 'class Base:\n    loop = "asyncio"\n\n'),
    "process": PLAIN.replace("class Base:\n", 'class Base:\n    isolation = "process"\n\n'),
}


@pytest.mark.parametrize("way", WAYS)
@pytest_twisted.ensureDeferred
async def test_executed_by_a_worker(way: str, tmp_path: Path) -> None:
    """In each way of execution strings are taken by their characters, what is none is refused in the same words,
    and `meta.position` is the step's."""
    stage = Stage(tmp_path)
    try:
        stage.start("w1", timeout=50.0)
        stage.put(WAYS[way])
        for chain, outputs in OUTPUTS.items():
            ended = await stage.outcome(stage.request(*(f"{name}@w1" for name in chain.split()), left=55.0))
            assert isinstance(ended, Ended), ended
            assert [step.output for step in ended.chain] == outputs
        for name, reason in REASONS.items():
            assert await stage.reason(f"{name}@w1", left=55.0) == f"{name} at position 0 on w1 {reason}"
        await until(no_pipes)
    finally:
        stage.close()


@pytest.mark.parametrize("way", WAYS)
def test_executed_by_a_test(way: str, tmp_path: Path) -> None:
    """The same with the tools for the tests of operators."""
    (tmp_path / "ops.py").write_text(WAYS[way])
    for chain, outputs in OUTPUTS.items():
        run = run_chain(chain.split(), folder=str(tmp_path))
        assert [step.output for step in run.steps] == outputs
    for name, reason in REASONS.items():
        with pytest.raises((TypeError, ValueError)) as caught:
            run_chain(name, folder=str(tmp_path))
        told = raised(caught.value)
        assert reason in (told.reason, told.text.removeprefix(f"{name} "))
