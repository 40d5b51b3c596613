"""Text that a user or a server has sent, made fit for a log line or a terminal.

A path, a key, a server's error may hold line breaks, which forge lines of a log,
escapes, which move a terminal's cursor, and any number of characters. Or a password:
the library shows URLs without them, but one may be in an error, or in an argument that
stands in the wrong place.
"""

from __future__ import annotations

import logging
import re

#: Characters of a log line at most, before the time and level that a handler adds.
LONGEST_LINE = 2000


def printable(text: str, longest: int | None = None) -> str:
    """Return ``text`` on one line, with escapes in place of what is not to be shown.

    :param longest: characters at most, 4 or more; None for any number.
    """
    if longest is not None and len(text) > longest:
        # Before the escapes are made: they may be ten times as long.
        text = text[: longest + 1]
    if not text.isprintable():
        text = "".join(
            (
                each
                if each.isprintable()
                else each.encode("unicode_escape").decode("ascii")
            )
            for each in text
        )
    if longest is not None and len(text) > longest:
        return text[: longest - 3] + "..."
    return text


def printable_lines(text: str) -> str:
    """Return ``text`` with each of its lines as :func:`printable` has it."""
    return "\n".join(printable(line.expandtabs(4)) for line in text.split("\n"))


def described(error: BaseException) -> str:
    """Return the class and the text of ``error``; its class alone if it has no text.

    The text of an exception is user code: it may raise.
    """
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:
        return type(error).__name__


def printable_logger(name: str) -> logging.Logger:
    """Return the logger of that name; its messages are :func:`printable` lines.

    The tracebacks that it logs stay as they are.
    """
    logger = logging.getLogger(name)
    if _one_line not in logger.filters:
        logger.addFilter(_one_line)
    return logger


def _one_line(record: logging.LogRecord) -> bool:
    """Filter of a logger: changes only a record that needs it, and drops none."""
    try:
        message = record.getMessage()
    except Exception:
        return True  # of an object that has no text: the handler reports it, as always
    shown = printable(message, LONGEST_LINE)
    if shown != message:
        record.msg, record.args = shown, ()
    return True


#: Up to the last @ of the word: a password may hold an @ that should be escaped.
_BEFORE_HOST = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*:/{0,2}[^\s:@/]*):\S+@")

#: Where a password has no business in an outbox's URL, but may be put.
_IN_QUERY = re.compile(r"([?&;](?:pass|pwd)[a-z]*=)[^&;\s]+", re.IGNORECASE)


def without_passwords(text: str) -> str:
    """Return ``text`` with ``***`` in place of the password of each URL in it."""
    return _IN_QUERY.sub(r"\1***", _BEFORE_HOST.sub(r"\1:***@", text))
