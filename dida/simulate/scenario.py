"""One simulation: a cluster, clients with sessions, a phase with faults, a phase without, and the verdict.

Everything derives from the seed. In the first phase nodes crash and restart or are paused, connections are reset,
messages are late, dropped with their connection, or duplicated, links stop, the network is cut. In the second all is
well: then every operation must be answered, further ones are done without a refusal, and all replicas must be equal
with nothing left over.
"""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from random import Random
from typing import Any

from dida.replication.replica import Replica
from dida.simulate.clients import Clients
from dida.simulate.events import Storm
from dida.simulate.faults import Faults
from dida.simulate.network import Beside, Cluster, Network
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
        size, shards = self.plan.replicas, self.plan.shards
        config, network = self.plan.config(), self.plan.network()
        self.cluster = Cluster(Random(f"{seed} network"), size, config, network, shards=shards)
        beside = [Beside(self.cluster, Random(f"{seed} shard {n}"), size, n, shards) for n in range(1, shards)]
        self.clusters = [self.cluster, *beside]
        self.wrong: list[str] = []
        dice, fast = Random(f"{seed} clients"), Random(f"{seed} fast path")
        self.clients = Clients(self.cluster, self.plan, dice, fast, self.wrong)
        self.faults = [Faults(self.cluster, self.plan, Random(f"{seed} faults"))]
        self.faults += [Faults(each, self.plan, Random(f"{seed} faults {each.shard}")) for each in beside]
        self.runs = SimulatedRuns(self.clusters, self.plan, Random(f"{seed} runs"), self.wrong)
        for cluster in self.clusters:
            cluster.on_reply = self._replied
            cluster.trace = trace
            cluster.check = partial(self._look, cluster)
            cluster.on_removed = self._removed
            cluster.on_left = partial(self._left, cluster)

    def _look(self, cluster: Cluster, node: Node) -> None:
        """Check after every other tick of a node: checks cost as much as what they check."""
        if self.cluster.events % 2:
            invariants(cluster, node)

    def _replied(self, token: Any, reply: Reply, node: Node) -> None:
        (self.runs.on_reply if token[0] == "run" else self.clients.on_reply)(token, reply, node)

    def _removed(self, node: Node) -> None:
        if self.plan.steady:
            self.wrong.append(f"{node.name} was removed while it was alive")

    def _left(self, cluster: Cluster, node: Node, kept: bool) -> None:
        member = node.replica is not None and node.replica.context.view is not None
        if self.plan.steady and member and not kept:
            self.wrong.append(f"{node.name} shut down, and no node has taken over its state")
        if cluster is self.cluster:
            self.clients.witness.left(node, kept)
        self.faults[cluster.shard].left(node)

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
        cluster, clients = self.cluster, self.clients
        for each in self.clusters:
            for node in each.nodes.values():
                each.start(node)
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
        for faults in self.faults:
            faults.begin()
        cluster.run(cluster.now + self.plan.faults)
        clients.stop()
        for faults in self.faults:
            faults.end()
        self.runs.settle()
        for each in self.clusters:
            each.network = Network(mean_delay=0.001, wire=self.plan.wire)
        if not cluster.run(cluster.now + ANSWER_WITHIN, lambda: clients.answered and self._all_serve()):
            self.wrong += [f"not answered: {event}" for event in clients.unanswered]
        if not self._all_serve():
            nodes = [node for each in self.clusters for node in each.nodes.values()]
            views = {n.name: n.replica.context.view_name if n.replica else None for n in nodes}
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
        for each in self.clusters[1:]:
            self.wrong += Verdict(each, self.plan, clients).judge_replicas()
        self.wrong += self.runs.judge()

    def _all_serve(self) -> bool:
        return all(_serve([node.replica for node in each.nodes.values()]) for each in self.clusters)

    def _quiet(self) -> bool:
        """Return True if all nodes are in one view, and nothing is under way."""
        nodes = [node for each in self.clusters for node in each.nodes.values()]
        return self._all_serve() and not any(quiet(node.replica) for node in nodes if node.replica)


def _serve(replicas: Sequence[Replica | None]) -> bool:
    """Return True if all serve in one view."""
    views = {replica.context.view_name if replica is not None else "" for replica in replicas}
    return len(views) == 1 and all(r and r.context.serving and not r.context.leaves for r in replicas)


def _place(problem: BaseException) -> str:
    """Return where it was raised: the innermost lines."""
    frames = traceback.extract_tb(problem.__traceback__)[-3:]
    return " < ".join(f"{f.filename.rpartition('/')[2]}:{f.lineno} {f.name}" for f in reversed(frames))
