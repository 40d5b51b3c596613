"""The prose of a file, by what kind of file it is: one text for each paragraph.

Code is not prose: what stands in back quotes, a placeholder of a message and an
address become one word, which no rule counts.
"""

from __future__ import annotations

import ast
import re
import textwrap
from pathlib import Path
from typing import Iterable, Iterator, NamedTuple

#: Stands for code in a sentence.
CODE = "CODE"

#: Comments that tools read.
FOR_TOOLS = re.compile(r"\s*(noqa|type:|pragma|shellcheck|fmt:|-\*-|!/)")

#: Parts of a page that are no text of its own, the last one a comment.
NOT_OF_A_PAGE = [
    re.compile(r"^( *)(```+|~~~+).*?^\1\2 *$", re.S | re.M),
    re.compile(r"<!-- (?:figures|settings) .*?<!-- end -->", re.S),
    re.compile(r"<!--.*?-->", re.S),
]

SQL = re.compile(r"\b(select|insert|update|delete|create|where|case when|order by) ")

PLACEHOLDER = re.compile(r"%(\(\w+\))?[-.\d]*[a-z]\b|\{[^{} ]*\}")


class Text(NamedTuple):
    """A paragraph, a cell of a table or a message: on one line, without markup."""

    line: int
    words: str


def texts(path: Path, messages: bool = True) -> list[Text]:
    """Return the prose of a file, in the order of its lines.

    :param messages: of Python take strings that read like messages, too.
    :raises SyntaxError: a Python file that does not parse.
    """
    source = path.read_text("utf-8")
    if path.suffix == ".py":
        found = _python(source, messages)
    elif path.suffix == ".md":
        found = _markdown(source)
    elif path.suffix == ".html":
        found = _html(source)
    else:
        found = _comments(source, "--" if path.suffix == ".sql" else "#")
    return sorted(text for text in found if text.words)


def _text(line: int, words: str) -> Text:
    """Make one of a paragraph: without markup, the code in it replaced."""
    words = re.sub(r":[a-z:]+:`[^`]*`", CODE, words)
    words = re.sub(r"(`+)(?!`).+?(?<!`)\1(?!`)_?_?", CODE, words, flags=re.S)
    words = re.sub(r"!?\[((?:[^][]|\[[^]]*\])*)\]\([^)]*\)", r"\1", words)
    words = re.sub(r"<?\b[a-z+]+://[^\s>)]+>?", CODE, words)
    words = re.sub(r"<br ?/?>", " ", words)
    words = re.sub(r"\*{1,2}(\S[^*]*)\*{1,2}", r"\1", words)
    return Text(line, " ".join(words.split()))


def _only_lines(found: re.Match[str]) -> str:
    """Return what keeps the numbers of the lines below right."""
    return "\n" * found[0].count("\n")


def _paragraphs(lines: Iterable[tuple[int, str | None]]) -> Iterator[Text]:
    """Yield those of numbered lines; None or an empty line ends one."""
    began, paragraph = 0, ""
    for number, line in lines:
        if line is not None and line.strip():
            began = began if paragraph else number
            paragraph += line + "\n"
        else:
            yield _text(began, paragraph)
            paragraph = ""
    yield _text(began, paragraph)


def _markdown(source: str) -> Iterator[Text]:
    for part in NOT_OF_A_PAGE:
        source = part.sub(_only_lines, source)
    lines: list[tuple[int, str | None]] = []
    in_text = False
    for number, line in enumerate(source.splitlines(), 1):
        item = re.match(r" *(?:[-*]|\d+\.|#+|>) +", line)
        if line.lstrip().startswith("|"):
            for cell in re.split(r"(?<!\\)\|", line):
                if re.search(r"[A-Za-z]", cell):
                    yield _text(number, cell)
            line = ""
        elif item:
            lines.append((number, None))
            line = line[item.end() :]
        elif line.startswith("    ") and not in_text:
            # Code, by its indent.
            line = ""
        in_text = bool(line.strip())
        lines.append((number, line))
        if item and "#" in item[0]:
            lines.append((number, None))
    yield from _paragraphs(lines)


def _html(source: str) -> Iterator[Text]:
    source = re.sub(
        r"\{#.*?#\}|\{%.*?%\}|<style\b.*?</style>", _only_lines, source, flags=re.S
    )
    source = re.sub(r"\{\{.*?\}\}", CODE, source, flags=re.S)
    # These stay in their sentence.
    source = re.sub(r"</?(a|b|em|strong|code|time|span)\b[^>]*>", "", source)
    line = 1
    for piece in re.split(r"(<[^>]*>)", source):
        if not piece.startswith("<"):
            blank = piece[: len(piece) - len(piece.lstrip())]
            yield _text(line + blank.count("\n"), piece)
        line += piece.count("\n")


def _comments(source: str, sign: str) -> Iterator[Text]:
    """Yield what stands behind a sign; lines that follow each other are one text."""
    lines: list[tuple[int, str | None]] = []
    comment = re.compile(rf"\s*{sign}+:?(.*)|.*?\s\s{sign} (.*)")
    for number, line in enumerate(source.splitlines(), 1):
        found = comment.match(line)
        words = found and (found[1] or found[2])
        # Code in a comment is indented; a comment behind code is a text of its own.
        ends = not words or words.startswith("   ") or FOR_TOOLS.match(words)
        if found and found[2]:
            lines.append((number, None))
        lines.append((number, None if ends else words))
    yield from _paragraphs(lines)


def _python(source: str, messages: bool) -> Iterator[Text]:
    yield from _comments(source, "#")
    tree = ast.parse(source)
    # What is part of another string, or a docstring, is no message of its own.
    parts: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                if isinstance(first.value.value, str):
                    parts.add(first.value)
                    yield from _docstring(first.value.lineno, first.value.value)
        elif messages and isinstance(node, ast.JoinedStr):
            parts.update(node.values)
            pieces = (
                str(part.value) if isinstance(part, ast.Constant) else CODE
                for part in node.values
            )
            yield from _message(node.lineno, "".join(pieces))
        elif messages and isinstance(node, ast.Constant) and node not in parts:
            if isinstance(node.value, str):
                yield from _message(node.lineno, node.value)


def _docstring(number: int, docstring: str) -> Iterator[Text]:
    first, _, rest = docstring.partition("\n")
    lines: list[tuple[int, str | None]] = []
    code_below: int | None = None
    for number, line in enumerate([first, *textwrap.dedent(rest).splitlines()], number):
        indent = len(line) - len(line.lstrip())
        starts = not lines or not (lines[-1][1] or "").strip()
        if code_below is not None and (not line.strip() or indent > code_below):
            lines.append((number, None))
            continue
        if starts and line.startswith("    "):
            # The code of a usage, by its indent.
            line = ""
        code_below = indent if line.endswith("::") else None
        field = re.match(r" *(:\w+( [^:]+)?:|[-*] )", line)
        if field:
            lines.append((number, None))
            line = line[field.end() :]
        lines.append((number, line))
    yield from _paragraphs(lines)


def _message(line: int, words: str) -> Iterator[Text]:
    """Yield a string's paragraphs if it reads like a message: no name, no SQL."""
    if words.count(" ") > 1 and not SQL.search(words):
        for paragraph in re.split(r"\n\s*\n", words):
            yield _text(line, PLACEHOLDER.sub(CODE, paragraph))
