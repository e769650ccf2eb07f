"""The tools for the tests of operators: chains in process, and workers that die."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import Any, ClassVar

import pytest
import pytest_twisted
from twisted.internet.task import deferLater

import dida.testing.chains
from dida.errors import DidaError
from dida.testing import Crash, MemoryStorage, NotDeterministic, every_crash, execute_chain, run_chain
from tests.support.fakes import the_reactor
from tests.support.nodes import ROOT

STOCK = str(ROOT / "operators")
CHAIN = ["AddOperator", "UpdateAndChainOperator", "AddOperator"]


class Operator:
    """What operators of these tests have in common."""

    def configure_storage(self, storage: Any) -> None:
        self.storage = storage


class Twice(Operator):
    """Writes the same key twice, and another one."""

    def process_record(self, meta: Any, input: str, previous_output: str) -> str:
        for value in ("first", "second"):
            self.storage.write(input, value + previous_output)
        self.storage.write("last of " + input, meta.run)
        return previous_output + "!"


class Flaky(Operator):
    """Fails the first time, after it has written."""

    retries = 1
    tries: ClassVar[list[str]] = []

    async def process_record(self, meta: Any, input: str, previous_output: str) -> str:
        await self.storage.write(input, "x")
        self.tries.append(meta.run)
        if len(self.tries) == 1:
            raise LookupError("not yet")
        return str((await self.storage.read(input)).value)


class Sleeper(Operator):
    async def process_record(self, meta: Any, input: str, previous_output: str) -> str:
        await deferLater(the_reactor(), 0.01)
        return "slept"


def test_a_chain_of_stock_operators() -> None:
    """Output, steps with what they read and wrote, and the storage that is left, as on real workers."""
    run = run_chain(CHAIN, "23", {"23": "11", "24": "one_ahead_of_23"}, folder=STOCK)
    assert run.output == "int_conversion_failed"
    assert [(step.operator, step.worker, step.output) for step in run.steps] == [
        ("AddOperator", "w1", "12"),
        ("UpdateAndChainOperator", "w2", "end"),
        ("AddOperator", "w1", "int_conversion_failed"),
    ]
    told = [f"{touch.how} {touch.key} {touch.version}" for touch in run.steps[0].records]
    assert told == ["read 23 1.1", "read 24 1.1", "written 23 2.1"]
    told = [f"{touch.how} {touch.key} {touch.version}" for touch in run.steps[2].records]
    assert told == ["read 23 3.1", "written 23 4.1"], "it writes its output in both cases"
    assert run.storage.values == {"23": "int_conversion_failed", "24": "one_ahead_of_23"}
    assert [value for _, value in run.storage.versions("23")] == ["int_conversion_failed", "success", "12", "11"]


def test_runs_share_a_storage() -> None:
    """A storage that is given is used as it is, and the next run sees what the one before has left."""
    storage = MemoryStorage({"n": "1"})
    outputs = [run_chain("CounterOperator", "n", storage, folder=STOCK).output for _ in range(3)]
    assert (outputs, storage.values) == (["2", "3", "4"], {"n": "4"})


def test_every_moment_at_which_a_worker_can_die() -> None:
    """Each update of each step, and each step's end: executed again on another worker, with the effects once."""
    calm = run_chain([Twice, Twice], "k")
    crashed = list(every_crash([Twice, Twice], "k"))
    assert [each.crash for each in crashed] == [
        Crash(position, update) for position in (0, 1) for update in (1, 2, 3, None)
    ]
    for each in crashed:
        assert each.storage.records == calm.storage.records, each.crash
        assert each.crash is not None
        assert each.output == "!!"
        assert [step.attempt for step in each.steps] == [1 + (each.crash.position == at) for at in (0, 1)]
        assert each.steps[each.crash.position].worker != calm.steps[each.crash.position].worker


def test_what_is_not_safe_is_found() -> None:
    """An operator whose updates depend on what it can't read again is caught by a crash."""
    seen: list[str] = []

    class Dice(Operator):
        def process_record(self, meta: Any, input: str, previous_output: str) -> str:
            seen.append("")
            for face in range(len(seen)):
                self.storage.write(f"face {face}", "x")
            return ""

    calm = run_chain(Dice)
    assert any(each.storage.records != calm.storage.records for each in every_crash(Dice))


def test_a_paused_worker_goes_on() -> None:
    """Its code runs on after the new execution has begun: its update is refused, and counts for nothing."""
    ends: list[str] = []

    class Seller(Operator):
        def process_record(self, meta: Any, input: str, previous_output: str) -> str:
            stock = self.storage.read(input).value
            try:
                self.storage.write(input, str(int(stock) - 1))
                self.storage.write("sold", stock)
            except DidaError as problem:
                ends.append(problem.code)
                raise
            ends.append("sold " + stock)
            return str(stock)

    def another(storage: MemoryStorage) -> None:
        storage.write("book", "7")

    run = run_chain(Seller, "book", {"book": "9"}, Crash(0, 1), meanwhile=another, zombie=True)
    assert sorted(ends) == ["sold 7", "superseded"]
    assert run.output == "7"
    assert run.storage.values == {"book": "6", "sold": "7"}
    ends.clear()
    run = run_chain(Seller, "book", {"book": "9"}, Crash(0, 2), meanwhile=another, zombie=True)
    assert sorted(ends) == ["sold 9", "superseded"]
    assert [value for _, value in run.storage.versions("book")] == ["7", "8", "9"], "what it had read is kept"


def test_what_an_operator_swallows() -> None:
    """An operator that goes on with another call ends its run, whatever it catches and returns."""
    executions: list[str] = []

    class Stubborn(Operator):
        def process_record(self, meta: Any, input: str, previous_output: str) -> str:
            executions.append("")
            with suppress(DidaError):
                self.storage.read(f"{input}{len(executions)}")
            with suppress(DidaError):
                self.storage.write("last", "x")
            return "fine"

    with pytest.raises(NotDeterministic, match='on w2, executed again, is not deterministic: call 1 was read "k1"'):
        run_chain(Stubborn, "k", crash=Crash(0, 2))


def test_a_paused_worker_that_does_not_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator that tries for ever makes the test fail with a reason: it does not hang."""
    monkeypatch.setattr(dida.testing.chains, "STOPS_WITHIN", 0.2)
    over = Event()
    executions: list[str] = []

    class Endless(Operator):
        def process_record(self, meta: Any, input: str, previous_output: str) -> str:
            executions.append("")
            first = len(executions) == 1
            while True:
                try:
                    self.storage.write("a", "x")
                    self.storage.write("b", "x")
                    return "out"
                except DidaError:
                    if over.is_set() or not first:
                        raise

    try:
        with pytest.raises(RuntimeError, match=r"the paused worker goes on for more than 0\.2 s"):
            run_chain(Endless, crash=Crash(0, 1), zombie=True)
    finally:
        over.set()


def test_retries() -> None:
    """`retries` are made as on a worker: the try counts, its effects happen once, the last failure is raised."""
    Flaky.tries.clear()
    run = run_chain(Flaky, "k")
    assert (run.output, run.steps[0].attempt, len(run.storage.versions("k"))) == ("x", 2, 1)

    class Failing(Operator):
        def process_record(self, meta: Any, input: str, previous_output: str) -> str:
            raise LookupError("never")

    with pytest.raises(LookupError, match="never"):
        run_chain([Twice, Failing], "k")
    with pytest.raises(DidaError, match="no-such-record"):
        run_chain("ReaderOperator", "nothing", folder=STOCK)


def test_what_is_no_output() -> None:
    """An operator that returns something else than a string is told so; one that is not there, too."""

    class Nothing(Operator):
        def process_record(self, meta: Any, input: str, previous_output: str) -> None:
            return None

    with pytest.raises(TypeError, match="Nothing returned NoneType, not a string"):
        run_chain(Nothing)
    with pytest.raises(DidaError, match="no class NoSuchOperator"):
        run_chain("NoSuchOperator", folder=STOCK)


@pytest_twisted.ensureDeferred
async def test_operators_that_await_more() -> None:
    """With a reactor an operator may await anything; without one it is told what to do."""
    with pytest.raises(RuntimeError, match="await execute_chain"):
        run_chain(Sleeper)
    assert (await execute_chain([Sleeper, Sleeper])).output == "slept"


def test_the_examples_of_the_documentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests that docs/howto/test-an-operator.md shows pass, with the operators of docs/reference/operators.md."""
    pages = [ROOT / "docs" / "reference" / "operators.md", ROOT / "docs" / "howto" / "test-an-operator.md"]
    text = "\n".join(page.read_text() for page in pages)
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    (tmp_path / "operators").mkdir()
    tests: dict[str, Any] = {}
    for number, block in enumerate(blocks):
        if "def test_" in block:
            exec(block, tests)
        else:
            (tmp_path / "operators" / f"block_{number}.py").write_text(block)
    monkeypatch.chdir(tmp_path)
    found = [test for name, test in tests.items() if name.startswith("test_")]
    assert len(found) >= 3
    for test in found:
        test()
