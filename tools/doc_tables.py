"""The tables of the documentation that are made from the code: verbs, options, states and others.

`python -m tools.doc_tables` writes them again; the last columns, which people wrote, stay.
"""

from __future__ import annotations

import re
import types
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import attrs
import msgspec
from twisted.python import usage
from zope.interface.interface import Method

from dida import interfaces
from dida.chains import records
from dida.pcs import messages as control_messages
from dida.pcs.node import PcsNode
from dida.puppetmaster.debug_port import DebugCommands
from dida.replication import messages as peer_messages
from dida.replication.coordinator import TRANSITIONS
from dida.scheduler.node import SchedulerNode
from dida.services import pcs, puppetmaster, scheduler, storage, worker
from dida.services.node import NodeOptions
from dida.storage.node import StorageNode
from dida.versions import Version
from dida.wire import messages
from dida.wire.messages import NODE, Request, form_of
from dida.worker.node import WorkerNode
from tests.support.nodes import ROOT

_TABLE = re.compile(
    r"(<!-- table: (verbs|shapes|types|transitions|options|interface) ?([\w ]*) -->\n)(.*?)(<!-- end -->)", re.DOTALL
)

README = ROOT / "README.md"
DOCS = ROOT / "docs"
PROTOCOL = DOCS / "reference" / "protocol.md"
TELNET = DOCS / "tutorial" / "telnet.md"
RELIABILITY = DOCS / "explanation" / "reliability.md"
ARCHITECTURE = DOCS / "explanation" / "architecture.md"
ERRORS = DOCS / "reference" / "errors.md"
STATUS = DOCS / "reference" / "status.md"
OPTIONS = DOCS / "reference" / "options.md"
PYTHON = DOCS / "reference" / "python.md"
GENERATED = (PROTOCOL, RELIABILITY, OPTIONS, PYTHON)
"""The pages that have such tables."""
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("examples/**/*.md"), *DOCS.rglob("*.md")])
TYPES: dict[str, Any] = {
    "counter": messages.Counter,
    "name": messages.Name,
    "position": records.Position,
    "seconds": messages.Seconds,
    "timestamp": messages.Timestamp,
    "version": Version,
}
"""Types that have a separate name in the document."""
VERSION = "string `NUMBER.REPLICA`, as in `4.1`"
NODES: dict[str, Mapping[str, type[Request]]] = {
    "storage": StorageNode.vocabulary,
    "scheduler": SchedulerNode.vocabulary,
    "worker": WorkerNode.vocabulary,
    "PCS": PcsNode.vocabulary,
    "debug port": DebugCommands.vocabulary,
}
COMMANDS: dict[str, type[usage.Options]] = {
    "storage": storage.Options,
    "worker": worker.Options,
    "scheduler": scheduler.Options,
    "pcs": pcs.Options,
    "puppetmaster": puppetmaster.Options,
}
"""The options of each command; all nodes have those of NodeOptions, too."""
SHAPES: dict[str, tuple[type[Any], ...]] = {
    "chains": (records.Meta, records.Assignment, records.Mark, interfaces.Access, records.Step),
    "storage": (messages.Member, messages.Epoch, messages.Journal, messages.KnownUpdate),
    "PCS": (control_messages.NodeEntry, control_messages.Elsewhere),
    "peers": (
        peer_messages.Wanted,
        peer_messages.Prepared,
        peer_messages.Grant,
        peer_messages.Ended,
        peer_messages.Record,
        peer_messages.Range,
        peer_messages.Member,
        peer_messages.View,
    ),
}


def verbs(table: str) -> list[type[Request]]:
    """The requests of a table: of every node, of one kind of node beyond that, or between storage nodes."""
    if table == "every node":
        return list(NODE)
    if table == "peers":
        return [*peer_messages.INTRODUCTIONS, *peer_messages.PEER]
    peers = {*NODE, *peer_messages.INTRODUCTIONS, *peer_messages.PEER}
    return [kind for kind in NODES[table].values() if kind not in peers]


def said(hint: Any) -> str:
    """A type as the document says it."""
    for name, known in TYPES.items():
        if hint == known:
            return name
    return spelled(hint)


def spelled(hint: Any) -> str:
    """A type in full."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return bounded(arguments[0], arguments[1])
    if origin in (Union, types.UnionType):
        return " or ".join("null" if each is type(None) else said(each) for each in arguments)
    if origin is Literal:
        return " or ".join(f'"{each}"' for each in arguments)
    if origin is dict:
        return "object" if arguments[1] is Any else f"object of {said(arguments[0])} to {said(arguments[1])}"
    if origin is tuple and Ellipsis not in arguments:
        return f"[{', '.join(map(said, arguments))}]"
    if origin in (tuple, list):
        return f"array of {said(arguments[0])}"
    if hint is Version:
        return VERSION
    plain = {str: "string", int: "integer", float: "number", bool: "boolean"}
    return plain.get(hint) or f"*{hint.__name__}*"


def bounded(base: Any, limits: msgspec.Meta) -> str:
    """A type with its limits."""
    text = spelled(base)
    low, high = limits.ge, limits.le if limits.lt is None else limits.lt - 1
    if limits.min_length is not None or limits.max_length is not None:
        what = "characters" if base is str else "elements"
        least = f"{limits.min_length} to " if limits.min_length else "at most "
        return f"{text} of {least}{limits.max_length} {what}" if base is str else f"{text}, {least}{limits.max_length}"
    return f"{text} from {low}" if high is None else f"{text} {low} … {high}"


def value(default: Any) -> str:
    """A default as JSON."""
    return msgspec.json.encode(default).decode()


def member(name: str, hint: Any, default: Any) -> str:
    """A member of an object: name, type, and its default (or that it may not be left out)."""
    if default is attrs.NOTHING:
        return f"`{name}`: {said(hint)}, required"
    optional = get_origin(hint) in (Union, types.UnionType)
    if optional and default is None:
        hint = next(each for each in get_args(hint) if each is not type(None))
        return f"`{name}`: {said(hint)}, may be left out"
    return f"`{name}`: {said(hint)}, `{value(default)}`"


def in_row(kind: type[Request], inherited: Iterable[str]) -> str:
    """The words (those that are not just strings) and members of a verb."""
    form = form_of(kind)
    hints = get_type_hints(kind, include_extras=True)
    parts = []
    for word in form.words:
        hint = hints[word]
        if get_origin(hint) in (Union, types.UnionType):
            hint = next(each for each in get_args(hint) if each is not type(None))
        default = getattr(attrs.fields_dict(kind)[word], "default", None)
        given = "" if default in (None, attrs.NOTHING) else f", `{value(default)}`"
        if hint is not str:
            parts.append(f"`{word.upper()}`: {said(hint)}{given}")
    parts += [
        member(name, hints[attribute], default) for name, attribute, default in form.members if name not in inherited
    ]
    return "; ".join(parts)


def cells(text: str) -> list[str]:
    """The cells of a table's row; a bar within one is written `\\|`."""
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", text)[1:-1]]


def row(*texts: str) -> str:
    """A row of a table."""
    return "|" + "|".join(f" {text} ".replace("|", "\\|").replace("  ", " ") for text in texts) + "|"


def verb_table(name: str, old: Iterable[str]) -> list[str]:
    """A table of verbs. The replies, the last column, are written by people, and kept."""
    replies = {found[0]: found[-1].replace("\\|", "|") for found in map(cells, old) if len(found) > 2}
    inherited = {"deadline"}
    lines = [row("line", "what it does", "words and members", "reply"), "| --- | --- | --- | --- |"]
    if name == "peers":
        of_all = attrs.fields_dict(peer_messages.PeerMessage)
        form = form_of(peer_messages.Heartbeat)
        hints = get_type_hints(peer_messages.Heartbeat, include_extras=True)
        common = [(n, attribute, default) for n, attribute, default in form.members if attribute in of_all]
        parts = "; ".join(member(n, hints[a], default) for n, a, default in common if n != "deadline")
        common_row = row("all of the following", "who says it", parts, replies.get("all of the following", ""))
        inherited |= {n for n, _, _ in common}
    for kind in verbs(name):
        line = f"`{form_of(kind).usage}`"
        about = form_of(kind).about.removeprefix("storage nodes: ")
        if kind is peer_messages.PEER[0]:
            lines.append(common_row)
        lines.append(row(line, about, in_row(kind, inherited), replies.get(line, "")))
    return lines


def shape_table(name: str) -> list[str]:
    """Objects (or arrays) that are members of requests and replies."""
    lines = [row("shape", "its members"), "| --- | --- |"]
    for kind in SHAPES[name]:
        hints = get_type_hints(kind, include_extras=True)
        if issubclass(kind, msgspec.Struct):
            fields = [
                (f.encode_name, f.default if f.default_factory is msgspec.NODEFAULT else f.default_factory())
                for f in msgspec.structs.fields(kind)
            ]
            fields = [(n, attrs.NOTHING if d is msgspec.NODEFAULT else d) for n, d in fields]
        else:
            fields = [
                (a.name, a.default.factory() if isinstance(a.default, attrs.Factory) else a.default)  # type: ignore[arg-type]
                for a in attrs.fields(kind)
            ]
        ordered = bool(getattr(getattr(kind, "__struct_config__", None), "array_like", False))
        parts = "; ".join(member(n, hints[n], d) for n, d in fields)
        lines.append(row(f"*{kind.__name__}*", f"an array, in this order: {parts}" if ordered else parts))
    return lines


def type_table() -> list[str]:
    """The types that have a name."""
    lines = [row("type", "in JSON"), "| --- | --- |"]
    return lines + [row(name, spelled(hint)) for name, hint in sorted(TYPES.items())]


def transition_table() -> list[str]:
    """The states of a transaction at its home."""
    lines = [row("from", "to", "when"), "| --- | --- | --- |"]
    return lines + [row(old, new, why) for old, following in TRANSITIONS.items() for new, why in following.items()]


def option_table(name: str) -> list[str]:
    """The options of a command, or those that all nodes have."""
    lines = [row("option", "what it is", "default"), "| --- | --- | --- |"]
    kinds = [NodeOptions] if name == "every node" else [k for k in COMMANDS[name].__mro__ if k is not NodeOptions]
    for kind in kinds:
        found = vars(kind)
        for option, _, default, about, *_ in found.get("optParameters", ()):
            lines.append(row(f"`--{option} VALUE`", about, "" if default in (None, "") else f"`{default}`"))
        for option, _, about in found.get("optFlags", ()):
            lines.append(row(f"`--{option}`", about, "off"))
        for method, value in found.items():
            if method.startswith("opt_") and method not in ("opt_version", "opt_help"):
                lines.append(row(f"`--{method.removeprefix('opt_').replace('_', '-')} VALUE`", about_of(value), ""))
    return lines


def interface_table(name: str) -> list[str]:
    """The calls of an interface of zope, which autodoc does not see."""
    lines = [row("call", "what it does"), "| --- | --- |"]
    for call, method in getattr(interfaces, name).namesAndDescriptions():
        signature = method.getSignatureString() if isinstance(method, Method) else ""
        lines.append(row(f"`{call}{signature}`", about_of(method)))
    return lines


def about_of(method: Any) -> str:
    """The first paragraph of a docstring, in one line."""
    return " ".join((method.__doc__ or "").split("\n\n")[0].split())


def with_tables(text: str) -> str:
    """The document with its tables as the code has them now."""

    def table(match: re.Match[str]) -> str:
        old = match[4].splitlines()
        lines = {
            "verbs": lambda: verb_table(match[3], old),
            "shapes": lambda: shape_table(match[3]),
            "types": type_table,
            "transitions": transition_table,
            "options": lambda: option_table(match[3]),
            "interface": lambda: interface_table(match[3]),
        }[match[2]]()
        return match[1] + "".join(f"{line}\n" for line in lines) + match[5]

    return _TABLE.sub(table, text)


if __name__ == "__main__":
    for page in GENERATED:
        page.write_text(with_tables(page.read_text()))
