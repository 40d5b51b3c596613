"""Whether a statement that an app sends changes something, told from its text."""

from __future__ import annotations

import re

#: First words of statements that change no data.
_READING = frozenset(
    "select show explain describe desc pragma values table set use begin start"
    " savepoint release rollback commit".split()
)

#: After blanks and comments. MySQL and MariaDB carry out what is in /*! */ and /*M! */.
_FIRST_WORD = re.compile(
    r"(?:\s+|(?:--|#)[^\n]*\n|/\*(?!M?!).*?\*/|[(;])*(\w+)", re.DOTALL
)
_CHANGING = re.compile(r"\b(?:insert|update|delete|replace|merge)\b", re.IGNORECASE)


#: First words of statements that name no table and may change any.
_OPAQUE = frozenset("call do exec execute".split())


#: What MariaDB has before a statement, to set variables for it alone.
_SETTINGS = re.compile(r"\s+statement\b.*?\bfor\b", re.IGNORECASE | re.DOTALL)

#: The begin of several statements that are sent as one, and not that of a transaction.
_COMPOUND = re.compile(r"\s+not\s+atomic\b", re.IGNORECASE)

#: A further statement in the same text, which MySQL's drivers can be told to allow.
_FURTHER = re.compile(
    r";(?:\s|/\*.*?\*/)*(?:insert|update|delete|replace|truncate|call|do|execute)\b",
    re.IGNORECASE | re.DOTALL,
)


def hides_its_tables(statement: str) -> bool:
    """Whether a statement may change tables that are not named in it."""
    return _first_word(statement)[0] in _OPAQUE


def changes_data(statement: str) -> bool:
    """In doubt it does."""
    word, rest = _first_word(statement)
    if word is None:
        return bool(statement.strip())
    if word == "with":
        return _CHANGING.search(statement) is not None
    if word not in _READING or (word == "begin" and _COMPOUND.match(rest)):
        return True
    return ";" in rest and _FURTHER.search(rest) is not None


def _first_word(statement: str) -> tuple[str | None, str]:
    """The word that says what a statement does, and the text behind it."""
    while True:
        found = _FIRST_WORD.match(statement)
        if found is None:
            return None, ""
        word, rest = found.group(1).lower(), statement[found.end() :]
        settings = _SETTINGS.match(rest) if word == "set" else None
        if settings is None:
            return word, rest
        statement = rest[settings.end() :]
