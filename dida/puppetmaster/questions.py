"""What the console's commands ask the system, and show: `status`, `listServer`, `listGlobal`, `runs`; `cancel`.

Each as a table for people, or (`--json`) as one line of JSON for programs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.defer import Deferred, DeferredList

from dida.console import script
from dida.console.style import ODD, STRONG, Page
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
from dida.puppetmaster.nodes import Node
from dida.puppetmaster.system import Cluster, plain
from dida.wire.messages import Status

STATUS_TIME = 5.0
"""Seconds for a node to say its status, or a page of its records; who says nothing may be paused."""

Question = (
    script.StatusCommand
    | script.ListServerCommand
    | script.ListGlobalCommand
    | script.ListRunsCommand
    | script.CancelCommand
)


class Queries:
    """Asks a `Cluster`; the answers go to `say`, line by line."""

    def __init__(self, system: Cluster, say: Callable[[str], None], page: Page) -> None:
        self.system = system
        self.say = say
        self.page = page

    async def answer(self, question: Question) -> None:
        """Ask, and show."""
        match question:
            case script.StatusCommand():
                await self._status(question.json)
            case script.ListServerCommand():
                await self._list_server(question.id, question.json)
            case script.ListGlobalCommand():
                await self._list_global(question.json)
            case script.ListRunsCommand():
                await self._runs(question.json)
            case script.CancelCommand():
                cancelled = await self.system.scheduler_client.cancel(question.run)
                self.say(f"run {question.run} is cancelled" if cancelled else f"run {question.run} had ended before")

    async def _status(self, as_json: bool) -> None:
        nodes = self.system.named()
        if not nodes:
            raise UserError("no node was started yet")
        answers = await DeferredList([Deferred.fromCoroutine(self._state_of(node)) for node in nodes])
        states: list[NodeState] = [state for _, state in answers]
        if as_json:
            self._say_json(nodes=[_state_object(state) for state in states])
            return
        groups = len({state.members["group"] for state in states if "group" in state.members}) > 1
        self._say_all(status_lines(states, self.page.width, self.page.paint, groups))

    async def _state_of(self, node: Node) -> NodeState:
        members: Mapping[str, Any] = {}
        problem = node.problem
        if node.there:
            try:
                members = (await self.system.tell(node, Status(deadline=STATUS_TIME))).object
            except DidaError as error:
                problem = plain(error)
        return NodeState(node.id, node.role, str(node.address), node.state, members, problem)

    async def _list_server(self, id: str, as_json: bool) -> None:
        records = await self.system.records(self.system.node(id), STATUS_TIME)
        if as_json:
            self._say_json(node=id, records=records)
            return
        self.say(self.page.paint(STRONG, f"records on {id}:"))
        self._say_records(record_rows(records))

    async def _list_global(self, as_json: bool) -> None:
        nodes = self.system.reachable("storage")
        answers = await DeferredList([Deferred.fromCoroutine(self._held_by(node)) for node in nodes])
        held_by = {node.id: answer for node, (_, answer) in zip(nodes, answers, strict=True)}
        silent = {id: plain(answer) for id, answer in held_by.items() if isinstance(answer, DidaError)}
        found = {id: answer[0] for id, answer in held_by.items() if not isinstance(answer, DidaError)}
        groups = {id: answer[1] for id, answer in held_by.items() if not isinstance(answer, DidaError)}
        if not found:
            told = "; ".join(f"{id}: {problem}" for id, problem in silent.items())
            raise UserError(f"no storage node answers: {told}")
        held = held_versions(found, groups)
        if as_json:
            members = ("key", "version", "value", "newest", "on", "group")
            records = [{name: getattr(each, name) for name in members} for each in held]
            self._say_json(records=records, **({"silent": silent} if silent else {}))
            return
        self.say(self.page.paint(STRONG, f"records on {', '.join(found)}:"))
        self._say_records(global_rows(held, len(set(groups.values())) > 1))
        for id, problem in silent.items():
            self.say(self.page.paint(ODD, printable(f"  not of {id}: {problem}")))

    async def _held_by(self, node: Node) -> tuple[Records, int] | DidaError:
        """The records of a storage node, and its group; or why it does not say."""
        try:
            records = await self.system.records(node, STATUS_TIME)
            status = await self.system.tell(node, Status(deadline=STATUS_TIME))
        except DidaError as problem:
            return problem
        return records, status.object.get("group", 1)

    async def _runs(self, as_json: bool) -> None:
        runs = await self.system.scheduler_client.runs()
        if as_json:
            self._say_json(runs=runs)
        else:
            self._say_all(runs_table(runs, self.page.width, self.page.paint) if runs else ["  none"])

    def _say_records(self, rows: list[list[str]]) -> None:
        self._say_all(table(rows, self.page.width, self.page.paint, newest_rows(rows)) if len(rows) > 1 else ["  none"])

    def _say_all(self, lines: list[str]) -> None:
        for text in lines:
            self.say(text)

    def _say_json(self, **members: object) -> None:
        self.say(json.dumps(members, default=str))


def _state_object(state: NodeState) -> dict[str, Any]:
    known = {"id": state.id, "role": state.role, "url": f"http://{state.address}", "state": state.state}
    return {**state.members, **known, **({"problem": state.problem} if state.problem else {})}
