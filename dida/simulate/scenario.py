"""One simulation: a cluster, clients with sessions, a phase with faults, a phase without, and the verdict.

Everything derives from the seed. In the first phase nodes crash and restart or are paused, connections are reset,
messages are late, dropped with their connection, or duplicated, links stop, the network is cut. In the second all is
well: then every operation must be answered, further ones are done without a refusal, and all replicas must be equal
with nothing left over.
"""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

from dida.simulate.clients import Clients
from dida.simulate.events import Storm
from dida.simulate.faults import Faults
from dida.simulate.network import Cluster, Network
from dida.simulate.node import Node
from dida.simulate.plan import Plan
from dida.simulate.runs import SimulatedRuns
from dida.simulate.verdict import Verdict, invariants, quiet
from dida.wire.messages import Reply

START_WITHIN = 10.0
ANSWER_WITHIN = 30.0
QUIET_WITHIN = 20.0
END_WITHIN = 90.0
"""Time limits without faults, in seconds of virtual time."""


def plan_of(seed: int, given: Mapping[str, str] | None = None) -> Plan:
    """Return the plan of the seed, with the given parts overridden."""
    return Plan.draw(Random(f"{seed} plan")).but(given or {})


class Simulation:
    """A run of one seed."""

    def __init__(self, seed: int, trace: Callable[[str], None] | None = None, plan: Plan | None = None) -> None:
        self.plan = plan or plan_of(seed)
        self.cluster = Cluster(Random(f"{seed} network"), self.plan.replicas, self.plan.config(), self.plan.network())
        self.wrong: list[str] = []
        dice, fast = Random(f"{seed} clients"), Random(f"{seed} fast path")
        self.clients = Clients(self.cluster, self.plan, dice, fast, self.wrong)
        self.faults = Faults(self.cluster, self.plan, Random(f"{seed} faults"))
        self.runs = SimulatedRuns(self.cluster, self.plan, Random(f"{seed} runs"), self.wrong)
        self.cluster.on_reply = self._replied
        self.cluster.trace = trace
        self.cluster.check = self._look
        self.cluster.on_removed = self._removed
        self.cluster.on_left = self._left

    def _look(self, node: Node) -> None:
        """Check after every other tick of a node: checks cost as much as what they check."""
        if self.cluster.events % 2:
            invariants(self.cluster, node)

    def _replied(self, token: Any, reply: Reply, node: Node) -> None:
        (self.runs.on_reply if token[0] == "run" else self.clients.on_reply)(token, reply, node)

    def _removed(self, node: Node) -> None:
        if self.plan.steady:
            self.wrong.append("XX")

    def _left(self, node: Node, kept: bool) -> None:
        member = node.replica is not None and node.replica.context.view is not None
        if self.plan.steady and member and not kept:
            self.wrong.append(f"{node.name} shut down, and no node has taken over its state")
        self.clients.witness.left(node, kept)
        self.faults.left(node)

    def run(self) -> list[str]:
        """Return what is wrong; an empty list if all promises were kept."""
        gc.disable()  # a simulation ends soon, and nearly all its objects live as long
        try:
            self._run()
        except AssertionError as problem:
            self.wrong.append(f"invariant: {problem or _place(problem)}")
        except Storm as problem:
            self.wrong.append(str(problem))
        except Exception as problem:  # noqa: BLE001 - whatever the nodes raise is a finding
            self.wrong.append(f"a bug: {problem!r} {_place(problem)}")
        finally:
            gc.enable()
        return self.wrong

    def _run(self) -> None:
        cluster, clients, faults = self.cluster, self.clients, self.faults
        for node in cluster.nodes.values():
            cluster.start(node)
        if not cluster.run(START_WITHIN, self._all_serve):
            self.wrong.append("the cluster did not start")
            return
        clients.prepare()
        self.runs.prepare()
        if not cluster.run(
            cluster.now + START_WITHIN, lambda: clients.prepared and self.runs.prepared and self._quiet()
        ):
            self.wrong.append("the cluster did not come to rest at the start")
            return
        clients.begin()
        self.runs.begin()
        faults.begin()
        cluster.run(cluster.now + self.plan.faults)
        clients.stop()
        faults.end()
        self.runs.settle()
        cluster.network = Network(mean_delay=0.001, wire=self.plan.wire)
        if not cluster.run(cluster.now + ANSWER_WITHIN, lambda: clients.answered and self._all_serve()):
            self.wrong += [f"not answered: {event}" for event in clients.unanswered]
        if not self._all_serve():
            views = {n.name: n.replica.context.view_name if n.replica else None for n in cluster.nodes.values()}
            self.wrong.append(f"no common view: {views}")
            return
        clients.settle()
        cluster.run(cluster.now + ANSWER_WITHIN, lambda: clients.answered)
        self.wrong += [f"not answered at last: {event}" for event in clients.unanswered]
        if not cluster.run(cluster.now + END_WITHIN, lambda: self.runs.answered):
            self.wrong += [
                f"has not ended: {run.id}" for run in self.runs.table.newest_first() if run.id not in self.runs.told
            ]
        clients.stop()
        cluster.run(cluster.now + QUIET_WITHIN, self._quiet)
        self.wrong += Verdict(cluster, self.plan, clients).judge()
        self.wrong += self.runs.judge()

    def _all_serve(self) -> bool:
        replicas = [n.replica for n in self.cluster.nodes.values()]
        return len({r.context.view_name if r else "" for r in replicas}) == 1 and all(
            r and r.context.serving and not r.context.leaves for r in replicas
        )

    def _quiet(self) -> bool:
        """Return True if all nodes are in one view, and nothing is under way."""
        return self._all_serve() and not any(quiet(n.replica) for n in self.cluster.nodes.values() if n.replica)


def _place(problem: BaseException) -> str:
    """Return where it was raised: the innermost lines."""
    frames = traceback.extract_tb(problem.__traceback__)[-3:]
    return " < ".join(f"{f.filename.rpartition('/')[2]}:{f.lineno} {f.name}" for f in reversed(frames))
