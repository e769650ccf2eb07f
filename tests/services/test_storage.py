"""The storage service: what its options mean together."""

from __future__ import annotations

import pytest

from dida.services.storage import Options

ME = ("--id", "s1", "--replica", "1", "--url", "localhost:5001")
OWN, OTHER = ("--storage", "1=s1@localhost:5001"), ("--storage", "2=s2@localhost:5002")


@pytest.mark.parametrize("members", [OTHER, (*OWN, *OTHER)])
def test_a_write_concern_counts_this_node(members: tuple[str, ...]) -> None:
    """The first view has this node as a member, whether or not --storage names it."""
    options = Options()
    options.parseOptions([*ME, *members, "--write-concern", "2"])
    assert options["write-concern"] == 2


@pytest.mark.parametrize(
    ("members", "concern", "by", "count"),
    [
        ((), 2, "--storage", 1),
        (OWN, 2, "--storage", 1),
        (OTHER, 3, "--storage", 2),
        ((*OTHER, "--replication-factor", "1"), 2, "--replication-factor", 1),
    ],
)
def test_a_write_concern_that_nobody_can_meet(members: tuple[str, ...], concern: int, by: str, count: int) -> None:
    """More replicas than hold a key end the process in one line."""
    with pytest.raises(SystemExit) as caught:
        Options().parseOptions([*ME, *members, "--write-concern", str(concern)])
    assert caught.value.code == (
        f"twistd dida-storage: --write-concern {concern}: by {by}, a key is held by {count} (--help shows the options)"
    )
