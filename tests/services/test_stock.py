"""Where the stock operators and scripts are found; tests/test_plugins.py looks at an installation."""

from __future__ import annotations

from pathlib import Path

import pytest

from dida.services.stock import stock_folder
from tests.support.nodes import ROOT


def test_a_source_tree_has_its_stock_folders_at_the_top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stock folder is that of the current folder, else that of the source tree."""
    monkeypatch.chdir(tmp_path)
    assert stock_folder("operators") == str(ROOT / "operators")
    (tmp_path / "operators").mkdir()
    assert stock_folder("operators") == "operators"
