"""Opens the outbox that a URL names, and shows URLs without their passwords."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from hydracache_sync.errors import ConfigurationError
from hydracache_sync.outbox.base import InvalidationOutbox
from hydracache_sync.outbox.mysql import MySQLOutbox
from hydracache_sync.outbox.sqlite import SQLiteOutbox

_FORMS = (
    "sqlite:///relative.db, sqlite:////absolute.db or mysql://user:pass@host:3306/db"
)

#: What the query of a MySQL URL may say, beside what it says before the query.
_TLS_FILES = {"ssl_ca": "ca", "ssl_cert": "cert", "ssl_key": "key"}
_SECONDS = ("connect_timeout", "read_timeout", "write_timeout")


def open_outbox(url: str, **options: Any) -> InvalidationOutbox:
    """Return the outbox at ``url``; nothing is connected yet.

    :param url: ``sqlite:///relative.db`` or ``sqlite:////absolute.db``; or
        ``mysql://user:password@host:3306/database``, for MariaDB as well, with
        ``unix_socket``, ``ssl_ca``, ``ssl_cert``, ``ssl_key``, ``ssl_disabled``,
        ``connect_timeout``, ``read_timeout`` and ``write_timeout`` in its query.
        Special characters are written as in any URL: ``%2F`` for ``/``, ``%40`` for
        ``@``.
    :param options: keyword arguments of the outbox's class, such as ``busy_timeout``;
        they go before what the URL says.
    :raises ConfigurationError: the URL names no outbox.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        # Its text may hold a part of the password.
        raise ConfigurationError(
            f"outbox URL {redacted(url)!r} is malformed; write {_FORMS}"
        ) from None
    if parts.scheme == "sqlite":
        return SQLiteOutbox(_sqlite_path(url), **options)
    if parts.scheme in ("mysql", "mariadb", "mysql+pymysql", "mariadb+pymysql"):
        named: dict[str, Any] = _mysql_options(url)
        if port is not None:
            named["port"] = port
        return MySQLOutbox(**{**named, **options})
    raise ConfigurationError(
        f"outbox URL {redacted(url)!r} has the scheme {parts.scheme!r}, known are"
        f" {_FORMS}"
    )


def _mysql_options(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    database = unquote(parts.path[1:])
    if not database or "/" in database:
        raise ConfigurationError(
            f"outbox URL {redacted(url)!r} names no database; write {_FORMS}"
        )
    options: dict[str, Any] = {"database": database}
    if parts.hostname:
        options["host"] = unquote(parts.hostname)
    if parts.username:
        options["user"] = unquote(parts.username)
    if parts.password:
        options["password"] = unquote(parts.password)
    tls = {}
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name == "unix_socket":
            options[name] = value
        elif name in _TLS_FILES:
            tls[_TLS_FILES[name]] = value
        elif name == "ssl_disabled":
            if value != "true":
                raise ConfigurationError(
                    f"outbox URL {redacted(url)!r}: ssl_disabled must be true or left"
                    f" out, not {value!r}"
                )
            options["ssl"] = False
        elif name in _SECONDS:
            try:
                options[name] = float(value)
            except ValueError:
                raise ConfigurationError(
                    f"outbox URL {redacted(url)!r}: {name} must be seconds, not"
                    f" {value!r}"
                ) from None
        else:
            names = ("unix_socket", *_TLS_FILES, "ssl_disabled", *_SECONDS)
            known = ", ".join(names)
            raise ConfigurationError(
                f"outbox URL {redacted(url)!r} has the unknown option {name!r}; known"
                f" are {known}"
            )
    if tls and "ssl" in options:
        raise ConfigurationError(
            f"outbox URL {redacted(url)!r} asks for TLS and has ssl_disabled"
        )
    if tls:
        options["ssl"] = tls
    return options


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
    """Return ``url`` with ``***`` in place of a password.

    Also where the URL is malformed, such as with a password that was not escaped:
    what may be part of one is not shown.
    """
    url = re.sub(r"(?i)([?&;]\w*pass\w*=)[^&;]*", r"\1***", url)
    if url.lower().startswith("sqlite:"):
        return url
    head, at, host = url.rpartition("@")
    scheme, mark, login = head.rpartition("://")
    if not at or ":" not in login:
        return url
    return f"{scheme}{mark}{login.partition(':')[0]}:***@{host}"
