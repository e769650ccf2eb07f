"""How long a change of the view takes, in virtual time."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from dida.replication.config import Config
from dida.replication.messages import Join, Load, Member, View
from dida.replication.replica import Replica
from dida.simulate.network import Cluster, Network
from dida.wire.messages import Error, Home, ListRecords, Ok, Read, Reply, Request, UpdateIf, Versions, Write
from tests.support.simnet import Hand, Parted


@pytest.mark.parametrize("writer", [1, 2, 3])
def test_a_view_changes_at_once_whoever_has_more(writer: int) -> None:
    """A member dies while one of the others, the leader or not, has updates that nobody else has: the new view
    begins within round trips, not after a time-out, and everybody has those updates."""
    cluster = Cluster(Random(1), 4, Config(gossip_delay=60.0), Network(mean_delay=0.001))
    nodes = list(cluster.nodes.values())
    for node in nodes:
        cluster.start(node)
    assert cluster.run(5.0, lambda: all(node.replica is not None and node.replica.context.serving for node in nodes))
    cluster.run(cluster.now + 1.0)
    cluster.ask(nodes[writer - 1].url, Write("key", "value"), "token")
    cluster.run(cluster.now + 0.1)
    cluster.crash(nodes[3])
    survivors = [node.replica for node in nodes[:3] if node.replica is not None]
    assert cluster.run(
        cluster.now + 0.3, lambda: all(r.context.serving and r.directory.dead() == ["s4"] for r in survivors)
    )
    for replica in survivors:
        entry = replica.state.store.newest("key")
        assert entry is not None
        assert entry.value == "value"


@pytest.mark.parametrize("alike", [False, True])
def test_taken_in_with_a_state_that_was_replaced(alike: bool) -> None:
    """A joiner that another side gave another state, on its way into a view, joins as a new incarnation, even if both
    sides have the same timestamps."""
    hand = Hand(2)
    hand.answer(1, Write("key", "value"))
    hand.start(3)
    for _ in range(1000):
        install = hand.under_way("install", target=3)
        if install:
            break
        if hand.letters:
            hand.deliver(hand.letters[0])
        else:
            hand.tick()
    joiner = hand.replicas[3]
    assert joiner.context.view is None
    have = dict(joiner.state.log.have) if alike else {"9:1": 5}
    records = [["key", [[2, 9, "another", None]]]]
    part = {"have": have, "value_ts": have, "cuts": {}, "records": records}
    load = Load(cluster=hand.config.cluster, view="9@9:1", sender="9:1", copy=1, part=0, last=True, state=part)
    hand.act(3, joiner.on_peer("another side", load, hand.now))
    assert isinstance(hand.replies["another side"], Ok)
    assert hand.run(5.0, lambda: all(r.context.serving for r in hand.replicas.values()))
    assert joiner.context.incarnation == "3:1~1"
    assert {r.context.view_name for r in hand.replicas.values()} == {joiner.context.view_name}
    assert hand.run(5.0, hand.quiet)
    assert [hand.stored(n, "key") for n in (1, 2, 3)] == [["value"]] * 3


def _copy(number: int, value: str) -> list[Load]:
    """A copy of the state, in two parts."""
    have = {"1:1": number}
    states: tuple[dict[str, Any], ...] = (
        {"records": [["key", [[number, 1, value, None]]]]},
        {"have": have, "value_ts": have, "cuts": {}},
    )
    return [
        Load(cluster="dida", view="1@1:1", sender="1:1", copy=number, part=part, last=part == 1, state=state)
        for part, state in enumerate(states)
    ]


def test_parts_of_two_copies_are_not_mixed() -> None:
    """A part of an earlier copy that arrives in the midst of a later one, or after it, is left out."""
    hand = Hand(2)
    hand.start(3)
    replica = hand.replicas[3]
    old, new = _copy(1, "old"), _copy(2, "new")
    for n, part in enumerate([old[0], new[0], old[0], old[1], new[1], new[0], new[1], old[0], old[1]]):
        hand.act(3, replica.on_peer(f"part {n}", part, hand.now))
    answers = [isinstance(hand.replies[f"part {n}"], Ok) for n in range(9)]
    assert answers == [True, True, False, False, True, False, False, False, False]
    assert hand.stored(3, "key") == ["new"]
    assert replica.state.log.have == {"1:1": 2}


def test_who_is_refused_again_and_again_fills_no_log() -> None:
    """A node with a replica number that is taken asks ten times a second: both say once what is wrong."""
    hand = Hand(2)
    member = Member("2:9", 2, "other", hand.url(3))
    hand.replicas[3] = Replica(hand.config, member, hand.named[:1], hand.now)
    hand.run(2.0)
    assert [note for note in hand.notes if "wants replica number 2" in note] != []
    for what in ("wants replica number 2", "refuses this node"):
        assert sum(what in note for note in hand.notes) == 1


def test_who_has_an_earlier_copy_is_given_the_later_one() -> None:
    """What a node that joins says of an earlier copy, while it is given another one, does not take it in: what is new
    since the earlier one is no longer kept for it."""
    hand = Hand(2)
    hand.crash(2)
    assert hand.run(5.0, lambda: not hand.replicas[1].context.others())
    hand.start(2)
    joiner, giver = hand.replicas[2].context.me, hand.replicas[1]
    asked = {**giver.context.stamp(), "view": "", "sender": joiner.component, "member": joiner}
    hand.act(1, giver.on_peer("first", Join(**asked), hand.now))
    hand.tick(1)
    assert giver.joining.joiners[2].copy == 1
    for _ in range(50):
        hand.tick(1)  # it hears nothing of the joiner for long, and keeps nothing for it
    assert not giver.joining.joiners
    hand.letters.clear()
    hand.answer(1, Write("key", "new"))
    hand.act(1, giver.on_peer("again", Join(**asked), hand.now))
    hand.tick(1)
    assert giver.joining.joiners[2].copy == 2
    late = Join(**asked, loaded=giver.context.view_name, giver=giver.context.incarnation, copy=1)
    hand.act(1, giver.on_peer("late", late, hand.now))
    assert giver.joining.joiners[2].loaded == ""
    hand.letters.clear()
    assert hand.run(5.0, lambda: len(giver.context.others()) == 1 and hand.replicas[2].context.serving)
    assert hand.stored(2, "key") == ["new"]


def test_nothing_is_prepared_while_the_view_changes() -> None:
    """What a home learns while it leads a change does not let it send a record: the next view begins alike for all."""
    hand = Hand(4, gossip_delay=3.0)
    key = hand.key_at(1)
    hand.answer(2, Write(key, "a"))
    asked = hand.ask(1, UpdateIf(key, "a", "b", id="s:1", retry=False, deadline=20.0))
    hand.pass_on("prepare")
    assert hand.under_way("fetch", target=2)
    hand.letters.clear()
    hand.crash(4)
    hand.tick(1, seconds=3.0)
    hand.pass_on("flush", "fetch")
    assert hand.stored(1, key) == ["a"]
    assert not hand.under_way("prepare")
    assert hand.run(10.0, lambda: asked in hand.replies)
    assert hand.replies[asked] == Ok(("2.1",), hand.replies[asked].object)
    assert hand.run(10.0, hand.quiet)
    assert [hand.stored(n, key) for n in (1, 2, 3)] == [["b", "a"]] * 3


def test_nothing_is_committed_while_the_view_changes() -> None:
    """What members answer to a PREPARE when the home leads a change commits nothing: whether the record is committed is
    for the next view."""
    hand = Hand(4)
    key = hand.key_at(1)
    hand.answer(2, Write(key, "a"))
    assert hand.run(1.0, hand.quiet)
    asked = hand.ask(1, UpdateIf(key, "a", "b", id="s:1", retry=False, deadline=20.0))
    hand.deliver(*hand.under_way("prepare"))
    hand.deliver(*hand.under_way("prepare", source=4))
    hand.crash(4)
    hand.tick(1)
    assert not hand.replicas[1].context.serving
    hand.deliver(*hand.under_way("prepare", answers=True))
    assert hand.stored(1, key) == ["a"]
    assert asked not in hand.replies
    assert hand.run(5.0, lambda: asked in hand.replies)
    assert hand.replies[asked].words == ("2.1",)
    assert [hand.stored(n, key) for n in (1, 2, 3)] == [["b", "a"]] * 3


def test_a_pause_at_the_start_does_not_count() -> None:
    """A node that was paused while it asked to be taken in begins no separate view when it resumes."""
    hand = Hand(2, start_deadline=3.0)
    hand.crash(2)
    hand.run(1.0)
    hand.start(2)
    hand.tick(2)
    hand.letters.clear()
    hand.now += 10.0
    hand.tick(2)
    assert hand.replicas[2].context.view is None
    assert hand.run(5.0, lambda: all(r.context.serving for r in hand.replicas.values()))
    assert {r.context.view_name for r in hand.replicas.values()} == {hand.replicas[1].context.view_name}


def test_a_view_entered_late_says_nothing_of_its_members() -> None:
    """A node is paused when it has agreed to a view, and removed from it. When it goes on, it enters that view, and
    finds its other member dead: it asks whether others go on with the state before it goes on alone."""
    hand = Hand(3)
    hand.crash(3)
    while not hand.under_way("install", target=2):
        hand.deliver(hand.letters[0]) if hand.letters else hand.tick()
    (install,) = hand.under_way("install", target=2)
    hand.start(3)
    for _ in range(150):  # 2 is paused
        hand.pass_on(target=1)
        hand.pass_on(target=3)
        hand.tick(1, 3)
    assert _members(hand, 1) == ["1:1", "3:2"]
    hand.letters = [install]
    hand.tick(2)
    hand.deliver(install)
    assert _members(hand, 2) == ["1:1", "2:1"]
    hand.crash(1)
    hand.tick(2)
    assert _members(hand, 2) == ["1:1", "2:1"]
    assert hand.run(2.0, lambda: hand.replicas[2].context.serving)
    assert _members(hand, 2) == ["2:1~1", "3:2"]


def test_no_view_beside_one_of_another_release() -> None:
    """As long as it hears of a storage node that it can't work with, a node begins no view; it says why, once."""
    hand = Hand(2, start=False, start_deadline=1.0)
    hand.start(1)
    for _ in range(200):
        hand.replicas[1].on_stranger("another protocol", hand.now)
        hand.tick(1)
    assert hand.replicas[1].context.view is None
    assert hand.replicas[1].status(hand.now)["notes"] == hand.notes == ["another protocol"]
    assert hand.run(5.0, lambda: hand.replicas[1].context.serving)


def test_no_view_of_its_own_while_others_are_in_one() -> None:
    """A joiner that waits long for the state goes on waiting, beyond the deadline for a first view."""
    hand = Hand(2, start_deadline=3.0)
    hand.crash(2)
    hand.run(1.0)
    hand.start(2)
    for _ in range(400):
        for letter in hand.under_way("load", answers=False):
            hand.letters.remove(letter)  # under way for long
        hand.pass_on()
        hand.tick()
    assert hand.replicas[2].context.view is None
    assert hand.run(5.0, lambda: all(r.context.serving for r in hand.replicas.values()))


def test_the_state_outlives_its_last_member_with_a_joiner() -> None:
    """The only member dies when it has just given its state to a joiner: that one goes on with it, after the
    deadline for a first view, and who comes back gets it from there."""
    hand = Hand(2, start_deadline=3.0)
    hand.answer(1, Write("key", "value"))
    hand.crash(2)
    hand.run(1.0)
    hand.start(2)
    while not hand.replicas[2].joining.loaded:
        if hand.letters:
            hand.deliver(hand.letters[0])
        else:
            hand.tick()
    hand.crash(1)
    hand.run(1.0)
    assert hand.replicas[2].context.view is None
    hand.start(1)
    assert hand.run(10.0, lambda: all(r.context.serving for r in hand.replicas.values()))
    assert len({r.context.view_name for r in hand.replicas.values()}) == 1
    assert hand.run(5.0, hand.quiet)
    assert [hand.stored(n, "key") for n in (1, 2)] == [["value"]] * 2


def _members(hand: Hand, number: int) -> list[str]:
    view = hand.replicas[number].context.view
    return [member.component for member in view.members] if view is not None else []


def _ask_to_join(hand: Hand, number: int, member: Member) -> Reply:
    replica = hand.replicas[number]
    join = Join(cluster=hand.config.cluster, view="", sender=member.component, member=member)
    hand.act(number, replica.on_peer("joiner", join, hand.now))
    return hand.replies["joiner"]


def test_who_can_not_join() -> None:
    """A node without an address does not become a member, nor does one with the id of another replica."""
    hand = Hand(2)
    for member in (Member("3:x", 3, "s3", "nourl"), Member("3:x", 3, "s2", "node:5003")):
        reply = _ask_to_join(hand, 1, member)
        assert isinstance(reply, Error)
        assert reply.code == "bad-request"
    hand.run(3.0)
    assert hand.answer(1, Write("key", "value")).words == ("1.1",)
    assert [m.id for m in hand.replicas[1].context.others()] == ["s2"]


def _intruder(hand: Hand, number: int, id: str) -> Replica:
    """A third process that has the number or the id of replica 2."""
    member = Member(f"{number}:x", number, id, hand.url(3))
    hand.replicas[3] = Replica(hand.config, member, hand.named[:1], hand.now)
    return hand.replicas[3]


@pytest.mark.parametrize(("number", "id"), [(2, "other"), (3, "s2")])
def test_who_is_refused_begins_no_view_of_its_own(number: int, id: str) -> None:
    """Members that run and refuse a node are not dead: it never serves beside them, however long it waits. Once what
    it took is free, it is taken in."""
    hand = Hand(2, start_deadline=1.0)
    hand.answer(1, Write("key", "value"))
    refused = _intruder(hand, number, id)
    hand.run(5.0)
    assert refused.context.view is None
    assert [m.id for m in hand.replicas[1].context.others()] == ["s2"]
    hand.crash(2)
    assert hand.run(5.0, lambda: refused.context.serving)
    assert hand.stored(3, "key") == ["value"]


def test_a_join_that_is_read_late_is_no_evidence() -> None:
    """A node that was restarted is a member; what its last incarnation had sent to join says nothing about it."""
    hand = Hand(3)
    hand.crash(3)
    hand.run(1.0)
    hand.start(3)
    hand.tick(3)
    (late,) = hand.under_way("join", source=3, target=1)
    hand.letters.clear()
    hand.crash(3)
    hand.start(3)
    assert hand.run(5.0, lambda: all(len(r.context.others()) == 2 for r in hand.replicas.values()))
    hand.run(0.3)
    view = hand.replicas[1].context.view_name
    message = late.send.message
    assert isinstance(message, Join)
    assert message.member.component == "3:2"
    assert hand.replicas[3].context.incarnation == "3:3"
    hand.act(1, hand.replicas[1].on_peer("late", message, hand.now))
    hand.run(3.0)
    assert hand.replicas[1].context.view_name == view


def test_a_restart_that_nobody_noticed() -> None:
    """A restarted node asks to join: at once its former incarnation is known to be dead."""
    hand = Hand(3)
    hand.crash(3, refused=False)
    hand.start(3)
    assert hand.run(0.3, lambda: hand.replicas[3].context.serving)
    assert all(len(r.context.others()) == 2 for r in hand.replicas.values())


@pytest.mark.parametrize("size", [4, 5, 6])
def test_two_changes_at_once(size: int) -> None:
    """Two members can't reach each other, and each leads a change without the other: one of them is removed, and all
    others go on as they are, though both changes come to their end with them."""
    hand = Parted(size, majority=True)
    hand.answer(1, Write("key", "a"))
    hand.answer(2, Write("key", "b"))
    hand.part((1, 2))
    hand.run(5.0)
    assert sum("view 2" in note and "without" in note for note in hand.notes) > size
    removed = [note.partition("; discarded")[0] for note in hand.notes if "removed" in note]
    assert removed == ["removed from the view by 2:1 (view 2); joining again as 1:1~1"]
    assert isinstance(hand.answer(size, UpdateIf("key", "a", "c")), Ok)
    hand.part()
    assert hand.run(5.0, lambda: len({r.context.view_name for r in hand.replicas.values()}) == 1)
    assert hand.run(5.0, hand.quiet)
    assert [hand.stored(n, "key") for n in hand.replicas] == [["c", "a", "b"]] * size


QUESTIONS = [ListRecords(deadline=1.0), Versions("key", deadline=1.0), Home("key", deadline=1.0)]


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: type(question).__name__)
def test_nothing_is_told_with_stale_authority(question: Request) -> None:
    """Questions about records wait for the first view, and for the lease of a node that was paused."""
    hand = Hand(2, start=False)
    hand.start(1)
    early = hand.ask(1, question)
    assert early not in hand.replies
    hand.start(2)
    assert hand.run(1.0, lambda: early in hand.replies)
    assert isinstance(hand.replies[early], Ok)
    hand.letters.clear()
    hand.now += 10.0
    late = hand.ask(2, question)
    assert late not in hand.replies, "it was away, and does not know whether it is a member still"
    hand.pass_on()
    assert isinstance(hand.replies[late], Ok)


def test_a_plain_read_is_answered_with_authority_only() -> None:
    """The fast path serves reads of a member within its lease, with the reply of the general path."""
    hand = Hand(2)
    hand.answer(1, Write("key", "value"))
    requests, read = hand.replicas[1].requests, hand.answer(1, Read("key"))
    assert isinstance(read, Ok)
    found = requests.plain_read("key", hand.now)
    assert found is not None
    entry, after = found
    assert ((entry.value, str(entry.version)), after) == (read.words, read.object["after"])
    assert requests.plain_read("nothing", hand.now) is None
    hand.now += 10.0
    assert requests.plain_read("key", hand.now) is None, "it was away, and does not know whether it is a member still"
    hand.answer(1, Read("key"))
    hand.crash(2)
    hand.tick(1, seconds=0.02)
    hand.replicas[1].context.serving = False
    assert requests.plain_read("key", hand.now) is None, "the view is being changed"


def test_a_plain_write_is_executed_with_authority_only() -> None:
    """The fast path serves writes of a member within its lease, as the general path does; not while the key is locked,
    and not where others must have the write before it is answered."""
    hand = Hand(2)
    key = hand.key_at(2)
    hand.answer(1, Write(key, "a"))
    hand.answer(1, Read(key))
    replica = hand.replicas[1]
    done = replica.plain_write(key, "b", hand.now)
    assert done is not None
    answer, outputs = done
    hand.act(1, outputs)
    assert answer.words == ("2.1",)
    assert hand.answer(1, Read(key)).object["after"] == answer.object["after"]
    assert hand.run(1.0, lambda: hand.stored(2, key) == ["b", "a"])
    hand.ask(2, UpdateIf(key, "b", "c"))
    while not replica.locks.keys:
        hand.deliver(hand.letters[0])
    assert replica.plain_write(key, "d", hand.now) is None, "an updateif has the key"
    assert hand.run(1.0, lambda: hand.stored(1, key) == ["c", "b", "a"])
    replica.context.serving = False
    assert replica.plain_write(key, "d", hand.now) is None, "the view is being changed"
    replica.context.serving = True
    assert replica.plain_write(key, "d", hand.now + 10.0) is None, "it was away"
    careful = Hand(2, write_concern=2)
    careful.answer(1, Write(key, "a"))
    careful.answer(1, Read(key))
    assert careful.replicas[1].plain_write(key, "b", careful.now) is None


def test_a_write_is_not_acknowledged_by_who_was_away() -> None:
    """What members confirmed before a node was paused is reported when it has asked whether it is still a member."""
    hand = Hand(2, write_concern=2)
    token = hand.ask(1, Write("key", "a"))
    while not hand.under_way("gossip", target=2):
        hand.deliver(hand.letters[0])
    hand.deliver(hand.under_way("gossip", target=2)[0])
    (confirmed,) = [letter for letter in hand.under_way("gossip", target=1) if letter.is_answer]
    hand.now += 3.0
    hand.deliver(confirmed)
    assert token not in hand.replies
    assert hand.run(1.0, lambda: token in hand.replies)
    assert isinstance(hand.replies[token], Ok)


def test_a_plain_read_of_a_shard() -> None:
    """With partial replication the fast path answers for the keys of the node's own shard only."""
    hand = Hand(2, replication_factor=1)
    key = next(key for key in map(str, range(100)) if hand.replicas[1].shards.of_key(key) == 0)
    hand.answer(1, Write(key, "value"))
    assert hand.replicas[1].requests.plain_read(key, hand.now) is not None
    assert hand.replicas[2].plain_write(key, "other", hand.now) is None
    refused = hand.answer(2, Write(key, "other"))
    assert isinstance(refused, Error)
    assert refused.code == "not-here"


def _discarded(hand: Hand, number: int) -> int:
    """Return what a replica reports as discarded when it finds out that the others went on without it."""
    replica = hand.replicas[number]
    replica.membership.fence(View(99, "9:1", ()), hand.now)
    return replica.membership.losses.discarded


def test_what_is_discarded_counts_from_where_the_sides_parted() -> None:
    """Updates of all views since a member was removed for its silence are counted: it may be alive, without them."""
    hand = Hand(3)
    hand.crash(3, refused=False)
    assert hand.run(5.0, lambda: len(hand.replicas[1].context.others()) == 1)
    for value in "abc":
        hand.answer(1, Write("key", value))
    hand.crash(2)
    assert hand.run(5.0, lambda: not hand.replicas[1].context.others())
    hand.answer(1, Write("key", "d"))
    assert _discarded(hand, 1) == 4


def test_what_was_on_its_way_when_the_sides_parted_is_discarded_too() -> None:
    """Updates that a removed node had not confirmed are counted: it may live, without them."""
    hand = Hand(2, gossip_delay=60.0)
    hand.answer(1, Write("key", "a"))
    hand.answer(1, Write("key", "b"))
    hand.crash(2, refused=False)
    assert hand.run(5.0, lambda: not hand.replicas[1].context.others())
    hand.answer(1, Write("key", "c"))
    assert _discarded(hand, 1) == 3


def test_what_the_others_have_confirmed_is_not_discarded() -> None:
    """Of a paused node's updates those are lost that no member had which goes on without it."""
    hand = Hand(3)
    for value in "abc":
        hand.answer(1, Write("key", value))
    assert hand.run(1.0, hand.quiet)
    hand.letters.clear()
    hand.answer(1, Write("key", "d"))
    others = tuple(hand.replicas[n].context.me for n in (2, 3))
    replica = hand.replicas[1]
    replica.membership.fence(View(2, "2:1", others), hand.now)
    assert replica.membership.losses.discarded == 1


def test_what_a_joiner_was_to_be_given_is_discarded() -> None:
    """A node that was given the state by one side, and went to the other, has confirmed nothing."""
    hand = Hand(2)
    hand.crash(2)
    assert hand.run(5.0, lambda: not hand.replicas[1].context.others())
    hand.answer(1, Write("key", "a"))
    hand.start(2)
    while not hand.under_way("load", target=2):
        hand.deliver(hand.letters[0]) if hand.letters else hand.tick()
    replica = hand.replicas[1]
    replica.membership.fence(View(99, "9:1", (hand.replicas[2].context.me,)), hand.now)
    assert replica.membership.losses.discarded == 1


def test_what_was_shared_with_the_dead_is_not_discarded() -> None:
    """A process that is gone parts nothing: what was done since counts from the last view only."""
    hand = Hand(3)
    hand.crash(3)
    assert hand.run(5.0, lambda: len(hand.replicas[1].context.others()) == 1)
    for value in "abc":
        hand.answer(1, Write("key", value))
    hand.crash(2)
    assert hand.run(5.0, lambda: not hand.replicas[1].context.others())
    hand.answer(1, Write("key", "d"))
    assert _discarded(hand, 1) == 1


def test_when_all_have_died_a_client_is_told_once() -> None:
    """A first view of new lives knows nothing of the old: who names those hears so, whatever it asks, and that alone is
    to be taken out; a list, too, is of what the client has seen."""
    hand = Hand(3)
    after = hand.answer(1, Write("k", "v", concern="all")).object["after"]
    for number in (1, 2, 3):
        hand.crash(number)
    for number in (1, 2, 3):
        hand.start(number)
    assert hand.run(5.0, lambda: all(r.context.serving for r in hand.replicas.values()))
    after |= hand.answer(2, Write("new", "w")).object["after"]
    for request in (
        Read("k", after=after),
        Write("k", "w", after=after),
        UpdateIf("k", "v", "w", after=after),
        ListRecords(after=after),
    ):
        reply = hand.answer(3, request)
        assert isinstance(reply, Error)
        assert (reply.code, reply.object) == ("lost-update", {"lost": {"1:1": 1}})
    del after["1:1"]
    assert hand.answer(3, ListRecords(after=after)).object["records"] == {"new": [["1.2", "w"]]}


def test_a_list_waits_for_what_its_client_has_seen() -> None:
    """A replica that lags fetches it first, whatever the gossip delay."""
    hand = Hand(2, gossip_delay=60.0)
    after = hand.answer(1, Write("k", "v")).object["after"]
    assert hand.answer(2, ListRecords()).object["records"] == {}
    assert hand.answer(2, ListRecords(after=after), 0.2).object["records"] == {"k": [["1.1", "v"]]}
