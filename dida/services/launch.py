"""What a child process runs: `python -m dida.services.launch …` is `twistd -n …`, in a session of its own.

So Ctrl-C on the parent's terminal does not reach it, it is found wherever Python keeps its scripts, and its
output and errors come through one file, so in their order. With `--output=FILE` that file is FILE, and on
SIGUSR1 a new one of the name is begun: whoever wants that renames the old one first.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Sequence

OUTPUT = "--output="


def command_line(*words: str, output: str | None = None) -> list[str]:
    """The arguments of a child process, its executable first."""
    to = [] if output is None else [OUTPUT + output]
    return [sys.executable, "-m", "dida.services.launch", *to, *words]


def renew_on_signal(path: str) -> None:
    """On SIGUSR1 standard output and errors go into a new file; it has its name once nothing goes into the old one."""

    def renew(*signal: object) -> None:
        new = os.open(path + ".new", os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(new, 1)
        os.dup2(new, 2)
        os.close(new)
        os.replace(path + ".new", path)

    signal.signal(signal.SIGUSR1, renew)


def main(words: Sequence[str]) -> None:
    """Become twistd. What it imports is not searched for garbage, a tenth of what it costs."""
    gc.disable()  # dida.services.node enables it
    from twisted.scripts.twistd import run

    os.setsid()
    os.dup2(1, 2)
    if words[0].startswith(OUTPUT):
        renew_on_signal(words[0].removeprefix(OUTPUT))
        words = words[1:]
    sys.argv = ["twistd", "-n", "--pidfile=", *words]
    run()


if __name__ == "__main__":
    main(sys.argv[1:])
