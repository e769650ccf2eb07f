"""A line client as simple as netcat: a blocking socket, a line out, a line in; every wait has a deadline."""

from __future__ import annotations

import json
import socket
from types import TracebackType
from typing import Any


class Netcat:
    """One connection to a node; EOFError when the node closes it, TimeoutError when it is silent."""

    def __init__(self, port: int, host: str = "127.0.0.1", timeout: float = 10.0) -> None:
        self.socket = socket.create_connection((host, port), timeout=timeout)
        self._lines = self.socket.makefile("rb")

    def send(self, text: str | bytes) -> None:
        """Send the line; the line end is added."""
        self.send_raw((text.encode() if isinstance(text, str) else text) + b"\r\n")

    def send_raw(self, data: bytes) -> None:
        """Send the bytes as they are."""
        self.socket.sendall(data)

    def line(self) -> str:
        """The next line that the node sends, without its line end."""
        line = self._lines.readline()
        if not line.endswith(b"\n"):
            raise EOFError(f"the node closed the connection (its last words: {line!r})")
        return line.removesuffix(b"\n").removesuffix(b"\r").decode()

    def ask(self, text: str | bytes) -> str:
        """The answer to one line."""
        self.send(text)
        return self.line()

    def ask_object(self, text: str | bytes) -> dict[str, Any]:
        """The object at the end of the answer to one line, which must be `ok`."""
        return object_of(self.ask(text))

    def half_close(self) -> None:
        """Nothing more will be sent, as with `nc -N`; answers are still read."""
        self.socket.shutdown(socket.SHUT_WR)

    def rest(self) -> list[str]:
        """All lines up to the end of the connection."""
        return self._lines.read().decode().splitlines()

    def close(self) -> None:
        self._lines.close()
        self.socket.close()

    def __enter__(self) -> Netcat:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def object_of(reply: str) -> dict[str, Any]:
    """The object of an `ok` line."""
    first, _, rest = reply.partition(" ")
    assert first == "ok", reply
    begin = f" {rest}".find(" {")
    found = json.loads(rest[begin:]) if begin >= 0 else {}
    assert isinstance(found, dict)
    return found


def ask(port: int, line: str) -> str:
    """Return the reply to one line, sent over a new connection."""
    with Netcat(port) as netcat:
        return netcat.ask(line)
