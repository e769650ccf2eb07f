"""The machines of a system: each has a PCS, found by the host of a node's URL.

Where a PCS process comes from when there is none on this machine is not decided here
(`dida.services.puppetmaster`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from dida.addresses import HERE, Address
from dida.errors import DidaError, UserError
from dida.pcs.client import Pcs
from dida.pcs.messages import Elsewhere
from dida.puppetmaster.checking import no_pcs
from dida.wire.messages import Status

PING_TIMEOUT = 3.0
"""Seconds for a PCS to answer that it is there."""


class PcsDirectory:
    """The PCSs, by host. What they tell goes to `on_table`, `on_back` and `on_trouble`."""

    def __init__(self, reactor: Any, pcs: Iterable[Address], owner: str) -> None:
        self.reactor = reactor
        self.owner = owner
        self.start_pcs: Callable[[Address, str], Awaitable[Address]] | None = None
        """Starts a PCS on this machine, at that address unless it is taken: by whom is said, or found out. Where it is;
        UserError says why it could not be."""
        self.name = owner
        """Of the puppetmaster: what PCSs are called to serve that it has started for itself, for as long as it says to
        them that it lives; whether nodes end with it is another thing."""
        self.on_found: Callable[[Address, Mapping[str, Any]], None] = lambda address, status: None
        """A PCS was there before; what its status says."""
        self.on_table: Callable[[Pcs], None] = lambda pcs: None
        self.on_back: Callable[[Pcs], None] = lambda pcs: None
        self.on_trouble: Callable[[str], None] = lambda text: None
        self._addresses = {HERE: Address(HERE, 10_000)}
        self._addresses.update((address.machine, address) for address in pcs)
        self._pcs: dict[str, Pcs] = {}
        self._more: list[Pcs] = []
        """Further PCSs of machines that have one; what is started is started by the first."""
        self._asking: dict[str, list[Deferred[Pcs]]] = {}
        """Who waits for a PCS that is being sought, in the order of asking."""
        self._seeking: dict[str, Deferred[None]] = {}
        self._nodes: list[Elsewhere] = []
        self._telling: IDelayedCall | None = None

    async def pcs_of(self, node: Address) -> Pcs:
        """The PCS of a node's machine; on this one it is started when there is none."""
        key = node.machine
        address = self._addresses.get(key)
        if address is None:
            raise no_pcs(node.host)
        if key in self._pcs:
            return self._pcs[key]
        asking = self._asking.setdefault(key, [])
        answer: Deferred[Pcs] = Deferred(asking.remove)
        asking.append(answer)
        if key not in self._seeking:
            self._seeking[key] = Deferred.fromCoroutine(self._seek(address, key))
            self._seeking[key].addErrback(lambda failure: failure.trap(CancelledError) and None)
        return await answer

    def take(self, address: Address, status: Mapping[str, Any]) -> Pcs:
        """A PCS of a running system, with what it says of itself."""
        pcs = next((pcs for pcs in (*self._pcs.values(), *self._more) if pcs.address == address), None)
        if pcs is None:
            pcs = self._watched(address)
            if address.machine in self._pcs:
                self._more.append(pcs)
            else:
                self._pcs[address.machine] = pcs
            self.on_found(address, status)
        return pcs

    async def _seek(self, address: Address, key: str) -> None:
        """Find the PCS, and answer all that ask for it meanwhile."""
        found: Pcs | Failure
        try:
            address = await self._meet(address, key)
        except DidaError:
            found = Failure()
        else:
            found = self._pcs[key] = self._watched(address)
        finally:
            del self._seeking[key]
        for answer in self._asking.pop(key):
            answer.callback(found)

    def _watched(self, address: Address) -> Pcs:
        pcs = Pcs(self.reactor, address, self.name)
        pcs.on_table = self.on_table
        pcs.on_back = self.on_back
        pcs.on_trouble = self.on_trouble
        pcs.watch()
        return pcs

    async def _meet(self, address: Address, key: str) -> Address:
        """See to it that a PCS is there; where."""
        pcs = Pcs(self.reactor, address)
        try:
            reply = await pcs.ask(Status(deadline=PING_TIMEOUT))
        except DidaError as problem:
            if key != HERE or self.start_pcs is None:
                text = f"the PCS at {address} does not answer: start it there with twistd dida-pcs"
                raise UserError(text) from problem
            return await self.start_pcs(address, "")
        finally:
            await pcs.close()
        if reply.object.get("role") != "pcs":
            role = reply.object.get("role", "something else")
            raise UserError(f"at {address} there is a {role}, no PCS: name another one with --pcs URL")
        if reply.object.get("serves") not in ("", None, self.name):
            taken = f"the PCS at {address} serves another puppetmaster"
            if key != HERE or self.start_pcs is None:
                raise UserError(f"{taken}: start one for all there with twistd dida-pcs, at another port")
            return await self.start_pcs(address, taken)
        self.on_found(address, reply.object)
        return address

    def tell(self, nodes: list[Elsewhere]) -> None:
        """Each PCS knows the nodes that the others have started. Told once for all that happens in one turn."""
        self._nodes = nodes
        if self._telling is None and self.owner and len(self._pcs) > 1:
            self._telling = self.reactor.callLater(0, self._tell)

    def _tell(self) -> None:
        self._telling = None
        for pcs in self._pcs.values():
            elsewhere = [node for node in self._nodes if node.pcs != str(pcs.address)]
            told = Deferred.fromCoroutine(pcs.know(elsewhere))
            told.addErrback(lambda failure: failure.trap(DidaError) and None)  # told again when it is back

    def end_watch(self) -> None:
        """From now on nodes and PCSs may end without a word, and none is sought any more."""
        for seeking in list(self._seeking.values()):
            seeking.cancel()
        for pcs in (*self._pcs.values(), *self._more):
            pcs.end_watch()

    async def close(self) -> None:
        """End all connections."""
        if self._telling is not None:
            self._telling.cancel()
        for pcs in (*self._pcs.values(), *self._more):
            await pcs.close()
