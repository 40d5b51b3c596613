"""Draws sequence diagrams as SVG, in the page, in the colours of its theme.

A code host draws a fenced block ``mermaid`` by a program of megabytes, which a site
without assets from elsewhere would have to carry. The pages use a few words of that
language, and the build fails on any other::

    sequenceDiagram
        participant A as view
        A->>B: a message
        A-->>B: an answer
        Note over A,B: one line<br/>and another
"""

from __future__ import annotations

import re
from html import escape
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import SphinxError

WORDS = re.compile(
    r"participant (?P<name>\w+) as (?P<title>.+)"
    r"|(?P<sender>\w+)(?P<arrow>--?>>)(?P<receiver>\w+): (?P<message>.+)"
    r"|Note over (?P<over>\w+)(?:,(?P<until>\w+))?: (?P<note>.+)"
)

#: Pixels: between two lifelines, between two lines of text, above the first message;
#: of a character at most.
APART, LINE, TOP, WIDE = 180, 20, 50, 7


class Diagram:
    """What is drawn, from the top down."""

    def __init__(self, text: str) -> None:
        self._at: dict[str, int] = {}
        self._drawn: list[str] = []
        self._y = TOP
        first, *lines = (line.strip() for line in text.strip().splitlines())
        if first != "sequenceDiagram":
            raise SphinxError(f"{first!r} is no diagram that can be drawn")
        for line in lines:
            words = WORDS.fullmatch(line)
            if words is None:
                raise SphinxError(f"{line!r} is nothing that can be drawn")
            self._draw(**words.groupdict())

    def _draw(self, **words: Any) -> None:
        if words["name"]:
            self._at[words["name"]] = len(self._at) * APART + APART // 2
            self._text(self._at[words["name"]], 20, words["title"], "bold")
        elif words["message"]:
            self._arrow(**words)
        else:
            self._note(words["over"], words["until"] or words["over"], words["note"])

    def _arrow(
        self, sender: str, receiver: str, arrow: str, message: str, **_: Any
    ) -> None:
        begin, end = self._at[sender], self._at[receiver]
        back = 8 if begin < end else -8
        dashes = ' stroke-dasharray="5 4"' if arrow == "-->>" else ""
        self._y += LINE
        self._text((begin + end) // 2, self._y - 6, message)
        self._drawn += [
            f'<path d="M{begin} {self._y}H{end - back}"{dashes}'
            ' stroke="currentColor"/>',
            f'<path d="M{end} {self._y}l{-back} -4v8z" fill="currentColor"/>',
        ]
        self._y += LINE

    def _note(self, first: str, last: str, note: str) -> None:
        lines = re.split(r"<br ?/?>", note)
        middle = (self._at[first] + self._at[last]) // 2
        # It may be longer than what is left of the lifeline, or right of it.
        half = max(map(len, lines)) * WIDE // 2
        middle = max(half, min(middle, len(self._at) * APART - half))
        for line in lines:
            self._y += LINE
            self._text(middle, self._y, line, style="italic")
        self._y += LINE

    def _text(
        self, x: int, y: int, text: str, weight: str = "normal", style: str = "normal"
    ) -> None:
        self._drawn.append(
            f'<text x="{x}" y="{y}" text-anchor="middle" fill="currentColor"'
            f' font-weight="{weight}" font-style="{style}">{escape(text)}</text>'
        )

    def svg(self) -> str:
        """The diagram as an element of a page."""
        width, height = len(self._at) * APART, self._y
        lifelines = (
            f'<path d="M{x} 30V{height}" stroke="currentColor" opacity=".3"/>'
            for x in self._at.values()
        )
        return (
            # Of its own width: on a phone it is moved, since smaller it is not legible.
            '<div style="overflow-x: auto">'
            f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
            ' role="img" font-size="14" font-family="sans-serif">'
            f'{"".join([*lifelines, *self._drawn])}</svg></div>'
        )


def draw(app: Sphinx, document: nodes.document, _: str) -> None:
    """Put a drawing in place of each block."""
    if app.builder.format != "html":
        return
    for block in list(document.findall(nodes.literal_block)):
        if block.get("language") == "mermaid":
            drawing = Diagram(block.astext()).svg()
            block.replace_self(nodes.raw("", drawing, format="html"))


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("doctree-resolved", draw)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
