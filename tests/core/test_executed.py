"""The executed table: bounded, and never a silent second execution."""

from __future__ import annotations

from dida import executed
from dida.executed import Executed, answered


def test_a_session_forgets_what_it_no_longer_asks_for() -> None:
    """Answers below the lowest unanswered number go at once, and are never executed again."""
    table = Executed()
    for number in range(1, 101):
        table.note(f"s:{number}", number - 1, answered((f"{number}.1",), {}), 0.0)
    assert table.size == 2
    assert table.answer("s:100") == answered(("100.1",), {})
    assert table.answer("s:5") is None
    assert table.expired("s:5")
    assert not table.expired("s:101")


def test_an_idle_session_expires_and_is_told_so() -> None:
    """After the ttl a retry hears session-expired: its name is remembered."""
    table = Executed(ttl=10.0)
    table.note("old:1", 0, answered(("1.1",), {}), 0.0)
    table.note("new:1", 0, answered(("2.1",), {}), 5.0)
    table.tick(12.0)
    assert table.expired("old:1")
    assert table.answer("new:1") is not None
    assert table.size == 1


def test_a_crowded_table_lets_idle_sessions_go_earlier(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """Half full, it keeps idle sessions for minutes, not for the ttl: many short sessions never fill it for long."""
    monkeypatch.setattr(executed, "MAX_IDS", 10)
    table = Executed(ttl=3600.0)
    for number in range(8):
        table.note(f"run{number}:1", 0, answered((f"{number}.1",), {}), float(number))
    table.tick(executed.CROWDED_TTL - 1)
    assert table.size == 8
    table.tick(executed.CROWDED_TTL + 5)
    assert table.size == 4
    assert table.expired("run0:1")
