"""The examples: each is played by a real puppetmaster, and prints what its page shows."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from dida.testing import every_crash
from tests.support.nodes import ROOT, TWISTD, environment, free_port
from tests.test_docs import Place, alike, blocks, commands_of

EXAMPLES = ROOT / "examples"
NAMES = sorted(path.parent.name for path in EXAMPLES.glob("*/script"))

pytestmark = pytest.mark.system


class Played:
    """A puppetmaster that plays the script of an example, on free ports."""

    def __init__(self, name: str, folder: Path) -> None:
        self._place = Place(folder)
        self._output = folder / "output"
        shutil.copytree(EXAMPLES / name, folder, dirs_exist_ok=True)
        script = folder / "script"
        script.write_text(self._place.here(script.read_text()))
        with script.open("rb") as source, self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [*TWISTD, "-n", "puppetmaster", "--pcs", f"localhost:{free_port()}"],
                cwd=folder,
                env=environment(),
                stdin=source,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def output(self) -> str:
        """Wait for the end of the script, and return what was printed."""
        status = self.process.wait(50)
        text = self._place.there(self._output.read_text())
        assert status == 0, text
        return text

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(20)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Played]]:
    """All examples, played at the same time."""
    started = {name: Played(name, tmp_path_factory.mktemp(name)) for name in NAMES}
    yield started
    for each in started.values():
        each.end()


@pytest.mark.parametrize("name", NAMES)
def test_an_example_does_what_its_page_shows(name: str, played: dict[str, Played]) -> None:
    """What the script of an example expects is there, and it prints the lines that README.md shows."""
    page = EXAMPLES / name / "README.md"
    [block] = blocks(page, page.read_text().splitlines()[0])
    command, shown = commands_of(block.text)
    assert command == "twistd -n puppetmaster < script"
    printed = played[name].output()
    for line in shown.splitlines():
        assert any(alike(line, other) for other in printed.splitlines()), f"{line!r} is not in\n{printed}"


def test_the_shop_sells_each_item_once(played: dict[str, Played]) -> None:
    """Of the two orders of an item one is confirmed and one refused, although a worker dies meanwhile."""
    ended = [line.split() for line in played["orders"].output().splitlines() if line.startswith("run ")]
    outcomes = Counter((words[3].strip('"'), words[6]) for words in ended)
    assert outcomes == Counter((item, outcome) for item in ("lamp", "chair") for outcome in ("confirmed", "sold"))


@pytest.mark.parametrize(
    ("folder", "chain", "input", "records"),
    [
        ("tickets", ["NextTicketOperator", "PrintTicketOperator"], "counter", {"counter": "41", "printer": "ready"}),
        (
            "orders",
            ["ReserveOperator", "ChargeOperator", "ConfirmOperator"],
            "ann lamp",
            {"lamp": "free", "sales": "0"},
        ),
        ("word_count", ["CountWordsOperator", "AddCountsOperator"], "the rain", {"totals": "{}"}),
    ],
)
def test_an_example_survives_any_crash(folder: str, chain: list[str], input: str, records: dict[str, str]) -> None:
    """Whenever a worker dies, the records of an example end as they do without a crash."""
    ends = [run.storage.values for run in every_crash(chain, input, records, str(EXAMPLES / folder / "operators"))]
    assert len(ends) > len(chain)
    assert all(each == ends[-1] != records for each in ends)
