"""What `help` says: of all commands, and of one of them, with an example."""

from __future__ import annotations

from dida.console.commands import COMMANDS
from dida.console.style import FAINT, PLAIN, STRONG, Style, wrapped
from dida.console.tables import WIDTH

NARROW = 20
"""Columns that are too few for what a command does."""

EXAMPLES: dict[str, tuple[str, ...]] = {
    "scheduler": ("scheduler sc1 http://localhost:2000",),
    "storage": ("storage s1 http://localhost:5001 100", "storage s2 localhost:5002 0"),
    "worker": ("worker w1 http://localhost:4001 0",),
    "client": ("client 13 add_update_add", 'client "hello world" my_app'),
    "run": ("run 13 AddOperator IncrementOperator",),
    "map": ("map add_update_add inputs.txt",),
    "show": ("show r7",),
    "cancel": ("cancel r7",),
    "populate": ("populate four_records",),
    "status": ("status", "status --json"),
    "listServer": ("listServer s1", "listServer s1 --json"),
    "listGlobal": ("listGlobal", "listGlobal --json"),
    "runs": ("runs", "runs --json"),
    "read": ("read 13", "read 13 4.1"),
    "write": ("write 13 1", 'write greeting "hello world"'),
    "updateif": ("updateif 13 1 2",),
    "debug": ("debug",),
    "crash": ("crash s1",),
    "stop": ("stop w1",),
    "pause": ("pause s1",),
    "resume": ("resume s1",),
    "slow": ("slow s1 500",),
    "restart": ("restart s1",),
    "expect": ("expect 13 success",),
    "expect-run": ("expect-run LAST done 4", "expect-run 2 failed no-such-record"),
    "wait": ("wait 1000",),
    "help": ("help", "help client"),
    "quit": ("quit",),
}
"""How a command is typed."""

DETAILS: dict[str, str] = {
    "scheduler": "One is enough. Clients wait for it.",
    "storage": "Replicas are numbered in the order of their commands; those that come before all others are the first"
    " members. The delay is what an update waits before it is passed on.",
    "worker": "The delay is what it sleeps before it hands a request on.",
    "client": "The file has lines `operator CLASSNAME SEQ`; it is sought in the current folder, then in pmscripts and"
    " below it. The answer comes when the run ends; meanwhile other commands may be typed.",
    "run": "As client, with the names of operators in place of a file.",
    "map": "A hundred runs go on at a time. Their failures are told with the line of the input, the rest is summed up.",
    "show": "The beginning of a run's id is enough. Of a run that goes on the story comes when it has ended.",
    "cancel": "The beginning of a run's id is enough. What was executing is given up, and nothing more of it is begun.",
    "debug": "Workers that are named later report, too.",
    "populate": "The file has lines `key,value`; it is sought as applications are.",
    "status": "A table: who sees how many nodes, who is presumed dead, in which view, how many of its updates others"
    " still lack (lag), what it did. --json prints all that the nodes say, on one line.",
    "listServer": "The newest version of a record has a star. --json prints one line.",
    "listGlobal": "Each version once, with the nodes that have it; the newest has a star. --json prints one line.",
    "runs": "The scheduler's runs, the newest first. --json prints one line.",
    "crash": "As a power cut would: the others find out by themselves. It can be started again under its id.",
    "stop": "A worker finishes what it has, a storage node hands over what it has; the others know that it leaves."
    " It can be started again under its id.",
    "read": "Sees what was written from here and by populate before.",
    "updateif": "All storage nodes of the key do it at once; what the value is when it is not OLD is shown.",
    "pause": "Its process stands still (SIGSTOP); the others will take it for dead after a while.",
    "resume": "It finds out by itself whether the others have taken it for dead.",
    "slow": "Of a storage node or a worker, in milliseconds; a restart brings back that of its command.",
    "restart": "It has the same id, address and number as before.",
    "expect": "At most 10 s. What was found instead is shown.",
    "expect-run": "LAST is the run of the client command before, a number that of the N-th. Without an output any will"
    " do. Of a failed run a part of the reason is enough; it does not count as failed then.",
    "wait": "Commands that are typed meanwhile are done after it. Ctrl-C drops it.",
    "help": "Keys: Tab completes, arrows move and go through the history, Ctrl-R searches it, Ctrl-C drops the line,"
    " Ctrl-D ends.",
}
"""What its one line does not say."""


def help_lines(topic: str = "", width: int | None = None, palette: Style = PLAIN) -> list[str]:
    """The commands and what they do, aligned; of the command `topic` its usage, details and an example."""
    if not topic:
        longest = max(len(kind.usage) for kind in COMMANDS)
        lines = [
            line for kind in COMMANDS for line in _beside(kind.usage, longest, kind.about, width or WIDTH, palette)
        ]
        return [*lines, "", "  help COMMAND: more of one, with an example"]
    kind = next(kind for kind in COMMANDS if kind.usage.split()[0] == topic)
    text = f"{kind.about}. {DETAILS.get(topic, '')}"
    examples = [f"  {palette(FAINT, 'example:')} {example}" for example in EXAMPLES.get(topic, ())]
    return [f"  {palette.word(STRONG, kind.usage)}", *_indented(text, 4, width or WIDTH), *examples]


def _beside(usage: str, longest: int, about: str, width: int, palette: Style) -> list[str]:
    """The usage, and what it does: in a column of its own, or below where that would be too narrow."""
    indent = longest + 4
    painted = "  " + palette.word(STRONG, usage)
    if width - indent < NARROW:
        return [painted, *_indented(about, 6, width)]
    first, *more = wrapped(about, width - indent)
    return [painted + " " * (longest - len(usage) + 2) + first, *(" " * indent + line for line in more)]


def _indented(text: str, indent: int, width: int) -> list[str]:
    return wrapped(text, max(20, width), " " * indent, " " * indent)
