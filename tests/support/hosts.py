"""Hosts made of network namespaces, on two switches with one cable between them: pull it for a partition."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any

from tests.support.netcat import Netcat

CLONE_NEWNET = 0x40000000


class Unmakeable(Exception):
    """Network namespaces can't be made here; its text says why."""


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=20)
    if done.returncode:
        raise Unmakeable(f"ip {' '.join(words)}: {done.stderr.strip()}")


class Hosts:
    """`left` and `right` hosts; host n has the address 10.77.0.n, and the name `name(n)` for `ip netns exec`."""

    def __init__(self, left: int, right: int) -> None:
        if shutil.which("ip") is None:
            raise Unmakeable("there is no ip command (Debian: iproute2)")
        self._tag = f"dida{os.getpid()}"
        self._made: list[str] = []
        self.numbers = range(1, left + right + 1)
        try:
            switch = self._namespace("sw")
            for bridge in ("left", "right"):
                _ip("-n", switch, "link", "add", bridge, "type", "bridge")
                _ip("-n", switch, "link", "set", bridge, "up")
            _ip("-n", switch, "link", "add", "cable", "type", "veth", "peer", "name", "cable2")
            self._plug(switch, "cable", "left")
            self._plug(switch, "cable2", "right")
            for number in self.numbers:
                host = self._namespace(str(number))
                port = f"p{number}"
                _ip("-n", switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", host)
                self._plug(switch, port, "left" if number <= left else "right")
                _ip("-n", host, "address", "add", f"10.77.0.{number}/24", "dev", "eth0")
                for device in ("eth0", "lo"):
                    _ip("-n", host, "link", "set", device, "up")
        except Unmakeable:
            self.end()
            raise

    def _namespace(self, suffix: str) -> str:
        name = f"{self._tag}-{suffix}"
        _ip("netns", "add", name)
        self._made.append(name)
        return name

    def _plug(self, switch: str, device: str, bridge: str) -> None:
        _ip("-n", switch, "link", "set", device, "master", bridge)
        _ip("-n", switch, "link", "set", device, "up")

    def name(self, number: int) -> str:
        return f"{self._tag}-{number}"

    def address(self, number: int) -> str:
        return f"10.77.0.{number}"

    def pull(self) -> None:
        """The cable between the switches is pulled: nothing passes, nothing is refused."""
        _ip("-n", f"{self._tag}-sw", "link", "set", "cable", "down")

    def plug(self) -> None:
        """The cable is put back."""
        _ip("-n", f"{self._tag}-sw", "link", "set", "cable", "up")

    def connect(self, number: int, port: int, timeout: float = 10.0, host: str | None = None) -> Netcat:
        """A connection made on host `number` to its own port."""
        made: list[Any] = []

        def inside() -> None:
            libc = ctypes.CDLL(None, use_errno=True)
            with Path(f"/run/netns/{self.name(number)}").open("rb") as namespace:
                if libc.setns(namespace.fileno(), CLONE_NEWNET):
                    made.append(OSError(ctypes.get_errno(), "setns"))
                    return
            try:
                made.append(Netcat(port, host or self.address(number), timeout=timeout))
            except OSError as problem:
                made.append(problem)

        thread = threading.Thread(target=inside)
        thread.start()
        thread.join()
        if isinstance(made[0], OSError):
            raise made[0]
        netcat: Netcat = made[0]
        return netcat

    def end(self) -> None:
        """The namespaces go, and with them their devices."""
        for name in self._made:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, timeout=20)
        self._made.clear()
