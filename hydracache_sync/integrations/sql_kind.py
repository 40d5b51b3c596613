"""Whether a statement that an app sends changes something, told from its text."""

from __future__ import annotations

import re
from typing import Iterator

#: First words of statements that change no data.
_READING = frozenset(
    "select show explain describe desc pragma values table set use begin start"
    " savepoint release rollback commit".split()
)

#: Blanks and comments. MySQL and MariaDB carry out what is in /*! */ and /*M! */.
_BEFORE = re.compile(r"(?:\s+|(?:--|#)[^\n]*\n|/\*(?!M?!).*?\*/|[(;])*", re.DOTALL)
_CARRIED_OUT = ("/*!", "/*M!")
_WORD = re.compile(r"\w+")
_CHANGING = re.compile(r"\b(?:insert|update|delete|replace|merge)\b", re.IGNORECASE)

#: First words of statements that change the schema.
_OF_SCHEMA = frozenset("alter comment create drop grant rename revoke".split())

#: First words of statements that name no table and may change any.
_OPAQUE = frozenset("call do exec execute".split())

#: What MariaDB has before a statement, to set variables for it alone.
_SETTINGS = re.compile(r"\s+statement\b.*?\bfor\b", re.IGNORECASE | re.DOTALL)

#: The begin of several statements that are sent as one, and not that of a transaction.
_COMPOUND = re.compile(r"\s+not\s+atomic\b", re.IGNORECASE)

#: First words of a further statement in the same text that change something; drivers of
#: MySQL can be told to allow one. Not all that are not known to read: what follows a
#: semicolon may be in a string.
_FURTHER = _OPAQUE | frozenset(
    "alter analyze create delete drop import insert load merge prepare rename replace"
    " truncate update".split()
)


def hides_its_tables(text: str) -> bool:
    """Whether a statement may change tables that are not named in it."""
    return any(word in _OPAQUE for word, _ in _statements(text))


def changes_data(text: str) -> bool:
    """In doubt it does."""
    statements = _statements(text)
    word, end = next(statements)
    if word is None:
        return bool(text.strip())
    if word not in _READING and word != "with":
        return True
    return _hides_a_change(word, text, end) or any(
        word in _FURTHER
        or (word is None and text.startswith(_CARRIED_OUT, end))
        or _hides_a_change(word, text, end)
        for word, end in statements
    )


def changes_rows(text: str) -> bool:
    """In doubt it does, but for a statement that changes the schema."""
    word, _ = next(_statements(text))
    return word not in _OF_SCHEMA and changes_data(text)


def _hides_a_change(word: str | None, text: str, end: int) -> bool:
    """Whether a statement whose first word reads, changes something behind it."""
    if word == "with":
        return _CHANGING.search(text, end) is not None
    return word == "begin" and _COMPOUND.match(text, end) is not None


def _statements(text: str) -> Iterator[tuple[str | None, int]]:
    """The first word of each statement of a text, and where the word ends.

    None where a comment begins that is not for all, or something else.
    """
    yield _first_word(text, 0)
    for semicolon in re.finditer(";", text):
        yield _first_word(text, semicolon.end())


def _first_word(text: str, start: int) -> tuple[str | None, int]:
    while True:
        start = _BEFORE.match(text, start).end()  # type: ignore[union-attr]
        found = _WORD.match(text, start)
        if found is None:
            return None, start
        word = found[0].lower()
        settings = _SETTINGS.match(text, found.end()) if word == "set" else None
        if settings is None:
            return word, found.end()
        start = settings.end()
