"""Which folder is which package; all else stands in pyproject.toml, which has no way to say this."""

from setuptools import find_packages, setup

STOCK = {"dida.stock.operators": "operators", "dida.stock.pmscripts": "pmscripts"}
"""Stock folders, which lie within the package in a wheel: `dida.services.stock` knows both places."""

setup(
    # A dropin is found by its place: twisted/plugins has no __init__.py, and must not get one.
    packages=[*find_packages(include=["dida", "dida.*"]), *STOCK, "twisted.plugins"],
    package_dir=STOCK,
    # twistd seeks its plugins in the folders of sys.path, so that an editable installation puts the source tree there.
    options={"editable_wheel": {"mode": "compat"}},
)
