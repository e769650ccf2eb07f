"""The word list: words and phrases that plain English here does without.

`python -m tools.word_list PATH…` looks at the text of pages (without code) and at the docstrings and other texts of
modules, and lists each find with its place and what to write instead; without a path it looks at `CLEAN`.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent

CLEAN = (
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "benchmarks",
    "dida",
    "docs",
    "examples",
    "newsfragments",
    "operators",
    "twisted",
)
"""Files and folders that `make check` looks at."""

INSTEAD = {
    r"said": "sent, reported, stated",
    r"told": "notified, given, received",
    r"whom": "which node, which client",
    r"hearsay": "a hint",
    r"taken for": "considered, treated as",
    r"takes? (it|them|another|this one) for": "considers, treats as",
    r"once more": "again",
    r"anew": "again",
    r"likewise": "in the same way, also",
    r"(by|of) (itself|themselves)": "automatically, on its own",
    r"of (its|their|his|one's) own": "separate, own",
    r"in vain": "without success",
    r"(?<!there )is no (?!longer|more)": "is not a",
    r"(?<!there )are no (?!longer|more)": "are not",
    r"what is no": "a … that is not",
    r"who lives": "which nodes are alive",
    r"has in hand|have in hand|is in hand": "is executing, has not finished",
    r"polite": "graceful",
    r"is had": "is available",
    r"what can't": "a … that cannot",
    r"no more than that": "only that",
    r"hands? on": "forwards",
}
"""What is sought, as regular expressions of whole words, and what to write instead."""
_SOUGHT = [(re.compile(rf"\b(?:{words})\b", re.IGNORECASE), instead) for words, instead in INSTEAD.items()]
_CODE = re.compile(r"^```.*?^```$|^(?: {4}|\t).*?$|`[^`\n]*`|\]\([^)]*\)|<!--.*?-->", re.DOTALL | re.MULTILINE)


def finds(path: Path) -> Iterator[str]:
    """Yield each find in a file, as `PATH:LINE: WORDS: write …`."""
    for line, text in (_of_module if path.suffix == ".py" else _of_page)(path.read_text()):
        for sought, instead in _SOUGHT:
            for match in sought.finditer(text):
                yield f"{path}:{line + text.count(chr(10), 0, match.start())}: {match[0]!r}: write {instead}"


def _of_page(text: str) -> Iterator[tuple[int, str]]:
    """Yield the text of a page with its code blanked out."""
    yield 1, _CODE.sub(lambda code: re.sub(r"[^\n]", " ", code[0]), text)


def _of_module(text: str) -> Iterator[tuple[int, str]]:
    """Yield the docstrings, help and messages of a module: its strings that have more than one word."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, re.sub(r"`[^`\n]*`", lambda code: " " * len(code[0]), node.value)


def files(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield the pages and modules that are, or are below, the paths."""
    for path in paths:
        if path.is_dir():
            yield from (each for each in sorted(path.rglob("*")) if each.suffix in (".py", ".md"))
        else:
            yield path


def main(*names: str) -> int:
    """Print the finds in these paths, or in those that are clean; return the exit status."""
    found = [
        find for path in files(map(Path, names) if names else (ROOT / name for name in CLEAN)) for find in finds(path)
    ]
    sys.stdout.write("".join(f"{find}\n" for find in found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
