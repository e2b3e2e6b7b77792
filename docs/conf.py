"""Sphinx's settings for the docs site: `make docs`."""

import importlib.metadata
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

project = "Polysem"
author = "the authors of Polysem"
version = release = importlib.metadata.version("polysem")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.doctest", "site_sources"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "Polysem"
html_theme_options = {"source_edit_link": ""}

myst_heading_anchors = 4
# Two blocks of JSON in the pages are shortened with …; pages name their languages otherwise.
suppress_warnings = ["misc.highlighting_failure"]

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_class_signature = "mixed"
maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"
python_use_unqualified_type_names = True
