"""Requests of runs for tests of one step."""

from __future__ import annotations

from dida.chains.messages import Execute
from dida.chains.records import Assignment, Meta
from dida.wire.messages import FIRST, Epoch


def step_request(meta: Meta, position: int = 0, epoch: Epoch = FIRST) -> Execute:
    """Return the request of the step at `position`, the last one of its chain."""
    chain = tuple(Assignment("AnyOperator", number, "w1", "localhost", 1) for number in range(position + 1))
    size = len(chain)
    return Execute(meta=meta, input="", next=position, size=size, chain=chain, left=60.0, epoch=epoch)
