"""What a code host shows of a folder, on the site.

There, a link to a folder shows its README and its files. Here it leads to the README,
and the README of an example is followed by the files. The pages that an index links to
are its children in the site's tree, in this order, so that no page needs a directive.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from sphinx.application import Sphinx

#: A link to something relative: its target is between the two groups.
LINK = re.compile(r"(\]\()([\w./-]+)((?:#[\w-]*)?\))")

#: Pages whose links make the tree.
INDEX = re.compile(r"(?:docs/(?:\w+/)?index|examples/README)")

#: By the name's end, what Pygments calls it; others are shown plain.
LANGUAGES = {".py": "python", ".html": "html+jinja", ".yml": "yaml", ".ini": "ini"}

#: Made by a program and for one.
NOT_SHOWN = {".json", ".md", ".pyc", ".db"}


def follow(app: Sphinx, docname: str, source: list[str]) -> None:
    """Have the links of a page lead to pages; append the files of an example."""
    folder = posixpath.dirname(docname)

    def to_page(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, link[2]))
        readme = "/README.md" if (app.srcdir / target / "README.md").exists() else ""
        return link[1] + link[2].rstrip("/") + readme + link[3]

    source[0] = LINK.sub(to_page, source[0])
    if INDEX.fullmatch(docname):
        source[0] += tree(source[0])
    if re.fullmatch(r"examples/\w+/README", docname):
        source[0] += files(Path(app.srcdir) / folder)


def tree(text: str) -> str:
    """The pages that a page links to, as Sphinx's directive."""
    pages = dict.fromkeys(link[2] for link in LINK.finditer(text))
    names = [name[: -len(".md")] for name in pages if name.endswith(".md")]
    lines = "\n".join(names)
    return f"\n```{{toctree}}\n:hidden:\n\n{lines}\n```\n" if names else ""


def files(folder: Path) -> str:
    """The files of an example, each below its name."""
    shown = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix not in NOT_SHOWN
    ]
    return "\n".join(
        f"\n## {path.relative_to(folder)}\n\n```{{literalinclude}} "
        f"{path.relative_to(folder)}\n:language: "
        f"{LANGUAGES.get(path.suffix, 'text')}\n```"
        for path in shown
    )


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("source-read", follow)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
