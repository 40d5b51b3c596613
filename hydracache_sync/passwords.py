"""Keeps passwords out of everything that is printed.

The library shows URLs without them. This is for text that comes from elsewhere, such as
an error, or an argument in the wrong place.
"""

from __future__ import annotations

import re

#: Up to the last @ of the word: a password may hold an @ that should be escaped.
_BEFORE_HOST = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*:/{0,2}[^\s:@/]*):\S+@")

#: Where a password has no business in an outbox's URL, but may be put.
_IN_QUERY = re.compile(r"([?&;](?:pass|pwd)[a-z]*=)[^&;\s]+", re.IGNORECASE)


def without_passwords(text: str) -> str:
    """Return ``text`` with ``***`` in place of the password of each URL in it."""
    return _IN_QUERY.sub(r"\1***", _BEFORE_HOST.sub(r"\1:***@", text))
