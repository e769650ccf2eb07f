"""The verdict on a simulation: invariants while it runs, and in the end what was promised."""

from __future__ import annotations

from typing import Any

import msgspec

from dida.replication.context import ReplicaContext
from dida.replication.executed import whole
from dida.replication.replica import Replica
from dida.replication.streams import commit_stream, incarnation_of, is_commit
from dida.simulate import checkers
from dida.simulate.clients import INITIAL, Clients
from dida.simulate.history import OK, Shown, by_key
from dida.simulate.network import Cluster, digest
from dida.simulate.node import Node
from dida.simulate.plan import Plan
from dida.timestamps import covers


def invariants(cluster: Cluster, node: Node) -> None:
    """Check what is true of a node at any time; AssertionError if it is not."""
    if cluster.cut:
        cluster.cut_at = cluster.now
    replica = node.replica
    if replica is None or replica.context.view is None:
        return
    state = replica.state
    have = state.log.have
    assert covers(have, state.value_ts), f"{node.name} shows what it does not have"
    for record in state.held.values():
        assert not covers(state.value_ts, record.ts), f"{node.name} says that {record} is applied"
    assert (
        sum(not waiting.passed_on for waiting in replica.requests.parked.requests.values())
        <= replica.config.max_waiting
    ), f"{node.name}: {len(replica.requests.parked)} requests wait"
    if replica.context.leaves and replica.membership.leads:
        stay = [n.name for n in cluster.nodes.values() if _stays_with(n, node)]
        away = cluster.now - cluster.cut_at <= replica.config.ping_timeout  # it may not have heard of them again yet
        assert away or not stay, f"{node.name} leads a change, though it leaves, and {stay} stay"
    promised = replica.membership.promised
    assert promised >= node.promised, f"{node.name} follows {promised}, and has promised to follow {node.promised}"
    node.promised = promised
    store = state.store
    for key in store:
        versions = store.versions(key)
        if len(versions) >= store.max_versions:
            oldest, floor = versions[-1].version, node.floors.get(key)
            assert floor is None or oldest >= floor, f"{node.name}: {key} {oldest} is back, which was discarded"
            node.floors[key] = oldest
    for key, prepared in state.prepared.items():
        newest = state.newest_logged((key,)).get(key)
        assert newest is None or (prepared.base is not None and newest <= prepared.base), (
            f"{node.name} has prepared {prepared}, though it has {newest}"
        )
    answers, mine_view = _answers(cluster, node), replica.context.view_name
    for other in cluster.nodes.values():
        theirs = other.replica
        if theirs is None or theirs is replica:
            continue
        if theirs.context.view_name != replica.context.view_name:
            assert not (answers and replica.config.majority and _answers(cluster, other)), (
                f"{node.name} and {other.name} may answer, in the views {mine_view} and {theirs.context.view_name}"
            )
            assert not (answers and _went_on(theirs.context, replica.context)), (
                f"{node.name} may answer, though {other.name} serves in view {theirs.context.view_name} without it"
            )
            continue
        known = state.table.get(theirs.context.incarnation, {})
        assert covers(theirs.state.log.have, known), f"{node.name} believes that {other.name} has {known}"
        for stream, count in have.items():
            lacks = count - theirs.state.log.have.get(stream, 0) if is_commit(stream) else 0
            ready = [each for each in theirs.state.prepared.values() if commit_stream(each.home) == stream]
            assert lacks <= len(ready), (
                f"{node.name} has {stream} {count}, {other.name} has {theirs.state.log.have}, and has not prepared it"
            )


def _stays_with(other: Node, node: Node) -> bool:
    """Return True if another node is in the view of the first, is alive, and does not leave."""
    mine, theirs = node.replica, other.replica
    if mine is None or theirs is None or other is node or other.paused or other.pauses or node.pauses:
        return False
    return theirs.context.view_name == mine.context.view_name and not theirs.context.leaves


def _answers(cluster: Cluster, node: Node) -> bool:
    """Return True if the node would answer a client now."""
    replica = node.replica
    return replica is not None and replica.context.serving and cluster.time(node) < replica.detection.lease_until()


def _went_on(other: ReplicaContext, mine: ReplicaContext) -> bool:
    """Return True if another member of my view serves in a later view without me."""
    ours, theirs = mine.view, other.view
    if ours is None or theirs is None or not other.serving or mine.member(other.incarnation) is None:
        return False
    return theirs.rank > ours.rank and theirs.member(mine.incarnation) is None


def quiet(replica: Replica) -> dict[str, int]:
    """Return what is still under way at a replica; an empty dict when nothing is."""
    found = {
        "held": len(replica.state.held),
        "not applied": not covers(replica.state.value_ts, replica.state.log.have),
        "log": replica.state.log.size,
        "prepared": len(replica.state.prepared),
        "locks": len(replica.locks.keys),
        "transactions": replica.commit.open,
        "waiting": replica.requests.in_hand,
        "timestamps of the dead": sum(
            replica.context.member(incarnation_of(stream)) is None for stream in replica.state.value_ts
        ),
    }
    return {what: count for what, count in found.items() if count}


class Verdict:
    """The checks of a simulation that has come to its end."""

    def __init__(self, cluster: Cluster, plan: Plan, clients: Clients) -> None:
        self.cluster = cluster
        self.plan = plan
        self.clients = clients
        self.wrong: list[str] = []

    def judge(self) -> list[str]:
        """Return what is wrong with the replicas, and with what clients were answered."""
        if self.judge_replicas():
            return self.wrong
        replica = next(node.replica for node in self.cluster.nodes.values() if node.replica is not None)
        keys = [key for key in self.clients.keys if key in replica.state.store]
        self._judge_history({key: [(e.version, e.value) for e in replica.state.store.versions(key)] for key in keys})
        return self.wrong

    def judge_replicas(self) -> list[str]:
        """Return what is under way, and what differs."""
        nodes = list(self.cluster.nodes.values())
        replicas = [node.replica for node in nodes if node.replica is not None]
        for node in nodes:
            if node.replica is not None and (left := quiet(node.replica)):
                self.wrong.append(f"{node.name} is not quiet: {left}")
        digests = [digest(replica) for replica in replicas]
        if len(set(digests)) != 1:
            self.wrong.append("the replicas differ: " + "; ".join(_difference(digests)))
            return self.wrong
        self._judge_ids(replicas)
        return self.wrong

    def _judge_ids(self, replicas: list[Replica]) -> None:
        """Check that all replicas know an executed update, or that it is forgotten; so, too, expired sessions.

        Not where a session's updates may have been discarded with one side of a partition, and only its refusals are
        left: a node that is being given a snapshot does not receive those (docs/explanation/reliability.md, what can be
        lost).
        """
        first, *others = [replica.state.executed for replica in replicas]
        for one, another in [*((first, other) for other in others), *((other, first) for other in others)]:
            for session, _, _, _, answers in one.dump(0.0):
                for number, is_ok, words, *_ in answers:
                    id = whole(session, number)
                    known = another.answer(id)
                    if is_ok and not another.expired(id) and (known is None or list(known.words) != words):
                        self.wrong.append(f"{id} was answered {words} by one replica, another knows {known}")
            for session in one.expired_sessions:
                if not self.plan.forks and session in self.clients.writers and not another.knows(session):
                    self.wrong.append(f"{session} has expired at one replica, another does not know it")

    def _judge_history(self, stored: checkers.Stored) -> None:
        history, plan = self.clients.history, self.plan
        lost, unclear = self._lost(stored)
        self.wrong += checkers.once(stored)
        self.wrong += checkers.nobody(history, stored, plan.forks)
        self.wrong += checkers.predecessors(history, stored)
        self.wrong += checkers.sessions(history, lost | unclear, self.cluster.views if plan.forks else None)
        if plan.forks:
            self._judge_discarded(lost)
            return
        self.wrong += checkers.one_value(history, lost | unclear)
        self.wrong += checkers.real_time(history, lost | unclear)
        replacing = {(e.key, e.value) for e in history if e.verb == "updateif"}
        for event in history:
            shown = event.shown
            if shown is not None and shown in lost and (event.ordered or (shown.key, shown.value) in replacing):
                self.wrong.append(f"shown, and gone: {event}")
        for shown, holders in self.clients.witness.holders.items():
            if shown in lost and holders is not None and (alive := [c for c in holders if c not in self.cluster.ended]):
                self.wrong.append(f"lost, though {' '.join(alive)} had it: {shown}")
        for key, events in by_key(history).items():
            if key.startswith("cas"):
                initial = f"{INITIAL}-{key}"
                ours = [e for e in events if e.session != "prepare"]
                self.wrong += [f"{key}: {what}" for what in checkers.chain(ours, initial)]
                problem = checkers.linearizable(checkers.beginning(ours), initial)
                if problem is not None:
                    self.wrong.append(f"{key}: {problem}")

    def _lost(self, stored: checkers.Stored) -> tuple[set[Shown], set[Shown]]:
        """Return versions that were shown or acknowledged and are gone, and those that may have been pushed out
        instead."""
        lost, unclear = set(), set()
        for event in self.clients.history:
            shown = event.shown
            if shown is None:
                continue
            kept = stored.get(shown.key, [])
            if (shown.version, shown.value) in kept:
                continue
            pushed_out = len(kept) >= self.plan.max_versions and shown.version < kept[-1][0]
            holders = self.clients.witness.holders.get(shown)
            if not pushed_out:
                lost.add(shown)
            elif holders and all(c in self.cluster.ended for c in holders):
                unclear.add(shown)
        return lost, unclear

    def _judge_discarded(self, lost: set[Shown]) -> None:
        """Check that what a partition cost is reported: by nodes that are alive, or before they ended."""
        if any(node.epoch > 1 for node in self.cluster.nodes.values()):
            return  # a crash may take updates with it
        reported = self.cluster.discarded
        reported += sum(
            n.replica.membership.losses.discarded for n in self.cluster.nodes.values() if n.replica is not None
        )
        gone = {e.shown for e in self.clients.history if e.changes and e.outcome == OK and e.shown in lost}
        if len(gone) > reported:
            self.wrong.append(f"{len(gone)} acknowledged updates are gone, {reported} are reported as discarded")


def _difference(digests: list[bytes]) -> list[str]:
    """Return, for each key that is not the same everywhere, how the nodes have it."""
    stores: list[dict[str, Any]] = [msgspec.json.decode(each) for each in digests]
    keys = sorted({key for store in stores for key in store})
    return [
        f"{key}: {' | '.join(str(store.get(key, [])[:3]) for store in stores)}"
        for key in keys
        if any(store.get(key) != stores[0].get(key) for store in stores)
    ]
