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


def hides_its_tables(statement: str) -> bool:
    """Whether a statement may change tables that are not named in it."""
    found = _FIRST_WORD.match(statement)
    return found is not None and found.group(1).lower() in _OPAQUE


def changes_data(statement: str) -> bool:
    """In doubt it does."""
    found = _FIRST_WORD.match(statement)
    if found is None:
        return bool(statement.strip())
    word = found.group(1).lower()
    if word == "with":
        return _CHANGING.search(statement) is not None
    return word not in _READING
