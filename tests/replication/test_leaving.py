"""A graceful shutdown: a storage node ends when a member that stays has all that it has."""

from __future__ import annotations

from random import Random

import pytest

from dida.replication.config import Config
from dida.simulate.network import Cluster, Network
from dida.wire.messages import Error, Ok, Read, Reply, UpdateIf, Write
from tests.support.simnet import Hand, Parted


def _views(hand: Hand) -> set[str]:
    return {replica.context.view_name for replica in hand.replicas.values()}


def _members(hand: Hand, number: int) -> set[str]:
    view = hand.replicas[number].context.view
    return {m.id for m in view.members} if view is not None else set()


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("majority", [False, True])
def test_what_only_the_leaver_has_reaches_the_others(number: int, majority: bool) -> None:
    """Whoever leaves, the one that leads or another: an acknowledged write and a commit that are still only there are
    at the others when it ends, whatever the gossip delay, and that is a second after the signal."""
    hand = Hand(3, gossip_delay=60.0, majority=majority)
    hand.answer(number, Write("key", "value"))
    told = hand.now
    hand.stop(number)
    assert hand.replicas[number].status(hand.now)["leaving"] is True
    assert hand.run(5.0, lambda: number in hand.left)
    assert 1.0 <= hand.now - told < 1.3
    assert hand.left[number].kept
    stay = sorted(hand.replicas)
    assert [hand.stored(n, "key") for n in stay] == [["value"]] * 2
    assert all(f"s{number} left" in r.context.notes[-1] for r in hand.replicas.values())
    assert isinstance(hand.answer(stay[0], Write("key", "more")), Ok)


def test_clients_go_elsewhere() -> None:
    """A node that leaves takes no new request, on the fast path neither; a request in progress gets its true reply."""
    hand = Hand(3, gossip_delay=0.5)
    key = hand.key_at(1)
    hand.answer(1, Write(key, "a"))
    hand.answer(1, Read(key))
    assert hand.replicas[1].requests.plain_read(key, hand.now) is not None
    asked = hand.ask(1, UpdateIf(key, "a", "b"))
    hand.stop(1)
    for request in (Read(key), Write(key, "c"), UpdateIf(key, "b", "c")):
        reply = hand.answer(1, request)
        assert isinstance(reply, Error)
        assert reply.code == "unavailable"
    assert hand.replicas[1].plain_write(key, "d", hand.now) is None
    assert hand.replicas[1].requests.plain_read(key, hand.now) is None
    assert hand.run(5.0, lambda: 1 in hand.left)
    assert isinstance(hand.replies[asked], Ok)
    assert [hand.stored(n, key) for n in (2, 3)] == [["b", "a"]] * 2


def test_a_commit_in_the_midst_of_it_is_not_told() -> None:
    """A record that all have prepared, and that is not committed when the view changes, is part of the state that goes
    on. The node ends before that view is known to be in force: its client hears that the outcome is not known."""
    hand = Hand(3)
    key = hand.key_at(1)
    hand.answer(1, Write(key, "a"))
    assert hand.run(1.0, hand.quiet)
    asked = hand.ask(1, UpdateIf(key, "a", "b"))
    hand.deliver(*hand.under_way("prepare"))
    _leave_without_answers(hand)
    assert _code(hand.replies[asked]) == "unknown-outcome"
    assert hand.left[1].kept
    assert hand.run(5.0, hand.quiet)
    assert [hand.stored(n, key) for n in (2, 3)] == [["b", "a"]] * 2


def _leave_without_answers(hand: Hand) -> None:
    """Let node 1 shut down while nobody hears more of its transactions."""
    hand.stop(1)
    while 1 not in hand.left:
        for letter in hand.under_way("prepare"):
            hand.letters.remove(letter)  # under way for long
        hand.pass_on("heartbeat", "gossip", "stop", "flush", "fetch", "level", "install")
        hand.tick()


def _code(reply: Reply) -> str:
    return reply.code if isinstance(reply, Error) else ""


def test_what_is_dropped_with_it_is_not_told() -> None:
    """A record that one of the others has not prepared is dropped as the view changes: the client of the node that ends
    does not hear ok, and may ask again at another one."""
    hand = Hand(3)
    key = hand.key_at(1)
    hand.answer(1, Write(key, "a"))
    assert hand.run(1.0, hand.quiet)
    asked = hand.ask(1, UpdateIf(key, "a", "b", id="s:1", retry=False))
    hand.deliver(*hand.under_way("prepare", target=2))
    _leave_without_answers(hand)
    assert _code(hand.replies[asked]) == "unknown-outcome"
    assert hand.run(5.0, hand.quiet)
    assert [hand.stored(n, key) for n in (2, 3)] == [["a"]] * 2
    assert isinstance(hand.answer(3, UpdateIf(key, "a", "b", id="s:1")), Ok)


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("majority", [False, True])
def test_all_at_once(count: int, majority: bool) -> None:
    """When all members shut down none waits for another to take over, and each reports what ends with it."""
    hand = Hand(count, majority=majority)
    hand.answer(1, Write("key", "value"))
    for number in range(1, count + 1):
        hand.stop(number)
        hand.run(0.1)
    assert hand.run(1.0, lambda: len(hand.left) == count)
    assert not any(left.kept for left in hand.left.values())
    assert all("ends with it, unless another node has it: 1 record" in left.text for left in hand.left.values())


def test_the_only_one() -> None:
    """The only member ends after a second, in which another may come, and says what ends with it; one without a view
    ends at once, and so does one that has never heard of another."""
    hand = Hand(2)
    hand.crash(2)
    hand.answer(1, Write("key", "value"))
    hand.stop(1)
    assert not hand.run(0.9, lambda: 1 in hand.left)
    assert hand.run(0.3, lambda: 1 in hand.left)
    assert hand.left[1].text == "ends: the only member; what it has ends with it, unless another node has it: 1 record"
    alone = Hand(2, start=False)
    alone.start(1)
    alone.stop(1)
    assert alone.run(0.1, lambda: 1 in alone.left)
    single = Hand(1)
    single.stop(1)
    assert single.run(0.1, lambda: 1 in single.left)


@pytest.mark.parametrize("majority", [False, True])
def test_it_waits_for_who_joins(majority: bool) -> None:
    """The only other node is still joining: the one that leaves takes it in, and ends when that one goes on alone; or,
    where it needs more than half, when the waiting time is over, with nothing lost."""
    hand = Hand(2, majority=majority) if not majority else Hand(3, majority=True)
    last = max(hand.replicas)
    for value in "abc":
        hand.answer(last, Write("key", value))
    hand.stop(1)
    assert hand.run(5.0, lambda: 1 in hand.left)
    hand.start(1)
    hand.tick(1)
    hand.stop(last, drain=5.0)
    assert hand.run(5.0, lambda: last in hand.left)
    assert hand.left[last].kept
    assert hand.run(1.0, lambda: hand.replicas[1].context.serving)
    assert {tuple(hand.stored(n, "key")) for n in hand.replicas} == {("c", "b", "a")}


def test_the_waiting_time_is_over() -> None:
    """Of two with `majority` none can go on alone: the one that leaves waits as long as it may, then it says so, and
    that nothing ends with it."""
    hand = Hand(2, majority=True)
    hand.answer(1, Write("key", "value"))
    hand.stop(1, drain=4.0)
    assert not hand.run(3.5, lambda: 1 in hand.left)
    assert hand.run(1.0, lambda: 1 in hand.left)
    text = "ends: timed out, no member has taken over its state in 4 s; another member has all of it"
    assert hand.left[1].text == text
    assert hand.stored(2, "key") == ["value"]


def test_more_than_half_leave() -> None:
    """With `majority` four of seven leave at once: they go step by step, as many at a time as the others can do
    without."""
    hand = Hand(7, majority=True)
    hand.answer(1, Write("key", "value"))
    for number in (1, 2, 4, 6):
        hand.stop(number)
    assert hand.run(8.0, lambda: len(hand.left) == 4)
    assert all(left.kept for left in hand.left.values())
    assert hand.run(2.0, lambda: len(_views(hand)) == 1 and len(hand.replicas[3].context.others()) == 2)
    assert isinstance(hand.answer(3, UpdateIf("key", "value", "another")), Ok)


def test_who_leaves_leads_nothing() -> None:
    """The lowest shuts down while it leads a change, and another has died: one that stays ends the change, without
    both, and without waiting for a time-out."""
    hand = Hand(4)
    hand.answer(1, Write("key", "value"))
    hand.run(1.0)
    hand.crash(4)
    hand.tick(1)
    assert hand.replicas[1].membership.leads
    hand.stop(1)
    hand.tick(1)
    assert not hand.replicas[1].membership.leads
    assert hand.run(0.5, lambda: 1 in hand.left)
    assert hand.left[1].kept
    assert hand.replicas[2].context.view_name.endswith("@2:1")
    assert [m.id for m in hand.replicas[2].context.others()] == ["s3"]


def test_one_that_leaves_dies() -> None:
    """Two leave, and one of them is killed before it has reported what it has: the others, and the other leaver, do not
    wait for it."""
    hand = Hand(4)
    hand.answer(1, Write("key", "value"))
    hand.run(1.0)
    for number in (2, 3):
        hand.stop(number)
    hand.run(0.9)
    while not hand.under_way("flush", target=3):
        hand.pass_on()
        hand.tick()
    hand.crash(3)
    assert hand.run(1.0, lambda: 2 in hand.left)
    assert hand.left[2].kept
    assert [m.id for m in hand.replicas[1].context.others()] == ["s4"]


def test_no_word_of_the_new_view() -> None:
    """INSTALL does not reach the one that leaves: it asks, hears of the view without it, and ends in order."""
    hand = Hand(3)
    hand.answer(2, Write("key", "value"))
    hand.run(1.0)
    hand.stop(2)
    while not hand.under_way("install", target=2):
        hand.pass_on("heartbeat", "gossip", "stop", "flush", "fetch", "level")
        hand.tick()
    hand.lose(*hand.under_way("install", target=2))
    assert hand.run(2.0, lambda: 2 in hand.left)
    assert hand.left[2].kept


@pytest.mark.parametrize("majority", [False, True])
def test_no_word_of_the_new_view_nor_of_the_next(majority: bool) -> None:
    """The same when the others have gone on by two views: they have all that it has, and it ends in order."""
    hand = Parted(4, majority=majority)
    hand.answer(2, Write("key", "value"))
    hand.run(1.0)
    hand.stop(2)
    while not hand.under_way("install", target=2):
        hand.pass_on("heartbeat", "gossip", "stop", "flush", "fetch", "level")
        hand.tick()
    hand.lose(*hand.under_way("install", target=2))
    hand.part((1, 2), (2, 3), (2, 4))
    hand.run(0.3)
    hand.crash(4)
    assert hand.run(5.0, lambda: all(len(hand.replicas[number].context.others()) == 1 for number in (1, 3)))
    hand.part()
    assert hand.run(2.0, lambda: 2 in hand.left)
    assert hand.left[2].kept
    assert "go on with its state" in hand.left[2].text


@pytest.mark.parametrize("heard", [True, False])
def test_the_view_without_it_reaches_one_alone(heard: bool) -> None:
    """1 begins a view with 3, which joins, and without 2, which leaves; then 1 dies. Where 3 has heard of that view, 2
    must not begin one of its own beside it. Where 3 has not, 2 goes on until it has given 3 its state."""
    hand = Parted(3)
    hand.crash(3)
    assert hand.run(3.0, lambda: all(len(_members(hand, n)) == 2 for n in (1, 2)))
    hand.answer(2, Write("key", "value"))
    hand.run(1.0)
    hand.start(3)
    hand.stop(2)
    while not hand.under_way("install", target=3):
        hand.pass_on("heartbeat", "gossip", "stop", "flush", "fetch", "level", "join", "load")
        hand.tick()
    assert len(_members(hand, 2)) == 2
    installs = hand.under_way("install")
    if heard:
        hand.deliver(*hand.under_way("install", target=3))
    hand.lose(*[letter for letter in installs if letter in hand.letters])
    hand.crash(1)
    hand.part((2, 3))
    ends = hand.now + 0.3  # what they say to each other is under way for so long
    while 2 not in hand.left:
        if hand.now >= ends:
            hand.part()
        hand.pass_on()
        hand.tick()
        answers = {n: r.context.view_name for n, r in hand.replicas.items() if r.context.serving}
        assert len(set(answers.values())) <= 1, "two views serve at once"
        assert hand.now < 20.0
    assert hand.left[2].kept
    assert hand.run(5.0, lambda: _members(hand, 3) == {"s3"})
    assert hand.stored(3, "key") == ["value"]


def test_who_has_voted_for_another_view_does_not_end() -> None:
    """With `majority`, 1 begins the view without 3, which leaves; 2 hears nothing of it, and changes the first view
    with the vote of 3. Only then does 3 hear of the view of 1: if it ended, neither 1 nor 2 could go on for ever."""
    hand = Parted(3, majority=True)
    hand.answer(3, Write("key", "value"))
    hand.run(1.0)
    hand.stop(3)
    while not hand.under_way("install", source=1):
        hand.pass_on("heartbeat", "gossip", "stop", "flush", "fetch", "level")
        hand.tick()
    hand.lose(*hand.under_way("install"))
    hand.part((1, 2), (1, 3))
    while not hand.under_way("install", source=2, target=3):
        hand.pass_on("heartbeat", "gossip", "stop", "suspect", "flush", "fetch", "level")
        hand.tick()
    hand.lose(*hand.under_way("install", target=3))
    hand.part((1, 2), (2, 3))
    assert not hand.run(1.0, lambda: 3 in hand.left)
    hand.part()
    assert hand.run(5.0, lambda: 3 in hand.left)
    assert hand.left[3].kept
    assert hand.run(5.0, lambda: len(_views(hand)) == 1)
    assert isinstance(hand.answer(1, UpdateIf("key", "value", "more")), Ok)


def test_who_is_cut_off_is_not_waited_for_nor_counted() -> None:
    """With `majority` a leaver whose answer would be the second of three does not make a half: nobody goes on with one
    node, and the one that leaves waits."""
    hand = Parted(3, majority=True)
    hand.answer(1, Write("key", "a"))
    hand.part((1, 3), (2, 3))
    hand.stop(2, drain=20.0)
    assert not hand.run(5.0, lambda: 2 in hand.left)
    assert hand.replicas[1].context.view is not None
    assert len(hand.replicas[1].context.view.members) == 2
    hand.part()
    assert hand.run(5.0, lambda: 2 in hand.left)
    assert hand.left[2].kept
    assert [m.id for m in hand.replicas[1].context.others()] == ["s3"]


def test_a_large_view_whose_hub_leaves() -> None:
    """The hub leaves, and another member is silent at the same time: one that stays notices that, and ends the
    change."""
    hand = Parted(5, all_to_all=2)
    hand.answer(1, Write("key", "value"))
    hand.stop(1)
    hand.run(0.9)
    hand.part(*((5, n) for n in (1, 2, 3, 4)))
    assert hand.run(6.0, lambda: 1 in hand.left)
    assert hand.left[1].kept
    assert hand.run(1.0, lambda: [m.id for m in hand.replicas[2].context.others()] == ["s3", "s4"])


@pytest.mark.parametrize("majority", [False, True])
def test_a_rolling_restart(majority: bool) -> None:
    """All are restarted one after the other, each stopped as soon as the one before it has been started, while it
    is still joining: nothing is lost, and nobody had to be waited for until the time is over."""
    config = Config(majority=majority, gossip_delay=30.0, start_deadline=3.0)
    cluster = Cluster(Random(1), 3, config, Network(mean_delay=0.001))
    nodes = list(cluster.nodes.values())
    kept: list[bool] = []
    cluster.on_left = lambda node, is_kept: kept.append(is_kept)
    for node in nodes:
        cluster.start(node)

    def serve(some: list[object]) -> bool:
        return all(n.replica is not None and n.replica.context.serving for n in nodes if n in some)

    assert cluster.run(5.0, lambda: serve([*nodes]))
    cluster.run(cluster.now + 1.0)
    for node in nodes:
        cluster.ask(node.url, Write(f"key-{node.number}", "value"), node.name)
    for node in (*nodes, *nodes):
        cluster.stop(node, 30.0)
        assert cluster.run(cluster.now + 5.0, lambda node=node: node.replica is None)  # type: ignore[misc]
        cluster.start(node)
    assert kept == [True] * 6
    assert cluster.run(cluster.now + 5.0, lambda: serve([*nodes]))
    for node in nodes:
        assert node.replica is not None
        store = node.replica.state.store
        assert [key for n in (1, 2, 3) if (key := f"key-{n}") in list(store)] == ["key-1", "key-2", "key-3"]


def test_who_joins_is_not_forgotten_with_a_new_view() -> None:
    """Both that are left leave, and a view begins while a third node asks to join: they have not heard it in that view
    yet, and wait for it all the same."""
    hand = Hand(3)
    hand.answer(2, Write("key", "value"))
    hand.run(0.5)
    hand.crash(1, refused=False)
    hand.stop(2)
    hand.stop(3)
    hand.start(1)
    assert hand.run(5.0, lambda: len(hand.left) == 2)
    assert all(left.kept for left in hand.left.values())
    assert hand.stored(1, "key") == ["value"]


def test_who_was_only_just_started_is_waited_for() -> None:
    """The last one shuts down when another has only just been started: that one has a second to ask."""
    hand = Hand(2, majority=True)
    hand.answer(1, Write("key", "value"))
    hand.stop(2)
    assert not hand.run(1.5, lambda: 2 in hand.left)
    hand.stop(1)
    assert not hand.run(0.9, lambda: bool(hand.left))
