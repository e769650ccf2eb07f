"""Fences of runs: what all members promise, and what they say of the run."""

from __future__ import annotations

from typing import Any, Literal

import attrs
import msgspec
import pytest

from dida.errors import BadRequest
from dida.replication import fences, joining
from dida.replication.executed import ReplyCache
from dida.replication.messages import Load
from dida.replication.operations import operation
from dida.wire import grammar
from dida.wire.messages import FIRST, Epoch, Error, Fence, Fenced, Forget, Journal, No, Note, Ok, Reply, UpdateIf, Write
from tests.support.simnet import Hand

RUN = "r1-x"
SECOND, THIRD = Epoch(1, "w2"), Epoch(2, "w3")


def cluster(count: int = 3, **config: Any) -> tuple[Hand, str]:
    """A cluster, and a key at home on replica 2 with the value `a`, everywhere."""
    hand = Hand(count, **config)
    key = hand.key_at(2)
    hand.answer(1, Write(key, "a"))
    assert hand.run(2.0 + 2 * hand.config.gossip_delay, hand.quiet)
    return hand, key


def journal(call: int, epoch: Epoch = FIRST, verb: Literal["w", "c", "n"] = "w", *entries: Any) -> Journal:
    carried = msgspec.json.encode(entries).decode() if entries else ""
    return Journal(epoch.number, epoch.by, call, 100 + call, verb, carried)


def write(key: str, value: str, number: int, epoch: Epoch = FIRST, verb: Literal["w", "n"] = "w") -> Write:
    return Write(key, value, id=f"{RUN}:{number}", retry=False, journal=journal(number, epoch, verb))


def swap(key: str, old: str, new: str, number: int, epoch: Epoch = FIRST) -> UpdateIf:
    return UpdateIf(key, old, new, id=f"{RUN}:{number}", retry=False, journal=journal(number, epoch, "c"))


def fence(epoch: Epoch = SECOND, **rest: Any) -> Fence:
    return Fence(RUN, epoch=epoch, **rest)


def fenced(reply: Reply) -> Fenced:
    assert isinstance(reply, Ok), reply
    return grammar.structure(reply.object, Fenced)


def code(reply: Reply) -> str:
    assert isinstance(reply, Error), reply
    return reply.code


def test_what_is_known_of_a_run() -> None:
    """The updates at any member, with their journals; the highest number, refused ones included; the timestamp."""
    hand, key = cluster(gossip_delay=5.0)
    hand.answer(1, write("k", "v", 1))
    hand.answer(3, write("l", "w", 2))
    assert isinstance(hand.answer(2, swap(key, "z", "b", 3), 10.0), No)
    known = fenced(hand.answer(2, fence()))
    assert [(each.number, str(each.version), each.key) for each in known.updates] == [(1, "1.1", "k"), (2, "1.3", "l")]
    assert known.updates[0].journal == journal(1)
    assert (known.highest, known.next) == (3, None)
    assert known.after == {"1:1": hand.replicas[1].state.log.have["1:1"], "3:1": 1}


def test_a_beginning_of_the_run_survives() -> None:
    """An update of a run does not outlive what the run had written before: both writers die, and a third node has only
    the later update. It is dropped, and executed again with the first. A client's own write stays, as ever."""
    hand, _ = cluster(gossip_delay=3.0)
    first = hand.answer(1, write("k", "v", 1))
    after = first.object["after"]
    assert isinstance(hand.answer(2, attrs.evolve(write("l", "w", 2), after=after)), Ok)
    assert isinstance(hand.answer(2, Write("m", "x", after=after)), Ok)
    hand.letters.clear()
    hand.replicas[2].state.push("3:1")
    hand.tick(2)
    hand.deliver(*hand.under_way("gossip", source=2, target=3))
    assert len(hand.replicas[3].state.held) == 2
    hand.letters.clear()
    hand.crash(1)
    hand.crash(2)
    known = fenced(hand.answer(3, fence()))
    assert (known.updates, known.highest) == ((), 0)
    assert [hand.stored(3, key) for key in "klm"] == [[], [], ["x"]]
    assert hand.run(1.0, hand.quiet)


def test_older_executions_are_refused_everywhere() -> None:
    """From the fence on all replicas refuse plain writes and compare-and-swaps of lower epochs, and name the higher."""
    hand, key = cluster()
    hand.answer(1, fence())
    for number in (1, 2, 3):
        refused = hand.answer(number, write("k", "v", number))
        assert (code(refused), refused.object["epoch"]) == ("superseded", SECOND)
        assert code(hand.answer(number, swap(key, "a", "b", 10 + number))) == "superseded"
    assert isinstance(hand.answer(3, write("k", "v", 30, SECOND)), Ok)
    assert isinstance(hand.answer(3, swap(key, "a", "b", 31, SECOND)), Ok)
    assert isinstance(hand.answer(3, Write("k", "other")), Ok), "other clients are not concerned"


def test_an_id_that_is_known_is_not_answered_to_an_older_execution() -> None:
    """The numbers of a new execution may be those that an older one would use next."""
    hand, _ = cluster()
    hand.answer(1, fence())
    hand.answer(1, write("k", "v", 1, SECOND))
    assert code(hand.answer(1, write("k", "late", 1))) == "superseded"


def test_a_lower_fence_is_refused() -> None:
    """A promise never falls; the same epoch may ask again, at another node too."""
    hand, _ = cluster()
    hand.answer(1, fence(THIRD))
    refused = hand.answer(2, fence(SECOND))
    assert (code(refused), refused.object["epoch"]) == ("superseded", THIRD)
    assert fenced(hand.answer(3, fence(THIRD))).updates == ()


def test_all_members_are_asked() -> None:
    """The reply waits for every member; a silent one delays it until it is removed."""
    hand, _ = cluster()
    token = hand.ask(1, fence())
    assert sorted((x.source, x.target) for x in hand.under_way("fencing")) == [(1, 2), (1, 3)]
    hand.pass_on("fencing", target=2)
    hand.pass_on("fencing", source=2)
    assert token not in hand.replies
    hand.crash(3)
    assert hand.run(3.0, lambda: token in hand.replies)
    assert fenced(hand.replies[token]).updates == ()
    assert hand.replicas[1].context.view is not None
    assert len(hand.replicas[1].context.view.members) == 2


@pytest.mark.parametrize("waits", ["for locks", "for the gossip delay"])
def test_a_transaction_whose_record_is_not_out_ends(waits: str) -> None:
    """A home that promises gives up the updates that nobody has prepared: their clients hear that they are
    superseded."""
    hand, key = cluster(gossip_delay=3.0 if waits == "for the gossip delay" else 0.0)
    retry = waits == "for locks"
    token = hand.ask(2, attrs.evolve(swap(key, "a", "b", 1), retry=retry))
    assert len(hand.under_way("prepare")) == (2 if retry else 0)
    known = hand.ask(1, fence())
    hand.pass_on("fencing")
    assert code(hand.replies[token]) == "superseded"
    assert fenced(hand.replies[known]).updates == ()
    assert hand.run(2.0, hand.quiet)
    assert hand.stored(1, key) == ["a"]


@pytest.mark.parametrize("retry", [False, True])
def test_a_lock_is_refused(retry: bool) -> None:
    """A participant that has promised refuses the lock of an older execution's update, with its record or without."""
    hand, key = cluster()
    token = hand.ask(2, attrs.evolve(swap(key, "a", "b", 1), retry=retry))
    hand.replicas[3].state.executed.promise(RUN, SECOND, hand.now)
    hand.pass_on()
    assert code(hand.replies[token]) == "superseded"
    assert hand.run(2.0, hand.quiet)
    assert hand.stored(1, key) == ["a"]


def test_a_transaction_whose_record_is_out_is_waited_for() -> None:
    """The home does not give it up, and the reply to the fence has its update when it is committed."""
    hand, key = cluster()
    swapped = hand.ask(2, swap(key, "a", "b", 1))
    prepares = hand.under_way("prepare")
    hand.deliver(*prepares)
    token = hand.ask(1, fence())
    hand.pass_on("fencing")
    assert {swapped, token}.isdisjoint(hand.replies)
    hand.pass_on()
    assert isinstance(hand.replies[swapped], Ok)
    assert hand.run(1.0, lambda: token in hand.replies)
    assert [each.key for each in fenced(hand.replies[token]).updates] == [key]


def test_a_new_view_asks_again() -> None:
    """What members have promised in a view that has ended does not count: the new one begins the fence again."""
    hand, _ = cluster(4)
    token = hand.ask(1, fence())
    hand.pass_on("fencing", target=2)
    hand.pass_on("fencing", source=2)
    hand.crash(4)
    seen: list[tuple[int, int]] = []
    while token not in hand.replies:
        seen += [(x.source, x.target) for x in hand.under_way("fencing", answers=False)]
        hand.run(0.02)
        assert hand.now < 10
    assert fenced(hand.replies[token]).updates == ()
    assert all(r.state.executed.superseded(f"{RUN}:1", Epoch()) == SECOND for r in hand.replicas.values())


def test_a_run_that_is_forgotten() -> None:
    """When its session has ended nobody knows what the run has changed."""
    hand, _ = cluster()
    hand.answer(1, write("k", "v", 1))
    hand.answer(1, Forget((RUN,)))
    assert code(hand.answer(1, fence())) == "session-expired"


def test_a_joiner_keeps_the_promises() -> None:
    """A node that joins knows the promises, those made after its snapshot was taken too, and the journals."""
    hand, _ = cluster()
    hand.answer(1, write("k", "v", 1))
    hand.answer(1, Fence("r2-x", epoch=SECOND))
    hand.crash(3)
    hand.run(2.0)
    hand.start(3)
    for _ in range(200):
        hand.tick()
        if loads := [x for x in hand.under_way("load") if isinstance(x.send.message, Load)]:
            break
        hand.pass_on()
    assert loads, "the joiner is being given a snapshot"
    token = hand.ask(1, fence(THIRD))
    hand.pass_on("fencing")
    assert fenced(hand.replies[token]).highest == 1
    assert hand.run(5.0, lambda: all(len(r.context.others()) == 2 for r in hand.replicas.values()))
    joined = hand.replicas[3].state.executed
    assert joined.superseded("r2-x:1", Epoch()) == SECOND, "it was in the snapshot"
    assert joined.superseded(f"{RUN}:1", SECOND) == THIRD, "it was promised later"
    assert [each.journal for each in joined.updates_of(RUN, 0)] == [journal(1)]
    assert code(hand.answer(3, write("k", "late", 2))) == "superseded"


def test_many_updates_are_read_in_parts() -> None:
    """A reply has as many updates as fit; the next one goes on."""
    hand, _ = cluster(2)
    for number in range(1, 9):
        entries = (["r", number, "key", "1.1", "x" * 100_000],)
        request = Write("k", "v", id=f"{RUN}:{number}", retry=False, journal=journal(number, FIRST, "w", *entries))
        hand.answer(1, request)
    first = fenced(hand.answer(2, fence()))
    assert first.next is not None
    numbers = [each.number for each in first.updates]
    while first.next is not None:
        first = fenced(hand.answer(2, fence(from_=first.next)))
        numbers += [each.number for each in first.updates]
    assert numbers == list(range(1, 9))


def test_a_note_changes_no_record() -> None:
    """It is kept with the updates of the run, at all members, and no version of its key is made."""
    hand, key = cluster()
    noted = journal(5, Epoch(), "n", ["r", 5, "other", "1.1", "v"])
    assert isinstance(hand.answer(1, Note(key, id=f"{RUN}:1", journal=noted)), Ok)
    assert hand.run(2.0, hand.quiet)
    assert hand.stored(3, key) == ["a"]
    assert [each.journal for each in fenced(hand.answer(3, fence())).updates] == [noted]
    assert hand.answer(2, Write(key, "b")).words == ("2.2",)


def test_journals_survive_their_home() -> None:
    """The journal is part of the record: members that have the update have it, whoever dies."""
    hand, key = cluster()
    hand.answer(2, swap(key, "a", "b", 1))
    hand.crash(2)
    hand.run(3.0)
    assert [each.journal for each in fenced(hand.answer(3, fence())).updates] == [journal(1, Epoch(), "c")]


# --- what overtakes a fence ---------------------------------------------------------------------


def test_a_queue_of_updates_of_one_run() -> None:
    """Each is given up once, though the end of the first lets the next one begin."""
    hand = Hand(1)
    hand.answer(1, Write("k", "a"))
    lacking = {hand.replicas[1].context.incarnation: 999}
    tokens = [hand.ask(1, attrs.evolve(swap("k", "a", value, n), after=lacking)) for n, value in enumerate("bc", 1)]
    assert fenced(hand.answer(1, fence())).updates == ()
    assert [code(hand.replies[token]) for token in tokens] == ["superseded"] * 2


def test_a_run_is_forgotten_while_it_is_fenced() -> None:
    """Then it is not said that it has changed nothing."""
    hand, _ = cluster()
    hand.answer(1, write("k", "v", 1))
    token = hand.ask(1, fence())
    hand.pass_on("fencing", target=2)
    hand.pass_on("fencing", source=2)
    hand.answer(1, Forget((RUN,)))
    assert code(hand.replies.get(token) or hand.answer(1, fence())) == "session-expired"
    assert hand.run(2.0, lambda: token in hand.replies)
    assert code(hand.replies[token]) == "session-expired"


def test_a_higher_fence_overtakes_one_that_waits() -> None:
    """The lower one is refused, wherever it is open."""
    hand, _ = cluster(2)
    token = hand.ask(1, fence(SECOND))
    promised = hand.under_way("fencing")
    hand.deliver(*promised)
    hand.replicas[1].state.executed.promise(RUN, THIRD, hand.now)
    hand.pass_on("fencing")
    assert (code(hand.replies[token]), hand.replies[token].object["epoch"]) == ("superseded", THIRD)


@pytest.mark.parametrize("ended", [False, True])
def test_only_a_member_knows_better(ended: bool) -> None:
    """What a member knows of a higher epoch, or of the end of the run, is the reply."""
    hand, _ = cluster()
    executed = hand.replicas[3].state.executed
    if ended:
        executed.forget(RUN)
    else:
        executed.promise(RUN, THIRD, hand.now)
    assert code(hand.answer(1, fence())) == ("session-expired" if ended else "superseded")


def test_an_update_is_refused_when_it_is_compared() -> None:
    """A home that has promised meanwhile sends no record, whatever the others have locked."""
    hand, key = cluster()
    token = hand.ask(2, attrs.evolve(swap(key, "a", "b", 1), retry=True))
    hand.replicas[2].state.executed.promise(RUN, SECOND, hand.now)
    hand.pass_on()
    assert code(hand.replies[token]) == "superseded"
    assert hand.run(2.0, hand.quiet)
    assert hand.stored(1, key) == ["a"]


def test_an_update_is_refused_between_two_rounds() -> None:
    """A home that has promised when it compares again ends the update, and whoever has prepared its first record drops
    it."""
    hand, key = cluster(gossip_delay=3.0)
    hand.replicas[2].slow(0)
    hand.answer(3, Write(key, "a"))
    token = hand.ask(2, swap(key, "a", "b", 1))
    hand.pass_on("prepare")
    assert key in hand.replicas[1].state.prepared
    hand.replicas[2].state.executed.promise(RUN, SECOND, hand.now)
    hand.pass_on("fetch")
    assert token not in hand.replies
    hand.pass_on("release")
    assert code(hand.replies[token]) == "superseded"
    assert key not in hand.replicas[1].state.prepared
    assert hand.run(9.0, hand.quiet)
    assert hand.stored(1, key) == ["a", "a"]


def test_a_reply_to_an_earlier_fence_does_not_count() -> None:
    """It does not say what the member has executed since."""
    hand, _ = cluster(2, gossip_delay=30.0)
    first = hand.ask(1, fence())
    hand.deliver(*hand.under_way("fencing"))
    (late,) = hand.under_way("fencing", answers=True)
    hand.act(1, hand.replicas[1].give_up({first}, hand.now))
    hand.tick(1)
    assert code(hand.replies[first]) == "unavailable"
    between = hand.ask(2, fence())
    for _ in range(2):
        hand.deliver(*[letter for letter in hand.under_way("fencing") if letter is not late])
    assert fenced(hand.replies[between]).updates == ()
    assert isinstance(hand.replies[hand.ask(2, write("k", "v", 1, SECOND))], Ok)
    again = hand.ask(1, fence())
    hand.deliver(late)
    assert again not in hand.replies
    assert hand.run(2.0, lambda: again in hand.replies)
    assert [each.number for each in fenced(hand.replies[again]).updates] == [1]


def test_the_numbers_that_only_another_member_knows() -> None:
    """A refusal is at the home of its key only: its number is not used again all the same."""
    hand, key = cluster()
    assert isinstance(hand.answer(2, swap(key, "z", "b", 7)), No)
    for number in (1, 3):
        hand.replicas[number].state.executed._sessions.pop(RUN, None)
    assert fenced(hand.answer(1, fence())).highest == 7


def test_a_promise_never_falls() -> None:
    """Nor does it by a snapshot that was taken before it was made."""
    cache = ReplyCache()
    cache.promise(RUN, SECOND, 0.0)
    older = list(cache.dump(0.0))
    cache.promise(RUN, THIRD, 0.0)
    cache.load(msgspec.json.decode(msgspec.json.encode(older)), [], 0.0)
    assert cache.superseded(f"{RUN}:1", SECOND) == THIRD


# --- time, and bounds ---------------------------------------------------------------------------


def test_a_fence_has_a_deadline() -> None:
    """A silent member delays it until then; what got no reply is sent again."""
    hand, _ = cluster(2)
    token = hand.ask(1, fence(deadline=0.5))
    sent = hand.under_way("fencing")
    hand.lose(*sent)
    hand.tick(1)
    assert len(hand.under_way("fencing")) == 1, "sent again"
    assert hand.replicas[1].requests.in_hand == 1, "a node that leaves waits for it"
    while token not in hand.replies:
        hand.tick(1)
        assert hand.now < 60
    assert code(hand.replies[token]) == "unavailable"
    assert hand.replicas[1].requests.in_hand == 0


def test_a_deadline_while_the_view_changes() -> None:
    """A node that does not serve answers in time that it can't."""
    hand, _ = cluster(majority=True)
    token = hand.ask(1, fence(deadline=1.0))
    hand.crash(3)
    ends = hand.now + 1.2
    while hand.now < ends:
        hand.tick(1)  # the other one does not hear of it
    assert not hand.replicas[1].context.serving
    assert code(hand.replies[token]) == "unavailable"


def test_fences_are_bounded() -> None:
    """As many wait as other requests may; and a promise takes room among the replies."""
    hand, _ = cluster(2, max_waiting=5)
    tokens = [hand.ask(1, fence()) for _ in range(6)]
    assert [token in hand.replies for token in tokens] == [False] * 5 + [True]
    assert code(hand.replies[tokens[5]]) == "unavailable"
    cache = ReplyCache()
    cache.promise(RUN, SECOND, 0.0)
    cache.promise(RUN, THIRD, 0.0)
    assert cache.size == 1
    assert cache.bytes > 0
    cache.note(f"{RUN}:1", 0, Ok(("1.1",)), 0.0, "k", journal(1, THIRD))
    cache.forget(RUN)
    assert (cache.size, cache.bytes) == (0, 0)


def test_a_thousand_updates_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reply has at most so many updates, however short they are; the next one goes on."""
    monkeypatch.setattr(fences, "MAX_UPDATES", 3)
    hand, _ = cluster(2)
    for number in range(1, 8):
        hand.answer(1, write("k", "v", number))
    parts = [fenced(hand.answer(2, fence()))]
    while parts[-1].next is not None:
        parts.append(fenced(hand.answer(2, fence(from_=parts[-1].next))))
    assert [[each.number for each in part.updates] for part in parts] == [[1, 2, 3], [4, 5, 6], [7]]


def test_more_promises_than_are_kept_for_a_joiner(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given another snapshot, which has them; a member that gives none keeps none."""
    monkeypatch.setattr(joining, "MAX_PROMISES", 5)
    hand, _ = cluster()
    hand.crash(3)
    hand.run(2.0)
    hand.start(3)
    for _ in range(200):
        hand.tick()
        if hand.under_way("load"):
            break
        hand.pass_on()
    for number in range(20):
        hand.ask(1, Fence(f"q{number}-x", epoch=SECOND))
        hand.pass_on("fencing")
    for replica in hand.replicas.values():
        assert all(len(joiner.promises) <= 5 for joiner in replica.joining.joiners.values())
    assert not any(joiner.promises for joiner in hand.replicas[2].joining.joiners.values())
    assert hand.run(10.0, lambda: all(len(r.context.others()) == 2 for r in hand.replicas.values()))
    executed = hand.replicas[3].state.executed
    assert all(executed.superseded(f"q{number}-x:1", FIRST) == SECOND for number in range(20))


def test_the_verb_of_a_journal() -> None:
    """It says whether a record changes: a client can't make it say what the request does not."""
    key = "k"
    for request in (
        Note(key, id=f"{RUN}:1", journal=journal(1)),
        write(key, "z", 2, verb="n"),
        attrs.evolve(swap(key, "a", "z", 3), journal=journal(3, FIRST, "n")),
    ):
        with pytest.raises(BadRequest, match='verb "n"'):
            operation(request)
    for digest in ("1" * 4000, "-1", str(2**63)):
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(f'[0,"",1,{digest},"w"]', type=Journal)
