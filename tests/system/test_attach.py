"""A system that a puppetmaster has left running, taken up by another one."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from tests.support.netcat import Netcat
from tests.support.nodes import until
from tests.system.test_scripts import ONE_OF_EACH, Console, _listens, runs

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]


def test_kept_and_taken_up(tmp_path: Path) -> None:
    """--keep says how to take the system up again; who does so plays scripts on it, and stops what it has started
    itself and nothing else; a wrong URL is one line, and nothing is started."""
    console = Console(tmp_path)
    try:
        status, lines = console.play(ONE_OF_EACH + "populate four_records\n", "--keep")
        assert status == 0, "\n".join(lines)
        kept = re.fullmatch(r"kept     3 nodes and the PCS; they end with it: kill (\d+)", lines[-1])
        again = re.fullmatch(r"again    twistd -n puppetmaster --attach (\S+)", lines[-2])
        assert kept is not None
        assert again is not None
        script = "client 13 three_increments\nexpect-run LAST done 4\nworker w2 localhost:4002\nread 13\n"
        status, lines = console.play(script, "--attach", again[1])
        assert status == 0, "\n".join(lines)
        assert lines[0].startswith("attached 3 nodes: ")
        assert sorted(lines[0].split()[3:]) == ["s1", "sc", "w1"]
        assert lines[-2:] == ["left     3 nodes that ran before", "stopped  1 node"]
        assert len(runs(lines)) == 1
        assert not _listens(console.ports["4002"])
        assert all(_listens(console.ports[port]) for port in ("5001", "4001", "2000"))
        status, lines = console.play(script, "--attach", f"localhost:{console.ports['4002']}")
        nobody = f"cannot connect to localhost:{console.ports['4002']}: name a running node, or a PCS"
        assert (status, lines) == (1, [nobody])
        with Netcat(console.ports["5001"]) as storage:
            assert storage.ask("read 13").startswith("ok 4 ")
        os.kill(int(kept[1]), signal.SIGTERM)
        until("all have ended", console.nobody_listens, 20)
    finally:
        console.end()
