"""Texts of errors, as rows keep them for operators."""

from __future__ import annotations

#: Characters of an error that a row keeps; the rest is counted, not kept.
MAX_ERROR = 1000


def kept_error(error: str) -> str:
    """Return the text that a row keeps: storable, and its cut made visible."""
    text = str(error).encode("utf-8", "backslashreplace").decode("utf-8")
    if len(text) > MAX_ERROR:
        text = f"{text[:MAX_ERROR]} ... ({len(text) - MAX_ERROR} more characters)"
    return text
