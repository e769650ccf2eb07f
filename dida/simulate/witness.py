"""What must be true at the moment a reply leaves its node, seen by somebody who sees all replicas at once."""

from __future__ import annotations

from collections.abc import Callable

from dida.replication.replica import Replica
from dida.replication.streams import incarnation_of
from dida.simulate.history import Event, Shown
from dida.simulate.network import Cluster
from dida.simulate.node import Node
from dida.simulate.plan import Plan
from dida.timestamps import Timestamp
from dida.versions import Version


class Witness:
    """Checks of single replies; what is wrong is reported at once."""

    def __init__(self, cluster: Cluster, plan: Plan, report: Callable[[str], None]) -> None:
        self.cluster = cluster
        self.plan = plan
        self._report = report
        self.holders: dict[Shown, list[str]] = {}
        """Acknowledged plain writes to the incarnations that had them when the acknowledgement left."""

    def check_in_force(self, event: Event, node: Node) -> None:
        """A plain reply leaves: no node serves in a view from which its node was removed."""
        mine = node.replica.context.view if node.replica is not None else None
        for other in self.cluster.nodes.values():
            view = other.replica.context.view if other.replica is not None and other.replica.context.serving else None
            if mine is not None and view is not None and view.rank > mine.rank and not view.member(node.incarnation):
                self._report(
                    f"{event}: {node.name} answers, though {other.name} serves in view {view.number} without it"
                )

    def check_held(self, event: Event, value: str, node: Node) -> None:
        """A reply leaves that shows the newest value: all members have it."""
        newest = self.cluster.newest_view()
        view = node.replica.context.view_name if node.replica is not None else ""
        if newest is None or view != newest.name:
            return  # forwarded from a view that this node does not know yet
        for other in self.cluster.nodes.values():
            replica = other.replica
            if replica is None or not replica.context.serving or replica.context.view_name != view:
                continue
            if not self._holds(replica, event.key, value):
                self._report(f"{event}: showed {value}, but {other.name} lacks it")

    def _holds(self, replica: Replica, key: str, value: str) -> bool:
        """Return True if a replica has the value, or had it before newer ones pushed it out."""
        kept = replica.state.store.versions(key)
        return (
            _is_on_its_way(replica, value)
            or len(kept) >= self.plan.max_versions
            or any(entry.value == value for entry in kept)
        )

    def acknowledged(self, event: Event, value: str, version: Version, node: Node) -> None:
        """An acknowledgement leaves: as many replicas have the update as its verb and its concern promise."""
        lacking = []
        holders = self._holders(event.key, value, version)
        view = node.replica.context.view_name if node.replica is not None else ""
        newest = self.cluster.newest_view()
        assert newest is not None
        for other in self.cluster.nodes.values():
            replica = other.replica
            if replica is None or other.incarnation in holders:
                continue
            if replica.context.serving and replica.context.view_name == view == newest.name:
                lacking.append(other.name)
        if event.verb == "updateif" and lacking and not self.plan.forks:
            self._report(f"{event}: acknowledged, but {' '.join(lacking)} lacks it")
        died = sum(since >= event.invoked for since in self.cluster.ended.values())  # and may have had it
        if len(holders) + died < self.plan.write_concern and event.verb == "write":
            self._report(f"{event}: acknowledged, but only {' '.join(holders)} has it")
        if event.everywhere:
            self._check_everywhere(event, value, version, node)
        if event.verb == "write":
            self.holders[Shown(event.key, version, value)] = holders

    def _check_everywhere(self, event: Event, value: str, version: Version, node: Node) -> None:
        """Every member that is alive has the write, even if the view that takes the member in is still on its way.

        Any of them may be the only one that is left.
        """
        view = node.replica.context.view if node.replica is not None else None
        living = {n.incarnation: n.replica for n in self.cluster.nodes.values() if n.replica is not None}
        for member in view.members if view is not None else ():
            replica = living.get(member.component)
            if replica is not None and not self._has(replica, event.key, value, version):
                self._report(f"{event}: acknowledged as held by all, but {member.id} lacks it")

    def _holders(self, key: str, value: str, version: Version) -> list[str]:
        """Return the incarnations in a view that have that version of the key, or had it and have newer ones."""
        replicas = [node.replica for node in self.cluster.nodes.values() if node.replica is not None]
        return [
            replica.context.incarnation
            for replica in replicas
            if replica.context.view is not None and self._has(replica, key, value, version)
        ]

    def _has(self, replica: Replica, key: str, value: str, version: Version) -> bool:
        kept = replica.state.store.versions(key)
        full = len(kept) >= self.plan.max_versions and version < kept[-1].version
        return full or _is_on_its_way(replica, value) or any(entry.value == value for entry in kept)

    def left(self, node: Node, kept: bool) -> None:
        """A node leaves; with `kept`, in order: other nodes have all acknowledged writes that it had."""
        if not kept:
            return
        for shown, holders in self.holders.items():
            if node.incarnation not in holders:
                continue
            others = [c for c in self._holders(shown.key, shown.value, shown.version) if c != node.incarnation]
            if others:
                self.holders[shown] = sorted({*holders, *others} - {node.incarnation})
            elif node.incarnation in self._holders(shown.key, shown.value, shown.version):
                self._report(f"{node.name} left in order, and took with it {shown}")

    def check_loss(self, event: Event, lost: Timestamp) -> None:
        """A reply says that updates were lost: they were."""
        newest = self.cluster.newest_view()
        if self.plan.forks or newest is None:
            return
        for stream, count in lost.items():
            if newest.member(incarnation_of(stream)) is not None:
                self._report(f"{event}: {stream} {count} is reported as lost, but its incarnation is alive")
            for node in self.cluster.nodes.values():
                if node.replica is not None and count <= node.replica.state.final_counts.get(stream, 0):
                    self._report(f"{event}: {stream} {count} is reported as lost, but {node.name} has it")


def _is_on_its_way(replica: Replica, value: str) -> bool:
    """Return True if a replica holds the value back, or has prepared it: both survive with it."""
    state = replica.state
    prepared = (each.record for each in state.prepared.values())
    return any(record.value == value for record in (*state.held.values(), *prepared))
