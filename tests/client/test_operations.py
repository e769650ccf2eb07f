"""The pure part of the front end: whom to ask what, and what the answers mean."""

from typing import Any

import pytest

from dida import errors
from dida.addresses import Address, StorageAddress
from dida.client.operations import (
    ClientOperation,
    Done,
    NoOther,
    Page,
    Pause,
    ReadOperation,
    SecureOperation,
    Try,
    UpdateIfOperation,
    WriteOperation,
    joined,
)
from dida.client.replicas import ReplicaDirectory
from dida.client.sessions import CausalContext, RequestIds
from dida.errors import DidaError, Unavailable
from dida.interfaces import Record
from dida.placement import Ring, Shards
from dida.versions import Version
from dida.wire.messages import Error, No, Ok, Read, UpdateIf, Write


def member(number: int, port: int = 0, id: str = "") -> StorageAddress:
    return StorageAddress(number, id or f"s{number}", Address("localhost", port or 5000 + number))


FOUR = [member(number) for number in (1, 2, 3, 4)]
V = Version(4, 1)
FOUND = Ok(("value", "4.1"), {"after": {"1:1": 7}})
SILENT = DidaError(errors.TIMED_OUT, "no reply in time")


def expect_try(operation: ClientOperation[Any], now: float = 0.0) -> Try:
    step = operation.next(now)
    assert isinstance(step, Try)
    return step


# --- replicas -----------------------------------------------------------------------------------


def test_the_ring_gives_the_order() -> None:
    """A key is asked for at its owner on the ring of replica numbers, then at who takes over."""
    replicas = ReplicaDirectory(FOUR)
    for key in ("13", "14", "23", "a key"):
        assert [str(each.replica) for each in replicas.order(key, 0)] == list(Ring("1234").order(key))


def test_the_group_that_holds_the_key_comes_first() -> None:
    """With partial replication a key is asked for at the members of its group, in the order of the ring."""
    replicas = ReplicaDirectory(FOUR[:2])
    replicas.on_view("1@1:1", 1, FOUR[:2], [], [(1, 2), (3, 4)], FOUR[2:])
    groups = Shards([1, 2, 3, 4], 2)
    for key in map(str, range(20)):
        mine = groups.replicas(groups.of_key(key))
        assert [each.replica for each in replicas.order(key, 0)[:2]] == list(map(int, Ring(map(str, mine)).order(key)))
    replicas.on_view("3@3:1", 3, FOUR[2:3], ["s4"], [(1, 2), (3, 4)], FOUR[:2])
    assert [each.replica for each in replicas.living] == [1, 2, 3]
    assert replicas.views == {0: "1@1:1", 1: "3@3:1"}
    assert replicas.number == 4
    assert [[each.replica for each in part.living] for part in replicas.apart()] == [[1, 2], [3]]


def test_pages_of_groups_are_one() -> None:
    """Pages of several groups make one, that ends where the first of them ends, or at the limit."""
    kept = [(Version(1, 1), "v")]
    ab, c = Page({"a": kept, "b": kept}, "d"), Page({"c": kept, "e": kept}, None)
    assert joined([ab, c], 10) == Page({"a": kept, "b": kept, "c": kept}, "d")
    assert joined([ab, c], 2) == Page({"a": kept, "b": kept}, "c")
    assert joined([c], 10) == c


def test_suspected_replicas_come_last() -> None:
    """A suspected replica is asked last until the time is over or it is heard of."""
    replicas = ReplicaDirectory(FOUR)
    first, *others = replicas.order("13", 0)
    replicas.suspect(first, 5.0)
    assert replicas.order("13", 4.0) == [*others, first]
    assert replicas.order("13", 5.0)[0] == first
    replicas.suspect(first, 9.0)
    replicas.trust(first)
    assert replicas.order("13", 6.0)[0] == first


def test_views_bring_and_take() -> None:
    """A view's members live, its dead are dead; of nodes in neither (another group's) it says nothing."""
    replicas = ReplicaDirectory([*FOUR, member(9)])
    replicas.on_view("x", 2, FOUR[1:], ["s1"])
    assert [each.replica for each in replicas.living] == [2, 3, 4, 9]
    assert list(replicas.dead) == ["s1"]
    replicas.on_view("y", 3, FOUR, ["s1"])
    assert [each.replica for each in replicas.living] == [1, 2, 3, 4, 9]
    assert not replicas.dead


def test_hearsay_counts_when_it_is_newer() -> None:
    """A meta record of a newer view replaces what is known; an older one changes nothing; an equal one only adds."""
    replicas = ReplicaDirectory()
    replicas.on_hearsay(0, FOUR[:2], 0)
    replicas.on_hearsay(0, FOUR[2:3], 0)
    assert len(replicas) == 3
    replicas.on_hearsay(5, FOUR[1:], 0)
    assert (list(replicas.dead), len(replicas)) == (["s1"], 3)
    replicas.on_hearsay(4, FOUR, 0)
    replicas.on_hearsay(5, FOUR, 0)
    assert (list(replicas.dead), len(replicas)) == (["s1"], 3)
    replicas.on_hearsay(6, FOUR, 0)
    assert (list(replicas.dead), len(replicas)) == ([], 4)


def test_what_a_storage_node_says_replaces_hearsay() -> None:
    """The first view that a storage node tells counts, whatever number a meta record had."""
    replicas = ReplicaDirectory(FOUR[3:])
    replicas.on_hearsay(0, FOUR[2:3], 0)
    replicas.on_hearsay(10**15, [*FOUR[3:], member(7)], 0)
    replicas.on_view("", 0, (), ())
    assert (replicas.number, len(replicas), list(replicas.dead)) == (10**15, 2, ["s3"]), "it is in no view itself"
    replicas.on_view("1@a", 1, FOUR[:1], ["s2"])
    assert (replicas.number, list(replicas.dead)) == (1, ["s2"])
    assert [each.replica for each in replicas.living] == [1, 4], "what was not hearsay stays"


def test_hearsay_of_a_newer_view_tells_whom_to_ask_last() -> None:
    """Who is not named by a newer view's meta record is asked last for a while; an older one has no effect."""
    replicas = ReplicaDirectory()
    replicas.on_view("5@a", 5, FOUR, ())
    owner, *others = replicas.order("13", 0)
    replicas.on_hearsay(4, others, 0)
    assert replicas.order("13", 0) == [owner, *others]
    replicas.on_hearsay(6, others, 0)
    assert replicas.order("13", 0) == [*others, owner]
    assert replicas.order("13", 6) == [owner, *others]
    replicas.on_hearsay(10**15, [member(1, port=1, id="nobody")], 10)
    assert replicas.order("13", 10) == [owner, *others]
    assert (replicas.number, list(replicas.dead), replicas.living) == (5, [], tuple(FOUR))


def test_a_node_that_moved_is_known_once() -> None:
    """The same id at another address, or the same address under the right id, replaces what was known."""
    provisional = StorageAddress(1, "localhost:5003", Address("localhost", 5003))
    replicas = ReplicaDirectory([provisional])
    replicas.add(member(3))
    assert replicas.living == (member(3),)
    replicas.add(member(3, port=6003))
    replicas.add(member(4, port=6004, id="s3"))
    assert replicas.living == (member(4, port=6004, id="s3"),)
    assert [each.replica for each in replicas.order("13", 0)] == [4]


# --- update ids ---------------------------------------------------------------------------------


def test_the_lowest_open_number() -> None:
    """The lowest number is that of the oldest update that may still be asked for again."""
    ids = RequestIds("session")
    assert (ids.lowest, ids.take(), ids.take(), ids.take()) == (1, 1, 2, 3)
    ids.close(2)
    assert ids.lowest == 1
    ids.close(1)
    assert ids.lowest == 3
    ids.close(3)
    assert ids.lowest == 4


# --- operations ---------------------------------------------------------------------------------


def read(seen: CausalContext | None = None, version: Version | None = None, members: Any = FOUR) -> ReadOperation:
    return ReadOperation(ReplicaDirectory(members), seen or CausalContext(), "13", 10.0, version)


def write(ids: RequestIds | None = None, seen: CausalContext | None = None, members: Any = FOUR) -> WriteOperation:
    return WriteOperation(
        ReplicaDirectory(members), seen or CausalContext(), "13", 10.0, "v", ids=ids or RequestIds("s")
    )


def update_if(seen: CausalContext | None = None) -> UpdateIfOperation:
    return UpdateIfOperation(
        ReplicaDirectory(FOUR), seen or CausalContext(), "13", 10.0, "old", "new", ids=RequestIds("s")
    )


def test_a_read_that_succeeds() -> None:
    """The owner is asked with what the client has seen; what it answers is seen from then on."""
    seen = CausalContext({"1:1": 3, "2:1": 5})
    operation = read(seen)
    step = expect_try(operation)
    assert step.member == ReplicaDirectory(FOUR).order("13", 0)[0]
    assert step.request == Read("13", after={"1:1": 3, "2:1": 5}, deadline=step.timeout * 0.9)
    assert operation.on_reply(step.member, FOUND) == Done(Record("13", "value", V))
    assert seen.after == {"1:1": 7, "2:1": 5}


def test_failures_go_to_the_next_replica_in_time() -> None:
    """Broken connections, time-outs, unavailable and fenced replicas are each followed by the next on the ring."""
    operation = read()
    asked = [expect_try(operation)]
    operation.on_no_reply(asked[-1].member, SILENT, 2.0)
    asked.append(expect_try(operation, 2.0))
    operation.on_no_reply(asked[-1].member, Unavailable("the connection broke"), 2.0)
    asked.append(expect_try(operation, 2.0))
    assert operation.on_reply(asked[-1].member, Error("unavailable", ("starting",))) is None
    asked.append(expect_try(operation, 2.0))
    assert operation.on_reply(asked[-1].member, Error("fenced")) is None
    assert [each.member for each in asked] == ReplicaDirectory(FOUR).order("13", 0)
    assert all(each.timeout == 2.0 for each in asked)
    assert isinstance(operation.next(2.1), Pause)
    assert expect_try(operation, 2.2).member == asked[1].member, "the one that was silent is asked last now"


def test_every_operation_ends() -> None:
    """At the deadline a read is unavailable with the last reason; without any node known, too."""
    operation = read()
    step = expect_try(operation)
    operation.on_no_reply(step.member, SILENT, 10.0)
    with pytest.raises(Unavailable, match=f"{step.member.id}: no reply in time"):
        operation.next(10.0)
    nobody = read(members=[])
    assert isinstance(nobody.next(0.0), Pause)
    nobody.replicas.add(FOUR[0])
    assert expect_try(nobody, 1.0).timeout == 9.0, "the only one is given all the time there is"
    with pytest.raises(Unavailable, match="no storage node is known"):
        read(members=[]).next(10.0)


def test_an_update_keeps_its_id() -> None:
    """The first try promises to be the first, every later one says that it is a retry, under the same id."""
    ids = RequestIds("s")
    seen = CausalContext(versions={})
    operation = write(ids, seen)
    first = expect_try(operation)
    assert first.request == Write("13", "v", id="s:1", retry=False, lowest=1, deadline=2.7)
    operation.on_no_reply(first.member, Unavailable("the connection broke"), 1.0)
    second = expect_try(operation, 1.0)
    assert second.member != first.member
    assert second.request == Write("13", "v", id="s:1", retry=True, lowest=1, deadline=2.7)
    assert operation.on_reply(second.member, Ok(("4.1",))) == Done(V)
    assert seen.versions == {"13": V}
    operation.close()
    assert ids.lowest == 2


def test_nothing_sent_is_no_retry() -> None:
    """Where no connection was made nothing can have happened: no retry, and unavailable in the end."""
    operation = write()
    operation.on_no_reply(expect_try(operation).member, Unavailable("no connection"), 1.0, sent=False)
    again = expect_try(operation, 1.0)
    assert isinstance(again.request, Write)
    assert again.request.retry is False
    operation.on_no_reply(again.member, Unavailable("no connection"), 10.0, sent=False)
    with pytest.raises(Unavailable):
        operation.next(10.0)


@pytest.mark.parametrize("reply", [None, Error("unknown-outcome")])
def test_an_update_without_answer_is_of_unknown_outcome(reply: Error | None) -> None:
    """An update that may have happened never ends as unavailable: it is asked for again, then honestly unknown."""
    operation = write()
    step = expect_try(operation)
    if reply is None:
        operation.on_no_reply(step.member, SILENT, 3.0)
    else:
        assert operation.on_reply(step.member, reply) is None
    step = expect_try(operation, 3.0)
    assert operation.on_reply(step.member, Error("unavailable")) is None
    with pytest.raises(DidaError, match="unknown-outcome"):
        operation.next(10.0)


def test_updateif_is_given_time() -> None:
    """An updateif may be held back by a gossip delay: half of what remains, and 3 s at least."""
    operation = update_if()
    assert expect_try(operation).timeout == 5.0
    assert expect_try(operation, 5.0).timeout == 3.0
    assert expect_try(operation, 8.0).timeout == 2.0


def test_answers_of_updateif() -> None:
    """Applied gives the version; not applied gives None, and what the value was counts as read."""
    seen = CausalContext(versions={})
    assert update_if(seen).on_reply(FOUR[0], Ok(("5.2",))) == Done(Version(5, 2))
    assert seen.versions == {"13": Version(5, 2)}
    assert update_if(seen).on_reply(FOUR[0], No(("6.1", "other"))) == Done(None)
    assert seen.versions == {"13": Version(6, 1)}
    assert seen.known("13", None) == Record("13", "other", Version(6, 1))
    assert update_if(seen).on_reply(FOUR[0], No()) == Done(None)
    step = expect_try(update_if())
    assert step.request == UpdateIf("13", "old", "new", id="s:1", retry=False, lowest=1, deadline=4.5)


def test_reads_of_a_run_are_repeatable() -> None:
    """With versions, the first read fixes one, and later reads ask for that very version; without, never."""
    seen = CausalContext(versions={})
    read(seen).on_reply(FOUR[0], FOUND)
    request = expect_try(read(seen)).request
    assert isinstance(request, Read)
    assert request.version == V
    explicit = expect_try(read(seen, Version(2, 1))).request
    assert isinstance(explicit, Read)
    assert explicit.version == Version(2, 1)
    read(seen, Version(2, 1)).on_reply(FOUR[0], Ok(("old", "2.1")))
    assert seen.versions == {"13": V}
    plain = CausalContext()
    read(plain).on_reply(FOUR[0], FOUND)
    assert read(plain).version is None


def test_a_version_is_gone_when_all_say_so() -> None:
    """A version that one replica lacks is asked for at the others; that all lack it is an error that says so."""
    for pinned, message in ((True, "discarded everywhere"), (False, "no-such-version: 13 4.1")):
        operation = read(CausalContext(versions={"13": V})) if pinned else read(version=V)
        for _ in range(3):
            step = expect_try(operation)
            assert operation.on_reply(step.member, Error("no-such-version", ("13", "4.1"))) is None
        step = expect_try(operation)
        with pytest.raises(DidaError, match=message):
            operation.on_reply(step.member, Error("no-such-version", ("13", "4.1")))


def test_a_version_may_be_with_the_one_that_is_silent() -> None:
    """As long as one living replica has not answered, a version is not called gone."""
    operation = read(version=V)
    for _ in range(3):
        step = expect_try(operation)
        operation.on_reply(step.member, Error("no-such-version", ("13", "4.1")))
    step = expect_try(operation)
    operation.on_no_reply(step.member, SILENT, 2.0)
    assert isinstance(operation.next(2.0), Pause)
    with pytest.raises(Unavailable):
        operation.next(10.0)


def test_not_here_names_who_has_it() -> None:
    """`not-here` is followed to the replicas that it names, by number or by id."""
    for names in ([3], ["3"], ["s3"]):
        operation = read()
        step = expect_try(operation)
        while step.member.replica == 3:
            operation = read()
            step = expect_try(operation)
        assert operation.on_reply(step.member, Error("not-here", ("13",), {"replicas": names})) is None
        assert expect_try(operation).member.replica == 3


def test_a_dead_member_is_not_asked() -> None:
    """A replica that is declared dead during an operation is skipped."""
    operation = read()
    first, second, third, _ = operation.replicas.order("13", 0)
    expect_try(operation)
    operation.on_no_reply(first, SILENT, 1.0)
    operation.replicas.on_view("v", 2, [each for each in FOUR if each != second], [second.id])
    assert expect_try(operation, 1.0).member == third


def test_lost_updates_are_told_once() -> None:
    """`lost-update` ends the operation, and what was lost leaves the timestamp."""
    seen = CausalContext({"1:1": 3, "2:1": 5})
    operation = write(seen=seen)
    with pytest.raises(DidaError, match="lost-update"):
        operation.on_reply(FOUR[0], Error("lost-update", ("13",), {"lost": {"2:1": 4}}))
    assert seen.after == {"1:1": 3}


def test_one_loss_is_told_to_one_operation() -> None:
    """Of those that were under way the first one that hears of it tells; the others go on without what is gone."""
    told: list[dict[str, int]] = []
    seen = CausalContext({"1:1": 3, "2:1": 5}, on_gone=told.append)
    lost = Error("lost-update", ("13",), {"lost": {"2:1": 4}})
    first, second = write(seen=seen), read(seen=seen)
    for operation in (first, second):
        expect_try(operation)
    with pytest.raises(DidaError, match="lost-update"):
        first.on_reply(FOUR[0], lost)
    assert second.on_reply(FOUR[0], lost) is None
    assert expect_try(second).request == Read("13", after={"1:1": 3}, deadline=1.8)
    assert told == [{"2:1": 5}]
    other = Error("lost-update", ("13",), {"lost": {"2:1": 4, "1:1": 3}})
    with pytest.raises(DidaError, match="lost-update"):
        second.on_reply(FOUR[0], other)
    assert told == [{"2:1": 5}, {"1:1": 3}]


def test_a_run_is_told_of_a_loss_by_each_operation() -> None:
    """A step can't go on when what it depends on is lost, whichever of its operations has heard of it."""
    seen = CausalContext({"2:1": 5}, {})
    for operation in (write(seen=seen), write(seen=seen)):
        with pytest.raises(DidaError, match="lost-update"):
            operation.on_reply(FOUR[0], Error("lost-update", ("13",), {"lost": {"2:1": 4}}))
    assert seen.lost == {"2:1": 5}


def test_a_full_storage() -> None:
    """The caller gets the node's own word, that nothing was done; not when an earlier try may have been."""
    full = Error("storage-full", ("no more room",))
    operation = write()
    step = expect_try(operation)
    with pytest.raises(DidaError, match="storage-full: no more room"):
        operation.on_reply(step.member, full)
    uncertain = update_if()
    uncertain.on_no_reply(expect_try(uncertain).member, SILENT, 1.0)
    with pytest.raises(DidaError, match=r"unknown-outcome: s. replied storage-full: no more room"):
        uncertain.on_reply(expect_try(uncertain, 1.0).member, full)


def test_an_expired_session_is_renewed() -> None:
    """An update that no replica can have executed begins anew in a new session; another is told the truth."""
    ids = RequestIds("s")
    operation = write(ids)
    step = expect_try(operation)
    assert operation.on_reply(step.member, Error("session-expired")) is None
    again = expect_try(operation)
    assert again.request == Write("13", "v", id="s-2:2", retry=False, lowest=2, deadline=2.7)
    with pytest.raises(DidaError, match="session-expired"):
        operation.on_reply(again.member, Error("session-expired"))
    uncertain = write()
    uncertain.on_no_reply(expect_try(uncertain).member, SILENT, 1.0)
    with pytest.raises(DidaError, match="session-expired"):
        uncertain.on_reply(expect_try(uncertain, 1.0).member, Error("session-expired"))


def test_nonsense_is_an_error() -> None:
    """An answer that can't be understood is told as such, and not taken for success."""
    for reply in (Ok(), Ok(("value", "none")), Ok(("value",))):
        with pytest.raises(DidaError, match="can't be parsed"):
            read().on_reply(FOUR[0], reply)


def test_errors_of_the_operation_itself_end_it() -> None:
    """What another replica would not better is raised at once."""
    with pytest.raises(DidaError, match="no-such-record: 13"):
        read().on_reply(FOUR[0], Error("no-such-record", ("13",)))


def test_a_second_replica_that_dies_is_waited_for_no_longer() -> None:
    """What is to be at a second replica is at none once no other lives: there is nothing to wait for."""
    replicas = ReplicaDirectory(FOUR[:2])
    secured = SecureOperation(replicas, CausalContext(), "key", 10.0, 1)
    assert expect_try(secured).member == FOUR[1]
    secured.on_no_reply(FOUR[1], SILENT, 0.1)
    replicas.on_view("2@1:1", 2, FOUR[:1], ["s2"])
    with pytest.raises(NoOther):
        secured.next(0.2)
