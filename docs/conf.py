"""The site's settings for Sphinx; `make docs` builds it into docs/_build/html.

The source folder is the checkout and not docs/: so the links between README, docs and
examples, which a code host follows as files, are the site's links, too.
"""

from __future__ import annotations

import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent

sys.path[:0] = [str(DOCS / "_ext"), str(DOCS.parent)]

import hydracache_sync  # noqa: E402

project = "hydracache_sync"
author = copyright = "hydracache_sync contributors"
version = release = hydracache_sync.__version__

root_doc = "docs/index"
include_patterns = [
    "docs/*.md",
    "docs/*/*.md",
    "examples/README.md",
    "examples/*/README.md",
    "tests/README.md",
    *(each.name for each in DOCS.parent.glob("*.md")),
]
exclude_patterns = [".*", "docs/_*", "build", "dist"]

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "default_names",
    "files_beside",
    "no_assets_elsewhere",
    "sequence_diagrams",
]

autodoc_default_options = {
    "members": True,
    "undoc-members": True,
    "member-order": "bysource",
}
# Types in signatures are as the code writes them.
autodoc_typehints = "signature"
python_maximum_signature_line_length = 80
python_use_unqualified_type_names = True

# Types in signatures that have no entry here: those of others, and those that a caller
# neither makes nor reads. What else a docstring names by a role has to have one, and so
# has a class that it names with its module.
nitpick_ignore_regex = [
    ("py:.*", r"(typing|uuid|threading|os|collections|sqlite3|ssl|types)\..*"),
    ("py:.*", r"(sqlalchemy|flask|django|prometheus_client|pymysql)\..*"),
    ("py:class", r"[A-Z]\w*|scoped_session|sessionmaker"),
    ("py:class", r"hydracache_sync\.\w+\..*"),
]

# Several classes are called HydraCache; a signature that names one need not say which.
suppress_warnings = ["ref.python"]

# The names that a code host gives to headings, which links use.
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]

html_theme = "furo"
html_title = f"hydracache_sync {release}"
html_extra_path = ["_root"]
html_static_path = ["_static"]
html_css_files = ["site.css"]
# The pages' sources are in every checkout.
html_copy_source = False
html_show_sphinx = False
