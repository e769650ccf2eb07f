"""With `--membership majority` no two views serve at once, whoever changes sides in the middle of a change."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from dida.replication.config import Config
from dida.replication.messages import Flush, Install, Member, View, more_than_half
from dida.simulate.network import Cluster, Network
from dida.simulate.node import Node
from dida.wire.messages import Error, Ok, Reply, UpdateIf, Write
from tests.support.simnet import Hand


class Sides(Cluster):
    """A cluster whose test decides which nodes reach each other."""

    def __init__(self, replicas: int, *sides: str, majority: bool = True) -> None:
        config = Config(majority=majority, ping_interval=0.1, ping_timeout=0.5, start_deadline=3.0)
        super().__init__(Random(1), replicas, config, Network(mean_delay=0.001))
        self.replies: dict[str, Reply] = {}
        self.on_reply = lambda token, reply, node: self.replies.update({token: reply})
        self.asked = 0
        self.turns: dict[str, tuple[str, ...]] = {}
        """Node to which nodes reach each other from the moment that it sends a new view."""
        self.failpoint = self._turn
        if sides:
            self.part(*sides)
        for node in self.nodes.values():
            self.start(node)
        if not sides:
            assert self.run(5.0, self.all_serve)
            self.run(self.now + 1.0)

    def _turn(self, name: str, node: Node) -> None:
        if name == "install.send" and node.name in self.turns:
            self.part(*self.turns.pop(node.name))

    def all_serve(self) -> bool:
        """Whether all that live are in one view, and answer."""
        living = [node for node in self.nodes.values() if node.replica is not None]
        views = {node.replica.context.view_name for node in living if node.replica is not None}
        return len(views) == 1 and all(self.serves(node.number) for node in living)

    def node(self, number: int) -> Node:
        return self.nodes[f"node:{5000 + number}"]

    def serves(self, number: int) -> bool:
        """Whether a client would be answered there."""
        node = self.node(number)
        replica = node.replica
        return replica is not None and replica.context.serving and self.time(node) < replica.detection.lease_until()

    def part(self, *sides: str) -> None:
        """Only those reach each other that are on one side: `part("123", "45")`."""
        self.cut.clear()
        for a in self.nodes.values():
            for b in self.nodes.values():
                if not any(str(a.number) in side and str(b.number) in side for side in sides):
                    self.cut[(a.url, b.url)] = True

    def ask(self, number: int, request: Write | UpdateIf) -> str:  # type: ignore[override]
        self.asked += 1
        token = f"request {self.asked}"
        super().ask(self.node(number).url, request, token)
        return token


def test_a_member_changes_sides_while_the_new_view_is_on_its_way() -> None:
    """Of five, 4 and 5 are cut off; 1 makes the view {1, 2, 3}, which does not reach 3: that one is with 4 and 5 by
    now. At most one side goes on, and of two updateifs of one value at most one is applied."""
    cluster = Sides(5)
    cluster.ask(1, Write("k", "a"))
    cluster.run(cluster.now + 0.5)
    cluster.turns["s1"] = ("12", "345")
    cluster.part("123", "45")
    cluster.run(cluster.now + 3.0)
    assert not cluster.turns
    asked = [cluster.ask(number, UpdateIf("k", "a", f"by-{number}", deadline=1.0)) for number in (1, 4)]
    cluster.run(cluster.now + 1.5)
    assert not (cluster.serves(1) and cluster.serves(4)), "two views serve at once"
    assert cluster.serves(4), "3, 4 and 5 are more than half of the last view that was complete"
    assert sum(isinstance(cluster.replies.get(token), Ok) for token in asked) == 1
    cluster.part("12345")
    assert cluster.run(cluster.now + 5.0, cluster.all_serve)
    assert cluster.node(1).incarnation == "1:1~1"


def test_a_member_changes_sides_while_the_first_view_is_on_its_way() -> None:
    """The same at the start: a first view that one of its members never entered is changed by more than half of the
    named nodes only."""
    cluster = Sides(5, "123", "45")
    cluster.turns["s1"] = ("12", "345")
    cluster.run(8.0)
    assert not cluster.turns
    assert not (cluster.serves(1) and cluster.serves(4)), "two views serve at once"
    cluster.part("12345")
    assert cluster.run(cluster.now + 8.0, cluster.all_serve)


def test_a_view_that_came_to_nothing_costs_nobody_his_vote() -> None:
    """2 makes the view {2, 3}, which does not reach 3; it tells 1, who is not in it, and dies. 1 and 3 are more than
    half of the view before, and go on."""
    cluster = Sides(3)
    cluster.ask(1, Write("k", "a"))
    cluster.run(cluster.now + 0.5)
    cluster.turns["s2"] = ("12", "3")
    cluster.part("1", "23")
    assert cluster.run(cluster.now + 3.0, lambda: not cluster.turns)
    cluster.run(cluster.now + 0.3)
    cluster.crash(cluster.node(2))
    cluster.part("123")
    assert cluster.run(cluster.now + 3.0, lambda: cluster.serves(1) and cluster.serves(3))
    assert cluster.node(1).incarnation == "1:1"


@pytest.mark.parametrize("promised", [False, True])
def test_who_has_promised_to_change_its_view_does_not_leave_it(promised: bool) -> None:
    """3 is in the view {1, 2, 3}, and hears of {2, 3, 4, 5}, made from the same view: it goes over. Not when it has
    promised 1 to change the view in which it is, unless 1 itself says that the other one is to begin."""
    hand = Hand(5, majority=True)
    replica, whole = hand.replicas[3], hand.replicas[3].context.view
    assert whole is not None
    members, lists = whole.members, whole.lists(complete=True)
    one = View(2, "1:1", members[:3], whole.name, lists)
    other = View(3, "2:1", members[1:], whole.name, lists)

    def say(kind: type[Install | Flush], sender: str, **words: Any) -> Reply:
        message = kind(cluster="dida", view=replica.context.view_name, sender=sender, **words)
        hand.act(3, replica.on_peer(sender, message, hand.now))
        return hand.replies[sender]

    assert isinstance(say(Install, "1:1", installs=one, base={}), Ok)
    if promised:
        assert isinstance(say(Flush, "1:1", number=4, members=members[:3]), Ok)
        reply = say(Install, "2:1", installs=other, base={})
        assert isinstance(reply, Error)
        assert reply.code == "other-view"
        assert replica.context.view_name == one.name
        assert replica.context.incarnation == "3:1", "it keeps its state, too"
    assert isinstance(say(Install, "1:1" if promised else "2:1", installs=other, base={}), Ok)
    assert replica.context.view_name == other.name


@pytest.mark.parametrize("size", [3, 4])
def test_sides_that_went_on_apart_compare_by_number_and_leader(size: int) -> None:
    """With `available` both sides go on; when they meet, the view of the higher number stays, of two alike that of the
    higher leader, however many are in it. The others discard what they did alone, and say so."""
    cluster = Sides(size, majority=False)
    alone, others = str(size), "123"[: size - 1]
    cluster.part(others, alone)
    cluster.run(cluster.now + 2.0)
    cluster.ask(1, Write("k", "by-many"))
    cluster.ask(size, Write("k", "by-one"))
    cluster.run(cluster.now + 1.0)
    cluster.part("1234")
    assert cluster.run(cluster.now + 5.0, cluster.all_serve)
    replica = cluster.node(1).replica
    assert replica is not None
    entry = replica.state.store.newest("k")
    assert entry is not None
    assert entry.value == "by-one"
    assert replica.membership.losses.discarded == 1


def test_more_than_half_of_each_list() -> None:
    """Members that stay are counted by incarnation; before the first view by replica number, of any incarnation."""
    members = tuple(Member(f"{n}:1", n, f"s{n}", f"node:{n}") for n in range(1, 6))
    view = View(3, "1:1", members[:3], "2@1:1", (tuple(m.component for m in members), ("1", "2", "3", "4", "5")))
    for stay, complete, enough in (("12", True, True), ("12", False, False), ("123", False, True), ("1", True, False)):
        those = [m for m in members if str(m.replica) in stay]
        assert more_than_half(those, view.lists(complete)) is enough
    again = Member("3:2", 3, "s3", "node:3")
    assert not more_than_half([*members[:1], again], view.lists(True)), (
        "another incarnation is not a member of the view"
    )
    assert more_than_half([*members[:2], again], [("1", "2", "3", "4", "5")])
