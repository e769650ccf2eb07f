"""What operators print: kept with the step and in the log, in bounds, and in nobody's way."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from zope.interface import provider

from dida.chains.messages import Ended, Failed
from dida.worker.printing import LINES_A_SECOND, MAX_PRINTED, LogOfSteps, Printed, Streams
from tests.support.fakes import until
from tests.worker.test_node import ASYNC, PLAIN, Stage, no_pipes

ISOLATED = PLAIN.replace("class {name}:\n", 'class {name}:\n    isolation = "process"\n')
WAYS = pytest.mark.parametrize("form", [PLAIN, ASYNC, ISOLATED], ids=["thread", "async", "process"])


@pytest.fixture
def printing(tmp_path: Path) -> Iterator[Stage]:
    """A stage with time for processes."""
    stage = Stage(tmp_path)
    for id in ("w1", "w2"):
        stage.start(id, timeout=30.0)
    yield stage
    stage.close()


async def outcome(stage: Stage, *steps: str, input: str = "i", left: float = 60.0) -> Ended | Failed:
    """How a run ends in a process that prints as a worker's does."""
    streams = Streams()
    streams.start()  # not in a fixture: pytest has streams of its own for each phase of a test
    try:
        return await stage.outcome(stage.request(*steps, input=input, left=left))
    finally:
        streams.stop()


@pytest.fixture
def log() -> Iterator[list[str]]:
    """What is logged."""
    found: list[str] = []

    @provider(ILogObserver)
    def observe(event: LogEvent) -> None:
        found.append(formatEvent(event))

    globalLogPublisher.addObserver(observe)
    yield found
    globalLogPublisher.removeObserver(observe)


@WAYS
@pytest_twisted.ensureDeferred
async def test_what_is_printed_is_kept_with_the_step(printing: Stage, form: str, log: list[str]) -> None:
    """Both streams, text and bytes, in their order; of each step its own; also of one that fails."""
    body = (
        "import sys; print('one', input); sys.stderr.write('two\\n'); sys.stdout.buffer.write(b'thr\\xffee\\n'); "
        "sys.stdout.flush(); print('half \\udc00'); assert sys.stdout.fileno() == 1 and sys.stderr.fileno() == 2; "
        "import os; os.fstat(sys.stdout.fileno()); print('end', end=''); return 'x' * (1 // len(input))"
    )
    printing.operator(body, form)
    ended = await outcome(printing, "Op@w1", "Op@w2")
    assert isinstance(ended, Ended), ended
    said = "one i\ntwo\nthr\ufffdee\nhalf \\udc00\nend"
    assert ended.printed == said
    assert [each.printed for each in printing.told.completed] == [said]
    for position in (0, 1):
        head = f"run {ended.run}: Op at position {position} printed: "
        assert [line for line in log if line.startswith(head)] == [head + each for each in said.splitlines()]
    failed = await outcome(printing, "Op@w1", input="")
    assert isinstance(failed, Failed)
    assert failed.printed == said.replace(" i", " ")
    assert "ZeroDivisionError" in failed.reason
    await until(no_pipes)


@WAYS
@pytest_twisted.ensureDeferred
async def test_more_than_is_kept(printing: Stage, form: str, log: list[str]) -> None:
    """A step that prints without end is executed as ever; so much of it is kept, the rest is counted."""
    printing.operator("print(('x' * 99 + '\\n') * 30_000, end=''); return 'out'", form)
    ended = await outcome(printing, "Op@w1")
    assert isinstance(ended, Ended), ended
    assert ended.printed == (("x" * 99 + "\n") * 1000)[:MAX_PRINTED] + "… 2,934,464 bytes more"
    assert len([line for line in log if "printed" in line]) <= LINES_A_SECOND * 3
    await until(no_pipes)


@pytest_twisted.ensureDeferred
async def test_all_that_a_process_prints(printing: Stage) -> None:
    """What an isolated operator logs, its children print, and its end leaves unsaid, is kept, too."""
    bodies = {
        "Logs": "import logging; logging.info('first'); logging.getLogger('a.b').info('second'); return ''",
        "Quiet": "import logging; logging.getLogger('a.b').info('alone'); logging.getLogger().debug('no'); return ''",
        "Starts": "import os, subprocess, sys; print('before'); subprocess.run(['echo', 'inner']); "
        "subprocess.run(['echo', 'given'], stdout=sys.stdout); os.write(1, b'raw\\n'); return ''",
        "Leaves": "import subprocess; subprocess.Popen(['sleep', '60']); print('left'); return ''",
        "Exits": "import os, subprocess; subprocess.Popen(['sleep', '60']); print('last'); os._exit(3)",
        "Closes": "import sys; print('closed'); sys.stdout.close(); return ''",
    }
    printing.put("".join(ISOLATED.format(name=name, body=body) for name, body in bodies.items()))
    for name, said in {
        "Logs": "INFO:root:first\nINFO:a.b:second\n",
        "Quiet": "alone\n",
        "Starts": "before\ninner\ngiven\nraw\n",
        "Leaves": "left\n",
        "Exits": "last\n",
        "Closes": "closed\n",
    }.items():
        ended = await outcome(printing, f"{name}@w1", left=20.0)
        assert ended.printed == said, name
        assert isinstance(ended, Failed) == (name == "Exits")
    assert "ended its process with exit status 3" in printing.told.failed[0].reason
    await until(no_pipes)


@pytest_twisted.ensureDeferred
async def test_a_process_that_is_given_up_takes_its_children_along(printing: Stage, tmp_path: Path) -> None:
    """At its time-out an isolated operator is killed with the processes that it has started."""
    body = (
        "import subprocess; child = subprocess.Popen(['sleep', '60']); "
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid)); print('begun'); child.wait()"
    )
    printing.put(ISOLATED.format(name="Op", body=body).replace("class Op:", "class Op:\n    timeout = 2.0"))
    failed = await outcome(printing, "Op@w1", left=20.0)
    assert isinstance(failed, Failed)
    assert "did not return within 2.0 s" in failed.reason
    assert failed.printed == "begun\n"
    child = Path("/proc", (tmp_path / "pid").read_text())
    await until(lambda: not child.exists() or "\nState:\tZ" in (child / "status").read_text())
    await until(no_pipes)


def test_what_is_printed_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    """What no step prints goes where it went before; the streams can't be closed by anybody."""
    streams = Streams()
    streams.start()
    try:
        sys.stdout.write("outside\n")
        sys.stdout.buffer.write(b"bytes\n")
        sys.stdout.close()
        with pytest.raises(TypeError, match="must be str, not int"):
            sys.stdout.write(5)  # type: ignore[arg-type]
        step = Printed()
        entered = step.enter()
        sys.stdout.write("inside\n")
        step.leave(entered)
        sys.stderr.write("again\n")
    finally:
        streams.stop()
    assert capsys.readouterr() == ("outside\nbytes\n", "again\n")
    assert step.end() == "inside\n"


def test_the_log_is_not_flooded(log: list[str]) -> None:
    """So many lines a second go into the log, whatever number of steps print; the others are counted there."""
    clock = Clock()
    clock.advance(1)
    logs = LogOfSteps(clock.seconds)
    steps = [logs.of(f"r{number}", "Op", 0) for number in range(10)]
    for step in steps:
        step.write(b"line\n" * 100)
    assert len(log) == LINES_A_SECOND
    clock.advance(1)
    steps[0].write(b"y" * 5000 + b"\n")
    more, last = log[LINES_A_SECOND:]
    assert more == "800 more lines that operators printed are not in this log"
    assert last == f"run r0: Op at position 0 printed: {'y' * 1000}"
