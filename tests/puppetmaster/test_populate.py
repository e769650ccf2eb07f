"""populate: what is asked of the storage, and what is said of lines that did not get there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_twisted

from dida.addresses import StorageAddress
from dida.client.storage_client import StorageClient
from dida.console.data_files import Row
from dida.errors import UserError
from dida.puppetmaster.populate import AT_ONCE, populate
from dida.wire.messages import Error, Reply, Request, Write
from tests.support.clusters import StorageCluster
from tests.support.fakes import FakeCluster, the_reactor, until

reactor = the_reactor()


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    """Two storage nodes."""
    nodes = FakeCluster(reactor, 2)
    yield nodes
    nodes.close()


@pytest.fixture
def storage_client(cluster: FakeCluster) -> Iterator[StorageClient]:
    made = StorageClient(reactor, cluster.addresses, deadline=0.3)
    yield made
    made.stop()


def rows(*records: tuple[str, str]) -> list[Row]:
    """As of a file with these on its lines."""
    return [Row(line, key, value) for line, (key, value) in enumerate(records, 1)]


async def problem_of(storage_client: StorageClient, given: list[Row]) -> list[str]:
    with pytest.raises(UserError) as caught:
        await populate(storage_client, "data", given)
    return str(caught.value).split("\n")


@pytest_twisted.ensureDeferred
async def test_every_record_is_to_be_at_all(storage_client: StorageClient, cluster: FakeCluster) -> None:
    """Each is written so that all living replicas have it when it is answered; those of one key in their order."""
    given = rows(*[(f"k{n % 300}", str(n)) for n in range(1000)])
    await populate(storage_client, "data", given)
    writes = [request for request in cluster.requests() if isinstance(request, Write)]
    assert len(writes) == 1000
    assert {write.concern for write in writes} == {"all"}
    assert [value for _, value in reversed(cluster.group.records["k7"])] == ["7", "307", "607", "907"]


@pytest_twisted.ensureDeferred
async def test_a_record_that_is_refused_holds_up_no_other(storage_client: StorageClient, cluster: FakeCluster) -> None:
    """What is wrong with single lines is said of each, with file and line; all others are written."""

    def refuse(request: Request) -> Reply:
        assert isinstance(request, Write)
        if request.key in ("b", "d"):
            return Error("storage-full", ("no more room",))
        return cluster.nodes[0]._once(request)

    for node in cluster.nodes:
        node.answer = refuse
    given = rows(("a", "1"), ("b", "2"), ("c", "3"), ("d", "4"), ("e", "5"))
    assert await problem_of(storage_client, given) == [
        "2 of 5 records are not known to be at every living replica of their group",
        "data line 2: key b: storage-full: no more room",
        "data line 4: key d: storage-full: no more room",
    ]
    assert sorted(cluster.group.records) == ["a", "c", "e"]


@pytest_twisted.ensureDeferred
async def test_without_storage_it_ends_after_one_deadline(storage_client: StorageClient, cluster: FakeCluster) -> None:
    """When writes end at their deadline no more are begun: the lines are named, and nobody waits for each."""
    for node in cluster.nodes:
        node.answer = lambda request: Error("unavailable", ("no quorum",))
    began = reactor.seconds()
    told = await problem_of(storage_client, rows(*[(f"k{n}", "v") for n in range(2000)]))
    assert reactor.seconds() - began < 5.0
    assert told[0] == "2000 of 2000 records are not known to be at every living replica of their group"
    assert told[1].startswith("data line 1: key k0: ")
    assert told[-1] == "data: nor lines 21-2000"


@pytest_twisted.ensureDeferred
async def test_an_unknown_outcome_is_no_success(storage_client: StorageClient, cluster: FakeCluster) -> None:
    """A record that may be at some replicas only counts as missing, and is said."""
    for node in cluster.nodes:
        node.answer = lambda request: Error("unknown-outcome", ("too few members confirmed the write in time",))
    told = await problem_of(storage_client, rows(("a", "1")))
    assert told[0] == "1 of 1 records are not known to be at every living replica of their group"
    assert told[1].startswith("data line 1: key a: unknown-outcome: ")


@pytest.mark.system
@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("factor", "left"),
    [pytest.param(4, (4,), id="one group"), pytest.param(2, (1, 4), id="two groups", marks=pytest.mark.long)],
)
@pytest_twisted.ensureDeferred
async def test_a_crash_right_behind_it_loses_nothing(tmp_path: Path, factor: int, left: tuple[int, ...]) -> None:
    """Whatever the gossip delay, one living replica of each group is enough for all records; also when one was paused
    while they were written."""
    nodes = StorageCluster(tmp_path, 4, "--gossip-delay", "10000", "--replication-factor", str(factor))
    members = [StorageAddress.parse(f"{n}=s{n}@127.0.0.1:{port}") for n, port in nodes.ports.items()]
    storage_client = StorageClient(reactor, members, deadline=20.0)
    try:
        storage_client.start()
        given = rows(*[(f"k{n}", f"value {n}") for n in range(3 * AT_ONCE)])
        await populate(storage_client, "data", given[:-5])
        nodes.nodes[2].pause()
        await populate(storage_client, "data", given[-5:])
        for number in {1, 2, 3, 4}.difference(left):
            nodes.nodes[number].kill()
        await until(lambda: tuple(member.replica for member in storage_client.replicas.living) == left, 20.0)
        found = (await storage_client.records(limit=1000)).records
        assert {key: versions[0][1] for key, versions in found.items()} == {row.key: row.value for row in given}
    finally:
        storage_client.stop()
        nodes.end()
