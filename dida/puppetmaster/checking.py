"""What is wrong with a script before anything is started: `--check`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from dida.addresses import HERE
from dida.console.commands import NodeCommand
from dida.console.script import Line
from dida.errors import UserError
from dida.puppetmaster.commands import action_of
from dida.puppetmaster.script_state import ScriptState


def check(
    lines: Iterable[Line],
    folders: Sequence[str],
    machines: Iterable[str],
    operators: Collection[str] | None = None,
    there: Iterable[NodeCommand] = (),
) -> list[tuple[Line, str]]:
    """Return the lines that cannot succeed, and why.

    `machines`: the hosts with a PCS, beside this one; `operators`: the workers' operators, if known; `there`: nodes
    that run already.
    """
    ran = {command.id: command for command in there}
    state = ScriptState(folders, {HERE, *machines}, operators, there={**ran}, ran={**ran})
    wrong = []
    for line in lines:
        try:
            action_of(line).check(state)
        except UserError as problem:
            wrong.append((line, str(problem)))
    return wrong
