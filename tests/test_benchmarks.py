"""The benchmarks in short: what holds on a busy machine by a wide margin, and that they see what is slow."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import __main__ as bench
from benchmarks import load, nodes, report, scale, scripts
from benchmarks.evaluate import PARTS, where
from benchmarks.load import Load, LoadFailed, pipelined
from benchmarks.nodes import KEYS, bare, chains, populate, storage
from benchmarks.report import Beside, Figure, Row, Target
from tests import nodes as processes
from tests.netcat import Netcat

READS = 5000
LEAST_READ = 0.15
"""Of the bare server's reads; it is 0.5 and more, and 0.03 with a millisecond for each request."""
LEAST_WRITE = 0.02
"""Of the bare server's writes, in a group of two that gossips; it is 0.1 and more."""
MOST_CHAIN = 60.0
"""A chain in terms of a line's way through three bare nodes and back; it is some 10."""
SLOW = """
import time
from dida.services.storage import StorageService
for name in ("quick", "ask"):
    def slowly(self, request, usual=getattr(StorageService, name)):
        time.sleep(0.001)
        return usual(self, request)
    setattr(StorageService, name, slowly)
from twisted.scripts.twistd import run
run()
"""
"""twistd, with a millisecond of sleep put into each request of a storage node."""


@pytest.fixture(scope="module")
def bare_port() -> Iterator[int]:
    with bare() as port:
        populate(port)
        yield port


def lines(verb: str, count: int = READS) -> Iterator[str]:
    """So many requests, all over the records."""
    return (f"{verb} key{n % KEYS}{' v' if verb == 'write' else ''}" for n in range(count))


def ratio(port: int, bare_port: int, verb: str) -> float:
    """DIDA's requests a second in terms of the bare server's: the best of three turns each."""
    rates = [(pipelined(port, lines(verb), 50), pipelined(bare_port, lines(verb), 50)) for _ in range(3)]
    return max(ours for ours, _ in rates) / max(theirs for _, theirs in rates)


def test_reads_are_not_far_from_a_bare_server(bare_port: int) -> None:
    """A storage node reads at a rate of the order of a bare Twisted server's."""
    with storage(1) as cluster:
        populate(cluster.ports[1])
        assert ratio(cluster.ports[1], bare_port, "read") > LEAST_READ


def test_a_millisecond_for_each_request_is_seen(bare_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a sleep of a millisecond put into each request the promise above does not hold any more."""
    monkeypatch.setattr(processes, "TWISTD", (sys.executable, "-c", SLOW))
    with storage(1) as cluster:
        populate(cluster.ports[1])
        assert ratio(cluster.ports[1], bare_port, "read") < LEAST_READ / 2


def test_writes_of_a_group_are_not_far_from_a_bare_server(bare_port: int) -> None:
    """A node of a group that gossips writes, and all of it arrives at the others."""
    with storage(2) as cluster:
        assert ratio(cluster.ports[1], bare_port, "write") > LEAST_WRITE
        cluster.wait_equal(1, 2)


def test_a_chain_costs_some_times_a_relayed_line() -> None:
    """A chain of three operators takes a small multiple of a line's way through three bare nodes and back."""
    with chains(1) as system, bare(3) as relay:
        chain = ("AsyncOperator",) * 3
        system.one_by_one(20, *chain)
        turns = [(system.one_by_one(40, *chain), load.one_by_one(relay, "write k v", 40)) for _ in range(3)]
        assert min(ours.p50 for ours, _ in turns) < MOST_CHAIN * min(theirs.p50 for _, theirs in turns)
        assert system.at_once(100, chain) > 10


def test_a_load_that_is_refused_is_no_measurement() -> None:
    """A server that answers with errors, or hangs up, gives no figure."""
    with storage(1) as cluster:
        with pytest.raises(LoadFailed, match="no-such-record"):
            pipelined(cluster.ports[1], ["read nobody"], 1)
        with pytest.raises(LoadFailed, match="hung up"):
            pipelined(cluster.ports[1], ["quit", "crash"], 2)


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
    """A node of a group of n sends 4 (n - 1) messages a second at rest; in groups of four that is 12, whatever the pool."""
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
    assert load.timed([0.001, 0.002, 0.003]) == Load(pytest.approx(500), pytest.approx(2), pytest.approx(3))
    assert nodes.resident(1) > 0
