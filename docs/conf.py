"""How the documentation site is built: `make docs`, without a network."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import site_pages  # noqa: E402

project = "cellscribe"
author = "The cellscribe developers"
copyright = author
release = version = importlib.metadata.version("cellscribe")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]
# An indented block is a command line or a listing, which no lexer reads
highlight_language = "none"

# Only what `import cellscribe` gives has a place here; an inventory of others needs a network
nitpicky = True
nitpick_ignore_regex = [(r"py:.*", r"(?!cellscribe\.\w+$).*")]

myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 3
myst_links_external_new_tab = False

autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_preserve_defaults = True
# what stands in `single` marks in a docstring is a name
default_role = "literal"
napoleon_google_docstring = False
napoleon_use_rtype = False

nb_execution_mode = "cache" if os.environ.get("DOCS_CACHE") else "force"
nb_execution_in_temp = True
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_output_stderr = "remove"
nb_merge_streams = True
nb_render_markdown_format = "myst"
os.environ.setdefault("CELLSCRIBE_DATA", str(HERE.parents[1] / "shared" / "data"))
if os.environ.get("DOCS_NOTEBOOKS") == "off":
    nb_execution_mode = "off"
# Without the files that a notebook reads it is shown, and not run
nb_execution_excludepatterns = site_pages.not_runnable(HERE / "notebooks")

html_theme = "sphinx_book_theme"
html_title = "cellscribe"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {"show_toc_level": 2, "use_download_button": False}
html_copy_source = False


def setup(app: object) -> None:
    """Register what fills and prepares the pages."""
    app.connect("source-read", site_pages.fill)  # type: ignore[attr-defined]
    # before napoleon, which has 500
    app.connect("autodoc-process-docstring", site_pages.join_names, priority=400)  # type: ignore[attr-defined]
