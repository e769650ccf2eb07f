"""What a child process runs: `python -m dida.services.launch …` is `twistd -n …`, in a session of its own.

So Ctrl-C on the parent's terminal does not reach it, it is found wherever Python keeps its
scripts, and its output and errors come through one pipe, so in their order.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def command_line(*words: str) -> list[str]:
    """The arguments of a child process, its executable first."""
    return [sys.executable, "-m", "dida.services.launch", *words]


def main(words: Sequence[str]) -> None:
    """Become twistd."""
    from twisted.scripts.twistd import run

    os.setsid()
    os.dup2(1, 2)
    sys.argv = ["twistd", "-n", "--pidfile=", *words]
    run()


if __name__ == "__main__":
    main(sys.argv[1:])
