"""What ``cached_page`` is given, checked where it is given.

A wrong argument would otherwise have no visible effect. No status would match and no
header would be found. No argument of the query string would be found either, so that
all queries would get one page.
"""

from __future__ import annotations

import re
from typing import Collection, Iterable

_is_header = re.compile(r"[A-Za-z0-9-]+").fullmatch


def header_names(names: Iterable[str]) -> tuple[str, ...]:
    """Return names of request headers.

    :raises TypeError, ValueError: it is one text, or one of these is no such name.
    """
    found = _texts("vary", names)
    for name in found:
        if not _is_header(name):
            raise ValueError(
                f"vary has {name!r}, which is no header: letters, digits and -"
            )
    return found


def query_names(names: Iterable[str] | None) -> tuple[str, ...] | None:
    """Return names of arguments in a query string; None for all of it.

    :raises TypeError: it is one text, or one of these is no text.
    """
    return None if names is None else _texts("query", names)


def status_codes(statuses: Collection[int]) -> frozenset[int]:
    """Return statuses of responses.

    :raises TypeError, ValueError: one of these is no int, or no status of a response
        that has ended.
    """
    for status in statuses:
        if not isinstance(status, int) or isinstance(status, bool):
            raise TypeError(f"statuses must be several int, not {status!r}")
        if not 200 <= status <= 599:
            raise ValueError(f"statuses must be from 200 to 599, not {status}")
    return frozenset(statuses)


def _texts(field: str, names: Iterable[str]) -> tuple[str, ...]:
    if isinstance(names, (str, bytes)):
        raise TypeError(f"{field} must be several names, not one {names!r}")
    found = tuple(names)
    for name in found:
        if not isinstance(name, str):
            raise TypeError(f"{field} must be names, and {name!r} is none")
    return found
