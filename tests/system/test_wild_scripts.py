"""Scripts from the wild, and long ones, by a real puppetmaster with real nodes."""

from __future__ import annotations

import re
import time

import pytest

from tests.support.wild import WILD
from tests.system.test_scripts import ONE_OF_EACH, Console, console, runs  # noqa: F401 - a fixture

pytestmark = [pytest.mark.long, pytest.mark.system, pytest.mark.timeout(180)]

DONE = [["13", "three_increments", "4", "w1", "w1", "w1"]]


@pytest.mark.parametrize("name", WILD)
def test_wild(console: Console, name: str) -> None:  # noqa: F811
    """Whatever the script looks like, it ends with exit status 0, its run done, nothing left running."""
    text = WILD[name].replace("LOCALHOST", "localhost")
    status, lines = console.play(text)
    assert status == 0, "\n".join(lines)
    assert [[*run[:3], *["w1" for _ in run[3:]]] for run in runs(lines)] == DONE
    assert lines[-1] == f"stopped  {4 - text.count('crash ')} nodes"
    assert console.nobody_listens()


def test_twenty_nodes(console: Console) -> None:  # noqa: F811
    """Twenty nodes start, do what they are there for, and are stopped."""
    nodes = "".join(f"storage s{n} localhost:{5000 + n} 0\n" for n in range(1, 12))
    nodes += "".join(f"worker w{n} localhost:{4000 + n} 0\n" for n in range(1, 9))
    script = nodes + "scheduler sc localhost:2000\npopulate four_records\nclient 13 three_increments\n"
    status, lines = console.play(script + "expect-run LAST done 4\nexpect 13 4\n")
    assert status == 0, "\n".join(lines)
    assert sum(line.startswith("ready") for line in lines) == 20
    assert lines[-1] == "stopped  20 nodes"
    assert console.nobody_listens()


def test_crash_of_a_node_that_is_starting(console: Console) -> None:  # noqa: F811
    """The node is killed, the others go on without it."""
    script = ONE_OF_EACH + "storage s2 localhost:5002 0\ncrash s2\npopulate four_records\nclient 13 three_increments\n"
    status, lines = console.play(script)
    assert status == 0, "\n".join(lines)
    assert [run[2] for run in runs(lines)] == ["4"]
    assert lines[-1] == "stopped  3 nodes"


def test_a_thousand_clients(console: Console) -> None:  # noqa: F811
    """1,000 client lines are 1,000 runs, done within a minute."""
    script = ONE_OF_EACH + "populate four_records\n" + "client 14 reads\n" * 1000
    (console.folder / "reads").write_text("operator ReaderOperator 0\n")
    began = time.monotonic()
    status, lines = console.play(script)
    seconds = time.monotonic() - began
    assert status == 0, "\n".join(lines[-20:])
    assert len(runs(lines)) == 1000
    assert lines[-2] == "played   1004 commands, 1000 runs: 1000 done, none failed"
    assert seconds < 60, seconds


def test_a_script_that_is_a_test(console: Console) -> None:  # noqa: F811
    """pause, slow, restart and expectations of a real system; one that fails shows the difference: exit status 1."""
    script = (
        ONE_OF_EACH + "storage s2 localhost:5002 0\n"
        "populate four_records\nslow s1 300\nslow w1 50\nclient 13 three_increments\nexpect-run LAST done 4\n"
        "pause s2\nwait 3000\nclient 13 three_increments\nexpect-run 2 done 7\nresume s2\nrestart s2\nexpect 13 7\n"
        "client 99 add_update_add\nexpect-run LAST failed no-such-record: 99\n"
    )
    status, lines = console.play(script)
    assert status == 0, "\n".join(lines)
    status, lines = console.play(ONE_OF_EACH + "populate four_records\nexpect 13 one\nlistServer s1\n")
    assert status == 1
    at = lines.index("script line 5: expect 13 one: not within 10 s")
    assert lines[at + 1 : at + 4] == ["  expected one", "  found    1", "records on s1:"]
    assert lines[-2].endswith("failed: line 5")


def test_check(console: Console) -> None:  # noqa: F811
    """--check says what is wrong and starts nothing; of a good script it says that nothing is."""
    status, lines = console.play(ONE_OF_EACH + "client 13 three_increments\n", "--check")
    assert (status, lines) == (0, ["checked  4 commands: nothing is wrong"])
    status, lines = console.play(ONE_OF_EACH + "client 13 nofile\ncrash s9\nfrob\n", "--check")
    assert status == 1
    assert [re.sub(r"(no file 'nofile').*", r"\1", line) for line in lines] == [
        "script line 4: client 13 nofile: no file 'nofile'",
        "script line 5: crash s9: unknown node s9: there are s1, w1, sc",
        "script line 6: frob: unknown command 'frob': help lists the commands",
        "checked  6 commands: wrong: 3",
    ]
    assert console.nobody_listens()


def test_the_own_pcs_is_killed(console: Console) -> None:  # noqa: F811
    """The puppetmaster starts another PCS, which takes up the nodes; in the end none is left."""
    process = console.start(ONE_OF_EACH + "populate four_records\nexpect 14 changed\nclient 13 three_increments\n")
    from tests.support.netcat import Netcat
    from tests.support.nodes import until

    until("the data is there", lambda: any(line.startswith("populate") for line in console.output), 60)
    with Netcat(console.pcs) as pcs:
        pcs.send("crash")
    until("it is back", lambda: any("is back; what runs there: s1 w1 sc" in line for line in console.output), 30)
    with Netcat(console.ports["5001"]) as storage:
        storage.ask("write 14 changed")
    assert process.wait(60) == 0, "\n".join(console.output)
    assert "pcs      has ended (signal SIGKILL): another one is started" in console.output
    assert console.output[-1] == "stopped  3 nodes"
    assert console.nobody_listens()
