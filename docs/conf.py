"""The documentation as a site, built by Sphinx with MyST: `make docs`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

project = "DIDA"
extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["conf.py"]
highlight_language = "none"
# A heading's anchor is the one that GitHub gives it, so that the links work in both places.
myst_heading_anchors = 4
# Docstrings write names between single backticks.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_class_signature = "separated"
autodoc_preserve_defaults = True
autodoc_type_aliases = {"Concern": "Concern"}
html_theme = "furo"
html_title = "DIDA"
html_copy_source = False
