"""updateIf and what else needs all members, sentence by sentence of its rules, letter by letter."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest

from dida.placement import Ring
from dida.replication import coordinator as commit_module
from dida.replication import executed as executed_module
from dida.replication import participant as locks_module
from dida.replication.messages import Decide, Ended, Range, Record, Release
from dida.wire import grammar
from dida.wire.messages import Error, No, Ok, Read, Reply, UpdateIf, Write
from tests.support.simnet import Hand

KEY_AT = 2
"""The home of the key that these tests use, mostly."""


def cluster(count: int = 3, **config: Any) -> tuple[Hand, str]:
    """A cluster, and a key at home on replica 2 with the value `a`, everywhere."""
    hand = Hand(count, **config)
    key = hand.key_at(KEY_AT)
    hand.answer(1, Write(key, "a"))
    assert hand.run(2.0 + 2 * hand.config.gossip_delay, hand.quiet)
    return hand, key


def update(key: str, old: str, new: str, number: int = 1, **rest: Any) -> UpdateIf:
    return UpdateIf(key, old, new, **{"id": f"{new}:{number}", "retry": False, **rest})


def code(reply: Reply) -> str:
    assert isinstance(reply, Error), reply
    return reply.code


# --- one after the other --------------------------------------------------------------------------


def test_compare_and_swap() -> None:
    """Applied with the next number and the home's id; or refused with the current value and its version."""
    hand, key = cluster()
    assert hand.answer(1, update(key, "a", "b")).words == ("2.2",)
    refused = hand.answer(3, update(key, "a", "c"))
    assert isinstance(refused, No)
    assert refused.words == ("2.2", "b")
    assert [hand.stored(n, key) for n in (1, 2, 3)] == [["b", "a"]] * 3


def test_no_record_to_compare_with() -> None:
    """A key that nobody has written is a plain `no`, and a latest read of it names the key."""
    hand = Hand(3)
    assert hand.answer(1, update("nothing", "a", "b")) == No()
    assert hand.answer(1, Read("nothing", latest=True)) == Error("no-such-record", ("nothing",))


def test_another_replica_passes_it_on_to_the_home() -> None:
    """Whoever is asked, the key's home coordinates; the home itself asks nobody to forward."""
    hand, key = cluster()
    hand.ask(1, update(key, "a", "b"))
    assert [(x.verb, x.source, x.target) for x in hand.letters] == [("forward", 1, 2)]
    hand.pass_on()
    hand.ask(2, update(key, "b", "c"))
    assert sorted((x.verb, x.source, x.target) for x in hand.letters) == [("lock", 2, 1), ("lock", 2, 3)]


def test_two_at_once_are_executed_one_after_the_other() -> None:
    """The second waits for the end of the first, and is compared with what the first has left: none is aborted."""
    hand, key = cluster()
    first, second = hand.ask(2, update(key, "a", "b")), hand.ask(2, update(key, "b", "c"))
    assert len(hand.under_way("lock")) == 2
    hand.pass_on()
    assert hand.replies[first].words == ("2.2",)
    assert hand.replies[second].words == ("3.2",)


def test_a_crowd_is_served_in_one_order() -> None:
    """Of ten at once from one value one succeeds, and the others hear what it has left."""
    hand, key = cluster()
    tokens = [hand.ask(1 + n % 3, update(key, "a", f"v{n}")) for n in range(10)]
    hand.pass_on()
    replies = [hand.replies[token] for token in tokens]
    (success,) = [n for n, reply in enumerate(replies) if isinstance(reply, Ok)]
    assert {reply.words for n, reply in enumerate(replies) if n != success} == {("2.2", f"v{success}")}


def test_other_keys_go_on() -> None:
    """A transaction that waits for a member holds up its key, and no other."""
    hand, key = cluster()
    other = next(k for k in map(str, range(100, 1000)) if hand.home(k) == KEY_AT)
    hand.ask(2, update(key, "a", "b"))
    hand.letters.clear()
    write = hand.ask(2, Write(other, "x"))
    assert hand.replies[write].words == ("1.2",)
    compared = hand.ask(2, update(other, "x", "y"))
    hand.pass_on()
    assert hand.replies[compared].words == ("2.2",)


# --- many at once, in few messages ------------------------------------------------------------------


def keys_at_home(hand: Hand, count: int) -> list[str]:
    """Keys at home on replica 2, with the value `a` everywhere."""
    keys = [key for key in map(str, range(1000)) if hand.home(key) == KEY_AT][:count]
    for key in keys:
        hand.answer(1, Write(key, "a"))
    assert hand.run(2.0, hand.quiet)
    return keys


def test_transactions_of_a_turn_share_their_messages() -> None:
    """However many transactions go on in one turn, a member gets one LOCK, one DECIDE, and one EXPOSE for all."""
    hand = Hand(3)
    keys = keys_at_home(hand, 5)
    hand.gathering = True
    tokens = [hand.ask(2, update(key, "a", f"b{key}")) for key in keys]
    assert hand.letters == []
    for verb in ("lock", "decide", "expose"):
        hand.flush()
        assert [(x.verb, x.target) for x in hand.letters] == [(verb, 1), (verb, 3)]
        hand.gathering = True
        hand.deliver(*hand.under_way(verb))
        hand.deliver(*hand.under_way(verb))
    assert [hand.replies[token].words for token in tokens] == [("2.2",)] * 5
    assert [hand.stored(n, key) for n in (1, 2, 3) for key in keys] == [[f"b{key}", "a"] for key in keys] * 3


def test_refusals_of_a_turn_share_their_release() -> None:
    """Transactions that end without an update in one turn are released by one message to each member."""
    hand = Hand(3)
    keys = keys_at_home(hand, 5)
    hand.gathering = True
    tokens = [hand.ask(2, update(key, "x", f"b{key}")) for key in keys]
    for verb in ("lock", "release"):
        hand.flush()
        assert [(x.verb, x.target) for x in hand.letters] == [(verb, 1), (verb, 3)]
        hand.gathering = True
        hand.deliver(*hand.under_way(verb))
        hand.deliver(*hand.under_way(verb))
    hand.flush()
    assert {hand.replies[token].words[1] for token in tokens} == {"a"}
    assert hand.run(1.0, hand.quiet)


def test_what_is_decided_meanwhile_goes_with_the_next_decide() -> None:
    """One DECIDE to a member is under way at a time; the next has all commits that were decided since."""
    hand = Hand(3)
    first, *others = keys_at_home(hand, 4)
    hand.ask(2, update(first, "a", "c"))
    hand.pass_on("lock")
    tokens = [hand.ask(2, update(key, "a", f"b{key}")) for key in others]
    hand.pass_on("lock")
    (letter,) = hand.under_way("decide", target=1)
    hand.deliver(letter, *hand.under_way("decide", target=1, answers=True))
    (answer,) = hand.under_way("decide", source=1)
    hand.deliver(answer)
    (letter,) = hand.under_way("decide", target=1)
    message = letter.send.message
    assert isinstance(message, Decide)
    assert [record.key for given in message.ranges for record in given.records] == others
    hand.pass_on()
    assert [hand.replies[token].words for token in tokens] == [("2.2",)] * 3


def test_one_that_waits_holds_up_no_other_of_its_message() -> None:
    """Of the locks that one message asks for each goes on by itself: one that has to fetch, others that need not."""
    hand = Hand(3, gossip_delay=3.0)
    hand.replicas[2].slow(0)
    one, other = [key for key in map(str, range(1000)) if hand.home(key) == KEY_AT][:2]
    for key in (one, other):
        hand.answer(2, Write(key, "a"))
    assert hand.run(2.0, hand.quiet)
    hand.answer(3, Write(one, "z"))
    hand.gathering = True
    lagging, ready = hand.ask(2, update(one, "z", "c")), hand.ask(2, update(other, "a", "b"))
    hand.flush()
    hand.pass_on("lock", "decide")
    assert hand.replies[ready].words == ("2.2",)
    assert lagging not in hand.replies
    hand.pass_on()
    assert hand.replies[lagging].words == ("3.2",)


# --- the lock, and plain writes ---------------------------------------------------------------------


def test_a_participant_queues_plain_writes_of_the_key() -> None:
    """Writes that come while the key is locked are not refused: they run afterwards, with later numbers."""
    hand, key = cluster()
    compared = hand.ask(2, update(key, "a", "b"))
    hand.deliver(*hand.under_way("lock", target=1))
    at_participant, at_home = hand.ask(1, Write(key, "x")), hand.ask(2, Write(key, "y"))
    before_the_lock = hand.ask(3, Write(key, "z"))
    assert before_the_lock in hand.replies
    assert at_participant not in hand.replies
    assert at_home not in hand.replies
    hand.pass_on()
    assert code_or_words(hand.replies[compared]) == ("2.3", "z")
    assert hand.replies[at_participant].words == ("3.1",)
    assert hand.replies[at_home].words == ("3.2",)


def code_or_words(reply: Reply) -> tuple[str, ...]:
    return (reply.code,) if isinstance(reply, Error) else reply.words


def test_a_write_before_the_lock_is_seen_by_the_test() -> None:
    """The newest of all answers is the current value: a home that lags fetches what it lacks, then compares."""
    hand, key = cluster(gossip_delay=3.0)
    wrote = hand.ask(3, Write(key, "z"))
    assert hand.replies[wrote].words == ("2.3",)
    compared = hand.ask(2, update(key, "z", "b"))
    hand.now += 3.0
    hand.tick(2)
    hand.pass_on("lock")
    assert compared not in hand.replies
    assert [(x.source, x.target) for x in hand.under_way("fetch")] == [(2, 3)]
    hand.pass_on("fetch", "decide")
    assert hand.replies[compared].words == ("3.2",)


def test_a_write_waits_in_the_queue_no_longer_than_its_deadline() -> None:
    """A queued write that is late hears that nothing was changed, and nothing is."""
    hand, key = cluster()
    hand.ask(2, update(key, "a", "b"))
    hand.deliver(*hand.under_way("lock", target=1))
    hand.letters.clear()
    late = hand.ask(1, Write(key, "x", deadline=0.1))
    hand.tick(1, seconds=0.2)
    assert code(hand.replies[late]) == "unavailable"


def test_queues_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """At one key so many may wait, as transactions or as writes; the next is refused, and nothing was changed."""
    for module in (commit_module, locks_module):
        monkeypatch.setattr(module, "MAX_QUEUE", 3)
    hand, key = cluster()
    tokens = [hand.ask(2, update(key, "a", f"v{n}")) for n in range(4)]
    writes = [hand.ask(2, Write(key, f"w{n}")) for n in range(4)]
    assert [token in hand.replies for token in tokens] == [False] * 3 + [True]
    assert [token in hand.replies for token in writes] == [False] * 3 + [True]
    assert code(hand.replies[tokens[3]]) == code(hand.replies[writes[3]]) == "unavailable"
    hand.pass_on()
    assert "v3" not in hand.stored(1, key)
    assert "w3" not in hand.stored(1, key)


@pytest.mark.parametrize("bound", ["MAX_IDS", "MAX_BYTES"])
def test_answers_that_are_remembered_are_bounded(bound: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the answers of too many updates are kept, new ones with an id are refused; first answers stay."""
    hand, key = cluster()
    assert isinstance(hand.answer(1, update(key, "x", "b")), No)
    monkeypatch.setattr(executed_module, bound, 1)
    for request in (update(key, "x", "c"), Write(key, "c", id="c:1", retry=False)):
        assert code(hand.answer(1, request)) == "unavailable"
    assert isinstance(hand.answer(1, update(key, "x", "b")), No)
    assert hand.run(1.0, hand.quiet)


def test_a_full_queue_refuses_with_certainty_whoever_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """An update without an id that its key's home had no room for was certainly not done, though it was passed on."""
    monkeypatch.setattr(commit_module, "MAX_QUEUE", 3)
    hand, key = cluster()
    tokens = [hand.ask(1, UpdateIf(key, "a", f"v{n}")) for n in range(4)]
    hand.deliver(*hand.under_way("forward"))
    hand.deliver(*hand.under_way("forward", answers=True))
    assert code(hand.replies[tokens[3]]) == "unavailable"


def test_what_ends_at_once_is_told_in_messages_of_bounded_size() -> None:
    """Refusals tell no values, and keys as long as lines may be are locked and released in several messages."""
    hand = Hand(3)
    long = (f"{'x' * 100_000}{n}" for n in range(1000))
    keys = list(islice((key for key in long if hand.home(key) == 2), 10))
    for key in keys:
        hand.answer(2, Write(key, "y" * 1_000_000))
    assert hand.run(2.0, hand.quiet)
    hand.gathering = True
    tokens = [hand.ask(2, update(key, "a", f"b{n}")) for n, key in enumerate(keys)]
    for verb in ("lock", "release"):
        hand.flush()
        letters = hand.under_way(verb, target=1)
        assert [len(x.send.message.keys) for x in letters] == [2] * 5  # type: ignore[attr-defined]
        assert all(len(grammar.encode(x.send.message)) < 2**19 for x in letters)
        hand.gathering = True
        hand.deliver(*hand.under_way(verb))
        hand.deliver(*hand.under_way(verb))
    assert {hand.replies[token].words[1] for token in tokens} == {"y" * 1_000_000}
    assert all(hand.replicas[n].state.executed.size == 10 for n in (1, 2, 3))


def test_what_waits_for_a_silent_home_goes_to_the_next_one() -> None:
    """When the home falls silent and is removed, what was passed on to it is done by the key's new home; and what it
    says when it is back, of itself, is no answer to a client."""
    hand = Hand(3)
    key = hand.key_at(3)
    hand.answer(1, Write(key, "a"))
    assert hand.run(1.0, hand.quiet)
    tokens = [hand.ask(1, UpdateIf(key, "a", "b")), hand.ask(1, Read(key, latest=True))]
    paused = hand.replicas.pop(3)
    assert hand.run(5.0, lambda: set(tokens) <= set(hand.replies))
    assert hand.replies[tokens[0]].words == (f"2.{hand.replicas[1].context.home(key).replica}",)
    assert hand.replies[tokens[1]].words[0] == "b"
    hand.replicas[3] = paused
    fenced = Error("fenced", ("removed",))
    again = hand.ask(1, UpdateIf(key, "b", "c", deadline=5.0))
    for letter in hand.under_way("forward"):
        hand.letters.remove(letter)
        hand.act(1, hand.replicas[1].on_forwarded(letter.send.token, fenced, hand.now))
    assert hand.run(6.0, lambda: again in hand.replies)
    assert hand.replies[again].words[0].startswith("3.")


def test_ids_that_a_replica_gives_are_given_up_with_the_answer() -> None:
    """Also when the home dies and this replica takes its place: the answers of its updates do not pile up."""
    hand = Hand(3)
    moves = next(key for key in map(str, range(1000)) if hand.home(key) == 3 and Ring(["1", "2"]).owner(key) == "1")
    stays = next(key for key in map(str, range(1000)) if hand.home(key) == 2 and Ring(["1", "2"]).owner(key) == "2")
    for key in (moves, stays):
        hand.answer(1, Write(key, "0"))
    assert hand.run(1.0, hand.quiet)
    asked = hand.ask(1, UpdateIf(moves, "0", "1"))
    hand.crash(3)
    assert hand.run(5.0, lambda: asked in hand.replies)
    for number in range(20):
        assert isinstance(hand.answer(1, UpdateIf(stays, str(number), str(number + 1))), Ok)
    assert hand.run(1.0, hand.quiet)
    assert not hand.replicas[1].context.own_ids
    assert hand.replicas[1].state.executed.size <= 2


def test_ids_that_a_replica_gives_do_not_expire() -> None:
    """However seldom clients come without ids: their updates are executed."""
    hand, key = cluster(session_ttl=2.0)
    for old, new in ("ab", "bc", "cd"):
        assert isinstance(hand.answer(1, UpdateIf(key, old, new)), Ok)
        hand.run(3.0)


def test_a_refusal_is_remembered_where_its_value_is_held_back() -> None:
    """A member that has logged the value, and does not show it yet, knows the `no` all the same, however long the
    value is."""
    for value in ("w", "w" * 5000):
        hand, key = cluster()
        state = hand.replicas[1].state
        record = Record("3:1", 1, {"2:1!": 9}, key, 5, 3, value)
        state.accept([Range("3:1", 0, (record,))], hand.now)
        assert state.held
        ended = Ended(1, key, "c:1", ("5.3", value) if len(value) < 1000 else ("5.3",), {})
        release = Release(**hand.replicas[2].context.stamp(), keys=(ended,))
        hand.act(1, hand.replicas[1].on_peer("release", release, hand.now))
        assert state.executed.answer("c:1") == No(("5.3", value), {"after": {}})


def test_what_is_refused_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Updates that are refused because too many answers are kept take no memory themselves."""
    hand, _ = cluster()
    monkeypatch.setattr(executed_module, "MAX_IDS", 0)
    for number in range(10):
        home = hand.home(str(number))
        assert code(hand.answer(home, update(str(number), "a", f"b{number}"))) == "unavailable"
        assert not hand.replicas[home].commit._queues


def test_a_later_lock_takes_the_place_of_an_earlier_one() -> None:
    """One home per key: its next LOCK says that the last transaction is over, should the release be late."""
    hand, key = cluster()
    refused = hand.ask(2, update(key, "x", "y"))
    hand.pass_on("lock")
    release = hand.under_way("release", target=1)
    assert isinstance(hand.replies[refused], No)
    done = hand.ask(2, update(key, "a", "b"))
    hand.pass_on("lock", "decide", "expose")
    hand.deliver(*release)
    hand.pass_on()
    assert hand.replies[done].words == ("2.2",)
    assert hand.run(1.0, hand.quiet)


def test_a_lock_that_was_overtaken_by_its_release_is_dropped() -> None:
    """A LOCK that arrives after the end of its transaction holds writes back only until the next heartbeat."""
    hand, key = cluster()
    read = hand.ask(2, Read(key, latest=True))
    (late,) = hand.under_way("lock", target=1)
    again = [late]
    hand.letters.append(again[0])
    hand.pass_on(target=3)
    hand.deliver(late)
    hand.pass_on("lock", "release")
    assert hand.replies[read].words == ("a", "1.1")
    hand.run(1.0)
    assert hand.answer(1, Write(key, "x")).words == ("2.1",)


# --- the barrier ------------------------------------------------------------------------------------


def test_nobody_sees_a_decision_before_all_have_it() -> None:
    """A decision is invisible, and its client is not told, until the last member has acknowledged it."""
    hand, key = cluster()
    compared = hand.ask(2, update(key, "a", "b"))
    hand.pass_on("lock")
    to_one, to_three = hand.under_way("decide", target=1), hand.under_way("decide", target=3)
    hand.deliver(*to_one)
    hand.deliver(*hand.under_way("decide", answers=True))
    assert compared not in hand.replies
    assert [hand.stored(n, key) for n in (1, 2, 3)] == [["a"]] * 3
    hand.deliver(*to_three)
    assert compared not in hand.replies
    hand.deliver(*hand.under_way("decide", answers=True))
    assert hand.replies[compared].words == ("2.2",)
    assert hand.stored(2, key) == ["b", "a"]
    assert hand.stored(1, key) == ["a"]
    hand.pass_on("expose")
    assert hand.stored(1, key) == ["b", "a"]


def test_who_passed_it_on_sees_what_its_client_was_told() -> None:
    """The home's answer may overtake its EXPOSE: a read behind the answer sees the update all the same."""
    hand, key = cluster()
    compared = hand.ask(1, update(key, "a", "b"))
    hand.pass_on("forward", "lock", "decide")
    held = hand.under_way("expose")
    assert hand.replies[compared].words == ("2.2",)
    assert len(held) == 2
    assert hand.stored(1, key) == ["b", "a"]
    assert hand.stored(3, key) == ["a"]
    hand.pass_on()
    assert [hand.stored(n, key) for n in (1, 2, 3)] == [["b", "a"]] * 3


def test_a_decision_brings_what_it_depends_on() -> None:
    """A member that lacks what the new value depends on gets it with the decision: any survivor can apply it."""
    hand, key = cluster(gossip_delay=3.0)
    after = hand.answer(2, Write("other", "x")).object["after"]
    compared = hand.ask(2, update(key, "a", "b", after=after))
    hand.now += 3.0
    hand.tick(2)
    hand.pass_on("lock", "decide", "expose")
    assert hand.replies[compared].words == ("2.2",)
    assert hand.stored(3, "other") == ["x"]


def test_no_is_said_when_all_hold_the_value() -> None:
    """A client hears `no` and the current value only when that value can't vanish any more."""
    hand, key = cluster(gossip_delay=3.0)
    hand.ask(2, Write(key, "z"))
    refused = hand.ask(2, update(key, "x", "y"))
    hand.now += 3.0
    hand.tick(2)
    hand.letters = [x for x in hand.letters if x.verb == "lock"]
    hand.pass_on("lock")
    assert refused not in hand.replies
    hand.pass_on("gossip")
    assert hand.replies[refused].words == ("2.2", "z")


def test_a_latest_read_goes_through_the_same_queue() -> None:
    """A latest read sees what was decided before it, at every replica, and waits for what is being decided."""
    hand, key = cluster()
    hand.ask(2, update(key, "a", "b"))
    read = hand.ask(3, Read(key, latest=True))
    hand.pass_on("forward")
    assert read not in hand.replies
    hand.pass_on()
    assert hand.replies[read].words == ("b", "2.2")


# --- the same again ---------------------------------------------------------------------------------


def test_the_same_id_at_any_replica_gets_the_first_answer() -> None:
    """An id that was executed changes nothing: asked again anywhere it gets the version, or the refusal, of then."""
    hand, key = cluster()
    done = hand.answer(1, update(key, "a", "b"))
    refused = hand.answer(1, update(key, "a", "c"))
    hand.answer(1, update(key, "b", "a"))
    for number in (1, 2, 3):
        assert hand.answer(number, update(key, "a", "b", retry=True)).words == done.words
        assert hand.answer(number, update(key, "a", "c", retry=True)).words == refused.words
    assert hand.stored(3, key) == ["a", "b", "a"]


def test_the_same_id_twice_in_the_queue() -> None:
    """A retry that meets its first try in the queue waits with it: both get the one answer."""
    hand, key = cluster()
    first = hand.ask(2, update(key, "a", "b"))
    second = hand.ask(1, update(key, "a", "b", retry=True))
    hand.pass_on()
    assert hand.replies[first] == hand.replies[second]
    assert hand.stored(1, key) == ["b", "a"]


def test_a_retry_of_a_write_asks_the_others_first() -> None:
    """A write that is asked for again elsewhere is not executed again, though its replica has not gossiped yet."""
    hand, key = cluster(gossip_delay=3.0)
    first = hand.answer(3, Write(key, "x", id="s:1", retry=False))
    assert hand.stored(1, key) == ["a"]
    assert hand.answer(1, Write(key, "x", id="s:1", retry=True)).words == first.words
    assert hand.answer(2, Write(key, "x", id="s:1")).words == first.words


def test_a_retry_that_is_new_to_all_is_executed_once() -> None:
    """When the first try got nowhere, the retry is executed, by the key's home."""
    hand, key = cluster()
    assert hand.answer(1, Write(key, "x", id="s:1", retry=True)).words == ("2.2",)
    assert hand.answer(3, Write(key, "x", id="s:1", retry=True)).words == ("2.2",)


def test_a_retry_from_long_ago_is_not_executed() -> None:
    """What a session no longer may ask for is told so, and never executed a second time, also by those who lag."""
    hand, key = cluster(gossip_delay=3.0)
    hand.answer(3, Write(key, "x", id="s:1", lowest=1, retry=False))
    hand.answer(3, Write(key, "y", id="s:2", lowest=2, retry=False))
    assert code(hand.answer(1, Write(key, "x", id="s:1", lowest=1, retry=True))) == "session-expired"
    assert hand.stored(3, key) == ["y", "x", "a"]


@pytest.mark.parametrize("verb", ["lock", "decide", "expose", "release"])
def test_every_letter_may_come_twice(verb: str) -> None:
    """A letter of a transaction that comes again, even much later, changes nothing."""
    hand, key = cluster()
    kept = []
    token = hand.ask(2, update(key, "a", "b"))
    if verb == "expose":
        hand.pass_on("lock", "decide")  # with another transaction to come, it would go with that one's LOCK
        kept = hand.under_way(verb)
    other = hand.ask(2, update(key, "a", "c"))
    while hand.letters:
        letter = hand.letters[0]
        hand.deliver(letter)
        if letter.verb == verb and not letter.is_answer:
            kept.append(letter)
            hand.letters.append(letter)
            hand.deliver(letter)
    assert kept
    for letter in kept:
        hand.letters.append(letter)
        hand.deliver(letter)
    hand.run(1.0)
    assert hand.replies[token].words == ("2.2",)
    assert hand.replies[other].words == ("2.2", "b")
    assert hand.answer(1, update(key, "b", "d")).words == ("3.2",)
    assert hand.run(1.0, hand.quiet)
    assert [hand.stored(n, key) for n in (1, 2, 3)] == [["d", "b", "a"]] * 3


@pytest.mark.parametrize("verb", ["lock", "decide", "expose", "release", "forward"])
def test_every_letter_may_get_lost(verb: str) -> None:
    """What does not get through is sent again: the operation ends as if nothing had been."""
    hand, key = cluster()
    done, lost = hand.ask(1, update(key, "a", "b")), 0
    if verb == "expose":
        hand.pass_on("forward", "lock", "decide")
    refused = hand.ask(3, update(key, "a", "c"))
    for _ in range(400):
        found = hand.under_way(verb)
        if found and lost < 6:
            lost += 1
            hand.lose(found[0])
        elif hand.letters:
            hand.deliver(hand.letters[0])
        else:
            hand.tick()
    assert lost >= 2
    assert hand.replies[done].words == ("2.2",)
    assert hand.replies[refused].words == ("2.2", "b")
    assert hand.run(2.0, hand.quiet)


# --- at the deadline --------------------------------------------------------------------------------


def test_unavailable_means_that_nothing_happened() -> None:
    """A first try that ends before anything was decided hears `unavailable`; it never takes effect afterwards."""
    hand, key = cluster()
    late = hand.ask(2, update(key, "a", "b", deadline=0.1))
    held = list(hand.letters)
    hand.letters.clear()
    hand.tick(2, seconds=0.2)
    assert code(hand.replies[late]) == "unavailable"
    hand.letters += held
    assert hand.run(2.0, hand.quiet)
    assert hand.stored(1, key) == ["a"]


def test_unknown_outcome_once_it_is_decided() -> None:
    """Past the deadline of a decided update its client hears the one honest word, and by its id the truth."""
    hand, key = cluster()
    late = hand.ask(2, update(key, "a", "b", deadline=0.1))
    hand.pass_on("lock")
    held = list(hand.letters)
    hand.letters.clear()
    hand.tick(2, seconds=0.2)
    assert code(hand.replies[late]) == "unknown-outcome"
    hand.letters += held
    assert hand.answer(3, update(key, "a", "b", retry=True)).words == ("2.2",)


def test_who_passed_it_on_does_not_know() -> None:
    """A replica that passed an update on, and hears nothing, can't say that nothing happened."""
    hand, key = cluster()
    late = hand.ask(1, update(key, "a", "b", deadline=0.1))
    (forward,) = hand.under_way("forward")
    hand.now += 0.2
    hand.lose(forward)
    assert code(hand.replies[late]) == "unknown-outcome"


@pytest.mark.parametrize(
    ("at", "after_lock", "said"),
    [
        (KEY_AT, False, "unavailable"),
        (KEY_AT, True, "unknown-outcome"),
        (1, False, "unknown-outcome"),
    ],
)
def test_a_minority_keeps_nobody_waiting(at: int, after_lock: bool, said: str) -> None:
    """`--membership majority`: an update that was begun before the others fell silent is answered soon after this
    node has found out that it may not answer alone, not at its deadline; so is what was passed on."""
    hand, key = cluster(majority=True)
    late = hand.ask(at, update(key, "a", "b", deadline=60.0))
    if after_lock:
        hand.pass_on("lock")
    for _ in range(100):
        hand.letters.clear()
        hand.tick(at)
    assert code(hand.replies[late]) == said


def test_a_retry_never_hears_that_nothing_happened() -> None:
    """To a retry only its first answer, or unknown-outcome, can be said: its first try may still take effect."""
    hand, key = cluster()
    late = hand.ask(2, update(key, "a", "b", deadline=0.1, retry=True))
    hand.letters.clear()
    hand.tick(2, seconds=0.2)
    assert code(hand.replies[late]) == "unknown-outcome"


def test_the_gossip_delay_holds_the_lock_round_back() -> None:
    """A node's delay is waited for once per transaction, before the LOCK round, and nowhere else."""
    hand, key = cluster(gossip_delay=1.0)
    compared = hand.ask(2, update(key, "a", "b"))
    hand.tick(2, seconds=0.9)
    assert hand.under_way("lock") == []
    hand.tick(2, seconds=0.2)
    hand.pass_on("lock", "decide", "expose")
    assert hand.replies[compared].words == ("2.2",)


# --- when somebody dies -----------------------------------------------------------------------------


STEPS = ["before the lock", "locked", "decided by the home", "decided by all", "acknowledged", "exposed by one"]


def _up_to(hand: Hand, key: str, step: str) -> str:
    """A transaction at replica 2, as far as that step."""
    token = hand.ask(2, update(key, "a", "b"))
    if step == "before the lock":
        return token
    hand.pass_on("lock")
    if step in ("locked", "decided by the home"):
        if step == "locked":
            hand.letters = [x for x in hand.letters if x.verb != "decide"]
        return token
    hand.deliver(*hand.under_way("decide"))
    if step == "decided by all":
        return token
    hand.deliver(*hand.under_way("decide", answers=True))
    if step == "exposed by one":
        hand.deliver(*hand.under_way("expose", target=1))
    return token


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("dies", [1, 2, 3])
def test_somebody_dies_at_each_step(step: str, dies: int) -> None:
    """Home or participant, before or after each message: survivors agree, nothing is locked, the id has one answer."""
    hand, key = cluster()
    token = _up_to(hand, key, step)
    told = hand.replies.get(token)
    hand.crash(dies)
    alive = list(hand.replicas)
    assert hand.run(2.0, lambda: all(len(r.context.others()) == 1 for r in hand.replicas.values()))
    assert hand.run(2.0, hand.quiet)
    states = [hand.stored(n, key) for n in alive]
    assert states[0] == states[1]
    assert told is None or states[0] == ["b", "a"]
    if dies != 2:
        assert hand.replies[token].words == ("2.2",)
    again = hand.answer(alive[0], update(key, "a", "b", retry=True))
    assert isinstance(again, Ok)
    assert hand.run(2.0, hand.quiet)
    assert [hand.stored(n, key) for n in alive] == [["b", "a"]] * 2


@pytest.mark.parametrize("step", STEPS)
def test_home_and_a_participant_die_at_each_step(step: str) -> None:
    """With two of three gone the last one has the truth, and serves."""
    hand, key = cluster()
    token = _up_to(hand, key, step)
    told = hand.replies.get(token)
    hand.crash(2)
    hand.crash(3)
    assert hand.run(2.0, lambda: hand.replicas[1].context.others() == ())
    assert told is None or hand.stored(1, key) == ["b", "a"]
    assert isinstance(hand.answer(1, update(key, "a", "b", retry=True)), Ok)
    assert hand.stored(1, key) == ["b", "a"]


def test_a_write_that_was_queued_outlives_the_home() -> None:
    """Writes that waited at a locked key are executed when the home is gone."""
    hand, key = cluster()
    hand.ask(2, update(key, "a", "b"))
    hand.deliver(*hand.under_way("lock", target=1))
    write = hand.ask(1, Write(key, "x"))
    hand.crash(2)
    assert hand.run(2.0, lambda: write in hand.replies)
    assert hand.replies[write].words == ("2.1",)


@pytest.mark.parametrize(("late_at", "home_dies"), [(1, False), (2, False), (3, False), (1, True), (3, True)])
@pytest.mark.parametrize("verb", ["write", "updateif"])
def test_a_first_try_that_comes_after_its_retry(late_at: int, home_dies: bool, verb: str) -> None:
    """A worker is paused before its first try leaves, and another executes the step meanwhile: it happens once.

    That first try says that it is the first, and comes between any two messages of the retry, at any replica; also
    when the home dies right then.
    """
    for delivered in range(100):
        if not _overtaken(delivered, late_at, home_dies, verb):
            return
    raise AssertionError("the retry never ends")


def _overtaken(delivered: int, late_at: int, home_dies: bool, verb: str) -> bool:
    """Whether something of the retry was still under way when the first try came, after so many messages."""
    hand, key = cluster()

    def request(retry: bool) -> Write | UpdateIf:
        if verb == "updateif":
            return UpdateIf(key, "a", "x", id="r1-x:1", retry=retry)
        return Write(key, "x", id="r1-x:1", retry=retry)

    retried = hand.ask(3, request(True))
    for _ in range(delivered):
        if hand.letters:
            hand.deliver(hand.letters[0])
    rest = bool(hand.letters)
    if home_dies:
        hand.crash(KEY_AT)
    first = hand.ask(late_at, request(False))
    assert hand.run(5.0, lambda: hand.quiet() and {first, retried} <= set(hand.replies)), delivered
    values = {number: hand.stored(number, key) for number in hand.replicas}
    assert all(found == ["x", "a"] for found in values.values()), (delivered, values)
    answers = {hand.replies[token].words for token in (first, retried) if isinstance(hand.replies[token], Ok)}
    assert len(answers) == 1, (delivered, answers)
    return rest


@pytest.mark.parametrize("away", [0.0, 10.0])
def test_an_answer_exposes_within_the_lease_only(away: float) -> None:
    """Who has passed an update on shows it with the home's answer; not when the home may be in a later view by then."""
    hand = Hand(3)
    key = hand.key_at(1)
    hand.answer(2, Write(key, "a"))
    hand.run(0.3)
    token = hand.ask(2, UpdateIf(key, "a", "b"))
    (forward,) = hand.under_way("forward")
    replica = hand.replicas[2]
    while not replica.state.held:
        hand.deliver(hand.letters[0])
    ((stream, seq),) = replica.state.held
    hand.now += away
    hand.act(2, replica.on_forwarded(forward.send.token, Ok(("2.1",), {"after": {stream: seq}}), hand.now))
    assert hand.replies[token].words == ("2.1",)
    assert hand.stored(2, key) == (["a"] if away else ["b", "a"])
