"""A write's concern: how many members have it when it is answered, and that nothing holds it back meanwhile."""

from __future__ import annotations

from typing import Any

import pytest

from dida.errors import BadRequest
from dida.wire import grammar
from dida.wire.messages import Error, Ok, Read, Write, vocabulary
from tests.support.simnet import Hand, Parted

LATE = 60.0
"""Seconds of gossip delay that no test waits for."""


def holders(hand: Hand, key: str, value: str) -> list[int]:
    """The living replicas that show that value of the key, or had it and have a newer one."""
    return [number for number in hand.replicas if value in hand.stored(number, key)]


@pytest.mark.parametrize("delay", [0.0, 1.0, LATE])
def test_all_means_every_living_member_whatever_the_gossip_delay(delay: float) -> None:
    """When it is answered all have it, so that any one of them may be left."""
    hand = Hand(4, gossip_delay=delay)
    reply = hand.answer(1, Write("k", "v", concern="all"), 0.2)
    assert isinstance(reply, Ok)
    assert holders(hand, "k", "v") == [1, 2, 3, 4]
    for number in (1, 2, 3):
        hand.crash(number)
    assert hand.run(5.0, lambda: hand.replicas[4].context.serving and not hand.replicas[4].context.others())
    assert hand.answer(4, Read("k", after=reply.object["after"])) == Ok(("v", "1.1"), {"after": {}})


def test_what_it_depends_on_is_there_too() -> None:
    """Who has the write can show it: what it builds on is not left behind where gossip is late."""
    hand = Hand(3, gossip_delay=LATE)
    seen = hand.answer(2, Write("first", "1")).object["after"]
    hand.answer(1, Write("second", "2", after=seen, concern="all"), 0.2)
    assert holders(hand, "first", "1") == holders(hand, "second", "2") == [1, 2, 3]


def test_many_at_once_do_not_wait_for_the_gossip_delay() -> None:
    """One that comes while the message of the one before is under way goes out with the next, not with the delay."""
    hand = Hand(3, gossip_delay=LATE)
    tokens = [hand.ask(1, Write(f"k{n}", "x" * 3000, concern="all")) for n in range(200)]
    assert hand.run(0.2, lambda: all(token in hand.replies for token in tokens))
    assert {type(hand.replies[token]) for token in tokens} == {Ok}


def test_a_message_that_is_lost_is_sent_again_at_once() -> None:
    """A connection that breaks costs a tick, not the gossip delay."""
    hand = Hand(3, gossip_delay=LATE)
    token = hand.ask(1, Write("k", "v", concern="all"))
    hand.lose(*hand.under_way("gossip"))
    assert hand.run(0.1, lambda: token in hand.replies)


def test_gossip_that_nobody_waits_for_is_still_held_back() -> None:
    """A plain write stays where it is for the delay, also when one with a concern went before it."""
    hand = Hand(3, gossip_delay=LATE)
    hand.answer(1, Write("k", "v", concern="all"))
    hand.answer(1, Write("k", "w"))
    hand.run(1.0)
    assert holders(hand, "k", "w") == [1]


def test_a_member_that_is_removed_no_longer_counts() -> None:
    """A silent member holds the answer up until it is out of the view."""
    hand = Parted(3, gossip_delay=LATE)
    hand.part((1, 3), (2, 3))
    token = hand.ask(1, Write("k", "v", concern="all", deadline=30.0))
    hand.run(0.3)
    assert token not in hand.replies
    assert hand.run(10.0, lambda: token in hand.replies)
    assert isinstance(hand.replies[token], Ok)
    assert [m.replica for m in hand.replicas[1].context.others()] == [2]
    assert {1, 2} <= set(holders(hand, "k", "v"))


def test_a_member_that_joins_meanwhile_counts() -> None:
    """The answer says that all have it who are members then: the one that came in meanwhile, too."""
    hand = Hand(3, gossip_delay=LATE)
    hand.crash(3)
    assert hand.run(2.0, lambda: len(hand.replicas[1].context.others()) == 1)
    hand.start(3)
    token = hand.ask(1, Write("k", "v", concern="all", deadline=30.0))
    while len(hand.replicas[1].context.others()) != 2:
        hand.lose(*hand.under_way("gossip"))
        assert token not in hand.replies
        hand.deliver(*hand.under_way()[:1]) if hand.letters else hand.tick()
    assert hand.run(2.0, lambda: token in hand.replies)
    assert holders(hand, "k", "v") == [1, 2, 3]


def test_at_the_deadline_the_outcome_is_unknown() -> None:
    """The write was executed, and may survive or not: that is what the client hears, not that nothing was done."""
    hand = Parted(2, gossip_delay=LATE, ping_timeout=20.0)
    hand.part((1, 2))
    reply = hand.answer(1, Write("k", "v", concern="all", deadline=1.0), 1.0)
    assert isinstance(reply, Error)
    assert reply.code == "unknown-outcome"
    assert hand.stored(1, "k") == ["v"]


def test_in_a_minority_it_is_given_up_early() -> None:
    """Where no member can be removed either, the client hears so long before its deadline."""
    hand = Parted(3, gossip_delay=LATE, majority=True)
    hand.part((1, 2), (1, 3))
    token = hand.ask(1, Write("k", "v", concern="all", deadline=60.0))
    assert hand.run(5.0, lambda: token in hand.replies)
    reply = hand.replies[token]
    assert isinstance(reply, Error)
    assert reply.code == "unknown-outcome"


@pytest.mark.parametrize("asked", [1, 2, 3])
def test_a_retry_has_the_concern_of_the_first_try(asked: int) -> None:
    """Asked again, at whichever replica: the first answer, once all have the write, and again at once."""
    hand = Hand(3, gossip_delay=LATE)
    first = hand.answer(1, Write("k", "v", id="s:1", retry=False))
    assert holders(hand, "k", "v") == [1]
    again = hand.answer(asked, Write("k", "v", id="s:1", concern="all"), 0.2)
    assert again.words == first.words
    assert holders(hand, "k", "v") == [1, 2, 3]


def test_a_number_may_ask_for_more_than_the_option_not_for_less() -> None:
    """The node's own --write-concern is the least."""
    hand = Hand(4, gossip_delay=LATE, write_concern=2)
    for concern, least in ((1, 2), (2, 2), (3, 3), (4, 4)):
        token = hand.ask(1, Write(f"k{concern}", "v", concern=concern))
        for letter in hand.under_way("gossip", source=1):
            assert (token in hand.replies) == (len(holders(hand, f"k{concern}", "v")) >= least)
            hand.deliver(letter)
            hand.deliver(*hand.under_way("gossip", answers=True))
        assert isinstance(hand.replies[token], Ok)


@pytest.mark.parametrize("options", [{}, {"id": "s:1", "retry": False}])
def test_more_members_than_there_are(options: dict[str, Any]) -> None:
    """Nothing is written, and the reply says how many there are."""
    hand = Hand(2)
    assert hand.answer(1, Write("k", "v", concern=3, **options)) == Error(
        "unavailable", ("write concern 3 needs more members than the 2 alive",)
    )
    assert hand.stored(1, "k") == []


def test_alone_it_is_answered_at_once() -> None:
    """A group of one is all."""
    hand = Hand(1)
    assert hand.replies[hand.ask(1, Write("k", "v", concern="all"))].words == ("1.1",)


@pytest.mark.parametrize("lost", ["leader", "home", "other"])
def test_a_crash_in_the_midst(lost: str) -> None:
    """Whoever dies while the answer is awaited, the leader of the next view or the key's home: all others have it."""
    hand = Hand(4, gossip_delay=LATE)
    number = {"leader": 1, "home": 3, "other": 4}[lost]
    key = hand.key_at(3)
    token = hand.ask(2, Write(key, "v", id="s:1", retry=False, concern="all", deadline=20.0))
    first = next(letter for letter in hand.under_way("gossip", source=2) if letter.target != number)
    hand.deliver(first)
    hand.crash(number)
    assert hand.run(10.0, lambda: token in hand.replies)
    assert isinstance(hand.replies[token], Ok)
    assert holders(hand, key, "v") == sorted({1, 2, 3, 4} - {number})


def test_a_latest_read_is_not_held_back_by_a_message_that_is_lost() -> None:
    """It waits until all have the value that it tells: that is sent again at once, whoever wrote it."""
    hand = Hand(3, gossip_delay=LATE)
    key = hand.key_at(2)
    hand.answer(1, Write(key, "a"))
    token = hand.ask(2, Read(key, latest=True))
    while not hand.under_way("gossip", source=2, target=3):
        hand.deliver(*hand.letters[:1])
    hand.lose(*hand.under_way("gossip", source=2, target=3))
    assert hand.run(0.1, lambda: token in hand.replies)
    assert hand.replies[token].words == ("a", "1.1")
    assert holders(hand, key, "a") == [1, 2, 3]


@pytest.mark.parametrize("said", ["0", "-1", "1001", '"some"', "1.5", "null", "true", "[]"])
def test_what_is_no_concern(said: str) -> None:
    """A number from 1, or all; the line says which member is wrong, and nothing is done."""
    with pytest.raises(BadRequest, match=r"concern: .*; expected: write KEY VALUE"):
        grammar.decode(f'write k v {{"concern": {said}}}'.encode(), vocabulary(Write))
