"""A tiny node for the PCS's tests: run as a script with a node's options, its id says how it behaves."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping
from typing import Any

from dida.addresses import Address
from dida.protocols.lines import Answer, LineServerFactory, NodeCommands, ok
from dida.services.logs import NodeLog
from dida.wire.messages import ListRecords, Request, vocabulary


class StubNode(NodeCommands):
    """Ready from the third time on that it is asked."""

    vocabulary: Mapping[str, type[Request]] = {**NodeCommands.vocabulary, **vocabulary(ListRecords)}

    def __init__(self, id: str, role: str) -> None:
        self.id = id
        self.role = role
        self.asked = 0

    def cmd_status(self, request: Request) -> Answer:
        self.asked += 1
        return ok(id=self.id, role=self.role, pid=os.getpid(), ready=self.asked > 2)

    def cmd_list(self, request: Request) -> Answer:
        return ok(records={})


def _end_at_the_second(number: int, frame: object) -> None:
    signal.signal(number, signal.SIG_DFL)


def main() -> None:
    options = dict(word.removeprefix("--").partition("=")[::2] for word in sys.argv[2:])
    id = options["id"]
    if id == "unlucky":
        sys.exit("stub: the port is taken")
    if id.startswith("chatty"):
        log = NodeLog(options["output"], size=150_000)
        for number in range(int(id.removeprefix("chatty"))):
            log.write(f"line {number} of {id}\n")
            if number % 1000 == 0:
                time.sleep(0.02)  # it writes for a while
        return
    if id == "slow":
        time.sleep(1000)  # it is never ready
    if id == "patient":
        signal.signal(signal.SIGTERM, _end_at_the_second)
    if id == "failing":
        sys.exit(3)
    if id == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    from twisted.internet import reactor as installed

    reactor: Any = installed
    address = Address.parse(options["url"])
    reactor.listenTCP(address.port, LineServerFactory(StubNode(id, sys.argv[1]), reactor), interface="127.0.0.1")
    for number in range(int(id.removeprefix("noisy")) if id.startswith("noisy") else 1):
        sys.stdout.write(f"line {number} of {id}\n")
    sys.stdout.write("no line end")
    sys.stdout.flush()
    reactor.run(installSignalHandlers=id not in ("stubborn", "patient"))


if __name__ == "__main__":
    main()
