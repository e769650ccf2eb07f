"""The program of a child process: `python -m dida.pcs.launch …` is `twistd -n …` in a new session.

So Ctrl-C on the parent's terminal does not reach the child, twistd need not be on the path, and output and errors keep
their order in one file. With `--output=FILE` that file is FILE, the node's log (see `dida.services.logs`).
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Sequence

from dida.addresses import Address, NodeAddress, StorageAddress, node_id
from dida.errors import BadRequest, UserError
from dida.pcs.messages import ROLES, Start

OUTPUT = "--output="


def command_line(*words: str, output: str | None = None) -> list[str]:
    """Return the command line of a child process, its executable first."""
    to = [] if output is None else [OUTPUT + output]
    return [sys.executable, "-m", "dida.pcs.launch", *to, *words]


def main(words: Sequence[str]) -> None:
    """Become twistd. No garbage collection while it imports, which saves a tenth of the time."""
    gc.disable()  # dida.services.own_process enables it
    for number in (signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, lambda number, frame: None)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from twisted.scripts.twistd import run

    os.setsid()
    os.dup2(1, 2)
    twistd = ["twistd", "-n", "--pidfile="]
    if words[0].startswith(OUTPUT):
        twistd.append(f"--logfile={words[0].removeprefix(OUTPUT)}")
        words = words[1:]
    sys.argv = [*twistd, *words]
    run()


if __name__ == "__main__":
    main(sys.argv[1:])


def node_arguments(request: Start, operators: str | None, drain: float | None = None) -> list[str]:
    """Return the command line of the node that `request` describes; BadRequest when that is invalid."""
    if request.role not in ROLES:
        raise BadRequest(f"invalid role {request.role!r}: write one of {', '.join(ROLES)}")
    try:
        words = [f"dida-{request.role}", f"--id={node_id(request.id)}", f"--url=http://{Address.parse(request.url)}"]
        if request.role != "scheduler":
            words.append(f"--gossip-delay={request.gossip_delay}")
            if drain is not None:
                words.append(f"--drain={drain:g}")
        if request.role == "storage":
            words.append(f"--replica={number_of(request)}")
        if request.role == "worker" and operators is not None:
            words.append(f"--operators={operators}")
        if request.role != "worker":
            words += [f"--storage={StorageAddress.parse(member)}" for member in request.storage]
        if request.role == "scheduler":
            words += [f"--worker={NodeAddress.parse(member)}" for member in request.worker]
    except UserError as problem:
        raise BadRequest(str(problem)) from None
    return words


def number_of(request: Start) -> int:
    """Return the replica number of the storage node that `request` describes, 0 of other nodes; UserError when its
    members are invalid."""
    if request.replica or request.role != "storage":
        return request.replica
    members = [StorageAddress.parse(member) for member in request.storage]
    own = next((member.replica for member in members if member.id == request.id), 0)
    return own or 1 + max((member.replica for member in members), default=0)
