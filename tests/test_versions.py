"""Versions and their one total order."""

from __future__ import annotations

import pytest
from hypothesis import given

from dida.versions import MAX_NUMBER, MAX_REPLICA, Version
from tests.support.strategies import versions


@given(versions, versions, versions)
def test_one_total_order(a: Version, b: Version, c: Version) -> None:
    """Any two versions have one order, the same in all ways of asking, and it is transitive."""
    assert (a < b) + (a == b) + (a > b) == 1
    assert (a <= b) == (not a > b)
    assert (a >= b) == (not a < b)
    assert sorted([a, b, c]) == sorted([c, b, a])
    if a == b:
        assert hash(a) == hash(b)


def test_what_is_newer() -> None:
    """The higher number is newer; of two with the same number the one of the lower replica id is."""
    assert Version(2, 9) > Version(1, 0)
    assert Version(2, 1) > Version(2, 2)
    assert sorted([Version(1, 2), Version(2, 3), Version(2, 1), Version(1, 1)], reverse=True) == [
        Version(2, 1),
        Version(2, 3),
        Version(1, 1),
        Version(1, 2),
    ]


@given(versions)
def test_a_version_comes_back_from_its_text(version: Version) -> None:
    """A version is written number.replica, and read back as it was."""
    assert Version.parse(str(version)) == version
    assert eval(repr(version)) == version


@pytest.mark.parametrize(
    "text",
    [
        *["", "4", "4.", ".1", "4.1.1", "4,1", " 4.1", "4.1\n", "-4.1", "4.-1", "0.1", "4.x", "٤.1", "4e1.1"],
        *[f"{MAX_NUMBER + 1}.1", f"1.{MAX_REPLICA + 1}", f"{2**63}.1", "1" * 5000 + ".1"],
    ],
)
def test_what_is_no_version(text: str) -> None:
    """Anything else is a ValueError: a number beyond the range would win for ever."""
    with pytest.raises(ValueError, match="version"):
        Version.parse(text)


def test_a_version_is_no_other_thing() -> None:
    """A version equals versions only, and orders with nothing else."""
    assert Version(1, 1) != (1, 1)
    assert Version(1, 1) not in ("1.1", None, (1, -1))
    with pytest.raises((TypeError, AttributeError)):
        _ = Version(1, 1) < "2.1"  # type: ignore[operator]
