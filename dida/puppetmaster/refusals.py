"""Why a command cannot be executed, in the words that users read.

`--check` and the running system raise the same errors.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from difflib import get_close_matches

from dida.console.commands import NodeCommand, SchedulerCommand
from dida.errors import BAD_REQUEST, UNAVAILABLE, DidaError, UserError, shown

CRASHED = "crashed by command"
STOPPED = "stopped by command"


def plain(problem: DidaError) -> str:
    """Return a problem in one line, without the code where the words alone say it."""
    if problem.words and problem.code in (UNAVAILABLE, BAD_REQUEST):
        return " ".join(problem.words)
    return str(problem)


def clash(command: NodeCommand, there: Iterable[NodeCommand]) -> str | None:
    """Return why a node cannot be started beside those that run; None if it can."""
    for node in there:
        if node.id == command.id:
            return f"already in use: the id {node.id}, by a {node.role} at {node.address}: choose another id"
        if (node.address.port, node.address.machine) == (command.address.port, command.address.machine):
            return f"already in use: {node.address}, by {node.id}: choose another port"
        if isinstance(command, SchedulerCommand) and isinstance(node, SchedulerCommand):
            return f"already started: the scheduler {node.id} at {node.address}, one is enough"
    return None


def same(one: NodeCommand, other: NodeCommand) -> bool:
    """Return True if both name one node."""
    return _identity(one) == _identity(other)


def _identity(command: NodeCommand) -> tuple[str, str, int, str]:
    return command.role, command.id, command.address.port, command.address.machine


def unknown(id: str, there: Sequence[str]) -> UserError:
    """Return the error for a node that no command has named."""
    return UserError(f"unknown node {id}: there are {', '.join(there) or 'none yet'}")


def gone(id: str, how: str) -> UserError:
    """Return the error for a node that has ended."""
    return UserError(f"{id} has ended: {how}")


def missing(role: str, hint: str = "") -> UserError:
    """Return the error for a role that no node has."""
    what = f"{role}{' node' if role == 'storage' else ''}"
    return UserError(f"missing {what}: {hint or f'start one with {role} ID URL …'}")


def no_pcs(host: str) -> UserError:
    """Return the error for a host without a known PCS."""
    return UserError(f"missing PCS for {host}: start twistd dida-pcs there, and name it with --pcs URL")


def no_operator(name: str, there: Collection[str]) -> UserError:
    """Return the error for a class that no file in the operators folder has."""
    near = get_close_matches(name, there, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(there)) or 'none'}"
    return UserError(f"unknown operator {shown(name)}: {hint}")


def no_client(number: int) -> UserError:
    """Return the error for an expected run that no earlier command has started."""
    if number:
        return UserError(f"unknown run {number}: fewer client commands come before it, count them from 1 or write LAST")
    return UserError("unknown run: no client command comes before it, put it after the one that is meant")


def no_delay(id: str) -> UserError:
    """Return the error for the gossip delay of a scheduler."""
    return UserError(f"{id} is a scheduler: only storage nodes and workers have a gossip delay")


def no_records(id: str, role: str) -> UserError:
    """Return the error for the records of a node that is not a storage node."""
    return UserError(f"{id} is a {role}: only storage nodes have records")
