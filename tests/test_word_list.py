"""The word list of `make check`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.word_list import ROOT, finds, main


def test_a_page_is_searched_without_its_code(tmp_path: Path) -> None:
    """Prose is searched, line by line; blocks, spans of code and targets of links are not."""
    page = tmp_path / "page.md"
    page.write_text(
        "It was told.\n\n```text\ntold\n```\n\n    told\n\n`told` and [a link](told.md)\nIt is no number.\n"
    )
    assert [find.removeprefix(f"{page}:") for find in finds(page)] == [
        "1: 'told': write notified, given, received",
        "10: 'is no ': write is not a",
    ]


def test_a_module_is_searched_in_its_texts(tmp_path: Path) -> None:
    """Docstrings and messages are searched, names and comments are not."""
    module = tmp_path / "module.py"
    module.write_text('"""Begins anew, in vain."""\n\ntold = "told"  # told\nerror = f"{told} is no number"\n')
    found = sorted(find.split(": ")[1] for find in finds(module))
    assert found == ["'anew'", "'in vain'", "'is no '"]


def test_a_planted_word_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The exit status is 1 with finds and 0 without; the clean paths have none."""
    (tmp_path / "page.md").write_text("said\n")
    assert main(str(tmp_path)) == 1
    assert "page.md:1: 'said'" in capsys.readouterr().out
    assert main() == 0
    assert (ROOT / "README.md").exists()
