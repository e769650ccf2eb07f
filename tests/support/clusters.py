"""Storage nodes as real processes, started together, for contract and system tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.nodes import NodeProcess, free_port, until


class StorageCluster:
    """`count` storage nodes that name each other; nodes by replica number."""

    def __init__(self, folder: Path, count: int, *options: str, more: Mapping[str, str] | None = None) -> None:
        """`more` are variables of the nodes' environment."""
        self._folder = folder
        self._more = more
        self._options = options
        self.ports = {number: free_port() for number in range(1, count + 1)}
        self.nodes: dict[int, NodeProcess] = {}
        for number in self.ports:
            self.start(number, ready=False)
        for node in self.nodes.values():
            node.wait_ready()

    @property
    def members(self) -> list[str]:
        """The `--storage` options that name all nodes."""
        return [word for n, port in self.ports.items() for word in ("--storage", f"{n}=s{n}@http://127.0.0.1:{port}")]

    def start(self, number: int, ready: bool = True, options: Sequence[str] = ()) -> NodeProcess:
        """Start node `number`, for the first time or again; `options` in addition to those of all."""
        port = self.ports.setdefault(number, free_port())
        url = f"http://127.0.0.1:{port}"
        names = ["--id", f"s{number}", "--replica", str(number), "--url", url]
        folder = self._folder / f"s{number}-{len(list(self._folder.glob(f's{number}-*')))}"
        folder.mkdir()
        words = (*names, *self.members, *self._options, *options)
        node = NodeProcess("dida-storage", *words, folder=folder, port=port, more=self._more)
        self.nodes[number] = node
        return node.wait_ready() if ready else node

    def wait_members(self, *numbers: int, seconds: float = 10.0) -> None:
        """Until each of these nodes has exactly these nodes in its view, and serves."""
        ids = [f"s{n}" for n in numbers]

        def agreed() -> bool:
            try:
                found = [self.nodes[n].status() for n in numbers]
            except (OSError, EOFError):
                return False  # one is still starting
            return all(status["ready"] and status["alive"] == ids for status in found)

        until(f"the view is {ids}", agreed, seconds)

    def wait_equal(self, *numbers: int, seconds: float = 10.0) -> str:
        """Until these nodes list the same; the list."""
        until("all list the same", lambda: len({self.nodes[n].ask("list") for n in numbers}) == 1, seconds)
        return self.nodes[numbers[0]].ask("list")

    def end(self) -> None:
        for node in self.nodes.values():
            node.ask_to_end()  # all at once: none waits for another to take over
        for node in self.nodes.values():
            node.end()
