"""Python imports this first in the processes of a test whose clocks are stepped: see `tests.support.clocks`.

The time of day of this process is the machine's and what its file says, a double: the file `ID` (or `COMMAND`, of what
has no id) in the folder STEPPED_CLOCKS. With STEPPED_CLOCKS_LIB, the path of libfaketime, the C library's is, too.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
import time
from collections.abc import Sequence


def name_of(words: Sequence[str]) -> str:
    """The node's id; its command when it has none; that of the process which has started it when it is no node."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == "--id":
            return following
        if word.startswith("--id="):
            return word.removeprefix("--id=")
    commands = (word for word in words if word.startswith("dida-") or word == "puppetmaster")
    return next(commands, os.environ.get("STEPPED_CLOCKS_NAME", ""))


def step_with_library(folder: str, name: str, library: str) -> None:
    """Begin anew under libfaketime; a process that has begun so goes on."""
    file = os.path.join(folder, f"{name}.rc")
    if os.environ.get("FAKETIME_TIMESTAMP_FILE") != file:
        shown = {"FAKETIME_TIMESTAMP_FILE": file, "FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
        os.execve(sys.executable, sys.orig_argv, {**os.environ, **shown, "LD_PRELOAD": library})


def step_in_python(folder: str, name: str) -> None:
    """`time.time` and `time.time_ns` add what the file says."""
    with open(os.path.join(folder, name), "rb") as file:
        offset = mmap.mmap(file.fileno(), 8, prot=mmap.PROT_READ)
    machine, machine_ns = time.time, time.time_ns  # noqa: TID251 - the very thing that is replaced
    unpack = struct.Struct("d").unpack_from
    time.time = lambda: machine() + unpack(offset)[0]  # noqa: TID251
    time.time_ns = lambda: machine_ns() + int(unpack(offset)[0] * 1e9)  # noqa: TID251


if "STEPPED_CLOCKS" in os.environ:
    _folder, _name = os.environ["STEPPED_CLOCKS"], name_of(sys.orig_argv)
    if _name and os.path.exists(os.path.join(_folder, _name)):
        os.environ["STEPPED_CLOCKS_NAME"] = _name
        if "STEPPED_CLOCKS_LIB" in os.environ:
            step_with_library(_folder, _name, os.environ["STEPPED_CLOCKS_LIB"])
        else:
            step_in_python(_folder, _name)
