"""The storage nodes that a replica knows of: what it answers to `watch` and contributes to `system` and `status`."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from dida.addresses import Address, StorageAddress
from dida.placement import Shards
from dida.replication.context import ReplicaContext
from dida.replication.membership import Membership
from dida.wire.messages import Ok, Watch


class Directory:
    """The members, the dead and the nodes of other shards, and the clients that watch for another view."""

    def __init__(
        self, context: ReplicaContext, shards: Shards, membership: Membership, elsewhere: tuple[StorageAddress, ...]
    ) -> None:
        """`elsewhere` are the named nodes of other shards."""
        self._context = context
        self._shards = shards
        self._membership = membership
        self._elsewhere = elsewhere
        self.watching: dict[Any, tuple[str, float]] = {}
        """Token of a client to the view that it knows, and its deadline."""

    def on_watch(self, token: Any, request: Watch, now: float) -> None:
        """Answer at once if the view is not the one that the client knows, else when it has changed, or in the end."""
        if request.view == self._context.view_name:
            self.watching[token] = (self._context.view_name, now + request.deadline)
        else:
            self._context.answer(token, Ok((), self.view()))

    def give_up(self, tokens: Set[Any]) -> None:
        """Forget the clients under these tokens: they are gone."""
        for token in tokens:
            self.watching.pop(token, None)

    def tick(self, now: float) -> None:
        """Answer the clients whose deadline is over."""
        for token, (_, deadline) in list(self.watching.items()):
            if now >= deadline:
                self._answer(token)

    def answer_changed(self) -> None:
        """Answer the clients that know another view than the one in force."""
        for token, (name, _) in list(self.watching.items()):
            if name != self._context.view_name:
                self._answer(token)

    def _answer(self, token: Any) -> None:
        del self.watching[token]
        self._context.answer(token, Ok((), self.view()))

    def view(self) -> dict[str, Any]:
        """Return the view as clients may know it: the answer to `watch`."""
        view = self._context.view
        members = view.members if view is not None else ()
        return {
            "view": self._context.view_name,
            "number": view.number if view is not None else 0,
            "members": [{"replica": m.replica, "id": m.id, "url": m.url} for m in members],
            "dead": self.dead(),
            "groups": [self._shards.replicas(shard) for shard in range(len(self._shards))],
            "elsewhere": [{"replica": n.replica, "id": n.id, "url": str(n.address)} for n in self._elsewhere],
        }

    def pool(self) -> list[StorageAddress]:
        """Return the members of the view (while there is none, the named nodes) and the nodes of other shards."""
        view = self._context.view
        members = view.members if view is not None else (self._context.me,)
        known = {n.replica: n for n in (*(self._membership.named if view is None else ()), *self._elsewhere)}
        known.update({m.replica: StorageAddress(m.replica, m.id, Address.parse(m.url)) for m in members})
        return [known[replica] for replica in sorted(known)]

    def dead(self) -> list[str]:
        """Return the ids of the nodes that were members, or named, and are not in the view."""
        if self._context.view is None:
            return []
        inside = {m.replica for m in self._context.view.members}
        names = {named.replica: named.id for named in self._membership.named}
        names.update({replica: m.id for replica, m in self._membership.departed.items()})
        return [id for replica, id in sorted(names.items()) if replica not in inside]
