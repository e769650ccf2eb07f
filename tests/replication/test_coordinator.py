"""updateIf and what else needs all members, sentence by sentence of its rules, letter by letter."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest
from attrs import evolve

from dida.placement import Ring
from dida.replication import coordinator as commit_module
from dida.replication import executed as executed_module
from dida.replication import participant as locks_module
from dida.replication.executed import not_applied
from dida.replication.messages import Ended, Gossip, Grant, Granted, Level, Prepare, Range, Record, Release, Wanted
from dida.replication.replica import Replica
from dida.timestamps import covers
from dida.versions import Version
from dida.wire import grammar
from dida.wire.messages import Epoch, Error, Fence, Fenced, Journal, No, Ok, Read, Reply, UpdateIf, Write
from tests.support.simnet import Hand, Letter

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


def prepare(letter: Letter) -> Prepare:
    """The PREPARE that is in a letter."""
    message = letter.send.message
    assert isinstance(message, Prepare)
    return message


def kind(letter: Letter) -> str:
    """The verb of a letter; a PREPARE that asks for locks alone is a `lock`, one that only names commits a `commit`."""
    message = letter.send.message
    if not isinstance(message, Prepare):
        return letter.verb
    if not message.keys:
        return "commit"
    return "prepare" if any(wanted.record is not None for wanted in message.keys) else "lock"


def of_kind(hand: Hand, wanted: str, source: int = 0, target: int = 0, answers: bool = False) -> list[Letter]:
    """The requests of that kind that are under way, or the replies to them, the oldest first."""
    return [x for x in hand.under_way(source=source, target=target, answers=answers) if kind(x) == wanted]


def one_round(hand: Hand, wanted: str = "prepare") -> None:
    """Deliver the letters of that kind that are under way, and the replies to them; not what comes of those."""
    hand.deliver(*of_kind(hand, wanted))
    hand.deliver(*of_kind(hand, wanted, answers=True))


def kinds(hand: Hand) -> list[tuple[str, int, int]]:
    """What is under way: kind, source and target of each letter."""
    return sorted((kind(x), x.source, x.target) for x in hand.letters)


def sent_again(letter: Letter) -> Letter:
    """A copy of a request, as a sender sends it that has got no reply."""
    return Letter(letter.source, letter.target, letter.send)


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
    assert kinds(hand) == [("prepare", 2, 1), ("prepare", 2, 3)]


def test_two_at_once_are_executed_one_after_the_other() -> None:
    """The second waits for the end of the first, and is compared with what the first has left: none is aborted."""
    hand, key = cluster()
    first, second = hand.ask(2, update(key, "a", "b")), hand.ask(2, update(key, "b", "c"))
    assert len(hand.under_way("prepare")) == 2
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
    """However many transactions go on in one turn, a member gets one PREPARE with their records, and one with their
    commits."""
    hand = Hand(3)
    keys = keys_at_home(hand, 5)
    hand.gathering = True
    tokens = [hand.ask(2, update(key, "a", f"b{key}")) for key in keys]
    assert hand.letters == []
    for what, counts in (("prepare", (0, 5)), ("commit", (5, 0))):
        hand.flush()
        assert [(kind(x), x.target) for x in hand.letters] == [(what, 1), (what, 3)]
        assert {(len(prepare(x).commits), len(prepare(x).keys)) for x in hand.letters} == {counts}
        hand.gathering = True
        one_round(hand, what)
    assert hand.letters == []
    assert [hand.replies[token].words for token in tokens] == [("2.2",)] * 5
    assert [hand.stored(n, key) for n in (1, 2, 3) for key in keys] == [[f"b{key}", "a"] for key in keys] * 3


def test_refusals_of_a_turn_share_their_release() -> None:
    """Transactions that end without an update in one turn are released by one message to each member."""
    hand = Hand(3)
    keys = keys_at_home(hand, 5)
    hand.gathering = True
    tokens = [hand.ask(2, update(key, "x", f"b{key}")) for key in keys]
    for what in ("lock", "release"):
        hand.flush()
        assert [(kind(x), x.target) for x in hand.letters] == [(what, 1), (what, 3)]
        hand.gathering = True
        one_round(hand, what)
    hand.flush()
    assert {hand.replies[token].words[1] for token in tokens} == {"a"}
    assert hand.run(1.0, hand.quiet)


def test_what_is_committed_meanwhile_goes_with_the_next_message() -> None:
    """One message that only names commits is under way to a member at a time; the next one has all that were committed
    since."""
    hand = Hand(3)
    first, *others = keys_at_home(hand, 4)
    hand.ask(2, update(first, "a", "c"))
    for letter in of_kind(hand, "prepare"):
        hand.deliver(letter)
    mine = of_kind(hand, "prepare", answers=True)
    tokens = [hand.ask(2, update(key, "a", f"b{key}")) for key in others]
    hand.deliver(*mine)
    (letter,) = of_kind(hand, "commit", target=1)
    assert prepare(letter).commits == (1,)
    one_round(hand)
    assert [hand.replies[token].words for token in tokens] == [("2.2",)] * 3
    assert of_kind(hand, "commit", target=1) == [letter]
    hand.deliver(letter)
    hand.deliver(*of_kind(hand, "commit", source=1, answers=True))
    (letter,) = of_kind(hand, "commit", target=1)
    assert (prepare(letter).base, prepare(letter).commits) == (1, (2, 3, 4))
    hand.pass_on()
    assert [hand.stored(1, key) for key in others] == [[f"b{key}", "a"] for key in others]


def test_one_that_waits_holds_up_no_other_of_its_message() -> None:
    """Of the keys that one message asks for each goes on by itself: one that has to fetch, others that need not."""
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
    assert [len(prepare(x).keys) for x in hand.under_way("prepare")] == [2, 2]
    hand.pass_on("prepare")
    assert hand.replies[ready].words == ("2.2",)
    assert lagging not in hand.replies
    hand.pass_on()
    assert hand.replies[lagging].words == ("3.2",)


# --- the lock, and plain writes ---------------------------------------------------------------------


def test_a_participant_queues_plain_writes_of_the_key() -> None:
    """Writes that come while the key is locked are not refused: they run afterwards, with later numbers."""
    hand, key = cluster()
    compared = hand.ask(2, update(key, "a", "b"))
    hand.deliver(*hand.under_way("prepare", target=1))
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
    """The newest of all answers is the current value: a home that has another one asks for locks alone, fetches what it
    lacks, and compares."""
    hand, key = cluster(gossip_delay=3.0)
    wrote = hand.ask(3, Write(key, "z"))
    assert hand.replies[wrote].words == ("2.3",)
    hand.replicas[2].slow(0)
    compared = hand.ask(2, update(key, "z", "b"))
    assert kinds(hand) == [("lock", 2, 1), ("lock", 2, 3)]
    hand.pass_on("prepare")
    assert compared not in hand.replies
    assert kinds(hand) == [("fetch", 2, 3)]
    hand.pass_on("fetch")
    assert kinds(hand) == [("prepare", 2, 1), ("prepare", 2, 3)]
    hand.pass_on("prepare")
    assert hand.replies[compared].words == ("3.2",)


def test_a_write_waits_in_the_queue_no_longer_than_its_deadline() -> None:
    """A queued write that is late hears that nothing was changed, and nothing is."""
    hand, key = cluster()
    hand.ask(2, update(key, "a", "b"))
    hand.deliver(*hand.under_way("prepare", target=1))
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
    for what in ("lock", "release"):
        hand.flush()
        letters = of_kind(hand, what, target=1)
        assert [len(x.send.message.keys) for x in letters] == [2] * 5  # type: ignore[attr-defined]
        assert all(len(grammar.encode(x.send.message)) < 2**19 for x in letters)
        hand.gathering = True
        one_round(hand, what)
    assert {hand.replies[token].words[1] for token in tokens} == {"y" * 1_000_000}
    assert all(hand.replicas[n].state.executed.size == 10 for n in (1, 2, 3))


def test_records_are_sent_in_messages_of_bounded_size() -> None:
    """Records as long as lines may be go in several PREPAREs, and are committed by one."""
    hand = Hand(3)
    keys = keys_at_home(hand, 10)
    hand.gathering = True
    tokens = [hand.ask(2, update(key, "a", f"{'x' * 100_000}{key}")) for key in keys]
    hand.flush()
    letters = of_kind(hand, "prepare", target=1)
    assert [len(prepare(x).keys) for x in letters] == [2] * 5
    assert all(len(grammar.encode(x.send.message)) < 2**19 for x in letters)
    hand.gathering = True
    one_round(hand)
    hand.flush()
    assert [len(prepare(x).commits) for x in of_kind(hand, "commit", target=1)] == [10]
    hand.pass_on()
    assert [hand.replies[token].words for token in tokens] == [("2.2",)] * 10


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
        record = Record("3:1", 1, {"2:1": 9}, key, 5, 3, value)
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
    """One home per key: its next PREPARE says that the last transaction is over, should the release be late."""
    hand, key = cluster()
    refused = hand.ask(2, update(key, "x", "y"))
    hand.pass_on("prepare")
    release = hand.under_way("release", target=1)
    assert isinstance(hand.replies[refused], No)
    done = hand.ask(2, update(key, "a", "b"))
    hand.pass_on("prepare")
    hand.deliver(*release)
    hand.pass_on()
    assert hand.replies[done].words == ("2.2",)
    assert hand.run(1.0, hand.quiet)


def test_a_lock_that_was_overtaken_by_its_release_is_dropped() -> None:
    """A LOCK that arrives after the end of its transaction locks nothing."""
    hand, key = cluster()
    read = hand.ask(2, Read(key, latest=True))
    (late,) = of_kind(hand, "lock", target=1)
    again = sent_again(late)
    hand.pass_on()
    assert hand.replies[read].words == ("a", "1.1")
    hand.letters.append(again)
    hand.deliver(again)
    assert hand.replicas[1].locks.keys == {}
    assert hand.answer(1, Write(key, "x")).words == ("2.1",)


def test_a_lock_whose_release_is_late_ends_with_a_heartbeat() -> None:
    """A lock alone holds writes back only until the home says that its transaction has ended, in whichever message."""
    hand, key = cluster()
    hand.ask(2, Read(key, latest=True))
    hand.pass_on("prepare")
    (release,) = hand.under_way("release", target=1)
    hand.letters.remove(release)
    write = hand.ask(1, Write(key, "x"))
    assert write not in hand.replies
    assert hand.run(0.3, lambda: write in hand.replies)
    assert hand.replies[write].words == ("2.1",)
    hand.letters.append(release)
    assert hand.run(1.0, hand.quiet)


# --- the barrier ------------------------------------------------------------------------------------


def test_nobody_sees_a_record_before_all_have_prepared_it() -> None:
    """What is prepared is invisible, and its client is not told, until the last member has prepared it; then each shows
    it with the commit."""
    hand, key = cluster()
    compared = hand.ask(2, update(key, "a", "b"))
    to_one, to_three = of_kind(hand, "prepare", target=1), of_kind(hand, "prepare", target=3)
    hand.deliver(*to_one)
    hand.deliver(*hand.under_way("prepare", answers=True))
    assert compared not in hand.replies
    assert [hand.stored(n, key) for n in (1, 2, 3)] == [["a"]] * 3
    hand.deliver(*to_three)
    assert compared not in hand.replies
    assert all(r.state.prepared[key].record.value == "b" for r in hand.replicas.values())
    hand.deliver(*hand.under_way("prepare", answers=True))
    assert hand.replies[compared].words == ("2.2",)
    assert hand.stored(2, key) == ["b", "a"]
    assert hand.stored(1, key) == ["a"]
    hand.pass_on("prepare")
    assert hand.stored(1, key) == ["b", "a"]


def test_a_prepared_record_is_in_no_stream() -> None:
    """It counts in nobody's `have`, nobody gossips it, and no node that fetches is given it."""
    hand, key = cluster()
    before = [r.state.log.have for r in hand.replicas.values()]
    hand.ask(2, update(key, "a", "b"))
    hand.deliver(*of_kind(hand, "prepare"))
    held = list(hand.letters)
    hand.letters.clear()
    hand.run(0.3)
    for replica in hand.replicas.values():
        replica.state.fetch({"2:1!": 1}, hand.now)
        hand.act(1, replica.flush(hand.now))
    hand.pass_on("fetch")
    assert [r.state.log.have for r in hand.replicas.values()] == before
    assert [hand.stored(n, key) for n in (1, 2, 3)] == [["a"]] * 3
    hand.letters += held
    assert hand.run(1.0, hand.quiet)
    assert [hand.stored(n, key) for n in (1, 2, 3)] == [["b", "a"]] * 3


def test_who_passed_it_on_sees_what_its_client_was_told() -> None:
    """The home's answer may overtake its commit: who has passed the update on logs the record that it has prepared, and
    a read behind the answer sees it."""
    hand, key = cluster()
    compared = hand.ask(1, update(key, "a", "b"))
    hand.pass_on("forward")
    one_round(hand)
    hand.deliver(*hand.under_way("forward", answers=True))
    assert hand.replies[compared].words == ("2.2",)
    assert kinds(hand) == [("commit", 2, 1), ("commit", 2, 3)]
    assert hand.stored(1, key) == ["b", "a"]
    assert hand.replicas[1].state.log.have["2:1!"] == 1
    assert not hand.replicas[1].locks.keys
    assert not hand.replicas[1].state.prepared
    assert hand.stored(3, key) == ["a"]
    assert hand.answer(1, Write(key, "c")).words == ("3.1",)
    assert hand.run(1.0, hand.quiet)
    assert [hand.stored(n, key) for n in (1, 2, 3)] == [["c", "b", "a"]] * 3


def test_a_record_brings_what_it_depends_on() -> None:
    """A member that lacks what the new value depends on gets it with the PREPARE: any survivor can apply it."""
    hand, key = cluster(gossip_delay=3.0)
    after = hand.answer(2, Write("other", "x")).object["after"]
    compared = hand.ask(2, update(key, "a", "b", after=after))
    hand.now += 3.0
    hand.tick(2)
    assert hand.stored(3, "other") == []
    hand.deliver(*of_kind(hand, "prepare"))
    assert hand.stored(3, "other") == ["x"]
    hand.pass_on("prepare")
    assert hand.replies[compared].words == ("2.2",)


def test_it_brings_the_version_that_it_replaces() -> None:
    """The newest version may be the home's alone: a record that replaces it comes with it, so that whoever has the
    record has what it stands on."""
    hand, key = cluster(gossip_delay=3.0)
    hand.answer(2, Write(key, "z"))
    compared = hand.ask(2, update(key, "z", "b"))
    hand.now += 3.0
    hand.tick(2)
    hand.deliver(*of_kind(hand, "prepare"))
    assert [hand.stored(n, key) for n in (1, 3)] == [["z", "a"]] * 2
    hand.letters = hand.under_way("prepare")
    hand.deliver(*hand.letters)
    assert hand.replies[compared].words == ("3.2",)


def test_prepared_counts_when_what_it_depends_on_is_there() -> None:
    """A member may prepare a record before it has all that the record depends on; the client is told only when it has
    reported that, too."""
    hand, key = cluster(gossip_delay=3.0)
    after: dict[str, int] = {}
    for name in ("x", "y", "z"):  # together they do not fit a message
        after = hand.answer(2, Write(name, "v" * 200_000, after=after)).object["after"]
    compared = hand.ask(2, update(key, "a", "b", after=after))
    hand.now += 3.0
    hand.tick(2)
    hand.letters = hand.under_way("prepare")
    one_round(hand)
    state = hand.replicas[3].state
    assert key in state.prepared
    assert not covers(state.log.have, after)
    assert compared not in hand.replies
    hand.pass_on("gossip")
    assert covers(state.log.have, after)
    assert hand.replies[compared].words == ("2.2",)


def test_no_is_said_when_all_hold_the_value() -> None:
    """A client hears `no` and the current value only when that value can't vanish any more."""
    hand, key = cluster(gossip_delay=3.0)
    hand.ask(2, Write(key, "z"))
    refused = hand.ask(2, update(key, "x", "y"))
    hand.pass_on("prepare")
    assert refused not in hand.replies
    assert kinds(hand) == [("gossip", 2, 1), ("gossip", 2, 3)]
    hand.pass_on("gossip")
    assert hand.replies[refused].words == ("2.2", "z")


def test_a_latest_read_goes_through_the_same_queue() -> None:
    """A latest read sees what was committed before it, at every replica, and waits for a transaction under way."""
    hand, key = cluster()
    hand.ask(2, update(key, "a", "b"))
    read = hand.ask(3, Read(key, latest=True))
    hand.pass_on("forward")
    assert read not in hand.replies
    hand.pass_on()
    assert hand.replies[read].words == ("b", "2.2")


# --- one round ----------------------------------------------------------------------------------------


def test_one_round_where_the_home_knows_best() -> None:
    """The home has the newest version, and its value is `old`: one PREPARE and its answer for each member, and the
    client hears ok; then one more for each, which only names the commit."""
    hand, key = cluster(4)
    token = hand.ask(2, update(key, "a", "b"))
    assert kinds(hand) == [("prepare", 2, 1), ("prepare", 2, 3), ("prepare", 2, 4)]
    record = Record("2:1!", 0, {}, key, 2, 2, "b", "b:1")
    assert all(prepare(x).keys == (Wanted(1, key, base=Version(1, 1), record=record),) for x in hand.letters)
    hand.deliver(*hand.letters)
    assert kinds(hand) == [("prepare", 1, 2), ("prepare", 3, 2), ("prepare", 4, 2)]
    *some, last = hand.letters
    hand.deliver(*some)
    assert token not in hand.replies
    hand.deliver(last)
    assert hand.replies[token].words == ("2.2",)
    assert kinds(hand) == [("commit", 2, 1), ("commit", 2, 3), ("commit", 2, 4)]
    said = [prepare(x) for x in hand.letters]
    assert [(each.base, each.commits, each.keys, each.ranges) for each in said] == [(0, (1,), (), ())] * 3
    hand.deliver(*hand.letters)
    assert [hand.stored(n, key) for n in (1, 2, 3, 4)] == [["b", "a"]] * 4
    hand.deliver(*hand.letters)
    assert hand.letters == []
    assert hand.replicas[2].state.held_by_all({"2:1!": 1}), "the replies confirm the commit"
    assert hand.run(1.0, hand.quiet)


def lagging_home(value: str, writer: int = 3) -> tuple[Hand, str]:
    """A cluster where one member has written a version of the key, `2.WRITER`, that the others do not know."""
    hand, key = cluster(gossip_delay=3.0)
    hand.replicas[2].slow(0)
    hand.answer(writer, Write(key, value))
    return hand, key


def test_a_newer_version_of_the_same_value_takes_a_second_round() -> None:
    """A member that knows a newer version does not prepare the record. The home fetches it, and where its value is
    `old` sends another record, under the same locks; that takes the place of the first."""
    hand, key = lagging_home("a")
    token = hand.ask(2, update(key, "a", "b"))
    one_round(hand)
    assert kinds(hand) == [("fetch", 2, 3)]
    assert key in hand.replicas[1].state.prepared
    assert key not in hand.replicas[3].state.prepared
    writes = [hand.ask(n, Write(key, f"w{n}")) for n in (1, 3)]
    hand.pass_on("fetch")
    assert kinds(hand) == [("prepare", 2, 1), ("prepare", 2, 3)]
    assert [(w.txn, w.round, w.base) for x in hand.letters for w in prepare(x).keys] == [(1, 2, Version(2, 3))] * 2
    hand.deliver(*hand.letters)
    for number in (1, 2, 3):
        prepared = hand.replicas[number].state.prepared[key]
        assert (prepared.name, prepared.record.version) == (("2:1", 1, 2), Version(3, 2))
    assert not any(write in hand.replies for write in writes)
    hand.pass_on("prepare")
    assert hand.replies[token].words == ("3.2",)
    assert [hand.replies[write].words for write in writes] == [("4.1",), ("4.3",)]
    assert hand.run(9.0, hand.quiet)
    assert [hand.stored(n, key) for n in (1, 2, 3)] == [["w1", "w3", "b", "a", "a"]] * 3


def test_what_belongs_to_an_earlier_round_changes_nothing() -> None:
    """A PREPARE of the first round, or a reply to one, that comes in the second is ignored: the first record does not
    come back, and counts for nothing."""
    hand, key = lagging_home("a")
    token = hand.ask(2, update(key, "a", "b"))
    again = [sent_again(x) for x in of_kind(hand, "prepare", target=1)]
    hand.deliver(*of_kind(hand, "prepare"))
    replies = [evolve(x) for x in of_kind(hand, "prepare", source=1, answers=True)]
    hand.deliver(*of_kind(hand, "prepare", answers=True))
    hand.pass_on("fetch")
    hand.deliver(*of_kind(hand, "prepare", target=1))
    hand.letters += again
    hand.deliver(*again)
    assert hand.replicas[1].state.prepared[key].name == ("2:1", 1, 2)
    *_, late = of_kind(hand, "prepare", source=1, answers=True)
    assert isinstance(late.answer, Ok)
    assert grammar.structure(late.answer.object, Granted).grants == (Grant(ended=True),)
    hand.letters += replies
    hand.deliver(late, *of_kind(hand, "prepare", target=3))
    first, three, *rest = replies[0], *of_kind(hand, "prepare", source=3, answers=True)
    assert rest == []
    hand.deliver(first, three)
    assert token not in hand.replies, "its reply to the second round is still under way"
    hand.pass_on("prepare")
    assert hand.replies[token].words == ("3.2",)


@pytest.mark.parametrize("at", [2, 3])
def test_a_version_that_is_held_back_counts(at: int) -> None:
    """Who has logged a newer version, and does not show it yet, prepares nothing in place of an older one: the home
    asks for locks alone, a member names the version."""
    hand, key = cluster()
    record = Record("1:1", 2, {"3:1": 1}, key, 5, 1, "z")
    hand.replicas[at].state.accept([Range("1:1", 1, (record,))], hand.now)
    assert hand.replicas[at].state.held
    token = hand.ask(2, update(key, "a", "b"))
    assert {what for what, _, _ in kinds(hand)} == {"lock" if at == 2 else "prepare"}
    hand.deliver(*hand.letters)
    said = [x.answer.object["grants"] for x in hand.letters if x.source == 3 and isinstance(x.answer, Ok)]
    assert said == [[{"newest": "5.1" if at == 3 else "1.1"}]]
    hand.deliver(*hand.letters)
    assert token not in hand.replies
    assert "prepare" not in {what for what, _, _ in kinds(hand)}


def test_what_was_found_out_while_it_waited_counts() -> None:
    """An update whose turn comes when its run goes on elsewhere, or when it was executed meanwhile, sends no record."""
    hand, key = cluster()
    hand.ask(2, Read(key, latest=True))
    request = UpdateIf(key, "a", "b", id="r:1", retry=False)
    fenced, known = hand.ask(2, request), hand.ask(2, update(key, "a", "c"))
    executed = hand.replicas[2].state.executed
    executed.promise("r", Epoch(1, "w2"), hand.now)
    executed.note("c:1", 0, not_applied(("1.1", "z"), {}), hand.now)
    hand.deliver(*hand.letters)
    hand.deliver(*hand.letters)
    assert {what for what, _, _ in kinds(hand)} == {"lock", "release"}
    hand.pass_on()
    assert code(hand.replies[fenced]) == "superseded"
    assert hand.replies[known].words == ("1.1", "z")


def test_a_newer_version_of_another_value_is_a_no() -> None:
    """The value that a member knows is not `old`: the client hears `no` when all hold that value, which ends what
    others had prepared; then the key is released."""
    hand, key = lagging_home("z")
    token = hand.ask(2, update(key, "a", "b"))
    one_round(hand)
    hand.pass_on("fetch")
    assert kinds(hand) == [("gossip", 2, 1)]
    assert key in hand.replicas[1].state.prepared
    hand.deliver(*hand.letters)
    assert key not in hand.replicas[1].state.prepared
    assert key in hand.replicas[1].locks.keys
    assert token not in hand.replies
    hand.deliver(*hand.letters)
    assert hand.replies[token] == No(("2.3", "z"), hand.replies[token].object)
    assert kinds(hand) == [("release", 2, 1), ("release", 2, 3)]
    assert hand.run(9.0, hand.quiet)
    assert [hand.stored(n, key) for n in (1, 2, 3)] == [["z", "a"]] * 3


def test_a_retry_begins_with_locks_alone() -> None:
    """A retry may have been executed, or refused, where this home does not know of it: no record is out before all have
    been asked."""
    hand, key = cluster()
    token = hand.ask(2, update(key, "a", "b", retry=True))
    assert kinds(hand) == [("lock", 2, 1), ("lock", 2, 3)]
    assert all(prepare(x).keys == (Wanted(1, key, id="b:1"),) for x in hand.letters)
    one_round(hand, "lock")
    assert not any(r.state.prepared for n, r in hand.replicas.items() if n != 2)
    assert kinds(hand) == [("prepare", 2, 1), ("prepare", 2, 3)]
    assert [wanted.round for x in hand.letters for wanted in prepare(x).keys] == [2, 2]
    one_round(hand)
    assert hand.replies[token].words == ("2.2",)


def test_a_retry_whose_no_only_one_member_knows() -> None:
    """It hears that `no` at once, for nobody has prepared anything."""
    hand, key = cluster()
    hand.replicas[3].state.executed.note("b:1", 0, not_applied(("1.1", "z"), {}), hand.now)
    token = hand.ask(2, update(key, "a", "b", retry=True))
    one_round(hand, "lock")
    assert hand.replies[token].words == ("1.1", "z")
    assert kinds(hand) == [("release", 2, 1), ("release", 2, 3)]
    assert hand.run(1.0, hand.quiet)


# --- what is prepared ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("writer", "other"), [(1, 3), (3, 1)])
@pytest.mark.parametrize("die", [False, True])
def test_a_newer_version_that_is_logged_ends_what_is_prepared(writer: int, other: int, die: bool) -> None:
    """A write that one member alone knew reaches another by gossip, after that has prepared the record: the one has
    answered NEWER. So the record ends there, whether the version wins over it or not, and who goes on does not commit
    it."""
    hand, key = lagging_home("z", writer)
    token = hand.ask(2, update(key, "a", "b"))
    hand.deliver(*of_kind(hand, "prepare", target=other))
    replica, source = hand.replicas[other], hand.replicas[writer]
    assert replica.state.prepared[key].record.value == "b"
    source.state.push(replica.context.incarnation)
    hand.act(writer, source.flush(hand.now))
    hand.deliver(*hand.under_way("gossip", writer, other))
    assert replica.state.prepared == {}
    assert key in replica.locks.keys
    if die:
        hand.crash(2)
        hand.crash(writer)
        assert hand.run(2.0, lambda: replica.context.others() == ())
    else:
        assert hand.run(9.0, lambda: hand.quiet() and token in hand.replies)
        assert hand.replies[token].words == (f"2.{writer}", "z")
    assert hand.stored(other, key) == ["z", "a"]


@pytest.mark.parametrize("die", [False, True])
def test_a_write_that_waited_follows_the_commit(die: bool) -> None:
    """A plain write that was queued during the transaction is numbered after its record, and depends on the commit: a
    member that has not logged the commit yet does not log the write, which would end the record."""
    hand, key = cluster()
    token = hand.ask(2, update(key, "a", "b"))
    hand.deliver(*of_kind(hand, "prepare"))
    write = hand.ask(1, Write(key, "x"))
    hand.deliver(*of_kind(hand, "prepare", answers=True))
    assert hand.replies[token].words == ("2.2",)
    assert write not in hand.replies
    hand.deliver(*of_kind(hand, "commit", target=1))
    assert hand.replies[write].words == ("3.1",)
    hand.tick(1)
    (letter,) = hand.under_way("gossip", source=1, target=3)
    assert isinstance(letter.send.message, Gossip)
    assert [r.prev for given in letter.send.message.ranges for r in given.records] == [{"2:1!": 1}]
    state = hand.replicas[3].state
    before = state.log.have
    hand.deliver(letter)
    assert state.log.have == before
    assert state.prepared[key].record.value == "b"
    if die:
        hand.crash(1)
        hand.crash(2)
        assert hand.run(2.0, lambda: hand.replicas[3].context.others() == ())
    else:
        hand.deliver(*of_kind(hand, "commit", target=3))
    assert hand.stored(3, key) == ["b", "a"]
    assert hand.run(2.0, hand.quiet)
    assert hand.stored(3, key) == (["b", "a"] if die else ["x", "b", "a"])


def test_outcomes_go_first() -> None:
    """The PREPARE of the key's next transaction carries the commit of the one before: a record whose client was told ok
    is logged before another takes its place."""
    hand, key = cluster()
    hand.ask(2, update(key, "a", "b"))
    one_round(hand)
    held = of_kind(hand, "commit", target=1)
    hand.letters.clear()
    hand.ask(2, update(key, "b", "c"))
    assert [(prepare(x).commits, [w.txn for w in prepare(x).keys]) for x in hand.letters] == [((1,), [2])] * 2
    hand.deliver(*of_kind(hand, "prepare", target=1))
    assert hand.stored(1, key) == ["b", "a"]
    assert hand.replicas[1].state.prepared[key].name == ("2:1", 2, 1)
    hand.letters += held
    hand.deliver(*held)
    assert hand.replicas[1].state.prepared[key].name == ("2:1", 2, 1)
    hand.crash(2)
    hand.crash(3)
    assert hand.run(2.0, lambda: hand.replicas[1].context.others() == ())
    assert hand.stored(1, key) == ["c", "b", "a"]


def test_writes_that_waited_run_before_the_next_transaction() -> None:
    """The commit that comes with the key's next PREPARE unlocks it first: a member runs what waited, and answers with
    its version."""
    hand, key = cluster()
    hand.ask(2, update(key, "a", "b"))
    token = hand.ask(2, update(key, "b", "c"))
    hand.deliver(*of_kind(hand, "prepare"))
    write = hand.ask(1, Write(key, "x"))
    hand.deliver(*of_kind(hand, "prepare", answers=True))
    assert [prepare(x).commits for x in of_kind(hand, "prepare")] == [(1,)] * 2
    hand.deliver(*of_kind(hand, "prepare", target=1))
    assert hand.replies[write].words == ("3.1",)
    assert key not in hand.replicas[1].state.prepared
    hand.pass_on()
    assert hand.run(1.0, lambda: token in hand.replies)
    assert hand.replies[token].words == ("3.1", "x")


def test_a_commit_that_is_applied_late_unlocks_nothing_of_the_next() -> None:
    """The lock of the key's next transaction ends with that one, not with the commit of the one before, if that was
    held back."""
    hand, key = cluster()
    hand.ask(2, update(key, "a", "b"))
    one_round(hand)
    hand.letters.clear()
    hand.ask(2, update(key, "b", "c"))
    hand.deliver(*of_kind(hand, "prepare", target=1))
    replica = hand.replicas[1]
    replica.state.committed.append(Record("2:1!", 1, {}, key, 2, 2, "b", "b:1"))
    hand.tick(1)
    assert replica.state.committed == []
    assert replica.locks.keys[key].txn == 2


def test_a_commit_that_got_lost_is_sent_again_at_once() -> None:
    """With the next tick, not with the gossip."""
    hand, key = cluster(gossip_delay=1.0)
    hand.ask(2, update(key, "a", "b"))
    hand.tick(2, seconds=1.0)
    one_round(hand)
    hand.lose(*of_kind(hand, "commit", target=1))
    hand.tick(2)
    (again,) = of_kind(hand, "commit", target=1)
    hand.deliver(again)
    assert hand.stored(1, key) == ["b", "a"]


def test_a_commit_does_not_wait_long_for_the_one_before() -> None:
    """A message that only names commits waits until the one before is answered, or for the next tick."""
    hand = Hand(3, gossip_delay=1.0)
    one, other = [key for key in map(str, range(1000)) if hand.home(key) == KEY_AT][:2]
    for key in (one, other):
        hand.answer(1, Write(key, "a"))
    assert hand.run(3.0, hand.quiet)
    for key in (one, other):
        hand.ask(2, update(key, "a", f"b{key}"))
        hand.tick(2, seconds=1.0)
        hand.pass_on("heartbeat")
        one_round(hand)
    assert [(prepare(x).base, prepare(x).commits) for x in of_kind(hand, "commit", target=1)] == [(0, (1,))]
    hand.tick(2)
    assert [(prepare(x).base, prepare(x).commits) for x in of_kind(hand, "commit", target=1)] == [(0, (1,)), (1, (2,))]
    hand.deliver(*reversed(of_kind(hand, "commit", target=1)))
    assert [hand.stored(1, key)[0] for key in (one, other)] == [f"b{one}", f"b{other}"]


def test_a_record_goes_to_each_member_once() -> None:
    """The PREPARE that names the commit of a record, on which its own depends, does not bring that record again: the
    member has it prepared."""
    hand, key = cluster()
    hand.ask(2, update(key, "a", "b" * 10_000))
    hand.ask(2, update(key, "b" * 10_000, "c"))
    one_round(hand)
    assert [prepare(x).commits for x in hand.letters] == [(1,)] * 2
    assert [prepare(x).ranges for x in hand.letters] == [()] * 2


def test_a_key_that_waits_for_its_commit_is_not_locked_for_the_next() -> None:
    """Where the commit that comes with a PREPARE can't be logged, as when what was prepared is gone, its key is not
    locked for another transaction; the home asks again until the commit has come by gossip."""
    hand, key = cluster()
    hand.ask(2, update(key, "a", "b"))
    one_round(hand)
    hand.letters.clear()
    state, locks = hand.replicas[1].state, hand.replicas[1].locks
    state.prepared.clear()
    token = hand.ask(2, update(key, "b", "c"))
    (letter,) = of_kind(hand, "prepare", target=1)
    letter.send = evolve(letter.send, message=evolve(prepare(letter), ranges=()))
    hand.deliver(letter)
    (answer,) = hand.under_way("prepare", source=1, answers=True)
    assert isinstance(answer.answer, Ok)
    assert grammar.structure(answer.answer.object, Granted).grants == (Grant(ended=True),)
    assert (locks.keys[key].txn, state.prepared, hand.stored(1, key)) == (1, {}, ["a"])
    assert hand.run(2.0, lambda: hand.quiet() and token in hand.replies)
    assert hand.replies[token].words == ("3.2",)
    assert [hand.stored(n, key) for n in (1, 2, 3)] == [["c", "b", "a"]] * 3


@pytest.mark.parametrize("ended", ["committed", "released"])
@pytest.mark.parametrize("below", [True, False])
def test_a_prepare_after_the_end_of_its_transaction_locks_nothing(ended: str, below: bool) -> None:
    """A PREPARE that comes twice, the second time when its transaction has ended, is ignored: below the number up to
    which all of the home's have ended, and above it, where an earlier one of another key goes on."""
    hand, key = lagging_home("z") if ended == "released" else cluster()
    if not below:
        hand.ask(2, Read(next(k for k in map(str, range(1000)) if k != key and hand.home(k) == 2), latest=True))
        hand.letters.clear()
    token = hand.ask(2, update(key, "a", "b"))
    (again,) = [sent_again(x) for x in of_kind(hand, "prepare", target=1)]
    hand.pass_on()
    assert isinstance(hand.replies[token], Ok if ended == "committed" else No)
    hand.run(0.3)
    replica = hand.replicas[1]
    assert hand.replicas[2].commit.oldest == (2 if below else 1)
    hand.letters.append(again)
    hand.deliver(again)
    (answer,) = hand.under_way("prepare", source=1, answers=True)
    assert isinstance(answer.answer, Ok)
    assert grammar.structure(answer.answer.object, Granted).grants == (Grant(ended=True),)
    assert key not in replica.locks.keys
    assert replica.state.prepared == {}
    assert hand.ask(1, Write(key, "x")) in hand.replies


def test_a_heartbeat_ends_no_lock_with_a_prepared_record() -> None:
    """That a transaction has ended does not say how. Its record stays prepared, and writes wait, until the commit
    comes."""
    hand, key = cluster()
    hand.ask(2, update(key, "a", "b"))
    one_round(hand)
    commit = of_kind(hand, "commit", target=1)
    hand.letters.clear()
    write = hand.ask(1, Write(key, "x"))
    hand.tick(2, seconds=0.2)
    beats = hand.under_way("heartbeat", source=2, target=1)
    assert [x.send.message.oldest for x in beats] == [2]  # type: ignore[attr-defined]
    hand.deliver(*beats)
    assert hand.replicas[1].state.prepared[key].record.value == "b"
    assert key in hand.replicas[1].locks.keys
    assert write not in hand.replies
    hand.letters += commit
    hand.deliver(*commit)
    assert hand.replies[write].words == ("3.1",)
    assert hand.replicas[1].locks.keys == {}


# --- refusals after a record was out ------------------------------------------------------------------


def refused_by_one(hand: Hand, key: str, why: str) -> UpdateIf:
    """An update that replica 3 refuses: it has promised that the run goes on elsewhere, or knows the update's `no`."""
    executed = hand.replicas[3].state.executed
    if why == "superseded":
        executed.promise("r", Epoch(1, "w2"), hand.now)
    else:
        executed.note("r:1", 0, not_applied(("1.1", "z"), {}), hand.now)
    return UpdateIf(key, "a", "b", id="r:1", retry=False, deadline=5.0)


@pytest.mark.parametrize("why", ["superseded", "known"])
def test_a_refusal_waits_until_all_have_dropped_the_record(why: str) -> None:
    """A member refuses the update when others have prepared its record: the client hears that only when each of them
    has confirmed the RELEASE, for without this node they would commit it."""
    hand, key = cluster()
    token = hand.ask(2, refused_by_one(hand, key, why))
    one_round(hand)
    assert kinds(hand) == [("release", 2, 1), ("release", 2, 3)]
    assert hand.replicas[1].state.prepared[key].record.value == "b"
    hand.deliver(*hand.under_way("release", target=3))
    hand.deliver(*hand.under_way("release", source=3))
    hand.lose(*hand.under_way("release", target=1))
    assert token not in hand.replies
    hand.tick(2)
    hand.deliver(*hand.under_way("release", target=1))
    assert not hand.replicas[1].locks.keys
    assert not hand.replicas[1].state.prepared
    assert token not in hand.replies
    hand.deliver(*hand.under_way("release", source=1))
    if why == "superseded":
        assert code(hand.replies[token]) == "superseded"
    else:
        assert hand.replies[token].words == ("1.1", "z")
    assert hand.run(1.0, hand.quiet)
    assert [hand.stored(n, key) for n in (1, 2, 3)] == [["a"]] * 3


@pytest.mark.parametrize("why", ["superseded", "known"])
def test_who_hears_no_refusal_in_time_does_not_know(why: str) -> None:
    """While the RELEASE is not confirmed a late client hears unknown-outcome."""
    hand, key = cluster()
    token = hand.ask(2, refused_by_one(hand, key, why))
    one_round(hand)
    held = list(hand.letters)
    hand.letters.clear()
    hand.tick(2, seconds=6.0)
    assert code(hand.replies[token]) == "unknown-outcome"
    hand.letters += held
    assert hand.run(2.0, hand.quiet)
    assert [hand.stored(n, key) for n in (1, 2, 3)] == [["a"]] * 3


@pytest.mark.parametrize("why", ["superseded", "known"])
@pytest.mark.parametrize("released", [[], [1], [3]])
def test_a_refused_record_is_not_committed_by_who_goes_on(why: str, released: list[int]) -> None:
    """The home dies while it releases the key: the member that has refused the record does not have it prepared, so it
    is dropped, and the update ends in the same way again."""
    hand, key = cluster()
    request = refused_by_one(hand, key, why)
    hand.ask(2, request)
    one_round(hand)
    for number in released:
        hand.deliver(*hand.under_way("release", target=number))
    hand.crash(2)
    again = hand.answer(3, evolve(request, retry=True))
    assert (code(again) if isinstance(again, Error) else again.words) == (
        "superseded" if why == "superseded" else ("1.1", "z")
    )
    assert hand.run(2.0, hand.quiet)
    assert [hand.stored(n, key) for n in (1, 3)] == [["a"]] * 2


@pytest.mark.parametrize("why", ["superseded", "known"])
def test_a_refusal_outlives_a_participant(why: str) -> None:
    """A member that has prepared the record dies before it confirms the RELEASE: the client hears the refusal in the
    next view, whichever of the others has confirmed it."""
    hand, key = cluster(4)
    token = hand.ask(2, refused_by_one(hand, key, why))
    one_round(hand)
    hand.deliver(*hand.under_way("release", target=3))
    hand.deliver(*hand.under_way("release", source=3))
    hand.crash(4)
    assert hand.run(4.0, lambda: token in hand.replies)
    if why == "superseded":
        assert code(hand.replies[token]) == "superseded"
    else:
        assert hand.replies[token].words == ("1.1", "z")
    assert hand.run(2.0, lambda: in_new_view(hand, 3))
    assert [hand.stored(n, key) for n in (1, 2, 3)] == [["a"]] * 3


def test_a_release_that_is_confirmed_while_the_view_changes() -> None:
    """It ends the transaction, and begins nothing: the next one of the key is prepared in the next view."""
    hand, key = cluster(4)
    refused = hand.ask(2, refused_by_one(hand, key, "superseded"))
    following = hand.ask(2, update(key, "a", "c"))
    one_round(hand)
    hand.deliver(*hand.under_way("release"))
    hand.deliver(*hand.under_way("release", source=4))
    hand.crash(4)
    hand.tick(1)
    hand.deliver(*hand.under_way("flush", target=2))
    assert not hand.replicas[2].context.serving
    hand.deliver(*hand.under_way("release"))
    assert of_kind(hand, "prepare") == []
    assert hand.run(5.0, lambda: {refused, following} <= set(hand.replies))
    assert code(hand.replies[refused]) == "superseded"
    assert hand.replies[following].words == ("2.2",)


def of_run(key: str) -> UpdateIf:
    """An update of the run `r1-x` in its first epoch."""
    return UpdateIf(key, "a", "b", id="r1-x:1", retry=False, journal=Journal(0, "", 1, 101, "c", ""))


def test_a_fence_waits_for_what_is_prepared() -> None:
    """A record of the run, in a lower epoch, is prepared at some member, perhaps the one that is asked: whether it is
    committed is not known yet. The fence asks again until it is, and then reports it."""
    hand, key = cluster()
    token = hand.ask(2, of_run(key))
    hand.deliver(*of_kind(hand, "prepare"))
    fence = hand.ask(1, Fence("r1-x", epoch=Epoch(1, "w2")))

    def opens() -> dict[int, bool]:
        """Return the members that still have such a record prepared."""
        hand.deliver(*hand.under_way("fencing", answers=False))
        replies = [(x.source, x.answer) for x in hand.under_way("fencing", answers=True)]
        hand.deliver(*hand.under_way("fencing", answers=True))
        hand.tick(1)
        return {n: "open" in reply.object for n, reply in replies if isinstance(reply, Ok)}

    assert opens() == opens() == {2: True, 3: True}
    hand.deliver(*of_kind(hand, "prepare", answers=True))
    assert hand.replies[token].words == ("2.2",)
    assert opens() == {2: False, 3: True}
    hand.deliver(*of_kind(hand, "commit", target=3))
    assert opens() == {3: False}
    assert fence not in hand.replies, "it is prepared at the node that was asked"
    hand.deliver(*of_kind(hand, "commit", target=1))
    known = hand.replies[fence]
    assert isinstance(known, Ok)
    assert [each.key for each in grammar.structure(known.object, Fenced).updates] == [key]


@pytest.mark.parametrize("at", [1, 3])
def test_a_fence_ends_what_not_all_have_prepared(at: int) -> None:
    """A member that has promised refuses the record: the update is superseded, and the fence reports nothing when all
    have dropped it, the node that was asked too."""
    hand, key = cluster()
    token = hand.ask(2, of_run(key))
    hand.deliver(*of_kind(hand, "prepare", target=at))
    fence = hand.ask(1, Fence("r1-x", epoch=Epoch(1, "w2")))
    hand.deliver(*hand.under_way("fencing"))
    hand.deliver(*hand.under_way("fencing"))
    hand.pass_on("prepare")
    hand.deliver(*hand.under_way("release", target=4 - at))
    hand.deliver(*hand.under_way("release", source=4 - at))
    for _ in range(3):
        hand.tick(1)
        hand.deliver(*hand.under_way("fencing"))
        hand.deliver(*hand.under_way("fencing"))
    assert {token, fence}.isdisjoint(hand.replies)
    hand.pass_on("release")
    assert code(hand.replies[token]) == "superseded"
    assert hand.run(1.0, lambda: fence in hand.replies)
    known = hand.replies[fence]
    assert isinstance(known, Ok)
    assert grammar.structure(known.object, Fenced).updates == ()
    assert [hand.stored(n, key) for n in (1, 2, 3)] == [["a"]] * 3


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
    hand.pass_on()
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


@pytest.mark.parametrize("what", ["prepare", "commit", "lock", "release"])
def test_every_letter_may_come_twice(what: str) -> None:
    """A letter of a transaction that comes again, even much later, changes nothing."""
    hand, key = cluster()
    kept = []
    token = hand.ask(2, update(key, "a", "b"))
    if what == "commit":
        one_round(hand)  # with another transaction to come, it would go with that one's LOCK
        kept = [sent_again(x) for x in of_kind(hand, what)]
    other = hand.ask(2, update(key, "a", "c"))
    while hand.letters:
        letter = hand.letters[0]
        hand.deliver(letter)
        if kind(letter) == what and not letter.is_answer:
            kept.append(sent_again(letter))
            hand.letters.append(sent_again(letter))
            hand.deliver(hand.letters[-1])
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


@pytest.mark.parametrize("what", ["prepare", "commit", "lock", "release", "forward"])
@pytest.mark.parametrize("arrives", [False, True])
def test_every_letter_may_get_lost(what: str, arrives: bool) -> None:
    """What does not get through, or whose reply does not, is sent again: the operation ends as if nothing had been."""
    hand, key = cluster()
    done, lost = hand.ask(1, update(key, "a", "b")), 0
    if what == "commit":
        hand.deliver(*hand.under_way("forward"))
        one_round(hand)
    refused = hand.ask(3, update(key, "a", "c"))
    for _ in range(400):
        found = of_kind(hand, what, answers=arrives)
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
    assert [hand.stored(n, key) for n in (1, 2, 3)] == [["b", "a"]] * 3


# --- at the deadline --------------------------------------------------------------------------------


@pytest.mark.parametrize("waits", ["for the gossip delay", "for locks", "for a fetch"])
def test_unavailable_means_that_nothing_happened(waits: str) -> None:
    """A first try that ends before a record is out hears `unavailable`; it never takes effect afterwards."""
    hand, key = cluster(gossip_delay=3.0)
    if waits == "for the gossip delay":
        late = hand.ask(2, update(key, "a", "b", deadline=0.1))
        assert hand.letters == []
    else:
        hand.ask(3, Write(key, "z"))
        late = hand.ask(2, update(key, "z", "b", deadline=0.1))
        if waits == "for a fetch":
            one_round(hand, "lock")
            assert kinds(hand) == [("fetch", 2, 3)]
    held = list(hand.letters)
    hand.letters.clear()
    hand.tick(2, seconds=0.2)
    assert code(hand.replies[late]) == "unavailable"
    hand.letters += held
    assert hand.run(9.0, hand.quiet)
    assert "b" not in hand.stored(1, key)


@pytest.mark.parametrize("second", [False, True])
def test_unknown_outcome_once_a_record_is_out(second: bool) -> None:
    """Past the deadline of an update whose record some member may have, in the first round or between two, its client
    hears the one honest word. The transaction goes on, and by its id the client gets the truth."""
    hand, key = cluster(gossip_delay=3.0)
    hand.replicas[2].slow(0)
    if second:
        hand.ask(3, Write(key, "a"))
    late = hand.ask(2, update(key, "a", "b", deadline=0.1))
    if second:
        one_round(hand)
        assert kinds(hand) == [("fetch", 2, 3)]
    else:
        hand.deliver(*of_kind(hand, "prepare", target=1))
    held = list(hand.letters)
    hand.letters.clear()
    hand.tick(2, seconds=0.2)
    assert code(hand.replies[late]) == "unknown-outcome"
    assert hand.replicas[2].commit.open == 1
    hand.letters += held
    assert hand.run(9.0, hand.quiet)
    assert [hand.stored(n, key)[0] for n in (1, 2, 3)] == ["b"] * 3
    assert hand.answer(3, update(key, "a", "b", retry=True)).words == ("3.2" if second else "2.2",)


def test_who_passed_it_on_does_not_know() -> None:
    """A replica that passed an update on, and hears nothing, can't say that nothing happened."""
    hand, key = cluster()
    late = hand.ask(1, update(key, "a", "b", deadline=0.1))
    (forward,) = hand.under_way("forward")
    hand.now += 0.2
    hand.lose(forward)
    assert code(hand.replies[late]) == "unknown-outcome"


@pytest.mark.parametrize(
    ("at", "old", "said"),
    [
        (KEY_AT, "z", "unavailable"),
        (KEY_AT, "a", "unknown-outcome"),
        (1, "z", "unknown-outcome"),
    ],
)
def test_a_minority_keeps_nobody_waiting(at: int, old: str, said: str) -> None:
    """`--membership majority`: an update that was begun before the others fell silent is answered soon after this
    node has found out that it may not answer alone, not at its deadline; so is what was passed on."""
    hand, key = cluster(majority=True)
    late = hand.ask(at, update(key, old, "b", deadline=60.0))
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


def test_the_gossip_delay_holds_the_record_back() -> None:
    """A node's delay is waited for once per transaction, before the first PREPARE with a record, and nowhere else."""
    hand, key = cluster(gossip_delay=1.0)
    hand.ask(3, Write(key, "a"))
    compared = hand.ask(2, update(key, "a", "b"))
    hand.tick(2, seconds=0.9)
    assert hand.under_way("prepare") == []
    hand.tick(2, seconds=0.2)
    one_round(hand)
    hand.pass_on("fetch")
    assert [wanted.round for x in of_kind(hand, "prepare") for wanted in prepare(x).keys] == [2, 2]
    hand.pass_on("prepare")
    assert hand.replies[compared].words == ("3.2",)


def test_the_gossip_delay_holds_no_locks_back() -> None:
    """Locks propagate nothing: an update that is refused, or is to be compared anew, and a latest read wait for no
    delay; a record that follows waits."""
    hand, key = cluster(gossip_delay=1.0)
    refused, read = hand.ask(2, update(key, "x", "b")), hand.ask(3, Read(key, latest=True))
    hand.pass_on()
    assert hand.replies[refused].words == ("1.1", "a")
    assert hand.replies[read].words == ("a", "1.1")
    retried = hand.ask(2, update(key, "a", "c", retry=True))
    hand.pass_on()
    hand.tick(2, seconds=0.9)
    assert of_kind(hand, "prepare") == []
    hand.tick(2, seconds=0.2)
    hand.pass_on("prepare")
    assert hand.replies[retried].words == ("2.2",)


# --- when somebody dies -----------------------------------------------------------------------------


STEPS = ["sent", "prepared by one", "prepared by all", "acknowledged", "committed by one"]
RETRIED = ["locks are sent", "locked by one", "locked by all"]


def _up_to(hand: Hand, key: str, step: str) -> str:
    """A transaction at replica 2, as far as that step."""
    token = hand.ask(2, update(key, "a", "b", retry=step in RETRIED))
    what = "lock" if step in RETRIED else "prepare"
    if step.endswith("sent"):
        return token
    hand.deliver(*of_kind(hand, what, target=1))
    if step.endswith("ed by one") and step != "committed by one":
        return token
    hand.deliver(*of_kind(hand, what, target=3))
    if step.endswith("ed by all"):
        return token
    hand.deliver(*of_kind(hand, what, answers=True))
    assert hand.replies[token].words == ("2.2",)
    if step == "committed by one":
        hand.deliver(*of_kind(hand, "commit", target=1))
    return token


@pytest.mark.parametrize("step", [*STEPS, *RETRIED])
@pytest.mark.parametrize("dies", [1, 2, 3])
def test_somebody_dies_at_each_step(step: str, dies: int) -> None:
    """Home or participant, before or after each message: survivors agree, nothing is locked, the id has one answer."""
    hand, key = cluster()
    token = _up_to(hand, key, step)
    told = hand.replies.get(token)
    hand.crash(dies)
    alive = list(hand.replicas)
    assert hand.run(2.0, lambda: all(len(r.context.others()) == 1 for r in hand.replicas.values()))
    assert hand.run(2.0, lambda: hand.quiet() and (dies == 2 or token in hand.replies))
    states = [hand.stored(n, key) for n in alive]
    assert states[0] == states[1]
    assert told is None or states[0] == ["b", "a"]
    if dies != 2:
        assert hand.replies[token].words == ("2.2",)
    again = hand.answer(alive[0], update(key, "a", "b", retry=True))
    assert isinstance(again, Ok)
    assert hand.run(2.0, hand.quiet)
    assert [hand.stored(n, key) for n in alive] == [["b", "a"]] * 2
    assert not any(r.state.prepared for r in hand.replicas.values())


@pytest.mark.parametrize("step", [*STEPS, *RETRIED])
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


@pytest.mark.parametrize("prepared", [False, True])
def test_a_write_that_was_queued_outlives_the_home(prepared: bool) -> None:
    """Writes that waited at a locked key are executed when the home is gone; after the record, if that is committed."""
    hand, key = cluster()
    hand.ask(2, update(key, "a", "b"))
    hand.deliver(*of_kind(hand, "prepare", target=1))
    if prepared:
        hand.deliver(*of_kind(hand, "prepare", target=3))
    write = hand.ask(1, Write(key, "x"))
    hand.crash(2)
    assert hand.run(2.0, lambda: write in hand.replies)
    assert hand.replies[write].words == ("3.1" if prepared else "2.1",)
    assert hand.run(2.0, hand.quiet)
    assert [hand.stored(n, key) for n in (1, 3)] == [["x", "b", "a"] if prepared else ["x", "a"]] * 2


# --- what is prepared when the view changes ------------------------------------------------------------


def in_new_view(hand: Hand, count: int) -> bool:
    """Whether all are in a view of so many members, and nothing is going on."""
    alone = all(len(r.context.others()) == count - 1 and r.context.serving for r in hand.replicas.values())
    return alone and hand.quiet() and not any(r.state.prepared for r in hand.replicas.values())


def test_what_all_survivors_have_prepared_is_committed() -> None:
    """The home dies when all others have prepared the record: whoever asks again gets its version, with the number that
    the home would have given."""
    hand, key = cluster(4)
    hand.ask(2, update(key, "a", "b"))
    hand.deliver(*of_kind(hand, "prepare"))
    hand.crash(2)
    assert hand.run(2.0, lambda: in_new_view(hand, 3))
    assert [hand.stored(n, key) for n in (1, 3, 4)] == [["b", "a"]] * 3
    for number in (1, 3, 4):
        assert hand.answer(number, update(key, "a", "b", retry=True)).words == ("2.2",)
        assert hand.replicas[number].state.final_counts["2:1!"] == 1


def test_what_one_survivor_lacks_is_dropped() -> None:
    """The home dies, and one of the others has not prepared the record: the rest unlock the key, and who asks again has
    it executed anew."""
    hand, key = cluster(4)
    hand.ask(2, update(key, "a", "b"))
    hand.deliver(*of_kind(hand, "prepare", target=1), *of_kind(hand, "prepare", target=3))
    hand.crash(2)
    assert hand.run(2.0, lambda: in_new_view(hand, 3))
    assert [hand.stored(n, key) for n in (1, 3, 4)] == [["a"]] * 3
    assert hand.answer(4, update(key, "a", "b", retry=True)).words == (f"2.{hand.home(key)}",)


def test_another_round_is_another_record() -> None:
    """One survivor has prepared the first round's record, the other the second's: neither is committed, and the version
    that the second one stands on is kept."""
    hand, key = cluster(4, gossip_delay=3.0)
    hand.replicas[2].slow(0)
    hand.answer(4, Write(key, "a"))
    hand.ask(2, update(key, "a", "b"))
    one_round(hand)
    hand.pass_on("fetch")
    hand.deliver(*of_kind(hand, "prepare", target=1))
    assert hand.replicas[1].state.prepared[key].name == ("2:1", 1, 2)
    assert hand.replicas[3].state.prepared[key].name == ("2:1", 1, 1)
    hand.crash(2)
    hand.crash(4)
    assert hand.run(2.0, lambda: in_new_view(hand, 2))
    assert [hand.stored(n, key) for n in (1, 3)] == [["a", "a"]] * 2


@pytest.mark.parametrize("asked", [1, 2])
@pytest.mark.parametrize("prepared", [True, False])
def test_a_living_home_takes_the_same_rule(asked: int, prepared: bool) -> None:
    """A participant dies. What all others have prepared, the home among them, is committed, what one of them lacks
    begins anew; in both cases the client hears one ok, and the home's next commit has the next number."""
    hand, key = cluster(4)
    token = hand.ask(asked, update(key, "a", "b"))
    hand.pass_on("forward")
    for number in (1, 3) if prepared else (1,):
        hand.deliver(*of_kind(hand, "prepare", target=number))
    hand.letters.clear()
    hand.crash(4)
    assert hand.run(2.0, lambda: in_new_view(hand, 3) and token in hand.replies)
    view = hand.replicas[2].context.view
    assert view is not None
    assert view.found == ((("2:1", 1, 1),) if prepared else ())
    assert hand.replies[token].words == ("2.2",)
    assert hand.replies[token].object["after"]["2:1!"] == 1
    assert hand.answer(3, Read(key, latest=True, after={"2:1!": 1})).words == ("b", "2.2")
    assert hand.answer(3, update(key, "b", "c")).object["after"]["2:1!"] == 2
    assert hand.run(1.0, hand.quiet)
    assert [hand.stored(n, key) for n in (1, 2, 3)] == [["c", "b", "a"]] * 3


def enters(hand: Hand, number: int) -> Replica:
    """Go on until a node is in another view; nothing is delivered but what that takes."""
    replica = hand.replicas[number]
    view = replica.context.view_name
    while replica.context.view_name == view:
        hand.letters = [x for x in hand.letters if x.verb in ("flush", "level", "install")]
        hand.deliver(hand.letters[0]) if hand.letters else hand.tick()
    return replica


def test_a_client_whose_record_was_out_never_hears_unavailable() -> None:
    """Also when the record was dropped, and the update has begun anew: the next view may come to nothing."""
    hand, key = cluster(4)
    token = hand.ask(2, update(key, "a", "b", deadline=1.0))
    hand.deliver(*of_kind(hand, "prepare", target=1))
    hand.crash(4)
    enters(hand, 2)
    assert token not in hand.replies
    hand.tick(2, seconds=1.2)
    assert code(hand.replies[token]) == "unknown-outcome"


@pytest.mark.parametrize("end", ["in force", "late", "overtaken"])
def test_the_client_of_a_living_home_is_told_when_the_view_is_in_force(end: str) -> None:
    """The home has begun a view that commits what it has prepared. Its client hears ok when all its members have
    answered in that view, not before: it may come to nothing. A late one hears that the outcome is unknown; one whose
    home goes on to yet another view hears what holds there."""
    hand, key = cluster()
    token = hand.ask(2, update(key, "a", "b", deadline=1.0))
    hand.deliver(*of_kind(hand, "prepare", target=1))
    hand.crash(3)
    replica = enters(hand, 2)
    assert replica.context.serving
    assert hand.stored(2, key) == ["b", "a"]
    assert token not in hand.replies
    if end == "late":
        hand.tick(2, seconds=1.2)
        assert code(hand.replies[token]) == "unknown-outcome"
    elif end == "overtaken":
        hand.crash(1)
        assert hand.run(0.5, lambda: token in hand.replies)
        assert hand.replies[token].words == hand.answer(2, update(key, "a", "b", retry=True)).words == ("2.2",)
    else:
        hand.tick(2, seconds=0.2)
        assert token not in hand.replies
        hand.pass_on()
        hand.tick(2)
        assert hand.replies[token].words == ("2.2",)


def test_a_node_that_joins_is_given_what_is_prepared() -> None:
    """A node that joins has nothing prepared, for nobody has asked it: it does not count, and gets the record with what
    it lacks. So all members of the new view commit it."""
    hand, key = cluster()
    hand.crash(3)
    assert hand.run(2.0, lambda: in_new_view(hand, 2))
    hand.start(3)
    while not hand.under_way("load"):
        hand.tick()
        hand.pass_on("join")
    token = hand.ask(2, update(key, "a", "b"))
    hand.deliver(*of_kind(hand, "prepare"))
    answers = of_kind(hand, "prepare", answers=True)
    hand.letters = [x for x in hand.letters if x not in answers]
    given = []
    while not hand.replicas[3].context.serving:
        if not hand.letters:
            hand.tick()
            continue
        if isinstance(message := hand.letters[0].send.message, Level) and not hand.letters[0].is_answer:
            given += [(hand.letters[0].target, each.name) for each in message.prepared]
        hand.deliver(hand.letters[0])
    assert given == [(3, ("2:1", 1, 1))]
    assert [hand.stored(n, key) for n in (1, 3)] == [["b", "a"]] * 2
    assert hand.run(2.0, lambda: in_new_view(hand, 3) and token in hand.replies)
    assert hand.replies[token].words == ("2.2",)
    hand.letters += answers
    assert hand.run(1.0, hand.quiet)
    assert [hand.stored(n, key) for n in (1, 2, 3)] == [["b", "a"]] * 3


def test_records_of_several_homes_are_committed_in_one_order() -> None:
    """A view may commit records of several homes, and several of one: their places are the same at all members, behind
    what is logged, and a living home goes on above them."""
    hand = Hand(4)
    keys = {n: [key for key in map(str, range(1000)) if hand.home(key) == n][:2] for n in (1, 2, 3)}
    every = [key for some in keys.values() for key in some]
    for key in every:
        hand.answer(4, Write(key, "a"))
    assert hand.run(1.0, hand.quiet)
    assert isinstance(hand.answer(2, update(keys[2][0], "a", "first")), Ok)
    assert hand.run(1.0, hand.quiet)
    old = {key: "first" if key == keys[2][0] else "a" for key in every}
    tokens = [hand.ask(n, update(key, old[key], f"b{key}")) for n in keys for key in keys[n]]
    hand.deliver(*hand.under_way("prepare"))
    hand.crash(3)
    hand.crash(4)
    assert hand.run(2.0, lambda: in_new_view(hand, 2) and set(tokens[:4]) <= set(hand.replies))
    assert all(isinstance(hand.replies[token], Ok) for token in tokens[:4])
    view = hand.replicas[1].context.view
    assert view is not None
    assert view.found == (
        *(("1:1", n, 1) for n in (1, 2)),
        *(("2:1", n, 1) for n in (2, 3)),
        *(("3:1", n, 1) for n in (1, 2)),
    )
    for number in (1, 2):
        replica = hand.replicas[number]
        assert [hand.stored(number, key)[0] for key in every] == [f"b{key}" for key in every]
        assert (replica.state.log.have["1:1!"], replica.state.log.have["2:1!"]) == (2, 3)
        assert replica.state.final_counts["3:1!"] == 2
    assert hand.answer(1, update(keys[2][0], f"b{keys[2][0]}", "c")).object["after"]["2:1!"] == 4


def prepared_by_all_but_one(majority: bool = False) -> tuple[Hand, str]:
    """Five nodes of which 2, 3 and 4 have prepared a record of a home that dies, 5; and 1 has not."""
    hand = Hand(5, majority=majority)
    key = hand.key_at(5)
    hand.answer(1, Write(key, "0"))
    hand.answer(1, update(key, "0", "a"))
    assert hand.run(1.0, hand.quiet)
    hand.run(1.0)
    hand.ask(5, update(key, "a", "b"))
    for number in (2, 3, 4):
        hand.deliver(*of_kind(hand, "prepare", target=number))
    hand.crash(5)
    return hand, key


def installed_by(hand: Hand, number: int) -> list[Letter]:
    """Go on until a node has made a view; return what it sends, which is under way for long."""
    while not hand.under_way("install", source=number, answers=False):
        hand.deliver(hand.letters[0]) if hand.letters else hand.tick()
    sent = hand.under_way("install", source=number, answers=False)
    hand.letters = [x for x in hand.letters if x.verb != "install"]
    return sent


@pytest.mark.parametrize("majority", [False, True])
def test_a_view_that_is_overtaken_keeps_what_is_prepared(majority: bool) -> None:
    """A node that follows a change, and begins an earlier view while it does, keeps what it has prepared: it has
    reported that, and the change may commit it, though the earlier view did not. It goes on as the same incarnation."""
    hand, key = prepared_by_all_but_one(majority)
    early = [x for x in installed_by(hand, 1) if x.target == 3]
    hand.crash(1)
    late = [x for x in installed_by(hand, 2) if x.target == 3]
    view = hand.replicas[2].context.view
    assert view is not None
    assert view.found == (("5:1", 2, 1),)
    hand.letters += [*early, *late]
    hand.deliver(*early, *late)
    replica = hand.replicas[3]
    assert (replica.context.incarnation, replica.context.view_name) == ("3:1", view.name)
    assert hand.run(10.0, lambda: in_new_view(hand, 3))
    assert [hand.stored(n, key) for n in (2, 3, 4)] == [["b", "a", "0"]] * 3
    assert isinstance(hand.answer(3, update(key, "a", "b", retry=True)), Ok)


def test_what_was_kept_is_not_of_the_next_view() -> None:
    """Three nodes follow a change, and all begin an earlier view while they do. When that one is changed instead, what
    they have kept does not count: it was prepared in the view before, whose streams are cut."""
    hand, key = prepared_by_all_but_one()
    early = installed_by(hand, 1)
    hand.crash(1)
    while len(hand.under_way("flush", target=2, answers=True)) < 2:
        rest = [x for x in hand.letters if not (x.verb == "flush" and x.is_answer)]
        hand.deliver(rest[0]) if rest else hand.tick()
    hand.letters += early
    hand.deliver(*early)
    assert {r.context.view_name for r in hand.replicas.values()} == {"2@1:1"}
    assert hand.run(10.0, lambda: all(r.context.serving for r in hand.replicas.values()) and hand.quiet())
    assert [hand.stored(n, key) for n in (2, 3, 4)] == [["a", "0"]] * 3


# --- what comes late ---------------------------------------------------------------------------------


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
def test_an_answer_commits_within_the_lease_only(away: float) -> None:
    """Who has passed an update on logs it with the home's answer; not when the home may be in a later view by then."""
    hand = Hand(3)
    key = hand.key_at(1)
    hand.answer(2, Write(key, "a"))
    hand.run(0.3)
    token = hand.ask(2, UpdateIf(key, "a", "b"))
    hand.deliver(*hand.under_way("forward"))
    one_round(hand)
    (answer,) = hand.under_way("forward", answers=True)
    assert answer.answer == Ok(("2.1",), {"after": {"1:1!": 1}})
    hand.now += away
    hand.deliver(answer)
    assert hand.replies[token].words == ("2.1",)
    assert hand.stored(2, key) == (["a"] if away else ["b", "a"])


# --- who meets a transaction that is being released ---------------------------------------------------


def test_a_new_execution_does_not_join_the_old_one() -> None:
    """An update of a run in a later epoch has the id of one that waits for its release: it begins for itself."""
    hand, key = cluster()
    old = hand.ask(2, UpdateIf(key, "a", "b", id="r1-x:1", retry=False, journal=Journal(0, "", 1, 101, "c", "")))
    hand.deliver(*of_kind(hand, "prepare", target=3))
    fence = hand.ask(1, Fence("r1-x", epoch=Epoch(1, "w2")))
    for _ in range(2):
        hand.deliver(*hand.under_way("fencing"))
    hand.pass_on("prepare")
    hand.deliver(*hand.under_way("release", answers=False))
    held = hand.under_way("release", answers=True)
    hand.letters = [x for x in hand.letters if x not in held]
    for _ in range(5):
        hand.tick(1)
        for _ in range(2):
            hand.deliver(*hand.under_way("fencing"))
    assert isinstance(hand.replies[fence], Ok)
    new = hand.ask(2, UpdateIf(key, "a", "b", id="r1-x:1", retry=False, journal=Journal(1, "w2", 1, 101, "c", "")))
    hand.letters += held
    hand.run(1.0)
    assert code(hand.replies[old]) == "superseded"
    assert hand.replies[new].words == ("2.2",)


def test_a_retry_hears_no_refusal_before_all_have_dropped_the_record() -> None:
    """One member knows that an update was refused; it comes as a first try, and another member has prepared its record.
    A retry waits for the release, too: whoever goes on until then would commit the record."""
    hand, key = cluster()
    hand.replicas[1].state.executed.note("x:1", 0, not_applied(("1.1", "z"), {}), hand.now)
    first = hand.ask(2, UpdateIf(key, "a", "b", id="x:1", retry=False))
    hand.deliver(*of_kind(hand, "prepare"))
    hand.deliver(*of_kind(hand, "prepare", answers=True))
    retry = hand.ask(2, UpdateIf(key, "a", "b", id="x:1", retry=True))
    assert {first, retry}.isdisjoint(hand.replies)
    hand.pass_on("release")
    assert hand.replies[first].words == hand.replies[retry].words == ("1.1", "z")
    assert hand.answer(2, UpdateIf(key, "a", "b", id="x:1", retry=True)).words == ("1.1", "z")


def test_a_message_of_the_view_before_changes_no_count() -> None:
    """Commits of the view before are reported as lost when that has ended: those of the next one go out at once."""
    hand = Hand(3)
    (key,) = keys_at_home(hand, 1)
    hand.run(1.0)
    hand.ask(2, update(key, "a", "b"))
    one_round(hand)
    (late,) = of_kind(hand, "commit", target=1)
    hand.letters.remove(late)
    hand.crash(3)
    hand.run(3.0, lambda: in_new_view(hand, 2))
    hand.run(0.5)
    hand.ask(2, update(key, "b", "c"))
    hand.pass_on()
    hand.letters.append(late)
    hand.lose(late)
    hand.ask(2, update(key, "c", "d"))
    hand.pass_on()
    assert hand.stored(1, key) == ["d", "c", "b", "a"]
