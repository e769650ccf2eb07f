"""Clocks of processes that a test steps, each separately, without touching the machine's.

The processes find their files by the environment (`environment`), which their children inherit: a node's is named by
its id, that of a PCS or puppetmaster without one by its command. See tests/support/stepped/sitecustomize.py.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from pathlib import Path

from tests.support.nodes import ROOT

LIBRARIES = ("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1", "/usr/lib/faketime/libfaketime.so.1")
HOUR = 3600.0
"""Seconds of a step."""


def library() -> str | None:
    """libfaketime, where it is installed: it steps what C code sees, too."""
    return next((path for path in LIBRARIES if os.path.exists(path)), None)


class Clocks:
    """The time of day of some processes, by name; all are right in the beginning."""

    def __init__(self, folder: Path, names: Iterable[str], library: str | None = None) -> None:
        self.names = tuple(names)
        self._folder = folder
        self._library = library
        folder.mkdir()
        self.step(0.0)

    def step(self, seconds: float, *names: str) -> None:
        """The clocks of these processes, of all without a name, are so far off from now on."""
        for name in names or self.names:
            with (self._folder / name).open("r+b" if (self._folder / name).exists() else "w+b") as file:
                file.write(struct.pack("d", seconds))
            new = self._folder / f"{name}.new"
            new.write_text(f"{seconds:+}\n")
            new.replace(self._folder / f"{name}.rc")

    @property
    def environment(self) -> dict[str, str]:
        """What a process is started with, beside the rest."""
        path = os.pathsep.join(map(str, (ROOT / "tests" / "support" / "stepped", ROOT)))
        found = {"STEPPED_CLOCKS": str(self._folder), "PYTHONPATH": path}
        return {**found, "STEPPED_CLOCKS_LIB": self._library} if self._library else found
