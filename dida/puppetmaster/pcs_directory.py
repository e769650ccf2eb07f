"""The PCSs of a system: one per machine, found by the host of a node's URL.

Where a PCS process comes from when there is none on this machine is not decided here
(`dida.puppetmaster.local_pcs`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from dida.addresses import HERE, Address
from dida.errors import DidaError, UserError
from dida.pcs.client import Pcs, PcsListener
from dida.pcs.messages import Elsewhere
from dida.puppetmaster.refusals import no_pcs
from dida.wire.messages import Status

PING_TIMEOUT = 3.0
"""Time-out for a PCS to answer, in seconds."""


class LocalPcsStarter(Protocol):
    """Starts a PCS on this machine."""

    async def start(self, wanted: Address, taken: str) -> Address:
        """Start a PCS at `wanted`, or elsewhere if that address is taken (`taken` says by what, if known); return
        its address. UserError says why it cannot start."""

    def found(self, address: Address, status: Mapping[str, Any]) -> None:
        """Another PCS is used, which was there before; `status` is its status."""


class PcsDirectory:
    """The PCSs by host; `listener` hears what happens at each.

    `name` is the puppetmaster's: the PCSs that it starts serve that name for as long as it sends `own` to them. `owner`
    is the name that nodes end with, empty if they are left running.
    """

    def __init__(
        self,
        reactor: Any,
        pcs: Iterable[Address],
        listener: PcsListener,
        *,
        name: str,
        owner: str,
        local_pcs: LocalPcsStarter | None = None,
    ) -> None:
        self.reactor = reactor
        self.name = name
        self.owner = owner
        self._listener = listener
        self._local_pcs = local_pcs
        self._addresses = {HERE: Address(HERE, 10_000)}
        self._addresses.update((address.machine, address) for address in pcs)
        self._pcs: dict[str, Pcs] = {}
        self._more: list[Pcs] = []
        """Further PCSs of machines that have one; the first starts the nodes."""
        self._asking: dict[str, list[Deferred[Pcs]]] = {}
        """Callers that wait for a PCS that is being sought, in their order."""
        self._seeking: dict[str, Deferred[None]] = {}
        self._nodes: list[Elsewhere] = []
        self._telling: IDelayedCall | None = None

    async def pcs_of(self, node: Address) -> Pcs:
        """Return the PCS of a node's machine; on this machine, start it if there is none."""
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
        """Add a PCS of a running system, with its status."""
        pcs = next((pcs for pcs in (*self._pcs.values(), *self._more) if pcs.address == address), None)
        if pcs is None:
            pcs = self._watched(address)
            if address.machine in self._pcs:
                self._more.append(pcs)
            else:
                self._pcs[address.machine] = pcs
            self._found(address, status)
        return pcs

    async def _seek(self, address: Address, key: str) -> None:
        """Find the PCS, and answer all callers that have asked for it meanwhile."""
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
        pcs.watch(self._listener)
        return pcs

    async def _meet(self, address: Address, key: str) -> Address:
        """Make sure that a PCS is there; return its address."""
        pcs = Pcs(self.reactor, address)
        try:
            reply = await pcs.ask(Status(deadline=PING_TIMEOUT))
        except DidaError as problem:
            if key != HERE or self._local_pcs is None:
                text = f"the PCS at {address} does not answer: start it there with twistd dida-pcs"
                raise UserError(text) from problem
            return await self._local_pcs.start(address, "")
        finally:
            await pcs.close()
        if reply.object.get("role") != "pcs":
            role = reply.object.get("role", "something else")
            raise UserError(f"unexpected role {role} at {address}: not a PCS, name another one with --pcs URL")
        if reply.object.get("serves") not in ("", None, self.name):
            taken = f"the PCS at {address} serves another puppetmaster"
            if key != HERE or self._local_pcs is None:
                raise UserError(f"{taken}: start one for all there with twistd dida-pcs, at another port")
            return await self._local_pcs.start(address, taken)
        self._found(address, reply.object)
        return address

    def _found(self, address: Address, status: Mapping[str, Any]) -> None:
        if self._local_pcs is not None:
            self._local_pcs.found(address, status)

    def tell(self, nodes: list[Elsewhere]) -> None:
        """Tell each PCS which nodes the others have started, once for all changes in one turn of the reactor."""
        self._nodes = nodes
        if self._telling is None and self.owner and len(self._pcs) > 1:
            self._telling = self.reactor.callLater(0, self._tell)

    def _tell(self) -> None:
        self._telling = None
        for pcs in self._pcs.values():
            elsewhere = [node for node in self._nodes if node.pcs != str(pcs.address)]
            told = Deferred.fromCoroutine(pcs.know(elsewhere))
            told.addErrback(lambda failure: failure.trap(DidaError) and None)  # it hears of them again when it is back

    def end_watch(self) -> None:
        """Stop watching the PCSs, and seek no more of them."""
        for seeking in list(self._seeking.values()):
            seeking.cancel()
        for pcs in (*self._pcs.values(), *self._more):
            pcs.end_watch()

    async def close(self) -> None:
        """Close all connections."""
        if self._telling is not None:
            self._telling.cancel()
        for pcs in (*self._pcs.values(), *self._more):
            await pcs.close()
