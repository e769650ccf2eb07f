"""Operators on an asyncio loop of the worker."""

from __future__ import annotations

import pytest
import pytest_twisted

from dida.chains.messages import Ended
from tests.support.fakes import until
from tests.worker.test_node import ASYNC, PLAIN, Stage, stage

__all__ = ["stage"]

HEAD = "import asyncio, time\n"
LOOPED = ASYNC.replace("class {name}:\n", 'class {name}:\n    loop = "asyncio"\n')


def put(stage: Stage, form: str = LOOPED, **bodies: str) -> None:
    stage.put(HEAD + "".join(form.format(name=name, body=body) for name, body in bodies.items()))


@pytest_twisted.ensureDeferred
async def test_asyncio_and_the_storage(stage: Stage) -> None:
    """It awaits asyncio and the storage, also several calls at once, in tasks, and with a time-out; it may print."""
    put(
        stage,
        Gathers="await asyncio.sleep(0.01); await asyncio.gather(*(self.storage.write(f'k{n}', str(n)) for n in"
        " range(20))); found = await asyncio.gather(*(self.storage.read(f'k{n}') for n in range(20)));"
        " return ' '.join(each.value for each in found)",
        Groups="async with asyncio.TaskGroup() as tasks: read = tasks.create_task(self.shout(input))\n"
        "        return read.result()\n\n"
        "    async def shout(self, key): return (await self.storage.read('k1')).value + '!'",
        Waits="return (await asyncio.wait_for(self.storage.read('k2'), 5)).value",
        Catches="\n        try: await self.storage.read('nowhere')\n"
        "        except Exception as problem: return str(problem)",
        Updates="v = await self.storage.update_if_value_is('k3', '3', 'three'); return f'{v} '"
        " + str(await self.storage.update_if_value_is('k3', '3', 'four'))",
    )
    ended = await stage.outcome(
        stage.request(*(f"{n}@w1" for n in ("Gathers", "Groups", "Waits", "Catches", "Updates")))
    )
    assert isinstance(ended, Ended), ended
    assert [step.output for step in ended.chain] == [
        " ".join(map(str, range(20))), "1!", "2", "no-such-record: nowhere", "2.1 None",
    ]  # fmt: skip


@pytest_twisted.ensureDeferred
async def test_what_may_go_wrong_on_a_loop(stage: Stage) -> None:
    """Each fails its own run with a reason, and the loop serves the others on."""
    put(
        stage,
        Raises="raise ValueError('no good')",
        Leaves="raise SystemExit(3)",
        Stops="asyncio.create_task(self.leave()); await asyncio.sleep(0.05); return 'on'\n\n"
        "    async def leave(self): raise KeyboardInterrupt",
        Cancels="asyncio.current_task().cancel(); await asyncio.sleep(1)",
        Missing="await self.storage.read('nowhere')",
        Number="return 5",
        Good="await asyncio.sleep(0); return 'good'",
    )
    for name, reason in {
        "Raises": "raised ValueError: no good",
        "Leaves": "raised SystemExit: 3",
        "Cancels": "raised CancelledError: it cancelled its own task",
        "Missing": "failed: no-such-record: nowhere",
        "Number": "returned int, not a string",
    }.items():
        assert await stage.reason(f"{name}@w1") == f"{name} at position 0 on w1 {reason}"
    put(stage, PLAIN.replace("class {name}:\n", 'class {name}:\n    loop = "asyncio"\n'), Plain="return ''")
    assert (await stage.reason("Plain@w1")).endswith('has loop = "asyncio", which is for async def process_record')
    put(stage, LOOPED.replace('"asyncio"', '"uvloop"'), Other="return ''")
    assert (await stage.reason("Other@w1")).endswith("has loop = 'uvloop': give it \"asyncio\", or leave it out")
    put(stage, Good="await asyncio.sleep(0); return 'good'")
    assert isinstance(await stage.outcome(stage.request("Good@w1")), Ended)


@pytest_twisted.ensureDeferred
async def test_an_operator_on_a_loop_is_cancelled(stage: Stage) -> None:
    """At its time-out it, and the tasks that it has made, are cancelled; so are those that it leaves behind."""
    put(
        stage,
        Late="Late.log = []; asyncio.create_task(self.other()); await self.other()\n\n"
        "    async def other(self):\n"
        "        try: await asyncio.sleep(60)\n"
        "        except asyncio.CancelledError: Late.log.append('cancelled'); raise",
        Behind="Late.log = []; task = asyncio.create_task(Late.other(self)); await asyncio.sleep(0.01); return 'out'",
        Log="await asyncio.sleep(0.01); return str(Late.log)",
    )
    stage.start("w1", timeout=0.3)
    assert (await stage.reason("Late@w1")).endswith("did not return within 0.3 s, the limit is --operator-timeout")
    ended = await stage.outcome(stage.request("Log@w1", "Behind@w1", "Log@w1"))
    assert isinstance(ended, Ended), ended
    assert [step.output for step in ended.chain] == ["['cancelled', 'cancelled']", "out", "['cancelled']"]


@pytest_twisted.ensureDeferred
async def test_a_blocked_loop_is_replaced(stage: Stage) -> None:
    """An operator that blocks its loop holds up those that are on it, not those that come when that is known."""
    stage.start("w1", timeout=2.0)
    put(
        stage,
        Blocks="\n        while not Blocks.free: time.sleep(0.01)\n        return ''",
        Frees="Blocks.free = True; return ''",
        Good="await asyncio.sleep(0); return 'good'",
    )
    file = stage.folder / "ops.py"
    file.write_text(file.read_text().replace("class Blocks:\n", "class Blocks:\n    timeout = 0.2\n    free = False\n"))
    loops = stage.workers["w1"].operators.loops
    loops.blocked_after = 0.2
    assert "did not return within 0.2 s, the limit is its class's timeout" in await stage.reason("Blocks@w1")
    await until(lambda: loops.blocked == 1)
    assert isinstance(await stage.outcome(stage.request("Good@w1", "Frees@w1")), Ended)
    await until(lambda: not loops._blocked[0].running)
    assert loops.current() is not None
    assert loops.blocked == 0


@pytest.mark.parametrize(
    "body",
    [
        "await asyncio.sleep(0.01)",
        "await asyncio.gather(asyncio.sleep(0), asyncio.sleep(0))",
        "asyncio.get_running_loop()",
        "asyncio.create_task(asyncio.sleep(1))",
        "await asyncio.wait_for(asyncio.sleep(0.01), 1)",
        "await asyncio.get_event_loop_policy().new_event_loop().create_future()",
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::ResourceWarning")
@pytest_twisted.ensureDeferred
async def test_asyncio_where_it_is_not(stage: Stage, body: str) -> None:
    """An operator that meets asyncio on the reactor is told what to write."""
    put(stage, ASYNC, Op=body + "; return ''")
    reason = await stage.reason()
    assert reason.endswith('give the class loop = "asyncio", and write async def process_record'), reason
    assert "\n" not in reason
