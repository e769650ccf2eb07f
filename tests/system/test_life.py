"""The life of a process: signals, pid files, logs, `--wait`, `--listen`, what forked children keep."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.daemons import Daemon, end, lives
from tests.support.netcat import Netcat, object_of
from tests.support.nodes import TWISTD, NodeProcess, environment, free_port, until

SLOW = """
import multiprocessing
import os
import subprocess
import sys
import time


class SlowOperator:
    def configure_storage(self, storage):
        pass

    def process_record(self, meta, input, previous_output):
        time.sleep(float(input))
        return "slept"


class UntilOperator(SlowOperator):
    def process_record(self, meta, input, previous_output):
        while not os.path.exists(input):
            time.sleep(0.02)
        return "waited"


class FloodOperator(SlowOperator):
    def process_record(self, meta, input, previous_output):
        print("x" * int(input))
        return "printed"


def kept(path):
    # what this process has open; then it lives on
    numbers = [number for number in os.listdir("/proc/self/fd") if int(number) > 2]
    links = [os.readlink(f"/proc/self/fd/{number}") for number in numbers if os.path.exists(f"/proc/self/fd/{number}")]
    with open(path + ".new", "w") as file:
        file.write("\\n".join([str(os.getpid()), *links]))
    os.rename(path + ".new", path)
    time.sleep(60)


class ForkOperator(SlowOperator):
    def process_record(self, meta, input, previous_output):
        if os.fork() == 0:
            kept("fork")
        return "forked"


class ForkAsyncOperator(SlowOperator):
    async def process_record(self, meta, input, previous_output):
        if os.fork() == 0:
            kept("fork-async")
        return "forked"


class MultiprocessingOperator(SlowOperator):
    def process_record(self, meta, input, previous_output):
        multiprocessing.get_context("fork").Process(target=kept, args=("multiprocessing",)).start()
        return "forked"


class SubprocessOperator(SlowOperator):
    path = "subprocess"

    def process_record(self, meta, input, previous_output):
        program = "import sys; sys.path[:0] = ['operators']; import slow; slow.kept(sys.argv[1])"
        subprocess.Popen([sys.executable, "-c", program, self.path], close_fds=False)
        return "forked"


class IsolatedForkOperator(ForkOperator):
    isolation = "process"

    def process_record(self, meta, input, previous_output):
        if os.fork() == 0:
            kept("isolated")
        return "forked"


class IsolatedSubprocessOperator(SubprocessOperator):
    isolation = "process"
    path = "isolated-sub"
"""


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """Starts daemons, all of which end with the test."""
    (tmp_path / "operators").mkdir()
    (tmp_path / "operators" / "slow.py").write_text(SLOW)
    found = Daemon(tmp_path)
    yield found
    end(found)


def worker(port: int, id: str = "w1", *options: str) -> tuple[str, ...]:
    return ("dida-worker", "--id", id, "--url", f"http://127.0.0.1:{port}", *options)


def ask(port: int, line: str) -> str:
    with Netcat(port) as netcat:
        return netcat.ask(line)


def test_a_daemon_that_is_waited_for(daemon: Daemon) -> None:
    """With --wait the command returns once the node answers; a second one of it is refused; what fails is status 1."""
    port = free_port()
    done = daemon.run(*worker(port, "w1", "--wait", "20"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert object_of(ask(port, "status"))["pid"] == daemon.pid("w1")
    again = daemon.run(*worker(port, "w1", "--wait", "20"))
    pid = daemon.pid("w1")
    assert (again.returncode, again.stderr) == (
        1,
        f"twistd dida-worker: w1 runs already, as process {pid} ({daemon.folder}/w1.pid): end it first\n",
    )
    taken = daemon.run(*worker(port, "w2", "--wait", "20"))
    assert (taken.returncode, taken.stderr.count("\n")) == (1, 1)
    assert "address already in use" in taken.stderr
    never = daemon.run("dida-storage", "--id", "s1", "--replica", "1", "--url", f"http://127.0.0.1:{free_port()}",
        "--storage", f"2=s2@127.0.0.1:{free_port()}", "--wait", "0.3")  # fmt: skip
    assert (never.returncode, never.stderr) == (
        1,
        f"twistd dida-storage: s1 is not ready after 0.3 s, and goes on; its log is {daemon.folder}/s1.log\n",
    )
    assert lives(daemon.pid("s1"))
    foreground = daemon.run("-n", *worker(free_port(), "w3", "--wait", "1"))
    assert (foreground.returncode, foreground.stderr.count("\n")) == (1, 1)
    os.kill(pid, signal.SIGTERM)
    until("it ends", lambda: not lives(pid))
    assert not (daemon.folder / "w1.pid").exists()


def test_a_daemon_that_dies_before_it_is_ready(daemon: Daemon) -> None:
    """Who waits for it learns of the end at once, by the exit status and one line that names the log."""
    words = ("dida-storage", "--id", "s1", "--replica", "1", "--url", f"http://127.0.0.1:{free_port()}")
    command = [*TWISTD, *words, "--storage", f"2=s2@127.0.0.1:{free_port()}", "--wait", "50"]
    with subprocess.Popen(command, cwd=daemon.folder, env=environment(), stderr=subprocess.PIPE, text=True) as waiting:
        until("it has begun", (daemon.folder / "s1.pid").exists)
        os.kill(daemon.pid("s1"), signal.SIGKILL)
        _, told = waiting.communicate(timeout=20)
    assert waiting.returncode == 1
    assert told == f"twistd dida-storage: s1 ended before it was ready; its log is {daemon.folder}/s1.log\n"


DYING = """
import os
from dida.services.pid_file import PidFile
PidFile.write = lambda file: os._exit(70)
from twisted.scripts.twistd import run
run()
"""


@pytest.mark.parametrize("wait", [(), ("--wait", "50")])
def test_a_daemon_that_dies_while_it_starts(daemon: Daemon, wait: tuple[str, ...]) -> None:
    """The command ends, too, whether or not it is to wait for the node to be ready."""
    words = [sys.executable, "-c", DYING, *worker(free_port(), "w1", *wait)]
    done = subprocess.run(words, cwd=daemon.folder, env=environment(), capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stderr) == (
        1,
        f"twistd dida-worker: w1 ended before it was ready; its log is {daemon.folder}/w1.log\n",
    )


def chain_nodes(daemon: Daemon) -> tuple[int, int]:
    """The ports of a worker and of its scheduler, which are ready."""
    port, scheduler = free_port(), free_port()
    words = ("dida-scheduler", "--id", "sc1", "--url", f"http://127.0.0.1:{scheduler}")
    assert daemon.run(*words, "--worker", f"w1=127.0.0.1:{port}").returncode == 0
    assert daemon.run(*worker(port, "w1", "--wait", "20")).returncode == 0
    return port, scheduler


def test_kill_and_start_at_once(daemon: Daemon) -> None:
    """A worker that is started again while its predecessor finishes what it has waits for that; no run is lost."""
    port, scheduler = chain_nodes(daemon)
    old = daemon.pid("w1")
    with Netcat(scheduler) as netcat:
        run = netcat.ask("run go-on UntilOperator UntilOperator").split()[1]
        until("it is executed", lambda: object_of(ask(port, "status"))["active"])
        os.kill(old, signal.SIGTERM)
        words = [*TWISTD, *worker(port, "w1", "--wait", "20")]
        with subprocess.Popen(words, cwd=daemon.folder, env=environment(), stderr=subprocess.PIPE, text=True) as again:
            assert again.stderr is not None
            told = again.stderr.readline()
            assert told == f"twistd dida-worker: w1 (process {old}) is leaving: waiting for its end\n"
            assert lives(old)
            (daemon.folder / "go-on").touch()
            assert again.wait(20) == 0
        daemon.pids.append(daemon.pid("w1"))
        assert not lives(old)
        assert object_of(ask(port, "status"))["pid"] == daemon.pid("w1") != old
        assert netcat.ask(f"result {run}").startswith("ok done waited ")


def test_a_second_term_ends_at_once(daemon: Daemon) -> None:
    """A worker with an operator in hand waits for it, and ends at once when it is told twice."""
    port, scheduler = chain_nodes(daemon)
    pid = daemon.pid("w1")
    ask(scheduler, "run 30 SlowOperator")
    until("it is executed", lambda: object_of(ask(port, "status"))["active"])
    os.kill(pid, signal.SIGINT)
    until("it is leaving", lambda: object_of(ask(port, "status"))["draining"])
    os.kill(pid, signal.SIGTERM)
    until("it has ended", lambda: not lives(pid), 5)
    assert not (daemon.folder / "w1.pid").exists()


@pytest.mark.parametrize("content", ["", "nonsense", "self"])
def test_a_stale_pid_file(daemon: Daemon, content: str) -> None:
    """A daemon starts over a pid file that is no living node's, and its log says what was replaced."""
    (daemon.folder / "w1.pid").write_text(str(os.getpid()) if content == "self" else content)
    assert daemon.run(*worker(free_port(), "w1", "--wait", "20")).returncode == 0
    assert daemon.log("w1").splitlines()[0].partition("] ")[2].startswith("replacing the pid file")


def test_signals_and_the_log_of_a_daemon(daemon: Daemon) -> None:
    """HUP begins a renamed log anew, USR1 kills nothing, a truncated log has no hole, floods are bounded."""
    _, scheduler = chain_nodes(daemon)
    pid, log = daemon.pid("w1"), daemon.folder / "w1.log"
    log.rename(daemon.folder / "old")
    os.kill(pid, signal.SIGHUP)
    until("the log is begun anew", log.exists)
    os.kill(pid, signal.SIGUSR1)
    until("the log is rotated", (daemon.folder / "w1.log.1").exists)
    with Netcat(scheduler) as netcat:
        for _ in range(12):
            run = netcat.ask("run 3000000 FloodOperator").split()[1]
            assert netcat.ask(f"result {run}").startswith("ok done printed ")
    assert sum(path.stat().st_size for path in daemon.folder.glob("w1.log*")) <= 4 * 5_000_000
    os.truncate(log, 0)
    os.kill(pid, signal.SIGTERM)
    until("it ends", lambda: not lives(pid))
    assert b"\0" not in log.read_bytes()
    assert "Server Shut Down" in log.read_text()


FORKS = {
    "fork": "ForkOperator",
    "fork-async": "ForkAsyncOperator",
    "multiprocessing": "MultiprocessingOperator",
    "subprocess": "SubprocessOperator",
    "isolated": "IsolatedForkOperator",
    "isolated-sub": "IsolatedSubprocessOperator",
}


def test_children_of_operators_keep_nothing_of_the_node(daemon: Daemon) -> None:
    """No socket, no pipe of it: a killed worker is noticed at once, and can be started again at once."""
    port, scheduler = chain_nodes(daemon)
    with Netcat(scheduler) as netcat:
        run = netcat.ask(f"run x {' '.join(FORKS.values())}").split()[1]
        try:
            answer = netcat.ask(f"result {run}")
            assert answer.startswith("ok done forked "), answer
            for name in FORKS:
                until(f"{name} has said what it keeps", (daemon.folder / name).exists)
            texts = {name: (daemon.folder / name).read_text().splitlines() for name in FORKS}
        finally:
            daemon.pids += [int((daemon.folder / name).read_text().split()[0]) for name in FORKS
                            if (daemon.folder / name).exists()]  # fmt: skip
        for name, (pid, *links) in texts.items():
            assert lives(int(pid))
            foreign = ("socket:", "eventpoll") if name == "multiprocessing" else ("socket:", "eventpoll", "pipe:")
            assert [link for link in links if any(each in link for each in foreign)] == [], name
        os.kill(daemon.pid("w1"), signal.SIGKILL)
        until("the scheduler knows", lambda: not object_of(netcat.ask("workers"))["workers"][0]["reachable"], 1)
    for pid, *_ in texts.values():
        os.kill(int(pid), signal.SIGTERM)
        until("a child ends by the signals that the node ends by", lambda: not lives(int(pid)))  # noqa: B023
    assert daemon.run(*worker(port, "w1", "--wait", "20")).returncode == 0


def test_signals_of_a_pcs_and_its_nodes(start_node: Callable[..., NodeProcess], tmp_path: Path) -> None:
    """HUP and USR1 kill neither a PCS nor its nodes; a node's log is begun anew, and the PCS goes on in the new one."""
    pcs = start_node("dida-pcs", port=free_port())
    port = free_port()
    pid = int(pcs.ask(f"start storage s1 http://127.0.0.1:{port}").split()[1])
    try:
        until("the node is ready", lambda: object_of(pcs.ask("nodes"))["nodes"][0]["state"] == "ready")
        log = tmp_path / "logs" / "s1.log"
        for number in (signal.SIGHUP, signal.SIGUSR1):
            pcs.signal(number)
        log.rename(log.with_name("elsewhere"))
        os.kill(pid, signal.SIGHUP)
        until("the log is begun anew", log.exists)
        os.kill(pid, signal.SIGUSR1)
        until("it was moved, and begun anew again", log.with_name("s1.log.1").exists)
        assert (object_of(ask(port, "status"))["pid"], pcs.status()["alive"]) == (pid, ["s1"])
        pcs.signal(signal.SIGTERM)
        assert pcs.wait_end() == -signal.SIGTERM
        assert not lives(pid)
        assert "s1 | (ended: signal SIGTERM)" in pcs.output
        assert pcs.output.count("Server Shut Down") == 2, "the node's last lines, from its new log, and its own"
    finally:
        if lives(pid):
            os.kill(pid, signal.SIGKILL)
