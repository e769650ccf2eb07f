"""The front end against storage nodes on real connections."""

from collections.abc import Iterator

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.threads import deferToThread

from dida.addresses import StorageAddress
from dida.chains.journal import History
from dida.chains.records import Meta
from dida.client import connect
from dida.client.blocking import BlockingStorage
from dida.client.storage_client import StorageClient
from dida.errors import DidaError, Unavailable, UserError
from dida.interfaces import IStorage, Record
from dida.versions import Version
from dida.wire.messages import Error, Read, Write
from dida.worker.run_storage import RunStorage
from tests.support.fakes import FakeCluster, refused, the_reactor, until
from tests.support.runs import step_request

reactor = the_reactor()


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    """Four storage nodes."""
    nodes = FakeCluster(reactor, 4)
    yield nodes
    nodes.close()


@pytest.fixture
def storage_client(cluster: FakeCluster) -> Iterator[StorageClient]:
    """A front end that knows the four."""
    made = StorageClient(reactor, cluster.addresses)
    yield made
    made.stop()


def run_storage(storage_client: StorageClient, meta: Meta | None = None) -> RunStorage:
    meta = meta or Meta(run="r1-x", scheduler="localhost:2000")
    return RunStorage(storage_client, meta, 10.0, History(step_request(meta)))


@pytest_twisted.ensureDeferred
async def test_operations(storage_client: StorageClient, cluster: FakeCluster) -> None:
    """Reads, writes and compare-and-swaps go through, and the client's timestamp grows."""
    assert IStorage.providedBy(storage_client)
    first = await storage_client.write("13", "1")
    assert await storage_client.read("13") == Record("13", "1", first)
    second = await storage_client.update_if_value_is("13", "1", "2")
    assert second is not None
    assert await storage_client.update_if_value_is("13", "1", "3") is None
    assert await storage_client.read("13", first) == Record("13", "1", first)
    assert await storage_client.versions("13") == [(second, "2"), (first, "1")]
    page = await storage_client.records(limit=1)
    assert (list(page.records), page.next) == (["13"], None)
    owner = storage_client.replicas.order("13", 0)[0]
    assert storage_client.after == {f"{owner.replica}:1": 2}
    assert cluster.requests() == cluster.node(owner).requests, "all of one key goes to its owner"


@pytest_twisted.ensureDeferred
async def test_any_text(storage_client: StorageClient) -> None:
    """Any string can be a key and a value; what is no text or too long is refused before it is sent."""
    for text in ("", " two  blanks ", '"{[#', "\x00\r\n\t", "ünïcödé 🎈", "null"):
        await storage_client.write(text, text)
        assert (await storage_client.read(text)).value == text
    for wrong, code in ((12, "bad-request"), ("x" * 2**20, "line-too-long"), ("\udc00", "bad-request")):
        with pytest.raises(DidaError) as caught:
            await storage_client.write("key", wrong)  # type: ignore[arg-type]
        assert caught.value.code == code
    with pytest.raises(DidaError, match="no-such-record"):
        await storage_client.read("key")


@pytest.mark.alone
@pytest_twisted.ensureDeferred
async def test_a_crash_is_survived(storage_client: StorageClient, cluster: FakeCluster) -> None:
    """When the owner's process is killed, in the middle of an update too, the next replica serves, at once."""
    owner, second, *_ = storage_client.replicas.order("13", 0)
    cluster.node(owner).answer = lambda request: None
    answer = storage_client.write("13", "1")
    await until(lambda: cluster.node(owner).requests)
    began = reactor.seconds()
    cluster.crash(owner)
    await answer
    assert reactor.seconds() - began < 1.0
    (again,) = cluster.node(second).requests
    assert isinstance(again, Write)
    assert again.retry
    assert (await storage_client.read("13")).value == "1"
    assert len(cluster.group.records["13"]) == 1


@pytest.mark.alone
@pytest_twisted.ensureDeferred
async def test_a_silent_replica_costs_one_try(storage_client: StorageClient, cluster: FakeCluster) -> None:
    """A replica that is paused costs a part of the deadline, once; then it is asked last."""
    owner = storage_client.replicas.order("13", 0)[0]
    cluster.group.put("13", "1")
    cluster.node(owner).answer = lambda request: None
    storage_client.deadline = 10.0
    began = reactor.seconds()
    await storage_client.read("13")
    assert 1.5 < reactor.seconds() - began < 3.0
    began = reactor.seconds()
    await storage_client.read("13")
    assert reactor.seconds() - began < 0.5


@pytest.mark.alone
@pytest_twisted.ensureDeferred
async def test_a_view_change_ends_the_waiting(storage_client: StorageClient, cluster: FakeCluster) -> None:
    """When a silent replica is declared dead, what waits for it goes to the next one at that moment."""
    owner = storage_client.replicas.order("13", 0)[0]
    cluster.group.put("13", "1")
    cluster.node(owner).answer = lambda request: None
    storage_client.start()
    await until(lambda: storage_client.replicas.views)
    answer = storage_client.read("13")
    await until(lambda: cluster.node(owner).requests)
    began = reactor.seconds()
    cluster.group.kill(owner.id)
    assert (await answer).value == "1"
    assert reactor.seconds() - began < 1.0
    assert list(storage_client.replicas.dead) == [owner.id]
    assert len(storage_client.replicas) == 3


@pytest_twisted.ensureDeferred
async def test_watching_survives_the_one_it_watches() -> None:
    """A front end that knew one node learns of the others, and goes on watching when that one is gone."""
    cluster = FakeCluster(reactor, 3)
    storage_client = StorageClient(reactor, cluster.addresses[:1])
    try:
        storage_client.start()
        await until(lambda: len(storage_client.replicas) == 3)
        cluster.crash(cluster.addresses[0])
        cluster.group.kill("s1")
        await until(lambda: list(storage_client.replicas.dead) == ["s1"])
        cluster.crash(cluster.addresses[1])
        cluster.group.kill("s2")
        await until(lambda: len(storage_client.replicas) == 1)
    finally:
        storage_client.stop()
        cluster.close()


@pytest_twisted.ensureDeferred
async def test_hearsay_is_tentative() -> None:
    """What a meta record says of storage nodes that nobody knows spoils nothing, not even for a front end that knew
    none; it counts when nobody answers who was known before."""
    old, new = FakeCluster(reactor, 2), FakeCluster(reactor, 2)
    nowhere = (f"1=nobody@{refused()}",)
    storage_client = StorageClient(reactor)
    try:
        storage_client.start()
        storage_client.learn(9_007_199_254_740_991, nowhere)
        storage_client.learn(1, tuple(map(str, old.addresses)))
        await until(lambda: storage_client.replicas.views.get(0))
        for say in (lambda: None, lambda: storage_client.learn(9_007_199_254_740_991, nowhere)):
            say()
            await storage_client.write("13", "1")
            assert (await storage_client.read("13")).value == "1"
            assert storage_client.replicas.living == tuple(old.addresses)
        for member in old.addresses:
            old.crash(member)
        storage_client.learn(1, tuple(map(str, new.addresses)))
        await until(lambda: storage_client.replicas.living == tuple(new.addresses))
        await storage_client.write("13", "2")
    finally:
        storage_client.stop()
        old.close()
        new.close()


@pytest_twisted.ensureDeferred
async def test_without_watch() -> None:
    """Storage nodes that know no `watch` serve all the same."""
    cluster = FakeCluster(reactor, 2, watched=False)
    storage_client = StorageClient(reactor, cluster.addresses)
    try:
        storage_client.start()
        await storage_client.write("13", "1")
        assert (await storage_client.read("13")).value == "1"
    finally:
        storage_client.stop()
        cluster.close()


@pytest.mark.alone
@pytest_twisted.ensureDeferred
async def test_nobody_there() -> None:
    """With no node to reach an operation is unavailable at its deadline, with the reason."""
    storage_client = StorageClient(reactor, [StorageAddress(1, "s1", refused())], deadline=0.3)
    try:
        began = reactor.seconds()
        with pytest.raises(Unavailable, match="s1: no connection to"):
            await storage_client.write("13", "1")
        assert 0.2 < reactor.seconds() - began < 1.5
    finally:
        storage_client.stop()


@pytest_twisted.ensureDeferred
async def test_many_at_once(storage_client: StorageClient, cluster: FakeCluster) -> None:
    """A thousand operations at once all end, each update with an id of its own."""
    versions = [storage_client.write(str(number), "v") for number in range(1000)]
    for each in versions:
        await each
    ids = {request.id for request in cluster.requests() if isinstance(request, Write)}
    assert len(ids) == 1000
    assert storage_client.ids.lowest == 1001


# --- what an operator sees ----------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_a_run_reads_the_same_version_twice(storage_client: StorageClient, cluster: FakeCluster) -> None:
    """Two steps of a run read the same version although others write; another run reads what is new."""
    cluster.group.put("13", "1")
    meta = Meta(run="r1-x", scheduler="localhost:2000")
    first = await run_storage(storage_client, meta).read("13")
    cluster.group.put("13", "2")
    assert await run_storage(storage_client, meta).read("13") == first
    assert (await run_storage(storage_client).read("13")).value == "2"
    assert meta.versions == {"13": first.version}


@pytest_twisted.ensureDeferred
async def test_a_run_sees_its_own_writes(storage_client: StorageClient, cluster: FakeCluster) -> None:
    """What a run wrote is what its later steps read, even when others write a newer version."""
    meta = Meta(run="r1-x", scheduler="localhost:2000")
    version = await run_storage(storage_client, meta).write("13", "mine")
    cluster.group.put("13", "theirs")
    assert await run_storage(storage_client, meta).read("13") == Record("13", "mine", version)
    assert meta.after


@pytest_twisted.ensureDeferred
async def test_a_failed_update_counts_as_read(storage_client: StorageClient, cluster: FakeCluster) -> None:
    """After an update_if_value_is that failed, a read gives what made it fail, even if it is gone since."""
    cluster.group.put("13", "1")
    storage = run_storage(storage_client)
    assert await storage.update_if_value_is("13", "0", "2") is None
    for number in range(20):
        cluster.group.put("13", str(number + 100))
    assert (await storage.read("13")).value == "1"


@pytest_twisted.ensureDeferred
async def test_a_discarded_version_is_told(storage_client: StorageClient, cluster: FakeCluster) -> None:
    """When the version that a run has seen is discarded everywhere, the error says just that."""
    cluster.group.put("13", "1")
    meta = Meta(run="r1-x", scheduler="localhost:2000")
    await run_storage(storage_client, meta).read("13")
    for number in range(20):
        cluster.group.put("13", str(number))
    with pytest.raises(DidaError, match=r"no-such-version: 13 1\.1 this run has seen that version"):
        await run_storage(storage_client, meta).read("13")
    assert {type(request) for request in cluster.requests()[-3:]} == {Read}


@pytest_twisted.ensureDeferred
async def test_a_step_that_has_ended_writes_no_more(storage_client: StorageClient, cluster: FakeCluster) -> None:
    """Once a step is over nothing is read or written in its name."""
    storage = run_storage(storage_client)
    storage.close("the step has ended")
    with pytest.raises(DidaError, match="the step has ended"):
        await storage.write("13", "1")
    assert not cluster.requests()


# --- from threads and scripts -------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_blocking(storage_client: StorageClient) -> None:
    """From another thread the same calls return, or raise, what the Deferreds give."""
    storage = BlockingStorage(reactor, storage_client)
    assert IStorage.providedBy(storage)

    def script() -> None:
        version = storage.write("13", "1")
        assert storage.read("13") == Record("13", "1", version)
        assert storage.update_if_value_is("13", "x", "y") is None
        assert storage.read("13", Version(1, version.replica)).value == "1"
        with pytest.raises(DidaError, match="no-such-record"):
            storage.read("14")

    await deferToThread(script)


@pytest_twisted.ensureDeferred
async def test_connect(cluster: FakeCluster) -> None:
    """A script names one node and has the storage of all; what is no URL, or nothing, is told."""

    def script() -> None:
        with connect(str(cluster.addresses[2].address)) as storage:
            for key in map(str, range(20)):
                storage.write(key, "v")
            assert storage.versions("3")[0][1] == "v"
            assert len(storage.records().records) == 20
            assert storage.after
        with pytest.raises(UserError):
            connect()
        with pytest.raises(UserError):
            connect("nonsense")

    await deferToThread(script)
    with pytest.raises(UserError, match="reactor's thread"):
        connect(str(cluster.addresses[0].address))


@pytest_twisted.ensureDeferred
async def test_cancelled(storage_client: StorageClient, cluster: FakeCluster) -> None:
    """An operation whose Deferred is cancelled leaves no open update id behind."""
    for node in cluster.nodes:
        node.answer = lambda request: None
    answer: Deferred[Version] = storage_client.write("13", "1")
    await until(cluster.requests)
    answer.addErrback(lambda failure: None)
    answer.cancel()
    assert storage_client.ids.lowest == 2


@pytest_twisted.ensureDeferred
async def test_errors_of_the_storage(storage_client: StorageClient, cluster: FakeCluster) -> None:
    """What a storage node says about an operation is what the caller gets, code and words."""
    for node in cluster.nodes:
        node.answer = lambda request: Error("lost-update", ("13",), {"lost": {"1:1": 1}})
    with pytest.raises(DidaError) as caught:
        await storage_client.read("13")
    assert (caught.value.code, caught.value.words) == ("lost-update", ("13",))


@pytest_twisted.ensureDeferred
async def test_a_loss_is_told_to_one_of_many(cluster: FakeCluster) -> None:
    """When all that was written is gone, one operation of those under way says so, and no later one does."""
    told: list[dict[str, int]] = []
    storage_client = StorageClient(reactor, cluster.addresses, on_gone=told.append)
    await storage_client.write("13", "1")
    gone = set(storage_client.after)
    cluster.group.gone = gone
    results = await DeferredList([storage_client.read("13") for _ in range(20)], consumeErrors=True)
    failed = [str(failure) for success, failure in results if not success]
    assert len(failed) == 1
    assert "lost-update" in failed[0]
    assert [set(each) for each in told] == [gone]
    assert (await storage_client.read("13")).value == "1"
    storage_client.stop()


@pytest_twisted.ensureDeferred
async def test_what_is_lost_is_dropped_before_anything_hears_of_it(
    storage_client: StorageClient, cluster: FakeCluster
) -> None:
    """Who wants to know asks; what is not lost stays, and a storage that does not answer changes nothing."""
    await storage_client.write("13", "1")
    (stream,) = storage_client.after
    storage_client.seen.after["9:9"] = 7
    cluster.group.gone = {stream}
    await storage_client.drop_lost(5.0)
    assert storage_client.after == {"9:9": 7}
    for node in cluster.nodes:
        node.listing = lambda request: Error("unavailable", ("not now",))
    with pytest.raises(Unavailable):
        await storage_client.drop_lost(0.1)
    assert storage_client.after == {"9:9": 7}
