"""Builds the documentation: `tox -e docs`, which writes `build/docs`.

The source folder is the repository and not `docs`, so that every link between README.md, the pages and
the code that works where the repository is read works in the built pages too.
"""

import sys
from importlib.metadata import version as installed
from pathlib import Path

from sphinx.application import Sphinx

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS / "extensions"))

project = "Paceline"
copyright = author = "the authors of Paceline"
version = release = installed("paceline")

extensions = [
    "commands",
    "flow",
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.doctest",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]

root_doc = "README"
include_patterns = ["*.md", "docs/**.md"]
# Not walked through: environments and stores hold many files, `src` holds links to the other folders.
exclude_patterns = [f.name for f in DOCS.parent.iterdir() if f.is_dir() and f != DOCS]

myst_heading_anchors = 3
default_role = "code"  # single backticks in a docstring are code
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
python_display_short_literal_types = True
doctest_test_doctest_blocks = "default"  # also in docstrings

html_theme = "furo"
html_title = "Paceline"
html_static_path = ["static"]
html_css_files = ["paceline.css"]
html_additional_pages = {"index": "index.html"}
templates_path = ["templates"]
html_copy_source = False


def add_navigation(app: Sphinx, docname: str, source: list[str]) -> None:
    """README.md is the first page; the tree of the others would be noise where it is read alone."""
    if docname == root_doc:
        app.env.note_dependency(DOCS / "navigation.txt", docname=docname)
        source[0] += "\n" + (DOCS / "navigation.txt").read_text()


def setup(app: Sphinx) -> None:
    app.connect("source-read", add_navigation)
