"""The stock operators and scripts: at the top of a source tree, within the package where it is installed."""

from __future__ import annotations

import os


def stock_folder(name: str) -> str:
    """Return the path of a stock folder (`operators`, `pmscripts`); one in the current folder takes precedence."""
    if os.path.isdir(name):
        return name
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    installed = os.path.join(package, "stock", name)
    return installed if os.path.isdir(installed) else os.path.join(os.path.dirname(package), name)
