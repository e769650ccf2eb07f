"""Storage nodes that gossip late are killed right after an operator's write there was acknowledged.

No test kills at a better moment than the operator itself: it knows which node has acknowledged its write, and nobody
else has heard of it yet.
"""

from __future__ import annotations

import json
import os
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from dida.versions import Version
from tests.support.clusters import StorageCluster
from tests.support.netcat import object_of
from tests.support.nodes import NodeProcess, free_port, until

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

LONG = bool(os.environ.get("DIDA_LONG"))
STEPS = 3
BESIDE = 3
"""Runs that go on at the same time and kill nobody."""
MOMENTS = ("before the step's end", "after the step", "during the next step", "during the confirming read")
OPERATOR = '''
import json
import os
import signal

from twisted.internet import reactor
from twisted.internet.task import deferLater

PIDS = {pids!r}


class WritesOperator:
    """Writes a record of its own; at the step of the plan it kills the node that has acknowledged that, once."""

    def configure_storage(self, storage):
        self.storage = storage

    async def process_record(self, meta, input, previous_output):
        plan = json.loads(input)
        position = int(previous_output or 0)
        version = await self.storage.write(f"{{plan['name']}}.{{position}}", f"{{plan['name']}} at {{position}}")
        if plan.get("position") == position:
            self.kill(plan, version.replica)
        await deferLater(reactor, plan["pause"])
        return str(position + 1)

    def kill(self, plan, replica):
        try:
            os.close(os.open(os.path.join(PIDS, "killed " + plan["name"]), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
        with open(os.path.join(PIDS, str(replica))) as file:
            pid = int(file.read())
        if plan["stop"]:
            os.kill(pid, signal.SIGSTOP)
        if plan["delay"]:
            reactor.callLater(plan["delay"], os.kill, pid, signal.SIGKILL)
        else:
            os.kill(pid, signal.SIGKILL)
'''


def planned(moment: str, dice: random.Random) -> dict[str, Any]:
    """At which step a run kills, how long after its write, and how long its steps take."""
    position = dice.randrange(STEPS - 1)
    if moment == "before the step's end":
        return {"position": dice.randrange(STEPS), "stop": False, "delay": 0.0, "pause": dice.choice((0.0, 0.02, 0.2))}
    if moment == "after the step":
        return {"position": position, "stop": False, "delay": dice.uniform(0.001, 0.01), "pause": 0.0}
    if moment == "during the next step":
        return {"position": position, "stop": False, "delay": dice.uniform(0.35, 0.5), "pause": 0.3}
    # Stopped, the node lets nobody fetch the write, so that the read that is to confirm it waits, until it is killed.
    return {"position": STEPS - 1, "stop": True, "delay": dice.uniform(0.05, 0.3), "pause": 0.0}


class System:
    """Three storage nodes, a scheduler, two workers."""

    def __init__(self, folder: Path) -> None:
        self.pids = folder / "pids"
        operators = folder / "operators"
        for each in (self.pids, operators):
            each.mkdir()
        (operators / "writes.py").write_text(OPERATOR.format(pids=str(self.pids)))
        self.cluster = StorageCluster(folder, 3, "--gossip-delay", "1000")
        for number in self.cluster.nodes:
            self.tell_pid(number)
        ports = {id: free_port() for id in ("w1", "w2", "sc1")}
        named = [f"--worker={id}=http://127.0.0.1:{ports[id]}" for id in ("w1", "w2")]
        options = {
            "w1": ("dida-worker", "--operators", str(operators)),
            "w2": ("dida-worker", "--operators", str(operators)),
            "sc1": ("dida-scheduler", "--run-deadline", "30", *named, *self.cluster.members),
        }
        self.nodes = {
            id: NodeProcess(
                command, "--id", id, "--url", f"http://127.0.0.1:{ports[id]}", *more, folder=folder, port=ports[id]
            )
            for id, (command, *more) in options.items()
        }
        for node in self.nodes.values():
            node.wait_ready()

    def tell_pid(self, number: int) -> None:
        (self.pids / str(number)).write_text(str(self.cluster.nodes[number].pid))

    def killed(self) -> list[int]:
        """The storage nodes that live no more, once one does not."""
        return [number for number, node in self.cluster.nodes.items() if node.process.poll() is not None]

    def end(self) -> None:
        for node in self.nodes.values():
            node.end()
        self.cluster.end()


def written(told: dict[str, Any]) -> dict[str, str]:
    """Key to version of what a run says that it has written."""
    return {touch["key"]: touch["version"] for step in told["steps"] for touch in step["records"]}


def missing(system: System, alive: list[int], runs: dict[str, dict[str, Any]]) -> list[str]:
    """What runs that are done have written, and a node does not have."""
    found = []
    for number in alive:
        with system.cluster.nodes[number].connect() as storage:
            for name, told in runs.items():
                versions = written(told)
                assert set(versions) == {f"{name}.{position}" for position in range(STEPS)}
                for position in range(STEPS):
                    key = f"{name}.{position}"
                    after = json.dumps({"after": told["after"]})
                    if not (reply := storage.ask(f"read {key} {versions[key]} {after}")).startswith(
                        f'ok "{name} at {position}" {versions[key]} '
                    ):
                        found.append(f"s{number}: {key} {versions[key]}: {reply}")
    return found


def test_what_a_run_has_written_is_there_or_it_says_what_was_lost(tmp_path: Path) -> None:
    """Whenever the node that alone has a run's write is killed: the run is done and all its writes are there, on all
    nodes that live, at once and for ever; or it has failed, and names the record."""
    kills = 50 if LONG else len(MOMENTS)
    dice = random.Random(7)
    system = System(tmp_path)
    done: dict[str, dict[str, Any]] = {}
    outcomes: Counter[str] = Counter()
    rounds = 0
    try:
        for number in range(kills):
            moment = MOMENTS[number % len(MOMENTS)]
            plans = [{"name": f"r{number}", **planned(moment, dice)}]
            plans += [{"name": f"r{number}-{beside}", "pause": dice.uniform(0, 0.3)} for beside in range(BESIDE)]
            ended: dict[str, dict[str, Any]] = {}
            with system.nodes["sc1"].connect(60) as scheduler:
                ids = [
                    scheduler.ask(f"run {json.dumps(json.dumps(plan))} {'WritesOperator ' * STEPS}") for plan in plans
                ]
                for plan, id in zip(plans, ids, strict=True):
                    reply = scheduler.ask(f'result {id.split()[1]} {{"timeout": 50}}')
                    told = object_of(reply)
                    rounds += told["rounds"]
                    assert told["ms"] < 31_000
                    outcomes[reply.split()[1]] += 1
                    if reply.startswith("ok done "):
                        ended[plan["name"]] = told
                    else:
                        assert any(f"{plan['name']}.{position}" in reply for position in range(STEPS)), reply
            (dead,) = until("the node is dead", system.killed)
            alive = [each for each in system.cluster.nodes if each != dead]
            assert missing(system, alive, ended) == [], moment
            done |= ended
            system.cluster.start(dead)
            system.tell_pid(dead)
            system.cluster.wait_members(1, 2, 3)
        assert missing(system, [1, 2, 3], done) == []
        assert {Version.parse(each).replica for told in done.values() for each in written(told).values()} == {1, 2, 3}
    finally:
        system.end()
    assert rounds >= kills // 2, "the kills have lost next to nothing"
    sys.stdout.write(f"{kills} storage nodes killed: {dict(outcomes)}, {rounds} times back\n")
