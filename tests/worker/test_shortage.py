"""Workers that lack what it takes: descriptors, memory, threads."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from dida.chains.messages import Ended, Failed
from dida.protocols.lines import LineServerFactory
from dida.protocols.shortage import Lacking, lack_of, lack_of_descriptors
from dida.wire.messages import Error
from dida.worker.isolation import OperatorProcess
from dida.worker.loading import LoadingError, OperatorFolder
from dida.worker.timing import Timing
from tests.support.fakes import the_reactor
from tests.worker.test_node import PLAIN, Stage, stage, warnings

__all__ = ["stage", "warnings"]

DESCRIPTORS = "file descriptors (ulimit -n)"


def fails(problem: BaseException) -> Any:
    def fail(*arguments: Any, **options: Any) -> None:
        raise problem

    return fail


class Unreadable(OperatorFolder):
    """A folder that can't be read."""

    def __init__(self, path: str, problem: BaseException) -> None:
        super().__init__(path)
        self.problem = problem

    def find(self, name: str) -> type[Any]:
        raise self.problem


@pytest.mark.parametrize(
    ("what", "problem"),
    [
        ("process", OSError(errno.EMFILE, "too many open files")),
        ("process", OSError(errno.EAGAIN, "resource temporarily unavailable")),
        ("process", MemoryError()),
        ("process", OSError(errno.ENOSPC, "no space left on device")),
        ("thread", RuntimeError("can't start new thread")),
        ("loading", RuntimeError("can't start new thread")),
        ("loop", RuntimeError("can't start new thread")),
        ("loop", OSError(errno.EMFILE, "too many open files")),
        ("folder", OSError(errno.EMFILE, "too many open files")),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_step_is_passed_on(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, warnings: list[str], what: str, problem: BaseException
) -> None:
    """When a worker can't start a process or a thread, or read a file, another one executes the step; the log has a
    line, and for a while the worker refuses what is sent to it."""
    stage.operator("self.storage.write(input, 'x'); return 'out'")
    worker, operators = stage.workers["w1"], stage.workers["w1"].operators
    if what == "process":
        file = stage.folder / "ops.py"
        file.write_text(file.read_text().replace("class Op:\n", 'class Op:\n    isolation = "process"\n'))
        start = OperatorProcess.start
        monkeypatch.setattr(OperatorProcess, "start", lambda *given: fails(problem)() if once() else start(*given))
        for id in ("w1", "w2"):
            stage.start(id, timeout=30.0)
        worker = stage.workers["w1"]
    elif what == "loop":
        file = stage.folder / "ops.py"
        text = file.read_text().replace("class Op:\n", 'class Op:\n    loop = "asyncio"\n')
        file.write_text(
            text.replace("def process", "async def process").replace("self.storage.w", "await self.storage.w")
        )
        monkeypatch.setattr(operators.loops, "current", fails(problem))
    elif what == "loading":
        operators.loading.start_thread = fails(problem)
    elif what == "thread":
        operators.threads.start_thread = fails(problem)
    else:
        monkeypatch.setattr(operators, "folder", Unreadable(operators.folder.path, problem))
    tried: list[bool] = []

    def once() -> bool:
        tried.append(True)
        return len(tried) == 1

    ended = await stage.outcome(stage.request("Op@w1", "Op@w2", left=50.0))
    assert isinstance(ended, Ended), ended
    assert [step.worker for step in ended.chain] == ["w2", "w2"]
    assert worker.counts["passed_on"] == 1
    (told,) = [line for line in warnings if "steps are passed on" in line]
    what = told.removeprefix("no more ").removesuffix(": steps are passed on to other workers")
    worker.shortage.lasts = 60.0
    worker.shortage.note(what)
    refused = await stage.ask("w1", stage.request("Op@w1"))
    assert refused == Error("unavailable", (f"w1 has no more {what}: try another worker",))
    assert told == f"no more {what}: steps are passed on to other workers"


@pytest_twisted.ensureDeferred
async def test_what_fails_meanwhile(stage: Stage, warnings: list[str]) -> None:
    """An operator that meets the end of the worker's descriptors is executed elsewhere, and the log has a line of that,
    not the traceback; otherwise it has failed."""
    stage.operator("raise OSError(24, 'too many open files')")
    assert (await stage.reason()).endswith("on w1 raised OSError: [Errno 24] too many open files")
    assert stage.workers["w1"].counts["passed_on"] == 0
    assert len([line for line in warnings if "Traceback" in line]) == 1
    lacking = [True, False]
    for worker in stage.workers.values():
        worker.operators.lack = lambda: DESCRIPTORS if lacking.pop(0) else ""
    assert (await stage.reason("Op@w1", "Op@w2")).endswith("on w2 raised OSError: [Errno 24] too many open files")
    assert stage.workers["w1"].counts["passed_on"] == 1
    assert len([line for line in warnings if "Traceback" in line]) == 2, "on w1 before, on w2 now"


@pytest_twisted.ensureDeferred
async def test_all_workers_lack_it(stage: Stage, warnings: list[str]) -> None:
    """A step that nobody can execute goes round slowly until somebody can, or the run's deadline."""
    stage.operator("return 'out'")
    for id in ("w1", "w2"):
        worker = stage.start(id, timing=Timing(lacking_time=0.1, lacking_pause=0.02))
        worker.operators.threads.start_thread = fails(RuntimeError("can't start new thread"))
    assert isinstance(await stage.outcome(stage.request("Op@w1", left=1.0)), Failed)
    assert len([line for line in warnings if "passed on" in line]) <= 2


def test_what_is_lacking() -> None:
    """Errors of this process's limits are told apart from others."""
    assert lack_of(OSError(errno.EMFILE, "")) == lack_of(Lacking(DESCRIPTORS)) == DESCRIPTORS
    assert lack_of(MemoryError()) == lack_of(OSError(errno.ENOMEM, "")) == "memory"
    assert lack_of(RuntimeError("can't start new thread")) == "threads (ulimit -u)"
    assert lack_of(RuntimeError("else")) == lack_of(OSError(errno.ENOENT, "")) == lack_of(ValueError()) == ""


def test_the_reserve(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the reserve alone left a node takes no connection, and says so now and then."""
    assert lack_of_descriptors() == ""
    monkeypatch.setattr("resource.getrlimit", lambda which: (64, 64))
    for lowest, lack in ((55, ""), (56, DESCRIPTORS), (63, DESCRIPTORS)):
        monkeypatch.setattr(os, "dup", lambda number, lowest=lowest: lowest)
        monkeypatch.setattr(os, "close", lambda number: None)
        assert lack_of_descriptors() == lack
    monkeypatch.setattr(os, "dup", fails(OSError(errno.EMFILE, "")))
    assert lack_of_descriptors() == DESCRIPTORS
    factory = LineServerFactory(stage.workers["w1"], the_reactor())
    assert factory.buildProtocol(None) is None
    monkeypatch.undo()
    assert factory.buildProtocol(None) is not None


def test_a_folder_that_can_not_be_read_for_want_of_descriptors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not said to be missing."""
    (tmp_path / "ops.py").write_text(PLAIN.format(name="Op", body="return ''"))
    folder = OperatorFolder(str(tmp_path))
    monkeypatch.setattr(os, "scandir", fails(OSError(errno.EMFILE, "too many open files")))
    with pytest.raises(OSError, match="too many open files") as caught:
        folder.find("Op")
    assert not isinstance(caught.value, LoadingError)
