"""Real processes whose clocks are stepped: nothing but what people read depends on the time of day."""

from __future__ import annotations

import subprocess
from functools import partial
from pathlib import Path

import pytest

from tests.support.clocks import HOUR, Clocks
from tests.support.clusters import StorageCluster
from tests.support.nodes import ROOT, TWISTD, environment, free_port, until
from tools.stepping import Stepping

pytestmark = pytest.mark.system


def test_a_system_whose_clocks_are_stepped(tmp_path: Path) -> None:
    """Six seconds of runs and updates while the clocks of one node, or of all, go an hour forward and back: nobody is
    removed, no run fails, time-outs fire, and the checkers of the torture are content."""
    stepping = Stepping(tmp_path, seconds=6, nodes=2, clients=2, seed=3)
    try:
        assert stepping.run() == []
    finally:
        stepping.end()
    assert stepping.faults.total() == 3
    assert stepping.runs > 6


SCRIPT = """\
storage s1 localhost:{} 0
worker w1 localhost:{} 0
scheduler sc localhost:{}
populate data
client 1 application
wait 600
client 1 application
wait 600
"""


def _shows(output: Path, text: str) -> bool:
    return text in output.read_text()


def test_the_puppetmaster_whose_clock_is_stepped(tmp_path: Path) -> None:
    """An hour back before its first `wait`, an hour forward before the second: the script ends as it should, and so
    do the nodes, the PCS and the runs, whose clocks go with it."""
    (tmp_path / "data").write_text("1,41\n")
    (tmp_path / "application").write_text("operator IncrementOperator 0\n")
    (tmp_path / "script").write_text(SCRIPT.format(free_port(), free_port(), free_port()))
    clocks = Clocks(tmp_path / "clocks", ["puppetmaster", "dida-pcs", "s1", "w1", "sc"])
    output = tmp_path / "output"
    ports = ("--pcs", f"http://localhost:{free_port()}", "--operators", str(ROOT / "operators"))
    with (tmp_path / "script").open("rb") as script, output.open("wb") as out:
        console = subprocess.Popen(
            [*TWISTD, "-n", "puppetmaster", *ports, "--deadline", "20"],
            cwd=tmp_path,
            env=environment(clocks.environment),
            stdin=script,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        for value, hours in (("42", -HOUR), ("43", HOUR)):
            until("a run ends", partial(_shows, output, f" {value} "))
            clocks.step(hours)
        assert console.wait(20) == 0, output.read_text()
    finally:
        console.terminate()
        console.wait(20)
    assert "stopped  3 nodes" in output.read_text()


def test_the_storage_an_hour_back(tmp_path: Path) -> None:
    """With the clocks of all storage nodes an hour back gossip goes on, and who is silent is declared dead."""
    clocks = Clocks(tmp_path / "clocks", ["s1", "s2", "s3"])
    cluster = StorageCluster(tmp_path, 3, "--ping-interval", "200", "--ping-timeout", "800", more=clocks.environment)
    try:
        clocks.step(-HOUR)
        assert cluster.nodes[1].ask("write key value").startswith("ok ")
        until("gossip", lambda: cluster.nodes[2].ask("read key").startswith("ok value "), 5)
        cluster.nodes[3].pause()
        cluster.wait_members(1, 2, seconds=10)
    finally:
        cluster.end()
