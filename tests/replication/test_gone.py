"""Clients that are gone, at a replica: what waits for them is given up, and what was not begun is not done."""

from __future__ import annotations

import pytest

from dida.wire.messages import Error, Read, Request, Watch, Write
from tests.replication.test_coordinator import cluster, update
from tests.support.simnet import TICK, Hand

LONG = 3600.0


def gone(hand: Hand, number: int, *tokens: str) -> None:
    """These clients of a replica go away, and it ticks."""
    hand.act(number, hand.replicas[number].give_up(set(tokens), hand.now))
    hand.tick(number, seconds=TICK)


def waiting(hand: Hand, number: int) -> int:
    """Return how many requests of all kinds a replica has not answered."""
    replica = hand.replicas[number]
    return (
        replica.requests.in_hand
        + len(replica.directory.watching)
        + sum(map(len, (replica.commit.waiting(), replica.locks.waiting(), replica.requests.concerns.tokens())))
    )


def test_a_watch_is_given_up() -> None:
    """A watch whose client is gone is no longer kept, and not answered."""
    hand, _ = cluster()
    view = hand.replicas[1].context.view_name
    tokens = [hand.ask(1, Watch(view, deadline=LONG)) for _ in range(100)]
    assert waiting(hand, 1) == 100
    gone(hand, 1, *tokens[1:])
    assert waiting(hand, 1) == 1
    assert not hand.replies.keys() & set(tokens)


def test_a_read_that_waits_for_updates_is_given_up() -> None:
    """A read of what has not come yet is dropped; another client's, that waits for the same, is answered."""
    hand, key = cluster()
    hand.ask(3, Write(key, "x"))
    after = dict(hand.replicas[3].state.value_ts)
    left, stays = (hand.ask(1, Read(key, after=after, deadline=LONG)) for _ in range(2))
    hand.letters.clear()
    gone(hand, 1, left)
    assert isinstance(hand.replies[left], Error)
    assert waiting(hand, 1) == 1
    hand.run(2.0, lambda: stays in hand.replies)
    assert hand.replies[stays].words == ("x", "2.3")


@pytest.mark.parametrize("verb", ["write", "updateif"])
def test_an_update_in_the_queue_of_its_key_is_not_begun(verb: str) -> None:
    """What waits behind a transaction, and whose client is gone, is not executed; the transaction is."""
    hand, key = cluster()
    request: Request = Write(key, "never", deadline=LONG)
    if verb == "updateif":
        request = update(key, "b", "never", deadline=LONG)
    first = hand.ask(2, update(key, "a", "b"))
    second, third = hand.ask(2, request), hand.ask(2, update(key, "b", "c"))
    gone(hand, 2, second)
    hand.pass_on()
    assert hand.replies[first].words == ("2.2",)
    assert hand.replies[third].words == ("3.2",)
    assert hand.stored(2, key) == ["c", "b", "a"]
    assert waiting(hand, 2) == 0


def test_a_request_that_was_passed_on_is_given_up() -> None:
    """A replica forgets the request that it has forwarded to the key's home; the home's reply is dropped."""
    hand, key = cluster()
    token = hand.ask(1, update(key, "a", "b", deadline=LONG))
    gone(hand, 1, token)
    assert waiting(hand, 1) == 0
    hand.pass_on()
    assert isinstance(hand.replies[token], Error)
    assert hand.stored(2, key) == ["b", "a"]


def test_a_write_that_waits_for_its_concern_is_given_up() -> None:
    """The write stays, since no reply denied it; nothing waits for its confirmation."""
    hand, key = cluster(write_concern=2)
    token = hand.ask(1, Write(key, "b", deadline=LONG))
    hand.letters.clear()
    assert waiting(hand, 1) == 1
    gone(hand, 1, token)
    assert waiting(hand, 1) == 0
