"""The scheduler on real connections, with real workers and fake storage nodes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from attrs import evolve
from twisted.logger import LogEvent

from dida.addresses import NodeAddress
from dida.chains.messages import Drain, ReportTo
from dida.chains.run_record import RunRecord
from dida.chains.runs import Runs
from dida.chains.scheduling import LeastActive
from dida.errors import DidaError
from dida.protocols import lines
from dida.protocols.lines import Answer, NodeCommands
from dida.scheduler.node import SchedulerNode
from dida.wire import grammar
from dida.wire.messages import FIRST, NODE, Error, Ok, Reply, Request, UpdateIf, vocabulary
from dida.worker.node import WorkerNode
from tests.support.fakes import Port, refused, the_reactor, until
from tests.support.schedulers import TIMING, VERBS, Silent, System

reactor = the_reactor()


class Impostor(NodeCommands):
    """A node that reports like a worker and executes nothing."""

    vocabulary: Mapping[str, type[Request]] = vocabulary(*NODE, ReportTo)

    def cmd_report(self, request: ReportTo) -> Answer:
        return Ok()


EXECUTE = (
    'execute {"meta": {"run": "r9", "scheduler": "localhost:1"}, "input": "", "next": 0, "size": 1, "left": 1, "chain":'
    ' [{"operator": "A", "position": 0, "worker": "w1", "host": "localhost", "port": 1}]}'
)


@pytest_twisted.ensureDeferred
async def test_the_baseline_application(system: System) -> None:
    """A run over two workers ends with its output, and its steps tell operator, worker, output and milliseconds."""
    system.start()
    result = await system.run("23 AddOperator UpdateAndChainOperator AddOperator")
    assert result.words == ("done", "int_conversion_failed")
    steps = result.object["steps"]
    assert [(step["operator"], step["worker"], step["output"]) for step in steps] == [
        ("AddOperator", "w1", "12"),
        ("UpdateAndChainOperator", "w2", "end"),
        ("AddOperator", "w1", "int_conversion_failed"),
    ]
    assert all(step["ms"] > 0 for step in steps)
    assert result.object["ms"] > 0
    assert result.object["after"]
    assert [value for _, value in system.storage.group.records["23"]] == [
        "int_conversion_failed",
        "success",
        "12",
        "11",
    ]


@pytest_twisted.ensureDeferred
async def test_stock_operators(system: System) -> None:
    """Each stock operator does what its name says."""
    system.start()
    system.storage.group.put("user", "out")
    for line, output in (
        ("13 IncrementOperator", "2"),
        ("13 CounterOperator CounterOperator", "4"),
        ("14 ReaderOperator", "one_ahead_of_13"),
        ("14 AddOperator", "int_conversion_failed"),
        ("14 IncrementOperator", "int_conversion_failed"),
        ("copy WriterOperator ReaderOperator", "r6-test"),
        ("user LoginOperator", "in"),
        ("user LoginOperator", "refused"),
    ):
        assert (await system.run(line)).words == ("done", output), line


@pytest_twisted.ensureDeferred
async def test_counting_at_once(system: System) -> None:
    """A hundred runs that count at once get a hundred numbers, each another one."""
    system.start()
    runs = [await system.ask("run 13 CounterOperator") for _ in range(100)]
    results = [await system.ask(f"result {run.words[0]}") for run in runs]
    assert sorted(int(result.words[1]) for result in results) == list(range(2, 102))


@pytest_twisted.ensureDeferred
async def test_failures_reach_the_client(system: System) -> None:
    """A run that fails says operator, position, worker and reason; so does asking later."""
    scheduler = system.start()
    result = await system.run("99 ReaderOperator")
    assert result.words == ("failed", "ReaderOperator at position 0 on w1 failed: no-such-record: 99")
    (Path(system.folder) / "broken.py").write_text("class BrokenOperator:\n    def\n")
    failed = await system.run("13 ReaderOperator BrokenOperator")
    assert failed.words[1].startswith("BrokenOperator at position 1 on w1 could not be loaded: ")
    assert failed.words[1].endswith("broken.py line 2: invalid syntax")
    assert [failed.object[member] for member in ("position", "operator", "worker")] == [1, "BrokenOperator", "w1"]
    assert failed.object["steps"][0]["output"] == "1"
    assert await system.ask("result r2-test") == failed
    assert all(load.active == 0 for load in scheduler.runs.policy.loads.values())


@pytest_twisted.ensureDeferred
async def test_a_run_sees_what_the_client_has_seen(system: System) -> None:
    """The client's timestamp goes with the run, to every read; what the run saw comes back."""
    system.start()
    run = await system.ask('run 13 ReaderOperator {"after":{"x":7}}')
    result = await system.ask(f"result {run.words[0]}")
    (request,) = system.storage.requests()
    assert getattr(request, "after", None) == {"x": 7}
    assert result.object["after"]["x"] == 7
    assert len(result.object["after"]) == 2


@pytest_twisted.ensureDeferred
async def test_the_route_spreads(system: System) -> None:
    """The next operator goes to the worker with the fewest that are not confirmed; `workers` shows the counts."""
    silent = [Silent() for _ in range(3)]
    declared = tuple(system.node(f"x{number}", node) for number, node in enumerate(silent))
    system.start(0, declared)
    await system.ask("run 13 A B C D")
    await system.ask("run 13 A B")
    reply = await system.ask("workers")
    assert {each["id"]: each["active"] for each in reply.object["workers"]} == {"x0": 2, "x1": 2, "x2": 2}
    await until(lambda: silent[1].requests)
    assert [len(each.requests) for each in silent] == [1, 1, 0]
    assert [step.worker for step in silent[0].requests[0].chain] == ["x0", "x1", "x2", "x0"]


@pytest.mark.alone
@pytest_twisted.ensureDeferred
async def test_result_waits_so_long_and_no_longer(system: System) -> None:
    """`result` answers when the run has ended; `{timeout}` bounds the wait; an unknown run is named."""
    system.start(0, (system.node("x", Silent()),))
    run = (await system.ask("run 13 A")).words[0]
    began = reactor.seconds()
    late = await system.ask(f'result {run} {{"timeout":0.2}}')
    assert isinstance(late, Error)
    assert (late.code, late.words[0]) == (
        "timed-out",
        f"run {run} is still going on, at A at position 0 on x: ask again, or give it a longer timeout",
    )
    assert 0.15 < reactor.seconds() - began < 1.0
    assert isinstance(await system.ask(f'result {run} {{"timeout":0}}'), Error)
    assert await system.ask("result r9-other") == Error("no-such-run", ("r9-other",))
    waiting = [system.ask(f'result {run} {{"timeout":30}}') for _ in range(3)]
    failed = f'failed {{"run":"{run}","position":0,"operator":"A","worker":"x","reason":"because"}}'
    assert await system.ask(failed) == Ok()
    for each in waiting:
        assert (await each).words == ("failed", "because")


@pytest_twisted.ensureDeferred
async def test_a_run_of_which_nothing_is_heard(system: System) -> None:
    """Every run has a deadline, after which it failed as lost."""
    system.start(0, (system.node("x", Silent()),), deadline=0.3)
    result = await system.run("13 A")
    assert result.words == ("failed", "A at position 0 on x was not confirmed within the run's 0.3 s")


@pytest.mark.alone
@pytest_twisted.ensureDeferred
async def test_a_worker_that_dies_is_replaced(system: System) -> None:
    """When the process of a worker dies, the steps that it had are executed by another, and it gets no more of them."""
    silent = Silent()
    dying = system.node("x", silent)
    scheduler = system.start(1, (dying,))
    await until(lambda: scheduler.ready)
    runs = [(await system.ask("run 13 ReaderOperator")).words[0] for _ in range(2)]
    await until(lambda: silent.requests)
    for _ in range(3):
        await system.ask("ping")  # by then its acknowledgement has arrived
    began = reactor.seconds()
    system.ports["x"].close()
    results = [await system.ask(f"result {run}") for run in runs]
    assert {result.words for result in results} == {("done", "1")}
    assert 1.0 <= reactor.seconds() - began < 3.0
    steps = [result.object["steps"][0] for result in results]
    assert sorted((step["worker"], step["attempt"]) for step in steps) == [("w1", 1), ("w1", 2)]
    assert min(step["why"] for step in steps).startswith("least-active: ")
    assert all(load.active == 0 for load in scheduler.runs.policy.loads.values())
    for _ in range(3):
        result = await system.run("13 ReaderOperator")
        assert result.words == ("done", "1")
    status = (await system.ask("status")).object
    assert (status["alive"], status["dead"]) == (["w1", "s1", "s2"], ["x"])
    system.node("x", Silent(), dying.address.port)
    await until(lambda: scheduler.workers["x"].reachable)


@pytest.mark.parametrize("problem", [DidaError("superseded", "it has ended"), ZeroDivisionError()])
@pytest_twisted.ensureDeferred
async def test_a_run_that_can_not_go_on(
    system: System, monkeypatch: pytest.MonkeyPatch, logged_errors: list[LogEvent], problem: Exception
) -> None:
    """A run with which something is wrong does not keep others from being executed again; it has failed."""
    silent = Silent()
    scheduler = system.start(0, (system.node("x", silent),))
    await until(lambda: scheduler.ready)
    runs = [(await system.ask("run 13 ReaderOperator")).words[0] for _ in range(2)]
    await until(lambda: len(silent.requests) == 2)
    on_lost = scheduler.runs.on_lost

    def wrong(run: RunRecord, *arguments: Any) -> RunRecord | None:
        if run.id == runs[0]:
            raise problem
        return on_lost(run, *arguments)

    monkeypatch.setattr(scheduler.runs, "on_lost", wrong)
    other = system.worker("w1")
    await system.ask(f"worker w1 {other.address}")
    await until(lambda: "w1" in scheduler.workers.reachable)
    system.ports["x"].close()
    results = [await system.ask(f"result {run}") for run in runs]
    bug = isinstance(problem, ZeroDivisionError)
    why = "a bug at the scheduler; its log has the details" if bug else "superseded: it has ended"
    assert [result.words for result in results] == [("failed", f"can't go on: {why}"), ("done", "1")]
    assert len(logged_errors) == bug
    logged_errors.clear()


@pytest_twisted.ensureDeferred
async def test_a_silent_worker_gets_nothing(system: System) -> None:
    """A worker that is connected and does not answer pings gets no operators until it does."""
    paused = Silent()
    timing = evolve(TIMING, ping_every=0.05, ping_timeout=0.2)
    scheduler = system.start(0, (system.node("x", paused),), timing=timing)
    await until(lambda: scheduler.workers and scheduler.workers["x"].reachable)
    paused.paused = True
    await until(lambda: not scheduler.workers["x"].reachable)
    refusal = await system.ask('run 13 A {"deadline":0.1}')
    assert isinstance(refusal, Error)
    assert refusal.code == "unavailable"
    paused.paused = False
    await until(lambda: scheduler.workers["x"].reachable)


@pytest_twisted.ensureDeferred
async def test_a_run_waits_for_workers(system: System) -> None:
    """A run that comes before the workers waits for those that are declared, within its deadline."""
    scheduler = system.start(0)
    refusal = await system.ask('run 13 A {"deadline":0.2}')
    assert isinstance(refusal, Error)
    assert refusal.code == "unavailable"
    assert refusal.words[0].startswith("no worker can be reached: start one")
    first, second = refused(), refused()
    for id, address in (("w1", first), ("w2", second)):
        assert await system.ask(f"worker {id} http://{address}") == Ok()
    assert not (await system.ask("status")).object["ready"]
    run = system.ask("run 23 AddOperator AddOperator")
    system.worker("w1", first.port)
    await until(lambda: scheduler.workers["w1"].reachable)
    assert not run.called
    system.worker("w2", second.port)
    result = await system.ask(f"result {(await run).words[0]}")
    assert [step["worker"] for step in result.object["steps"]] == ["w1", "w2"]
    assert (await system.ask("status")).object["ready"]


@pytest_twisted.ensureDeferred
async def test_a_worker_that_never_comes(system: System) -> None:
    """A declared worker that does not come is waited for until the start deadline, and then done without."""
    scheduler = system.start(1, (NodeAddress("never", refused()),), start_deadline=0.2)
    assert not scheduler.ready
    assert (await system.run("13 ReaderOperator")).words == ("done", "1")
    status = (await system.ask("status")).object
    assert (status["ready"], status["awaited"]) == (True, ["never"])


@pytest_twisted.ensureDeferred
async def test_nodes_are_added(system: System) -> None:
    """Workers and storage nodes can be declared while it runs, twice and at another URL too."""
    scheduler = system.start(1)
    moved = system.worker("w1b").address
    for _ in range(2):
        assert await system.ask(f"worker w1 {moved}") == Ok()
        assert await system.ask("storage 9 s9 localhost:5999") == Ok()
    await until(lambda: scheduler.workers["w1"].reachable)
    assert (await system.run("13 ReaderOperator")).words == ("done", "1")
    assert [each.id for each in scheduler.storage_client.replicas.living] == ["s1", "s2", "s9"]
    assert isinstance(await system.ask("worker w2 nowhere"), Error)
    assert isinstance(await system.ask("storage 1 s1 nowhere"), Error)


@pytest_twisted.ensureDeferred
async def test_what_is_no_worker_gets_nothing(system: System) -> None:
    """A storage node, or the scheduler itself, given as a worker can't be reached; runs go to others."""
    strangers = {"x": system.storage.addresses[0].address, "y": refused()}
    scheduler = system.start(1, tuple(NodeAddress(id, address) for id, address in strangers.items()))
    assert await system.ask(f"worker y {scheduler.me.address}") == Ok()
    await until(lambda: all(scheduler.workers[id].stranger for id in strangers))
    shown = (await system.ask("workers")).object["workers"]
    assert [each["id"] for each in shown if each["reachable"]] == ["w1"]
    for _ in range(3):
        assert (await system.run("13 ReaderOperator ReaderOperator")).words == ("done", "1")
    assert [each["assigned"] for each in shown if each["id"] != "w1"] == [0, 0]


@pytest_twisted.ensureDeferred
async def test_a_step_that_reaches_no_worker(system: System) -> None:
    """A request that what is no worker has refused goes to another one; a run for which there is none ends with why."""
    scheduler = system.start(0, (system.node("x", Impostor()),), deadline=0.5)
    await until(lambda: scheduler.ready)
    result = await system.run("13 ReaderOperator")
    assert result.words[0] == "failed"
    assert "x did not accept it: is not a worker: unknown-verb: execute" in result.words[1]
    assert await system.ask(f"worker w1 {system.worker('w1').address}") == Ok()
    await until(lambda: len(scheduler.workers.reachable) == 2)
    for _ in range(3):
        assert (await system.run("13 ReaderOperator ReaderOperator")).words == ("done", "1")


@pytest_twisted.ensureDeferred
async def test_two_workers_at_one_address(system: System) -> None:
    """A worker is known by one id; another one that is started where one has ended takes its place."""
    scheduler = system.start(1)
    await until(lambda: scheduler.workers["w1"].name)
    address = scheduler.workers["w1"].address
    problem = f"{address} is the address of w1: take another port"
    assert await system.ask(f"worker w2 {address}") == Error("bad-request", (problem,))
    await system.ports.pop("w1").close()
    system.worker("w2", address.port)
    await until(lambda: scheduler.workers["w1"].name == "w2")
    assert await system.ask(f"worker w2 {address}") == Ok()
    await until(lambda: list(scheduler.workers.reachable) == ["w2"])
    assert (await system.run("13 ReaderOperator")).words == ("done", "1")


@pytest_twisted.ensureDeferred
async def test_runs_know_the_living_storage_only(system: System) -> None:
    """A storage node that the others declared dead is in no later run's meta record."""
    silent = Silent()
    scheduler = system.start(0, (system.node("x", silent),))
    await until(lambda: scheduler.storage_client.replicas.views)
    system.storage.group.kill("s1")
    await until(lambda: scheduler.storage_client.replicas.dead)
    await system.ask("run 13 A")
    await until(lambda: silent.requests)
    meta = silent.requests[0].meta
    assert (meta.storage, meta.view) == ((f"2=s2@{system.storage.addresses[1].address}",), 2)
    assert (await system.ask("status")).object["dead"] == ["s1"]


@pytest_twisted.ensureDeferred
async def test_the_table_is_bounded(system: System) -> None:
    """`runs` lists the newest first; only so many are kept, and the others are counted."""
    system.start(1, keep=5)
    for _ in range(8):
        await system.run("13 ReaderOperator")
    reply = await system.ask("runs")
    assert [each["run"] for each in reply.object["runs"]] == [f"r{number}-test" for number in (8, 7, 6, 5, 4)]
    assert reply.object["dropped"] == 3
    assert reply.object["runs"][0]["state"] == "done"
    assert await system.ask("result r1-test") == Error("no-such-run", ("r1-test",))
    assert len((await system.ask('runs {"limit":2}')).object["runs"]) == 2


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("run 13 ../Operator", "bad-request"),
        ("run 13 class", "bad-request"),
        ('worker "w\\u0000" localhost:4001', "bad-request"),
        ('storage 7 "\\u001b[2J" localhost:5007', "bad-request"),
        ('completed {"run":"r7-x","position":0,"operator":"A","worker":"w","ms":1}', "no-such-run"),
        ('ended {"run":"r7-x","chain":[]}', "no-such-run"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_bad_requests(system: System, line: str, code: str) -> None:
    """What can't be is refused by a code, and the scheduler goes on."""
    system.start(1)
    reply = await system.ask(line)
    assert isinstance(reply, Error)
    assert reply.code == code
    assert (await system.run("13 ReaderOperator")).words == ("done", "1")


@pytest_twisted.ensureDeferred
async def test_an_input_too_long_to_travel(system: System) -> None:
    """An input that fits on the client's line but not on the workers' is refused before it breaks a connection."""
    system.start(1)
    reply = await system.ask("run " + "x" * (2**20 - 40) + " ReaderOperator")
    assert isinstance(reply, Error)
    assert reply.code == "line-too-long"
    long = "y" * 500_000
    system.storage.group.put(long, "found")
    assert (await system.run(f"{long} ReaderOperator")).words == ("done", "found")


@pytest_twisted.ensureDeferred
async def test_many_runs_at_once(system: System) -> None:
    """A thousand runs at once all end, and the counts are back to nothing."""
    scheduler = system.start(2, keep=1000)
    await until(lambda: scheduler.ready)
    runs = [system.ask("run 13 ReaderOperator") for _ in range(500)]
    results = [system.ask(f"result {(await run).words[0]}") for run in runs]
    assert {(await result).words for result in results} == {("done", "1")}
    assert all(load.active == 0 for load in scheduler.runs.policy.loads.values())


@pytest_twisted.ensureDeferred
async def test_cancel(system: System) -> None:
    """A cancelled run has failed at once, and its worker has given it up; to cancel it again says that it has ended."""
    scheduler = system.start(1)
    run = (await system.ask("run 13 WaitOperator")).words[0]
    await until(lambda: system.nodes[0].steps.in_hand)
    waiting = system.ask(f"result {run}")
    assert await system.ask(f"cancel {run}") == Ok()
    assert (await waiting).words == ("failed", "cancelled, at WaitOperator at position 0")
    await until(lambda: not system.nodes[0].steps.in_hand)
    assert await system.ask(f"cancel {run}") == Ok(("ended",))
    assert await system.ask("cancel r9-x") == Error("no-such-run", ("r9-x",))
    assert scheduler.runs.policy.loads["w1"].active == 0


@pytest_twisted.ensureDeferred
async def test_a_scheduler_in_the_place_of_another(system: System) -> None:
    """A scheduler started with the URL of one that died learns of the runs in hand, and how they end."""
    first = system.start(2)
    await until(lambda: first.ready)
    runs = [(await system.ask("run 13 CounterOperator WaitOperator")).words[0] for _ in range(4)]
    await until(lambda: first.runs.policy.loads["w1"].active + first.runs.policy.loads["w2"].active == 4)
    first.stop()
    await system.ports["sc1"].close()
    table = Runs(LeastActive(), "next", 20.0, 100)
    second = SchedulerNode(reactor, first.me, table, first.workers.declared, system.storage.addresses, timing=TIMING)
    system.ports["sc1"] = Port(reactor, second, first.me.address.port)
    second.start()
    system.nodes.append(second)
    await until(lambda: table.adopted == 4, 5.0)
    results = [await system.ask(f"result {run}") for run in runs]
    assert sorted(result.words for result in results) == [("done", str(count)) for count in range(2, 6)]
    assert all(load.active == 0 for load in table.policy.loads.values())


@pytest_twisted.ensureDeferred
async def test_the_next_worker_is_chosen_when_its_turn_has_come(system: System) -> None:
    """A worker that asks for it hears who executes the next step, if that is another one than was planned."""
    scheduler = system.start(0, (system.node("w1", Silent()), system.node("w2", Silent())))
    await until(lambda: scheduler.ready)
    runs = [await system.ask(f"run 13 {chain}") for chain in ("A B C", "D E")]
    first, second = (run.words[0] for run in runs if isinstance(run, Ok))

    async def completed(run: str, position: int, choose: str) -> Reply:
        step = f'"run": "{run}", "position": {position}, "operator": "A", "worker": "w1", "ms": 1'
        return await system.ask(f'completed {{{step}, "choose": {choose}}}')

    port = str(system.ports["w1"].address.port)
    assert await completed(first, 0, "true") == Ok(("w1", "127.0.0.1", port)), "D is executed by w2"
    assert await completed(first, 0, "true") == Ok(), "it was told twice"
    assert await completed(first, 1, "true") == Ok(), "C was planned for w1"
    assert await completed(second, 0, "false") == Ok(), "that one has handed on"
    why = scheduler.runs[first].why
    assert why[1] == "least-active: w1 0, w2 1; w2 was planned"


@pytest_twisted.ensureDeferred
async def test_a_worker_leaves_politely(system: System) -> None:
    """A worker that is drained ends what it has in hand; all else goes elsewhere, its later steps too."""
    ended: list[str] = []
    declared = tuple(system.worker(id, on_end=lambda id=id: ended.append(id)) for id in ("w1", "w2"))
    scheduler = system.start(0, declared)
    w1 = next(node for node in system.nodes if isinstance(node, WorkerNode) and node.me.id == "w1")
    await until(lambda: scheduler.ready)
    first = await system.ask("run 13 NapOperator ReaderOperator NapOperator")
    assert isinstance(first, Ok)
    await until(lambda: w1.steps.in_hand)
    link = system.link_to("w1")
    reply = await link.ask(Drain(deadline=0.01), 5.0)
    assert (reply.words, reply.object["active"]) == (("draining",), 1)
    await until(lambda: not scheduler.workers["w1"].reachable)
    assert (await system.run("13 ReaderOperator ReaderOperator")).words == ("done", "1")
    last = link.ask(Drain(), 10.0)
    result = await system.ask(f"result {first.words[0]}")
    assert isinstance(result, Ok)
    assert [step["worker"] for step in result.object["steps"]] == ["w1", "w2", "w2"]
    assert (await last) == Ok(("drained",))
    await until(lambda: ended)
    workers = (await system.ask("workers")).object["workers"]
    assert [(each["id"], each["active"], each["leaving"]) for each in workers] == [("w1", 0, True), ("w2", 0, False)]
    refusal = await link.ask(grammar.decode(EXECUTE.encode(), w1.vocabulary)[1], 5.0)
    assert refusal == Error("unavailable", ("w1 is leaving: try another worker",))
    assert await system.ask(f"worker w1 {scheduler.workers['w1'].address}") == Ok()
    assert scheduler.workers["w1"].reachable


@pytest_twisted.ensureDeferred
async def test_the_storage_may_forget_what_has_ended(system: System) -> None:
    """Once a run has ended all storage nodes are told that its update ids are of no use; reads have none."""
    system.start()
    reading = await system.run("13 ReaderOperator")
    writing = await system.run("13 IncrementOperator")
    failing = await system.run("none ReaderOperator")
    told = {each.object["run"] for each in (writing, failing)}
    await until(lambda: system.storage.group.forgotten)
    assert system.storage.group.forgotten == told
    assert reading.object["run"] not in told


@pytest_twisted.ensureDeferred
async def test_who_is_gone_is_not_waited_for(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that waits for a worker is not begun, and a result not kept open, for a client that has gone away."""
    monkeypatch.setattr(lines, "PATIENCE", 0.02)
    scheduler = system.start(0)
    link = system.link_to("sc1")
    asked = link.ask(grammar.decode(b'run 13 AddOperator {"deadline": 3600}', VERBS)[1], 15.0)
    await until(lambda: scheduler._admission._for_worker)
    link.stop()
    asked.addErrback(lambda failure: failure.trap(DidaError))
    await until(lambda: not scheduler._admission._for_worker)
    system.node("w1", Silent())
    assert await system.ask(f"worker w1 {system.ports['w1'].address}") == Ok()
    await until(lambda: scheduler.workers.reachable)
    assert scheduler.runs.started == 0
    run = (await system.ask("run 13 AddOperator")).words[0]
    link = system.link_to("sc1")
    asked = link.ask(grammar.decode(f'result {run} {{"timeout": 3600}}'.encode(), VERBS)[1], 15.0)
    await until(lambda: scheduler.results.waiting(run))
    link.stop()
    asked.addErrback(lambda failure: failure.trap(DidaError))
    await until(lambda: not scheduler.results.waiting(run))


@pytest_twisted.ensureDeferred
async def test_what_is_executed_once_sends_nothing_more(system: System) -> None:
    """A chain without trouble asks the storage for what its operators do, and once for the second copy of its writes.

    There is no fence and no note, and its updates are first tries, about which a replica asks no other.
    """
    system.start(1)
    system.storage.group.put("14", "2")
    assert (await system.run("14 CounterOperator CounterOperator")).words[0] == "done"
    asked = system.storage.requests()
    kinds = [type(each).__name__ for each in asked]
    assert kinds == ["Read", "UpdateIf", "UpdateIf"], "the second step reads what the first has written"
    updates = [each for each in asked if isinstance(each, UpdateIf)]
    assert [(each.retry, each.journal.epoch if each.journal else None) for each in updates] == [(False, FIRST)] * 2
