"""Operators of 10 ms and 1 s, mixed by chance, on four workers that execute one at a time: which policy ends first.

`python -m tools.makespan` prints a line for each policy and length of chain; the ideal is all work shared out
evenly.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from dida.chains.scheduling import POLICIES
from tests.support.nodes import NodeProcess, free_port

WORKERS = 4
IN_FLIGHT = 8
"""Runs that are asked for at the same time."""
LENGTHS = (10, 10, 10, 1000)
"""Milliseconds; each as likely."""
OPERATOR = """
import time

class NapOperator:
    def configure_storage(self, storage):
        pass

    def process_record(self, meta, input, previous_output):
        done = int(previous_output or 0)
        time.sleep(int(input.split(",")[done]) / 1000)
        return str(done + 1)
"""


def measured(policy: str, operators_in_all: int, steps: int, folder: Path, seed: int = 1) -> tuple[float, float]:
    """Seconds that so many operators in chains of so many took, and those of the ideal."""
    operators = folder / "operators"
    operators.mkdir(parents=True)
    (operators / "nap.py").write_text(OPERATOR)
    dice = random.Random(seed)
    lengths = [[dice.choice(LENGTHS) for _ in range(steps)] for _ in range(operators_in_all // steps)]
    chain = " ".join(["NapOperator"] * steps)
    nodes: list[NodeProcess] = []

    def node(command: str, id: str, *options: str) -> NodeProcess:
        port = free_port()
        named = ("--id", id, "--url", f"http://127.0.0.1:{port}")
        nodes.append(NodeProcess(command, *named, *options, folder=folder, port=port))
        return nodes[-1]

    try:
        workers = [
            node("dida-worker", f"w{number}", "--threads", "1", "--operators", str(operators))
            for number in range(1, WORKERS + 1)
        ]
        named = [f"--worker=w{number}=http://127.0.0.1:{each.port}" for number, each in enumerate(workers, 1)]
        scheduler = node("dida-scheduler", "sc", "--policy", policy, *named)
        for each in nodes:
            each.wait_ready()
        with scheduler.connect(60) as asked:
            for _ in range(WORKERS):  # each has the operator loaded
                asked.ask(f"result {asked.ask('run 1 NapOperator').split()[1]}")
            begun = time.monotonic()
            waiting = iter(lengths)

            def start() -> None:
                if (run := next(waiting, None)) is not None:
                    asked.send(f"#run run {','.join(map(str, run))} {chain}")

            for _ in range(IN_FLIGHT):
                start()
            ended = 0
            while ended < len(lengths):
                tag, _, told, *_ = asked.line().split()
                if tag == "#run":
                    asked.send(f'#end result {told} {{"timeout": 60}}')
                    continue
                assert told == "done", told
                ended += 1
                start()
            return time.monotonic() - begun, sum(map(sum, lengths)) / 1000 / WORKERS
    finally:
        for each in nodes:
            each.end()


def main() -> int:
    """Both policies, the same runs in the same order."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--operators", type=int, default=200)
    options.add_argument("--steps", type=int, nargs="+", default=[1, 2, 4])
    options.add_argument("--policies", nargs="+", default=list(POLICIES))
    options.add_argument("--seed", type=int, default=1)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for steps in given.steps:
            for policy in given.policies:
                took, ideal = measured(policy, given.operators, steps, Path(folder) / f"{policy}{steps}", given.seed)
                out = f"{policy:<12} chains of {steps}: {took:6.2f} s, ideal {ideal:.2f} s: {took / ideal:.2f}\n"
                sys.stdout.write(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
