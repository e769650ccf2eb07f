"""What a child process runs: `python -m dida.pcs.launch …` is `twistd -n …`, in a session of its own.

So Ctrl-C on the parent's terminal does not reach it, it is found wherever Python keeps its scripts, and its
output and errors come through one file, so in their order. With `--output=FILE` that file is FILE, and the node's log
(see `dida.services.logs`).
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
    return [sys.executable, "-m", "dida.pcs.launch", *to, *words]


def main(words: Sequence[str]) -> None:
    """Become twistd. What it imports is not searched for garbage, a tenth of what it costs."""
    gc.disable()  # dida.services.own_process enables it
    for number in (signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, lambda number, frame: None)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from twisted.scripts.twistd import run

    os.setsid()
    os.dup2(1, 2)
    twistd = ["twistd", "-n", "--pidfile="]
    if words[0].startswith(OUTPUT):
        twistd.append(f"--logfile={words[0].removeprefix(OUTPUT)}")
        words = words[1:]
    sys.argv = [*twistd, *words]
    run()


if __name__ == "__main__":
    main(sys.argv[1:])
