"""Commands that ask the system and show the answers: `status`, `listServer`, `listGlobal`, `runs`.

Each prints a table for people or, with `--json`, one line of JSON for programs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from twisted.internet.defer import Deferred, DeferredList

from dida.console.commands import ListGlobalCommand, ListRunsCommand, ListServerCommand, StatusCommand
from dida.console.style import ODD, STRONG
from dida.console.tables import (
    NodeState,
    Records,
    global_rows,
    held_versions,
    newest_rows,
    printable,
    record_rows,
    runs_table,
    status_lines,
    table,
)
from dida.errors import DidaError, UserError
from dida.puppetmaster.commands.base import Action
from dida.puppetmaster.context import Context
from dida.puppetmaster.nodes import Node
from dida.puppetmaster.refusals import no_records, plain
from dida.puppetmaster.script_state import ScriptState
from dida.wire import messages as wire

STATUS_TIME = 5.0
"""Time-out for a node's status, or a page of its records, in seconds; a node that is silent may be paused."""


class Status(Action[StatusCommand]):
    """`status`: the state of every node."""

    async def run(self, context: Context) -> None:
        nodes = context.cluster.nodes.named()
        if not nodes:
            raise UserError("no node was started yet")
        answers = await DeferredList([Deferred.fromCoroutine(_state_of(context, node)) for node in nodes])
        states: list[NodeState] = [state for _, state in answers]
        if self.command.json:
            _say_json(context, nodes=[_state_object(state) for state in states])
            return
        groups = len({state.members["group"] for state in states if "group" in state.members}) > 1
        page = context.output.page
        _say_all(context, status_lines(states, page.width, page.paint, groups))


class ListServer(Action[ListServerCommand]):
    """`listServer`: the records of one storage node."""

    def check(self, state: ScriptState) -> None:
        id = self.command.id
        if (role := state.node(id).role) != "storage":
            raise no_records(id, role)

    async def run(self, context: Context) -> None:
        id = self.command.id
        records = await context.cluster.calls.records(context.cluster.nodes.running(id), STATUS_TIME)
        if self.command.json:
            _say_json(context, node=id, records=records)
            return
        context.say(context.output.page.paint(STRONG, f"records on {id}:"))
        _say_records(context, record_rows(records))


class ListGlobal(Action[ListGlobalCommand]):
    """`listGlobal`: the records of the whole system, and the nodes that hold them."""

    def check(self, state: ScriptState) -> None:
        state.need("storage")

    async def run(self, context: Context) -> None:
        nodes = context.cluster.nodes.reachable("storage")
        answers = await DeferredList([Deferred.fromCoroutine(_held_by(context, node)) for node in nodes])
        held_by = {node.id: answer for node, (_, answer) in zip(nodes, answers, strict=True)}
        silent = {id: plain(answer) for id, answer in held_by.items() if isinstance(answer, DidaError)}
        found = {id: answer[0] for id, answer in held_by.items() if not isinstance(answer, DidaError)}
        groups = {id: answer[1] for id, answer in held_by.items() if not isinstance(answer, DidaError)}
        if not found:
            problems = "; ".join(f"{id}: {problem}" for id, problem in silent.items())
            raise UserError(f"no storage node answers: {problems}")
        held = held_versions(found, groups)
        if self.command.json:
            members = ("key", "version", "value", "newest", "on", "group")
            records = [{name: getattr(each, name) for name in members} for each in held]
            _say_json(context, records=records, **({"silent": silent} if silent else {}))
            return
        context.say(context.output.page.paint(STRONG, f"records on {', '.join(found)}:"))
        _say_records(context, global_rows(held, len(set(groups.values())) > 1))
        for id, problem in silent.items():
            context.say(context.output.page.paint(ODD, printable(f"  not of {id}: {problem}")))


class ListRuns(Action[ListRunsCommand]):
    """`runs`: the runs that the scheduler knows."""

    def check(self, state: ScriptState) -> None:
        state.need("scheduler")

    async def run(self, context: Context) -> None:
        runs = await context.cluster.scheduler.runs()
        page = context.output.page
        if self.command.json:
            _say_json(context, runs=runs)
        else:
            _say_all(context, runs_table(runs, page.width, page.paint) if runs else ["  none"])


async def _state_of(context: Context, node: Node) -> NodeState:
    members: Mapping[str, Any] = {}
    problem = node.problem
    if node.there:
        try:
            members = (await context.cluster.calls.tell(node, wire.Status(deadline=STATUS_TIME))).object
        except DidaError as error:
            problem = plain(error)
    return NodeState(node.id, node.role, str(node.address), node.state, members, problem)


async def _held_by(context: Context, node: Node) -> tuple[Records, int] | DidaError:
    """Return the records of a storage node and its group, or why it does not answer."""
    try:
        records = await context.cluster.calls.records(node, STATUS_TIME)
        status = await context.cluster.calls.tell(node, wire.Status(deadline=STATUS_TIME))
    except DidaError as problem:
        return problem
    return records, status.object.get("group", 1)


def _state_object(state: NodeState) -> dict[str, Any]:
    known = {"id": state.id, "role": state.role, "url": f"http://{state.address}", "state": state.state}
    return {**state.members, **known, **({"problem": state.problem} if state.problem else {})}


def _say_records(context: Context, rows: list[list[str]]) -> None:
    page = context.output.page
    _say_all(context, table(rows, page.width, page.paint, newest_rows(rows)) if len(rows) > 1 else ["  none"])


def _say_all(context: Context, lines: list[str]) -> None:
    for text in lines:
        context.say(text)


def _say_json(context: Context, **members: object) -> None:
    context.say(json.dumps(members, default=str))
