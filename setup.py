"""What is packaged, what it needs, and where the stock folders go; the tools' settings stand in pyproject.toml."""

import os
import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
SHARE = "share/dida"
"""Below the installation's prefix; `dida.services.node.installed_folder` looks there."""

TEST = [
    "hypothesis>=6.100",
    "import-linter>=2.1",
    "mypy>=1.13",
    "mypy-zope>=1.0.9",
    "pytest>=8.3",
    "pytest-timeout>=2.3",
    "pytest-twisted>=1.14",
    "ruff>=0.8",
    "setuptools>=70.1",
]
BENCH = ["celery[redis]>=5.4", "distributed>=2024.8", "ray>=2.40"]
"""The peers that `make bench` measures beside, as far as they are there."""
EVALUATE = ["matplotlib>=3.9"]
DEVELOP = ["pip-tools>=7.4", "pre-commit>=4", "towncrier>=24.8"]


def stock(folder: str) -> list[tuple[str, list[str]]]:
    """A folder's files, as `data_files` wants them."""
    found = []
    for path, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        names = [os.path.join(path, name) for name in sorted(files) if not name.endswith(".pyc")]
        if names:
            found.append((os.path.join(SHARE, path), names))
    return found


setup(
    name="dida",
    version=re.search(r'^__version__ = "(.+)"$', (HERE / "dida/__init__.py").read_text(), re.MULTILINE)[1],
    description="Chains of Python operators over replicated, versioned storage, on machines that you have",
    license="MIT",
    python_requires=">=3.11",
    # A dropin is found by its place: twisted/plugins has no __init__.py, and must not get one.
    packages=[*find_packages(include=["dida", "dida.*"]), "twisted.plugins"],
    package_data={"dida": ["py.typed"]},
    data_files=stock("operators") + stock("pmscripts"),
    install_requires=[
        "attrs>=24.2",
        "mmh3>=5.0",
        "msgspec>=0.19",
        "sortedcontainers>=2.4",
        "twisted>=24.10",
        "zope.interface>=7.0",
    ],
    extras_require={"test": TEST, "develop": TEST + DEVELOP, "bench": BENCH, "evaluate": EVALUATE},
    zip_safe=False,
)
