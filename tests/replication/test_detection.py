"""Large views: heartbeats with the lowest member only, a lease that it passes on, and what becomes without it."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import pytest

from dida.replication.config import Config
from dida.replication.messages import Heartbeat, Prepare, Suspect
from dida.simulate.network import Cluster, Network
from dida.simulate.node import Node
from dida.simulate.verdict import quiet
from dida.wire.messages import Ok, Read, UpdateIf, Write
from tests.support.simnet import TICK, Hand, Parted

NODES = 24
LARGE: dict[str, Any] = {"all_to_all": 2}
LEASE = 0.4
TIMEOUT = 0.5
"""Of the replicas that are delivered by hand."""


class Counted(Cluster):
    """Counts the heartbeats and answers that each node sends."""

    def __init__(self, nodes: int, config: Config) -> None:
        super().__init__(Random(1), nodes, config, Network())
        self.sent: Counter[str] = Counter()
        self.failpoint = self._count
        for node in self.nodes.values():
            self.start(node)
        assert self.run(10.0, lambda: serve_together(list(self.nodes.values())))
        self.run(self.now + 2.0)

    def _count(self, name: str, node: Node) -> None:
        if name in ("heartbeat.send", "heartbeat.reply"):
            self.sent[node.name] += 1

    def pass_time(self, seconds: float) -> None:
        self.events = 0  # many nodes have many events: no sign of a storm
        self.run(self.now + seconds)


def serve_together(nodes: list[Node]) -> bool:
    """Return True if these nodes, and no others, serve in one view."""
    views = [n.replica.context.view for n in nodes if n.replica is not None and n.replica.context.serving]
    return len(views) == len(nodes) and all(
        view is not None and [m.id for m in view.members] == [n.name for n in nodes] for view in views
    )


# --- what it costs, and how soon --------------------------------------------------------------------


def test_a_member_at_rest_sends_as_much_however_many_there_are() -> None:
    """Two lines a period of each node but the hub, in a group of 24 as in one of 20."""
    for nodes in (20, NODES):
        cluster = Counted(nodes, Config())
        cluster.sent.clear()
        cluster.pass_time(10.0)
        hub, *others = (cluster.sent[node.name] for node in cluster.nodes.values())
        assert max(others) <= 2 * 21
        assert min(others) >= 2 * 19
        assert hub <= 2 * 21 * (nodes - 1)


def test_a_group_of_sixteen_is_small() -> None:
    """Up to 16 members all ask all."""
    cluster = Counted(16, Config())
    cluster.sent.clear()
    cluster.pass_time(10.0)
    assert min(cluster.sent.values()) >= 2 * 19 * 15


@pytest.mark.parametrize("victim", [1, 13])
@pytest.mark.parametrize("all_to_all", [16, NODES])
def test_a_dead_member_is_removed_as_soon_as_in_a_small_group(victim: int, all_to_all: int) -> None:
    """Killed: after some round trips. Silent: after the time-out. The hub or not, asked by all or by the hub only."""
    config = Config(all_to_all=all_to_all)
    cluster = Counted(NODES, config)
    nodes = list(cluster.nodes.values())
    lost = nodes.pop(victim - 1)
    cluster.crash(lost)
    assert cluster.run(cluster.now + 0.1, lambda: serve_together(nodes))
    silent = nodes.pop(min(victim, len(nodes)) - 1)
    cluster.pause(silent)
    cluster.events = 0
    begun = cluster.now
    assert cluster.run(cluster.now + 5.0, lambda: serve_together(nodes))
    assert cluster.now - begun <= config.ping_timeout + config.ping_interval / 2


def test_the_log_of_a_large_group_gets_empty() -> None:
    """What all have is known to all, by the hub: after writes and commits of each node nothing is left anywhere."""
    cluster = Counted(NODES, Config())
    nodes = list(cluster.nodes.values())
    for number, node in enumerate(nodes):
        for count in range(5):
            cluster.ask(node.url, Write(f"key{number}", str(count)), ("client", number, count))
        cluster.ask(node.url, UpdateIf(f"key{number}", "4", "x", deadline=5.0), ("client", number, "x"))
    cluster.pass_time(1.0)
    cluster.pass_time(2.0)
    for node in nodes:
        assert node.replica is not None
        state = node.replica.state
        assert quiet(node.replica) == {}
        assert len(state.store) == NODES
        assert not state.unsettled
        assert not any(state.lag().values())
        assert all(known == state.log.have for known in state.table.values())


# --- the lease that is passed on ----------------------------------------------------------------------


def lease(hand: Hand, number: int) -> float:
    return hand.replicas[number].detection.lease_until()


def members(hand: Hand, number: int) -> list[int]:
    """The replicas in the view of this one."""
    view = hand.replicas[number].context.view
    return [m.replica for m in view.members] if view is not None else []


def test_the_lease_is_the_hubs() -> None:
    """Nobody's lease is longer than the hub's; when one member does not answer the hub, all are over within a lease."""
    hand = Parted(5, **LARGE)
    for _ in range(20):
        hand.run(TICK)
        assert all(hand.now < lease(hand, n) <= lease(hand, 1) for n in (2, 3, 4, 5))
    hand.part((1, 5))
    hand.run(LEASE)
    assert max(lease(hand, n) for n in hand.replicas) <= hand.now + 1e-9
    late = hand.ask(3, Read("key"))
    hand.run(LEASE)
    assert late not in hand.replies


def test_the_grant_counts_from_the_question() -> None:
    """An answer that was long under way grants what was left when it was given, from when it was asked for."""
    hand = Hand(3, **LARGE)
    hand.tick(seconds=0.1)
    for letter in hand.under_way("heartbeat", source=1):
        hand.deliver(letter)
    hand.pass_on("heartbeat", target=1, source=3)
    (question,) = hand.under_way("heartbeat", source=2, answers=False)
    asked, before = hand.now, lease(hand, 2)
    hand.now += 0.2
    for letter in hand.under_way("heartbeat", target=1, answers=True):
        hand.deliver(letter)
    hand.deliver(question)
    (answer,) = hand.under_way("heartbeat", source=1, target=2, answers=True)
    assert isinstance(answer.answer, Ok)
    left = answer.answer.object["lease"]
    assert left == pytest.approx(asked + LEASE - hand.now)
    hand.now += 0.1
    hand.deliver(answer)
    assert lease(hand, 2) == max(before, asked + left)


def test_a_hub_that_was_paused_grants_nothing() -> None:
    """What it is asked in the meantime it answers without a lease, until all members have answered it again."""
    hand = Hand(4, **LARGE)
    hand.tick(2)
    hand.letters.clear()
    hand.now += LEASE + 0.05  # longer than its lease, shorter than the time-out
    hand.tick(2)
    hand.pass_on("heartbeat", source=2, target=1)
    asked = Heartbeat(**hand.replicas[2].context.stamp(), at=hand.now)
    hand.act(1, hand.replicas[1].on_peer("late", asked, hand.now))
    reply = hand.replies["late"]
    assert isinstance(reply, Ok)
    assert reply.object["lease"] == 0.0
    assert lease(hand, 2) <= hand.now
    hand.run(0.3)
    assert lease(hand, 2) > hand.now


def test_nobody_but_the_hub_grants() -> None:
    """A member that lost the hub asks all, and none of the others can let it answer: the hub may remove it."""
    hand = Parted(4, **LARGE)
    hand.part((1, 4))
    hand.run(TIMEOUT)
    over = hand.now
    assert lease(hand, 4) <= over
    hand.run(2 * TIMEOUT)
    assert lease(hand, 4) <= over
    assert members(hand, 2) == [1, 2, 3, 4], "the others hear it, and say so"


# --- without the hub ----------------------------------------------------------------------------------


def test_silence_counts_from_when_one_listens() -> None:
    """The hub dies: nobody has heard from the others for long, and nobody is removed but the hub."""
    hand = Parted(5, **LARGE)
    hand.crash(1)
    assert hand.run(0.1, lambda: all(members(hand, n) == [2, 3, 4, 5] for n in (2, 3, 4, 5)))
    hand.run(3 * TIMEOUT)
    assert all(members(hand, n) == [2, 3, 4, 5] for n in (2, 3, 4, 5))
    assert not any("removed" in note for note in hand.notes)
    assert isinstance(hand.answer(4, Write("key", "value")), Ok)


def test_what_a_dead_hub_granted_is_over_before_anybody_is_removed() -> None:
    """The hub dies right after it gave its lease, and one member is cut off at that moment."""
    hand = Parted(5, **LARGE, majority=True)
    hand.part((2, 5), (3, 5), (4, 5))
    hand.crash(1)
    begun = hand.now
    granted = lease(hand, 5)
    assert granted > begun
    while members(hand, 2) != [2, 3, 4]:
        assert 5 in members(hand, 2)
        hand.run(TICK)
    assert begun + TIMEOUT <= hand.now
    assert lease(hand, 5) == granted
    assert granted <= begun + LEASE < hand.now


def silent(hand: Hand, number: int, suspect: int) -> float:
    """What a replica says of how long it has not heard another one."""
    asked = Suspect(**hand.replicas[3].context.stamp(), component=f"{suspect}:1")
    hand.act(number, hand.replicas[number].on_peer("suspect", asked, hand.now))
    reply = hand.replies["suspect"]
    assert isinstance(reply, Ok)
    seconds: float = reply.object["silent"]
    return seconds


def test_silence_counts_anew_when_the_hub_is_heard() -> None:
    """The hub is slow, so that all listen to each other. When it is back, and may grant its lease to a member that
    no other hears, the silence of that member counts from then on: if the hub dies at once, that lease ends first."""
    hand = Parted(5, **LARGE)
    unheard = [(2, 5), (3, 5), (4, 5)]
    hand.part(*unheard, (1, 2), (1, 3), (1, 4))
    hand.run(0.38)
    assert silent(hand, 2, 5) >= 0.1
    hand.part(*unheard)
    hand.pass_on()
    assert silent(hand, 2, 5) == 0.0


def test_both_sides_of_a_partition() -> None:
    """The hub is cut off with one member. Its lease is over before the other side goes on, and that member's, too."""
    hand = Parted(5, **LARGE, majority=True)
    hand.part(*((a, b) for a in (1, 2) for b in (3, 4, 5)))
    begun = hand.now
    while members(hand, 3) != [3, 4, 5]:
        hand.run(TICK)
    assert begun + TIMEOUT <= hand.now <= begun + 2 * TIMEOUT
    assert max(lease(hand, 1), lease(hand, 2)) < hand.now
    refused = hand.ask(2, Read("key", deadline=0.2))
    hand.run(0.4)
    assert not isinstance(hand.replies[refused], Ok)
    hand.part()
    assert hand.run(5.0, lambda: all(len(members(hand, n)) == 5 for n in hand.replicas))


def test_the_hub_comes_back() -> None:
    """A restarted node with the lowest number is the hub of the next view: all turn to it, and have a lease by it."""
    hand = Hand(4, **LARGE)
    hand.crash(1)
    assert hand.run(0.1, lambda: members(hand, 4) == [2, 3, 4])
    hand.start(1)
    assert hand.run(5.0, lambda: all(members(hand, n) == [1, 2, 3, 4] for n in (1, 2, 3, 4)))
    hand.run(0.3)
    beats = dict.fromkeys((2, 3, 4), 0)
    for _ in range(20):
        hand.tick()
        for letter in hand.under_way("heartbeat", answers=False):
            assert 1 in (letter.source, letter.target)
            beats[max(letter.source, letter.target)] += 1
        hand.pass_on()
    assert min(beats.values()) >= 4
    assert all(hand.now < lease(hand, n) <= lease(hand, 1) for n in (2, 3, 4))


def test_the_hub_does_not_hear_one_that_hears_it() -> None:
    """Others say that it lives: it is removed late, and nobody's lease is renewed before."""
    hand = Parted(5, **LARGE)
    hand.part((5, 1), one_way=True)
    begun = hand.now
    hand.run(LEASE)
    while hand.now < begun + 3.5 * TIMEOUT:
        hand.run(TICK)
        assert max(lease(hand, n) for n in hand.replicas) <= hand.now
        assert members(hand, 1) == [1, 2, 3, 4, 5]
    while 5 in members(hand, 2):
        hand.run(TICK)
    assert hand.now <= begun + 4 * TIMEOUT + TICK


# --- what heartbeats carry ----------------------------------------------------------------------------


def test_a_lock_that_is_left_over_is_found_without_the_hub() -> None:
    """A lock alone, whose RELEASE is under way for long, goes when the home is asked: not the hub."""
    hand = Hand(4, **LARGE)
    key = hand.key_at(3)
    hand.answer(2, Write(key, "a"))
    hand.run(0.5)
    asked = hand.ask(3, UpdateIf(key, "x", "b"))
    while asked not in hand.replies:
        hand.deliver(hand.letters[0]) if hand.letters else hand.tick()
    late = hand.under_way("release", target=4)
    for letter in late:
        hand.letters.remove(letter)
    assert hand.replicas[4].locks.keys
    hand.run(0.05)
    assert hand.replicas[4].locks.keys, "it may be under way still"
    assert hand.run(0.3, hand.quiet)
    hand.letters += late
    assert hand.run(0.3, hand.quiet)


def test_nobody_asks_itself() -> None:
    """A node whose own transaction takes long waits for the others' word, and sends nothing to itself."""
    hand = Hand(4, **LARGE)
    key = hand.key_at(3)
    hand.answer(2, Write(key, "a"))
    hand.run(0.5)
    hand.ask(3, UpdateIf(key, "a", "b"))
    for _ in range(30):
        hand.letters = [x for x in hand.letters if x.verb != "prepare"]
        hand.tick()
        assert not [x for x in hand.letters if x.source == x.target]
        hand.deliver(*[x for x in hand.letters if x.verb != "prepare"])


def test_a_commit_that_is_under_way_for_long_comes_by_gossip() -> None:
    """A member whose PREPARE with the commit does not arrive gets the record with the gossip of its home, and unlocks
    the key."""
    hand = Hand(4, **LARGE)
    key = hand.key_at(3)
    hand.answer(2, Write(key, "a"))
    hand.run(0.5)
    asked = hand.ask(3, UpdateIf(key, "a", "b"))
    while asked not in hand.replies:
        hand.deliver(hand.letters[0]) if hand.letters else hand.tick()
    late = [x for x in hand.under_way("prepare", target=4) if isinstance(x.send.message, Prepare)]
    assert [x.send.message.keys for x in late] == [()]  # type: ignore[attr-defined]
    for letter in late:
        hand.letters.remove(letter)
    assert hand.stored(4, key) == ["a"]
    assert hand.run(0.5, lambda: hand.stored(4, key) == ["b", "a"])
    assert not any(letter.verb == "prepare" for letter in hand.letters)
    assert hand.run(0.5, hand.quiet)
    hand.letters += late
    assert hand.run(0.5, hand.quiet)
