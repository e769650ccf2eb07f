"""Real storage nodes under crashes, pauses, restarts and joins, with clients that never stop; then the checkers.

`python -m tools.torture --seconds 60` is the long form (a make target), the test suite runs a short one.
Promises proven: see docs/explanation/reliability.md. What is measured and judged is printed; exit status 1 when
anything is wrong.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

from attrs import define, field

from dida.simulate import checkers
from dida.simulate.history import FAILED, LOST, NO, OK, Event, by_key
from dida.timestamps import Timestamp, merged
from dida.versions import Version
from tests.support.clusters import StorageCluster
from tests.support.netcat import Netcat, object_of
from tests.support.nodes import NodeProcess, until

CAS_KEYS = ("cas0", "cas1", "cas2")
MIXED_KEYS = ("mix0", "mix1", "mix2")
DEADLINE = 10.0
"""Time-out for an operation at one node, in seconds."""
LEAST_RATE = 20
"""Replies a second below which the test proves nothing."""
SLACK = 1.5
"""Time beyond the deadline for a reply to arrive on a busy machine, in seconds."""


@define(eq=False)
class Client:
    """One session in a thread: an operation at a time, the timestamp carried, retries with the same id."""

    name: str
    cluster: StorageCluster
    rng: Random
    stop: threading.Event
    history: list[Event] = field(factory=list)
    wrong: list[str] = field(factory=list)
    after: Timestamp = field(factory=dict)
    values: dict[str, str] = field(factory=dict)
    number: int = 0
    life: int = 0
    slowest: float = 0.0
    """Seconds for an answer, of nodes that were not paused meanwhile."""
    _connection: Netcat | None = None
    _node: int = 0

    def run(self) -> None:
        while not self.stop.is_set():
            self._operation()
        if self._connection is not None:
            self._connection.close()

    def _operation(self) -> None:
        rng = self.rng
        key = rng.choice(CAS_KEYS + MIXED_KEYS)
        mixed = key in MIXED_KEYS
        self.number += 1
        value = f"{self.name}.{self.number}"
        roll = rng.random()
        event = Event(self.name, "read", key, time.monotonic(), latest=not mixed)
        if mixed and roll < 0.35:
            event = Event(self.name, "write", key, time.monotonic(), value=value)
        elif key in self.values and roll < 0.75:
            event = Event(self.name, "updateif", key, time.monotonic(), value=value, old=self.values[key])
        self.history.append(event)
        if rng.random() < 0.05:
            self._leave()
        for attempt in range(40):
            if self._attempt(event, attempt > 0):
                return
            if event.verb == "read" and attempt > 3:
                break
            time.sleep(0.02)  # the node is gone, or says unavailable: another one in a moment
        if event.verb == "read":
            event.outcome = FAILED
        else:
            self.life += 1  # never asked for again: its outcome stays unknown

    def _attempt(self, event: Event, retry: bool) -> bool:
        """One try at one node; whether the operation has ended."""
        members: dict[str, Any] = {"after": self.after, "deadline": DEADLINE}
        words = [event.verb, event.key]
        if event.verb == "read":
            members["latest"] = event.latest
        else:
            members.update(id=f"{self.name}-{self.life}:{self.number}", retry=retry, lowest=self.number)
            words += [event.old, event.value] if event.old is not None else [event.value]  # type: ignore[list-item]
        asked = time.monotonic()
        try:
            if self._connection is None:
                self._node = self.rng.choice(list(self.cluster.nodes))
                self._connection = self.cluster.nodes[self._node].connect(timeout=DEADLINE + SLACK)
            reply = self._connection.ask(f"{' '.join(words)} {json.dumps(members)}")
            if not self.cluster.nodes[self._node].paused_since(asked):
                self.slowest = max(self.slowest, time.monotonic() - asked)
        except TimeoutError:
            if not self.cluster.nodes[self._node].paused_since(asked):
                self.wrong.append(f"{self.name}: {words} at s{self._node} was not answered in {DEADLINE + SLACK} s")
            self._leave()
            return False
        except (OSError, EOFError):
            self._leave()
            return False
        return self._take(event, reply)

    def _leave(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _take(self, event: Event, reply: str) -> bool:
        line, brace, rest = reply.partition(" {")
        found = json.loads("{" + rest) if brace else {}
        words = line.split()
        if words[:2] == ["error", "lost-update"]:
            self.after = {s: n for s, n in self.after.items() if s not in found["lost"]}
            if event.verb == "read":
                event.returned, event.outcome = time.monotonic(), LOST
                return True
            now = time.monotonic()
            self.history.append(Event(self.name, "read", event.key, now, returned=now, outcome=LOST))
            return False
        if words[0] == "error" and words[1] != "no-such-record":
            if words[1] not in ("unavailable", "unknown-outcome", "fenced"):
                self.wrong.append(f"{self.name}: {event.verb} {event.key} was answered {reply}")
            self._leave()
            return False
        event.returned = time.monotonic()
        self.after = merged(self.after, found.get("after", {}))
        event.outcome = OK if words[0] == "ok" else NO
        if words[0] == "ok":
            event.version = Version.parse(words[-1])
            if event.verb == "read":
                event.value = words[1]
            assert event.value is not None
            self.values[event.key] = event.value
        elif len(words) == 3:
            event.version, event.seen = Version.parse(words[1]), words[2]
            self.values[event.key] = words[2]
        return True


class Torture:
    """The cluster, its clients, and the faults."""

    def __init__(
        self,
        folder: Path,
        seconds: float,
        nodes: int,
        clients: int,
        seed: int,
        more: Mapping[str, str] | None = None,
    ) -> None:
        """`more` are variables of the nodes' environment."""
        self.rng = Random(seed)
        self.seconds = seconds
        self.cluster = StorageCluster(folder, nodes, "--max-versions", "1000000", more=more)
        self.stop = threading.Event()
        self.clients = [Client(f"c{n}", self.cluster, Random(f"{seed}/{n}"), self.stop) for n in range(clients)]
        self.faults: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.outputs: list[str] = []
        self.prepared: list[Event] = []

    def run(self) -> list[str]:
        """Return what is wrong, as text."""
        with self.cluster.nodes[1].connect() as netcat:
            for key in CAS_KEYS + MIXED_KEYS:
                netcat.ask(f"write {key} initial-{key}")
                value = f"initial-{key}"
                self.prepared.append(Event("prepare", "write", key, 0.0, value=value, returned=0.0, outcome=OK))
        self.cluster.wait_equal(*self.cluster.nodes)
        threads = [threading.Thread(target=client.run, daemon=True) for client in self.clients]
        for thread in threads:
            thread.start()
        self._disturb(time.monotonic() + self.seconds)
        self._settle()
        self.stop.set()
        for thread in threads:
            thread.join(60)
            if thread.is_alive():
                self.wrong.append("a client hangs")
        self._judge()
        return self.wrong

    def _disturb(self, end: float) -> None:
        """Inject faults until the time `end`."""
        plan = [1.0, 5.0, 30.0] if self.seconds >= 60 else [1.0]
        while time.monotonic() < end:
            time.sleep(self.rng.uniform(0.5, 2.0))
            roll = self.rng.random()
            if roll < 0.5:
                self._kill_home()
            elif roll < 0.8 and plan:
                self._pause(plan.pop(0))
            elif roll < 0.8:
                self._pause(self.rng.choice([0.2, 1.0, 3.0]))
            elif len(self.cluster.nodes) < 7:
                self._join()

    def _living(self) -> list[int]:
        """Nodes that serve now; others are down, paused, or on their way back."""
        found = []
        for number, node in self.cluster.nodes.items():
            if node.process.poll() is None and not node.paused:
                try:
                    if node.status()["ready"]:
                        found.append(number)
                except (OSError, EOFError):
                    continue
        return found

    def _kill_home(self) -> None:
        """SIGKILL the coordinator of a busy key, in the middle of its commits; restart it within 200 ms."""
        living = self._living()
        if len(living) < 2:
            return
        key = self.rng.choice(CAS_KEYS + MIXED_KEYS)
        words = self.cluster.nodes[living[0]].ask(f"home {key}").split()
        victim = int(words[1]) if words[0] == "ok" else living[-1]
        if victim not in living:
            return
        self.faults["killed"] += 1
        self.outputs.append(self.cluster.nodes[victim].output)
        self.cluster.nodes[victim].kill()
        time.sleep(self.rng.choice([0.0, 0.1, 0.2, 1.0]))
        self.cluster.start(victim, ready=False)

    def _pause(self, seconds: float) -> None:
        living = self._living()
        if len(living) < 3:
            return
        self.faults["paused"] += 1
        node = self.cluster.nodes[self.rng.choice(living)]
        node.pause()
        threading.Timer(seconds, node.resume).start()

    def _join(self) -> None:
        self.faults["joined"] += 1
        self.cluster.start(max(self.cluster.nodes) + 1, ready=False)

    def _settle(self) -> None:
        """End the faults: all nodes come back, and agree."""
        for node in self.cluster.nodes.values():
            node.resume()
            if node.process.poll() is not None:
                self.wrong.append(f"a node ended unexpectedly with {node.process.returncode}: {node.output[-500:]}")
                return
        self.cluster.wait_members(*sorted(self.cluster.nodes), seconds=40)

    def _judge(self) -> None:
        nodes = self.cluster.nodes.values()
        until("all list the same", lambda: len({json.dumps(_listed(node)) for node in nodes}) == 1, 40)
        listed = _listed(self.cluster.nodes[1])
        outputs = [*self.outputs, *(node.output for node in self.cluster.nodes.values())]
        self.wrong += [
            f"a traceback: {text[text.index('Traceback') :][:3000]}" for text in outputs if "Traceback" in text
        ]
        history = [event for client in self.clients for event in client.history]
        for client in self.clients:
            self.wrong += client.wrong
        stored = {key: [(Version.parse(v), value) for v, value in listed[key]] for key in CAS_KEYS + MIXED_KEYS}
        lost = {
            event.shown
            for event in history
            if event.shown is not None and event.shown[1:] not in stored.get(event.shown.key, [])
        }
        self.wrong += checkers.once(stored)
        self.wrong += checkers.nobody([*self.prepared, *history], stored)
        self.wrong += checkers.sessions(history, lost)
        for event in history:
            if event.verb == "updateif" and event.outcome == OK and event.shown in lost:
                self.wrong.append(f"lost: {event}")
        for key in CAS_KEYS:
            events = by_key(history)[key]
            self.wrong += [f"{key}: {what}" for what in checkers.chain(events, f"initial-{key}")]
            problem = checkers.linearizable(checkers.beginning(events), f"initial-{key}")
            if problem is not None:
                self.wrong.append(f"{key}: {problem}")
        self.counts = Counter(f"{e.verb} {e.outcome}" for e in history)
        self.slowest = max(client.slowest for client in self.clients)
        self.rate = sum(e.outcome in (OK, NO) for e in history) / self.seconds
        if self.rate < LEAST_RATE:
            self.wrong.append(f"void: {self.rate:.0f} replies a second are not a load")

    def end(self) -> None:
        self.cluster.end()


def _listed(node: NodeProcess) -> dict[str, list[list[str]]]:
    """Return all records of a node, page by page: one line cannot hold the versions of many minutes."""
    found: dict[str, list[list[str]]] = {}
    start: str | None = ""
    while start is not None:
        page = object_of(node.ask(f"list {json.dumps({'from': start})}"))
        found |= page["records"]
        start = page.get("next")
    return found


def main() -> int:
    """The long form."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=float, default=60)
    options.add_argument("--nodes", type=int, default=5)
    options.add_argument("--clients", type=int, default=20)
    options.add_argument("--seed", type=int, default=1)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        torture = Torture(Path(folder), given.seconds, given.nodes, given.clients, given.seed)
        try:
            wrong = torture.run()
        finally:
            torture.end()
    out = sys.stdout.write
    out(f"seed        {given.seed}\nfaults      {dict(torture.faults)}\n")
    for name, count in sorted(torture.counts.items()):
        out(f"{name:18} {count:8,}\n")
    out(f"answers/s   {torture.rate:,.0f}\nslowest     {torture.slowest:.2f} s\n")
    for what in wrong[:20]:
        out(f"WRONG       {what}\n")
    out("all promises kept\n" if not wrong else f"{len(wrong)} things are wrong\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(main())
