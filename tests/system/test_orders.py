"""A shop of real processes: orders for a few items, while workers and storage nodes die and are paused."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.clusters import StorageCluster
from tests.support.netcat import Netcat, object_of
from tests.support.nodes import until
from tests.system.test_chains import DEADLINE, System

pytestmark = [pytest.mark.system, pytest.mark.timeout(3600)]

ROUNDS = int(os.environ.get("DIDA_ROUNDS", "1"))
"""Rounds in a row: `make orders` has fifty."""
ORDERS, ITEMS = 200, 50
CHAIN = "ValidateOperator ReserveOperator ChargeOperator ConfirmOperator"

SHOP = '''
class SoldOut(Exception):
    pass


class ValidateOperator:
    def configure_storage(self, storage):
        self.storage = storage

    async def process_record(self, meta, input, previous_output):
        item, order = input.split("/")
        return order


class ReserveOperator:
    def configure_storage(self, storage):
        self.storage = storage

    def process_record(self, meta, input, previous_output):
        item, order = input.split("/")
        while True:
            stock = self.storage.read(item).value
            if stock == "0":
                return "sold out"
            if self.storage.update_if_value_is(item, stock, str(int(stock) - 1)) is not None:
                self.storage.write(f"{item}-{stock}", order)
                return stock


class ChargeOperator:
    """Fails on its first and second try."""

    retries = 5
    backoff = 0.02

    def configure_storage(self, storage):
        self.storage = storage

    async def process_record(self, meta, input, previous_output):
        if previous_output == "sold out":
            return previous_output
        _, order = input.split("/")
        tries = self.tried[meta.run] = self.tried.get(meta.run, 0) + 1
        if tries < 3:
            raise LookupError(f"the bank has no time, try {tries}")
        await self.storage.write(f"paid-{order}", previous_output)
        return previous_output

    tried = {}


class ConfirmOperator:
    def configure_storage(self, storage):
        self.storage = storage

    def process_record(self, meta, input, previous_output):
        if previous_output == "sold out":
            return previous_output
        _, order = input.split("/")
        self.storage.write(f"confirmed-{order}", previous_output)
        return f"confirmed {previous_output}"
'''


class Trouble:
    """At most four workers are killed or paused in a round, and one storage node is killed."""

    def __init__(self, system: System, dice: random.Random) -> None:
        self.system = system
        self.dice = dice
        self.happened: Counter[str] = Counter()

    def strike(self) -> None:
        id = self.dice.choice(list(self.system.workers))
        if self.dice.random() < 0.5:
            self.system.replace_worker(id)
            self.happened["killed"] += 1
        else:
            pid = self.system.workers[id].pid
            os.kill(pid, signal.SIGSTOP)
            threading.Timer(self.dice.choice([0.3, 1.5, 5.0]), lambda: _go_on(pid)).start()
            self.happened["paused"] += 1

    def kill_storage(self, cluster: StorageCluster) -> None:
        number = self.dice.choice(list(cluster.nodes))
        cluster.nodes[number].kill()
        cluster.start(number)
        self.happened["storage"] += 1


def _go_on(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def play(system: System, number: int, dice: random.Random) -> Counter[str]:
    """One round: all orders at once, and trouble meanwhile."""
    item = f"item{number}"
    with system.cluster.nodes[1].connect() as storage:
        assert storage.ask(f'write {item} {ITEMS} {{"concern": "all"}}').startswith("ok ")
    trouble = Trouble(system, dice)
    with system.scheduler.connect() as scheduler:
        runs = [system.start(scheduler, f"{item}/{number}-{order}", *CHAIN.split()) for order in range(ORDERS)]
        moments = sorted(dice.uniform(0.05, 1.5) for _ in range(4))
        storage_dies = dice.uniform(0.1, 1.2)
        begun = time.monotonic()
        for moment in sorted([*moments, storage_dies]):
            _wait_until(begun + moment)
            if moment == storage_dies:
                trouble.kill_storage(system.cluster)
            else:
                trouble.strike()
        until("all runs have ended", lambda: not object_of(scheduler.ask("status"))["going_on"], DEADLINE + 20)
    outcomes = [system.result(run) for run in runs]
    _check(system, item, number, outcomes)
    return trouble.happened


def _wait_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.monotonic()))


def _check(system: System, item: str, number: int, outcomes: list[tuple[str, dict[str, Any], str]]) -> None:
    failed = [text for state, _, text in outcomes if state != "done"]
    assert not failed, failed[:3]
    outputs = [text.split('"')[1] if text.startswith('ok done "') else text.split()[2] for _, _, text in outcomes]
    confirmed = {
        order: output.removeprefix("confirmed ") for order, output in enumerate(outputs) if output != "sold out"
    }
    assert Counter(output == "sold out" for output in outputs) == {True: ORDERS - ITEMS, False: ITEMS}
    assert sorted(map(int, confirmed.values())) == list(range(1, ITEMS + 1)), "each item to one order"
    with system.cluster.nodes[1].connect() as storage:
        assert _value(storage, item) == "0"
        for order, stock in confirmed.items():
            name = f"{number}-{order}"
            assert _value(storage, f"{item}-{stock}") == name
            assert _value(storage, f"paid-{name}") == _value(storage, f"confirmed-{name}") == stock
        for order in set(range(ORDERS)) - set(confirmed):
            assert storage.ask(f'read paid-{number}-{order} {{"latest": true}}').startswith("error no-such-record")


def _value(storage: Netcat, key: str) -> str:
    reply = storage.ask(f'read {key} {{"latest": true}}')
    assert reply.startswith("ok "), f"{key}: {reply}"
    return reply.split()[1]


def test_each_item_is_sold_once(tmp_path: Path) -> None:
    """Fifty of 200 orders are confirmed, each with another item; all others are sold out; the stock is 0."""
    system = System(tmp_path, 4, replicas=4)
    (system.operators / "shop.py").write_text(SHOP)
    seed = int(os.environ.get("DIDA_SEED", "1"))
    happened: Counter[str] = Counter()
    try:
        for number in range(ROUNDS):
            begun = time.monotonic()
            happened += play(system, number, random.Random(f"{seed} {number}"))
            seconds = time.monotonic() - begun
            sys.stdout.write(f"round {number + 1}: {dict(happened)} so far, {seconds:.1f} s\n")
            sys.stdout.flush()
    finally:
        system.end()
    assert happened["storage"] == ROUNDS
