"""Operators in separate processes, which are killed at their time-outs (see `dida.worker.isolated`)."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from dida.chains.messages import Execute
from dida.errors import DidaError
from dida.versions import Version
from dida.wire import grammar
from dida.worker.isolated import TO_WORKER
from dida.worker.printing import Printed
from dida.worker.run_storage import RunStorage
from dida.worker.sources import Parts

MAX_LINE = 4 * 1024 * 1024
"""The most bytes of one line from the process."""
OUTPUT = (1, 2)
"""The descriptors on which it prints."""
MAX_REST = 16
"""The most reads of what a process has left behind in a pipe."""
CALLS = ("read", "write", "update_if_value_is")


class OperatorProcess(ProcessProtocol):
    """One process. `outcome` fires with its last line; if there is none, with how it ended."""

    def __init__(self, request: Execute, storage: RunStorage, module: Parts, printed: Printed) -> None:
        """`module` is the module of the operator's class; if it is empty the process looks for it."""
        self.outcome: Deferred[dict[str, Any]] = Deferred(lambda outcome: self.kill())
        self._request = request
        self._storage = storage
        self._module = module
        self._printed = printed
        self._lines = grammar.LineBuffer(MAX_LINE)

    def start(self, reactor: Any, folder: str) -> None:
        """Start the process."""
        path = os.pathsep.join(each for each in sys.path if each)
        reactor.spawnProcess(
            self,
            sys.executable,
            [sys.executable, "-m", "dida.worker.isolated", folder],
            env={**os.environ, "PYTHONPATH": path},
            childFDs={0: "w", **dict.fromkeys(OUTPUT, "r"), TO_WORKER: "r"},
        )

    def kill(self) -> None:
        """Kill the process."""
        if self.transport is not None:
            with suppress(ProcessExitedAlready):
                self.transport.signalProcess("KILL")
            for number in (0, *OUTPUT, TO_WORKER):  # whatever else the operator has started may hold the other ends
                self.transport.closeChildFD(number)

    def give_up(self) -> None:
        """Kill the process and all that it has started: it is past its time-out, and its outcome does not count."""
        if self.transport is not None and self.transport.pid is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.transport.pid, signal.SIGKILL)
        self._end({})

    # --- ProcessProtocol ------------------------------------------------------------------------

    def connectionMade(self) -> None:
        request = self._request
        self._send(
            operator=request.assignment.operator,
            module=self._module,
            meta=grammar.unstructure(request.meta.of_step(request.next)),
            input=request.input,
            previous_output=request.previous_output,
            deadline=self._storage.deadline,
        )

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        if childFD != TO_WORKER:
            self._printed.write(data)
            return
        lines = self._lines.take(data)
        if self._lines.overlong:
            self._end({"failed": f"sent more than {MAX_LINE} bytes in one line: write less at a time"})
        for line in lines:
            if not self.outcome.called:
                self._take(line)

    def processExited(self, reason: Failure) -> None:
        self._take_rest(TO_WORKER)
        status: Any = reason.value
        how = f"by signal {status.signal}" if status.signal else f"with exit status {status.exitCode}"
        self._end({"failed": f"ended its process {how}"})

    def _take_rest(self, number: int) -> None:
        """Read what the process has written and is still in the pipes, at most some pipes full."""
        transport: Any = self.transport
        pipe = transport.pipes.get(number)
        if pipe is not None:
            with suppress(OSError):
                for _ in range(MAX_REST):
                    self.childDataReceived(number, os.read(pipe.fd, 65536))

    # --- its lines ------------------------------------------------------------------------------

    def _take(self, line: bytes) -> None:
        try:
            message = msgspec.json.decode(line)
            call = message.get("call")
        except (msgspec.DecodeError, AttributeError):
            self._end({"failed": "wrote to the descriptor of the connection to its worker"})
            return
        if call is None:
            self._end(message)
        elif call in CALLS:
            Deferred.fromCoroutine(self._answer(call, message["arguments"])).addErrback(self._bug)

    async def _answer(self, call: str, arguments: list[Any]) -> None:
        try:
            if call == "read":
                key, version = arguments
                record = await self._storage.read(key, None if version is None else Version.parse(version))
                self._send(answer=[record.value, str(record.version)])
            else:
                written = await getattr(self._storage, call)(*arguments)
                self._send(answer=[None if written is None else str(written)])
        except DidaError as problem:
            self._send(error=problem.code, words=problem.words)

    def _bug(self, failure: Failure) -> None:
        self._end({"failed": f"made an invalid storage call: {failure.getErrorMessage()}"})

    def _send(self, **members: Any) -> None:
        if self.transport is not None and not self.outcome.called:
            self.transport.writeToChild(0, msgspec.json.encode(members) + b"\n")

    def _end(self, outcome: dict[str, Any]) -> None:
        if not self.outcome.called:
            for number in OUTPUT if self.transport is not None else ():
                self._take_rest(number)
            self.outcome.callback(outcome)
        self.kill()
