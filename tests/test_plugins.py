"""DIDA as it is installed: built from its source distribution, in a fresh environment."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.support.nodes import ROOT, TWISTD, free_port, on_free_ports

COMMANDS = ["dida-pcs", "dida-scheduler", "dida-storage", "dida-worker", "puppetmaster"]
SHIPPED = ["dida", "operators", "pmscripts", "twisted", "setup.py", "pyproject.toml", "MANIFEST.in"]
TEXTS = ["LICENSE", "README.md", "CONTRIBUTING.md"]


def run(*words: str | Path, cwd: Path, typed: str | None = None) -> str:
    """What a command prints; it must end well."""
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(words, cwd=cwd, env=clean, input=typed, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an environment that has DIDA from its source distribution, and no source tree in sight.

    What DIDA needs is lent from the environment that runs the tests.
    """
    folder = tmp_path_factory.mktemp("installed")
    source, sdist, fresh = folder / "source", folder / "sdist", folder / "env"
    source.mkdir()
    for name in SHIPPED + [text for text in TEXTS if (ROOT / text).exists()]:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__", "dropin.cache"))
        else:
            shutil.copy(path, source)
    run(sys.executable, "setup.py", "-q", "sdist", "-d", sdist, cwd=source)
    run(sys.executable, "-m", "venv", "--without-pip", fresh, cwd=folder)
    python = fresh / "bin" / "python"
    quietly = ("-qq", "--disable-pip-version-check", "--no-deps", "--no-index", "--no-build-isolation")
    wheels = folder / "wheels"
    run(sys.executable, "-m", "pip", "wheel", *quietly, "-w", wheels, *sdist.iterdir(), cwd=folder)
    run(sys.executable, "-m", "pip", "--python", python, "install", *quietly, *wheels.iterdir(), cwd=folder)
    lent = Path(sysconfig.get_paths()["purelib"])
    packages = next(fresh.glob("lib/python*/site-packages"))
    (packages / "lent.pth").write_text(f"{lent}\n")
    return fresh


def files(folder: Path) -> set[Path]:
    """The files below a folder; what Python compiled does not count."""
    return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"}


def twistd(installed: Path, *words: str) -> str:
    return run(installed / "bin" / "python", *TWISTD[1:], *words, cwd=installed)


def test_twistd_lists_the_five_commands(installed: Path) -> None:
    """`twistd --help` of an installed DIDA names its five commands, beside Twisted's own."""
    lines = twistd(installed, "--help").splitlines()
    listed = [line.split()[0] for line in lines if line.startswith("    ") and line.strip()]
    assert [command for command in listed if command in COMMANDS] == COMMANDS
    assert "web" in listed


@pytest.mark.parametrize("command", COMMANDS)
def test_an_installed_command_loads(installed: Path, command: str) -> None:
    """Each command's service module and all that it imports are there when installed."""
    assert "--help" in twistd(installed, command, "--help")


def test_the_installed_code_is_what_runs(installed: Path) -> None:
    """The environment under test has its own DIDA, typed, and Twisted's packages are whole."""
    code = "import dida, pathlib, twisted.plugins; print(pathlib.Path(dida.__file__).parent, *twisted.plugins.__path__)"
    own, *plugins = run(installed / "bin" / "python", "-c", code, cwd=installed).split()
    assert Path(own).is_relative_to(installed)
    assert (Path(own) / "py.typed").exists()
    assert any((Path(folder) / "dida_plugins.py").is_relative_to(installed) for folder in plugins)
    assert any((Path(folder) / "twisted_core.py").exists() for folder in plugins)


def test_the_changelog_begins_with_this_version(installed: Path) -> None:
    """An installed command and the changelog name the same version."""
    newest = re.search(r"^## ([\d.]+) \(", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert twistd(installed, "dida-worker", "--version") == f"DIDA {newest[1]}\n"


def test_the_stock_folders_are_installed(installed: Path) -> None:
    """The stock operators and the scripts come along, and are found from any folder."""
    code = "from dida.services.stock import stock_folder as f; print(f('operators'), f('pmscripts'))"
    folders = [Path(found) for found in run(installed / "bin" / "python", "-c", code, cwd=installed).split()]
    packages = next(installed.glob("lib/python*/site-packages"))
    assert folders == [packages / "dida/stock/operators", packages / "dida/stock/pmscripts"]
    for folder in folders:
        assert files(folder) == files(ROOT / folder.name) != set()


def test_an_installation_plays_the_baseline_from_any_folder(installed: Path, tmp_path: Path) -> None:
    """The stock script, applications, data and operators of an installation are all that the baseline needs."""
    script = next(installed.glob("lib/python*/site-packages/dida/stock/pmscripts/baseline")).read_text()
    console = [*TWISTD[1:], "-n", "puppetmaster", "--pcs", f"localhost:{free_port()}"]
    played = run(installed / "bin" / "python", *console, cwd=tmp_path, typed=on_free_ports(script))
    assert "3 runs: 3 done, none failed" in played
