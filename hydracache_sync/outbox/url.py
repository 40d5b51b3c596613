"""Opens the outbox that a URL names, and shows URLs without their passwords."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from hydracache_sync.errors import ConfigurationError
from hydracache_sync.outbox.base import InvalidationOutbox
from hydracache_sync.outbox.sqlite import SQLiteOutbox

_FORMS = "sqlite:///relative.db or sqlite:////absolute.db"


def open_outbox(url: str, **options: Any) -> InvalidationOutbox:
    """Return the outbox at ``url``; nothing is connected yet.

    :param url: ``sqlite:///relative.db`` or ``sqlite:////absolute.db``; characters
        such as ``?`` and ``#`` in a path are written ``%3F`` and ``%23``.
    :param options: keyword arguments of the outbox's class, such as ``busy_timeout``.
    :raises ConfigurationError: the URL names no outbox.
    """
    try:
        parts = urlsplit(url)
    except ValueError as exc:
        raise ConfigurationError(f"outbox URL is malformed: {exc}") from exc
    if parts.scheme == "sqlite":
        return SQLiteOutbox(_sqlite_path(url), **options)
    raise ConfigurationError(
        f"outbox URL {redacted(url)!r} has the scheme {parts.scheme!r}, known is"
        f" {_FORMS}"
    )


def _sqlite_path(url: str) -> str:
    parts = urlsplit(url)
    if parts.netloc or not url.startswith("sqlite:///"):
        raise ConfigurationError(
            f"outbox URL {redacted(url)!r} names no file; write {_FORMS}"
        )
    if parts.query or parts.fragment:
        raise ConfigurationError(
            f"outbox URL {redacted(url)!r} has a query or fragment, which SQLite takes"
            " none of; in a path write %3F for ? and %23 for #"
        )
    path = unquote(parts.path[1:])
    if path in ("", ":memory:"):
        raise ConfigurationError(
            f"outbox URL {url!r} names no file; a database in memory is seen by one"
            " process only: use MemoryOutbox there"
        )
    return path


def redacted(url: str) -> str:
    """Return ``url`` with ``***`` in place of a password."""
    try:
        parts = urlsplit(url)
        if parts.password is None:
            return url
        user, _, host = parts.netloc.rpartition("@")
        name = user.partition(":")[0]
        return urlunsplit(parts._replace(netloc=f"{name}:***@{host}"))
    except ValueError:
        return "(malformed URL)"
