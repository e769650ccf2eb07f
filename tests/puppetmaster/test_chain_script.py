"""The chain.py of docs/howto/use-from-python.md, against a scheduler that answers what a scheduler may answer."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.utils import getProcessOutputAndValue

from dida.protocols.lines import Answer, NodeCommands
from dida.wire.messages import NODE, Error, Ok, Reply, Request, vocabulary
from dida.wire.runs import Result, Run
from tests.support.fakes import FakeCluster, Port, the_reactor
from tests.support.nodes import ROOT, environment


class Scheduler(NodeCommands):
    """Answers each run, and its result, as it is told."""

    vocabulary: Mapping[str, type[Request]] = vocabulary(*NODE, Run, Result)

    def __init__(self, run: Reply, result: Reply) -> None:
        self.run = run
        self.result = result

    def cmd_run(self, request: Run) -> Answer:
        return self.run

    def cmd_result(self, request: Result) -> Answer:
        return self.result


REFUSED = Error("no-such-operator", ("IncrementOperator",))
LATE = Error("timed-out", ("run r1 is still going on",))


@pytest.mark.parametrize(
    ("run", "result", "status", "printed"),
    [
        (Ok(("r1",)), Ok(("done", "42")), 0, "done 42\n41\n"),
        (Ok(("r1",)), Ok(("failed", "why")), 0, "failed why\n41\n"),
        (REFUSED, LATE, 1, "chain.py: no-such-operator: IncrementOperator\n"),
        (Ok(("r1",)), LATE, 1, "chain.py: timed-out: run r1 is still going on\n"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_chain_py(tmp_path: Path, run: Reply, result: Reply, status: int, printed: str) -> None:
    """An error ends it with that in one line, and status 1; a result is printed."""
    storage, scheduler = FakeCluster(the_reactor(), 1), Port(the_reactor(), Scheduler(run, result))
    found = re.search(
        r"^`chain\.py`\n\n```python\n(.*?)^```",
        (ROOT / "docs" / "howto" / "use-from-python.md").read_text(),
        re.DOTALL | re.MULTILINE,
    )
    assert found is not None
    script = found[1].replace("1=s1@localhost:5001", str(storage.addresses[0]))
    script = script.replace('"localhost", 2000', f'"{scheduler.address.host}", {scheduler.address.port}')
    (tmp_path / "chain.py").write_text(script)
    try:
        out, errors, ended = await getProcessOutputAndValue(
            sys.executable, [str(tmp_path / "chain.py")], env=environment(), path=str(tmp_path)
        )
    finally:
        scheduler.close()
        storage.close()
    assert ((out + errors).decode(), ended) == (printed, status)
