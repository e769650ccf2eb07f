"""The memory of the machine, and the limit of a node (`--max-memory`)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress

from dida.errors import UserError

MIB = 2**20
LEAST = 1
MOST = 2**50
BUFFERS = 8 * MIB
"""Memory for requests, replies and messages in flight, in bytes."""
SHARE_OF_OWN = 0.75
"""Largest share of the limit that a node's own memory counts for: so a small limit leaves room for some records."""
_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_CGROUPS = "/sys/fs/cgroup"


def memory_size(text: str) -> int:
    """Parse a number of bytes: `1073741824`, `1024M`, `1G`, `1.5GiB`. UserError when it is invalid."""
    match = re.fullmatch(r"(\d{1,16}(?:\.\d{1,16})?)([kmgt]?)(?:i?b)?", text.strip().lower())
    size = int(float(match[1]) * _UNITS[match[2]]) if match is not None else 0
    if not LEAST <= size <= MOST:
        raise UserError(f"invalid amount of memory {text!r}: write bytes, or a number with K, M, G or T behind it")
    return size


def half_of_memory() -> int:
    """Return half of the memory of the machine, or of this process's control group, in bytes."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([machine, *limits()]) // 2


def limits(root: str = _CGROUPS, of_process: str = "/proc/self/cgroup") -> Iterator[int]:
    """Return the memory limits of this process's control groups, of version 2 or 1."""
    try:
        with open(of_process, encoding="utf-8") as file:
            lines = file.read().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, name = root, "memory.max"
        elif "memory" in controllers.split(","):
            top, name = os.path.join(root, "memory"), "memory.limit_in_bytes"
        else:
            continue
        parts = path.strip("/").split("/")
        for depth in range(len(parts) + 1):
            # a word, "max", stands there when there is no limit; in a container the outer groups are out of sight
            with suppress(OSError, ValueError), open(os.path.join(top, *parts[:depth], name), encoding="utf-8") as file:
                yield int(file.read())


def own_memory(most: int) -> int:
    """Return the memory that a node takes without records, in bytes: its present memory, and BUFFERS."""
    return min(_resident() + BUFFERS, int(SHARE_OF_OWN * most))


def _resident() -> int:
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 48 * MIB
