"""The text of `help`: the list of commands, or one command with examples."""

from __future__ import annotations

from dida.console.commands import COMMANDS
from dida.console.style import FAINT, PLAIN, STRONG, Style, wrapped
from dida.console.tables import WIDTH

NARROW = 20
"""Width below which a command's description stands below its usage, in columns."""

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
    "scheduler": "A system has one. Client commands wait for it.",
    "storage": "Replicas are numbered in the order of their commands; those before all other commands are the first"
    " members. The delay is the time before an update is sent on, in ms.",
    "worker": "The delay is the time before it forwards a request, in ms.",
    "client": "The file has lines `operator CLASSNAME SEQ`; it is sought in the current folder, then in pmscripts and"
    " below it. The result is shown when the run ends; meanwhile you may type other commands.",
    "run": "Like client, with the names of operators in place of a file.",
    "map": "A hundred runs go on at a time. Failures are shown with the line of the input, the rest is summed up.",
    "show": "The beginning of a run's id is enough. A run that goes on is reported when it has ended.",
    "cancel": "The beginning of a run's id is enough. The current step is abandoned, and no further step begins.",
    "debug": "Workers that start later report, too.",
    "populate": "The file has lines `key,value`; it is sought as applications are.",
    "status": "A table: the nodes that each considers alive or dead, its view, how many of its updates others still"
    " lack (lag), its counters. --json prints all of it on one line.",
    "listServer": "The newest version of a record has a star. --json prints one line.",
    "listGlobal": "Each version once, with the nodes that have it; the newest has a star. --json prints one line.",
    "runs": "The scheduler's runs, the newest first. --json prints one line.",
    "crash": "Like a power cut: the other nodes have to detect it. The node can be started again with its id.",
    "stop": "A worker finishes its steps, a storage node hands over its state; the others know that it leaves."
    " The node can be started again with its id.",
    "read": "Sees what this console and populate have written before.",
    "updateif": "Executed by all storage nodes of the key at once. If the value is not OLD, it is shown.",
    "pause": "The other nodes consider it dead after a while.",
    "resume": "It finds out whether the others considered it dead.",
    "slow": "For storage nodes and workers. A restart brings back the delay of the node's command.",
    "restart": "It keeps its id, address and replica number.",
    "expect": "The value that was found instead is shown.",
    "expect-run": "LAST is the run of the last client command, a number N that of the N-th. Without OUTPUT, any output"
    " is right. REASON is a part of the reason of a failed run, which then does not count as failed.",
    "wait": "Commands that are typed meanwhile are executed after it. Ctrl-C drops it.",
    "help": "Keys: Tab completes, arrows move and go through the history, Ctrl-R searches it, Ctrl-C drops the line,"
    " Ctrl-D ends.",
}
"""More about each command than its line in the list."""


def help_lines(topic: str = "", width: int | None = None, palette: Style = PLAIN) -> list[str]:
    """Return the list of commands or, of the command `topic`, its usage, details and examples."""
    if not topic:
        longest = max(len(kind.usage) for kind in COMMANDS)
        lines = [
            line for kind in COMMANDS for line in _beside(kind.usage, longest, kind.about, width or WIDTH, palette)
        ]
        return [*lines, "", "  help COMMAND: more about one command"]
    kind = next(kind for kind in COMMANDS if kind.usage.split()[0] == topic)
    text = f"{kind.about}. {DETAILS.get(topic, '')}"
    examples = [f"  {palette(FAINT, 'example:')} {example}" for example in EXAMPLES.get(topic, ())]
    return [f"  {palette.word(STRONG, kind.usage)}", *_indented(text, 4, width or WIDTH), *examples]


def _beside(usage: str, longest: int, about: str, width: int, palette: Style) -> list[str]:
    """Return the usage and the description beside it, or below it where there is too little room."""
    indent = longest + 4
    painted = "  " + palette.word(STRONG, usage)
    if width - indent < NARROW:
        return [painted, *_indented(about, 6, width)]
    first, *more = wrapped(about, width - indent)
    return [painted + " " * (longest - len(usage) + 2) + first, *(" " * indent + line for line in more)]


def _indented(text: str, indent: int, width: int) -> list[str]:
    return wrapped(text, max(20, width), " " * indent, " " * indent)
