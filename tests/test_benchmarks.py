"""The benchmarks in short: what holds on a busy machine by a wide margin, and that they see what is slow."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import __main__ as bench
from benchmarks import compare, load, nodes, report, scale, scripts
from benchmarks.evaluate import PARTS, where
from benchmarks.load import Load, LoadFailed, pipelined
from benchmarks.nodes import KEYS, bare, chains, populate, storage
from benchmarks.report import Beside, Figure, Row, Target
from tests.support import nodes as processes
from tests.support.netcat import Netcat

LEAST_READ = 0.15
"""Reads a second in terms of the bare server's: some 0.8, and 0.005 with a millisecond for each request."""
MOST_WRITE = 8.0
"""The time of one write in terms of the bare server's: some 3, and 30 with a millisecond for each request."""
MOST_CHAIN = 25.0
"""The time of a chain in terms of a line's way through three bare nodes and back: some 8."""
TURNS = 3
SLOW = """
import time
from dida.protocols.lines import LineServer
from dida.storage.node import StorageNode
for kind, name in ((LineServer, "_serve_line"), (StorageNode, "fast_reply")):
    def slowly(self, line, usual=getattr(kind, name)):
        time.sleep(0.001)
        return usual(self, line)
    setattr(kind, name, slowly)
from twisted.scripts.twistd import run
run()
"""
"""twistd, with a millisecond of sleep put into each request of a node by hand."""


@pytest.fixture(scope="module")
def bare_port() -> Iterator[int]:
    with bare() as port:
        populate(port)
        yield port


def read_share(bare_port: int, reads: int) -> float:
    """Reads a second of a storage node in terms of the bare server's, the best turn of each."""
    lines = [f"read key{n % KEYS}" for n in range(reads)]
    with storage(1) as cluster:
        port = cluster.ports[1]
        populate(port)
        turns = [(pipelined(port, lines, 50), pipelined(bare_port, lines, 50)) for _ in range(TURNS)]
    return max(ours for ours, _ in turns) / max(theirs for _, theirs in turns)


def write_time(bare_port: int, writes: int) -> float:
    """The time of a write in a group of two that gossips in terms of the bare server's, the best turn of each."""
    with storage(2) as cluster:
        ports = (cluster.ports[1], bare_port)
        turns = [[load.one_by_one(port, "write key v", writes).p50 for port in ports] for _ in range(TURNS)]
        cluster.wait_equal(1, 2)
    return min(ours for ours, _ in turns) / min(theirs for _, theirs in turns)


def chain_time(runs: int) -> float:
    """The time of a chain of three operators in terms of the bare relay's, the best turn of each."""
    chain = ("AsyncOperator",) * 3
    with chains(1) as system, bare(3) as relay:
        system.one_by_one(20, *chain)
        turns = [
            (system.one_by_one(runs, *chain).p50, load.one_by_one(relay, "write k v", runs).p50) for _ in range(TURNS)
        ]
        assert system.at_once(2 * runs, chain) > 10
    return min(ours for ours, _ in turns) / min(theirs for _, theirs in turns)


@pytest.mark.long
def test_reads_are_not_far_from_a_bare_server(bare_port: int) -> None:
    """A storage node reads at a rate of the order of a bare Twisted server's."""
    assert read_share(bare_port, 5000) > LEAST_READ


@pytest.mark.long
def test_writes_of_a_group_are_not_far_from_a_bare_server(bare_port: int) -> None:
    """A write in a group that gossips takes a small multiple of a bare server's, and arrives at the others."""
    assert write_time(bare_port, 300) < MOST_WRITE


@pytest.mark.long
def test_a_chain_costs_some_times_a_relayed_line() -> None:
    """A chain of three operators takes a small multiple of a line's way through three bare nodes and back."""
    assert chain_time(50) < MOST_CHAIN


@pytest.mark.long
def test_a_millisecond_for_each_request_is_seen(bare_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a sleep of a millisecond put into each request, what is promised of reads and of writes does not hold."""
    monkeypatch.setattr(processes, "TWISTD", (sys.executable, "-c", SLOW))
    assert read_share(bare_port, 500) < LEAST_READ
    assert write_time(bare_port, 100) > MOST_WRITE


def test_a_load_that_is_refused_is_no_measurement() -> None:
    """A server that answers with errors, or hangs up, gives no figure."""
    with storage(1) as cluster:
        with pytest.raises(LoadFailed, match="no-such-record"):
            pipelined(cluster.ports[1], ["read nobody"], 1)
        with pytest.raises(LoadFailed, match="hung up"):
            pipelined(cluster.ports[1], ["quit", "crash"], 2)


@pytest.mark.long
def test_the_load_generator_counts_what_the_node_counts(bare_port: int) -> None:
    """What lineload says that it did is what the storage node says that it has done."""
    try:
        load.lineload()
    except load.NoCompiler as problem:
        pytest.skip(str(problem))
    with storage(1) as cluster, Netcat(cluster.ports[1]) as node:
        populate(cluster.ports[1])
        before = node.ask_object("status")["reads"]
        found = load.closed_loop(cluster.ports[1], 5, 2, 0.5, "read key%d")
        counted = node.ask_object("status")["reads"] - before
        assert 0.8 * counted - 20 < found.rate * 0.5 <= counted
        assert 0 < found.p50 <= found.p99
        with pytest.raises(LoadFailed, match="no-such-record"):
            load.closed_loop(cluster.ports[1], 1, 1, 0.1, "read nobody%d")


def test_the_scale_of_a_simulated_storage() -> None:
    """A node of n sends 4 (n - 1) messages a second at rest; in groups of four that is 12, whatever the pool."""
    four, eight = scale.simulate(4), scale.simulate(8)
    pool = scale.simulate(16, 4)
    assert (four.messages, eight.messages) == (12, 28)
    assert pool.messages == pytest.approx(12, abs=0.5)
    assert 1.0 < scale.law([four, eight], lambda size: size.messages) < 1.5
    for size in (four, eight, pool):
        assert size.converged < 0.1
        assert size.killed < 0.1
        assert 2.0 <= size.silent < 2.5


def test_the_table_says_what_was_reached() -> None:
    """A row shows figure, what stands beside and its ratio, the target, and whether it is reached; columns align."""
    bare_figure = Beside("bare Twisted", Figure(1000, "/s"))
    row = Row(group="read", what="read", dida=Figure(800, "/s"), beside=(bare_figure,), target=Target(0.75, True, True))
    assert row.reached
    words = row.lines()[0].split()
    assert words == ["read", "800", "/s", "bare", "Twisted", "1,000", "/s", "0.80", "≥", "0.75", "yes"]
    slow = Row(group="chains", what="chain", dida=Figure(1.2, "ms"), target=Target(1, False, False, "ms"))
    assert slow.reached is False
    assert slow.lines()[0].endswith("≤ 1 ms  NO")
    assert slow.lines()[0].index("≤") == row.lines()[0].index("≥") == report.heading().index("target")
    assert Row(group="read", what="1 × 1", dida=Figure(1, "/s"), beside=(bare_figure,)).reached is None


def test_rows_are_chosen_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Some rows can be asked for; they are shown, and written down with machine, versions and commit."""
    target = tmp_path / "bench.json"
    words = ["--rows", "mixed", "--turns", "1", "--no-peers", "--json", str(target)]
    assert bench.main(words) == 0
    assert "9 reads to 1 write" in capsys.readouterr().out
    found = json.loads(target.read_text())
    assert found["rows"][0]["dida"]["value"] > 0
    assert {"cores", "python", "packages", "commit", "load_average"} <= set(found["machine"])
    with pytest.raises(SystemExit):
        bench.main(["--rows", "nothing"])
    assert "there are no rows 'nothing'" in capsys.readouterr().err


def test_a_script_can_have_any_number_of_storage_nodes() -> None:
    """The baseline over other numbers of nodes is the baseline but for them."""
    script = scripts.text_of("baseline")
    four = scripts.with_storage(script, 4).splitlines()
    assert sorted(four) == sorted(script.splitlines())
    assert len(scripts.with_storage(script, 8).splitlines()) == len(four) + 4


def test_all_of_a_run_is_accounted_for() -> None:
    """What a run waited for adds up to its time."""
    step = {"run": "r", "seconds": 0.25, "calls": [["update_if_value_is", 0.12], ["read", 0.1]]}
    play = scripts.Playing((scripts.Played("r", 300.0, 1.0),), (step,))
    split = where(play, 0, alone=False)
    assert sum(part for step in split for part in step.values()) == pytest.approx(300)
    assert [round(split[0][part]) for part in PARTS] == [30, 100, 100, 20, 0]
    assert load.timed([0.25, 0.5, 0.75]) == Load(2, 500, 750)
    assert nodes.resident(1) > 0


def test_two_clones_are_compared(capsys: pytest.CaptureFixture[str]) -> None:
    """Both sides are measured by their own processes; the table has rates and CPU seconds, and the limit is checked."""
    words = ["--with", str(processes.ROOT), "--python", sys.executable, "--turns", "1", "--seconds", "0.1"]
    assert compare.main([*words, "--rows", "read", "chain-async", "--most", "0"]) == 1
    assert re.search(r"^read( +[\d,]+){2}( +\d+\.\d\d){4}$", capsys.readouterr().out, re.MULTILINE)


def test_a_clone_without_an_environment_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The message says what is expected."""
    with pytest.raises(SystemExit):
        compare.main(["--with", str(tmp_path)])
    assert f"missing environment in {tmp_path}: expected --with FOLDER" in capsys.readouterr().err
