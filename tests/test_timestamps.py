"""The laws of timestamps: merging is the least upper bound of the order `covers`."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dida.timestamps import Timestamp, covers, lacking, merge_into, merged

timestamps = st.dictionaries(st.sampled_from(["1:1", "2:1", "2:2", "3:1!"]), st.integers(0, 3))


@given(timestamps, timestamps, timestamps)
def test_merging_in_any_order(a: Timestamp, b: Timestamp, c: Timestamp) -> None:
    """Merging is associative, commutative and idempotent, so that gossip may come in any order, and twice."""
    assert merged(a, merged(b, c)) == merged(merged(a, b), c)
    assert covers(merged(a, b), merged(b, a))
    assert covers(merged(b, a), merged(a, b))
    assert covers(a, merged(a, a))


@given(timestamps, timestamps, timestamps)
def test_a_merge_is_the_least_that_covers_both(a: Timestamp, b: Timestamp, c: Timestamp) -> None:
    """A merge covers what was merged, and whatever covers both covers it."""
    both = merged(a, b)
    assert covers(both, a)
    assert covers(both, b)
    if covers(c, a) and covers(c, b):
        assert covers(c, both)


@given(timestamps, timestamps)
def test_lacking_is_what_keeps_from_covering(have: Timestamp, wanted: Timestamp) -> None:
    """A state lacks nothing exactly when it covers what is wanted; with what it lacks, it does."""
    missing = lacking(have, wanted)
    assert (not missing) == covers(have, wanted)
    assert missing == sorted(missing)
    assert covers({**have, **{name: wanted[name] for name in missing}}, wanted)


@given(timestamps, timestamps)
def test_merging_in_place(a: Timestamp, b: Timestamp) -> None:
    """Merging in place gives the same, and leaves the other as it was."""
    before, target = dict(b), dict(a)
    merge_into(target, b)
    assert merged(target) == merged(a, b)
    assert b == before


@given(timestamps)
def test_a_missing_entry_is_nothing(a: Timestamp) -> None:
    """An entry of 0 says the same as none."""
    assert covers({}, dict.fromkeys(a, 0))
    assert covers(a, {})
    assert covers({}, a) == (not any(a.values()))
