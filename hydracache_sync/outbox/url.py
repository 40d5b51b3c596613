"""Opens the outbox that a URL names, and shows URLs without their passwords."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from hydracache_sync.durations import positive_ms
from hydracache_sync.errors import ConfigurationError
from hydracache_sync.outbox.base import InvalidationOutbox
from hydracache_sync.outbox.mysql.outbox import MySQLOutbox
from hydracache_sync.outbox.sqlite.outbox import SQLiteOutbox

_FORMS = (
    "sqlite:///relative.db, sqlite:////absolute.db or mysql://user:pass@host:3306/db"
)

#: What the query of a MySQL URL may say, beside what it says before the query.
_TLS_FILES = {"ssl_ca": "ca", "ssl_cert": "cert", "ssl_key": "key"}
_SECONDS = ("connect_timeout", "read_timeout", "write_timeout")
_OPTIONS = ("unix_socket", *_TLS_FILES, "ssl_disabled", *_SECONDS, "pool_size")

_SCHEMES = ("sqlite", "mysql", "mariadb", "mysql+pymysql", "mariadb+pymysql")

#: Where a password has no business in an outbox's URL, but may be put.
_PASSWORD_IN_QUERY = re.compile(r"[?&;](?:pass|pwd)[a-z]*=", re.IGNORECASE)


def open_outbox(url: str, **options: Any) -> InvalidationOutbox:
    """Return the outbox at ``url``; nothing is connected yet.

    :param url: ``sqlite:///relative.db`` or ``sqlite:////absolute.db``; or
        ``mysql://user:password@host:3306/database``, for MariaDB as well, with
        ``unix_socket``, ``ssl_ca``, ``ssl_cert``, ``ssl_key``, ``ssl_disabled``,
        ``connect_timeout``, ``read_timeout``, ``write_timeout`` and ``pool_size`` in
        its query.
        Special characters are written as in any URL: ``%2F`` for ``/``, ``%40`` for
        ``@``.
    :param options: keyword arguments of the outbox's class, such as ``busy_timeout``;
        they go before what the URL says.
    :raises ConfigurationError: the URL names no outbox. The message shows nothing of a
        URL that may hold a password in a place where none belongs.
    """
    if _PASSWORD_IN_QUERY.search(url):
        raise ConfigurationError(
            "the outbox URL has a password in its query; it belongs before the host:"
            " //user:password@host"
        )
    if has_password(url) and not _password_is_escaped(url):
        raise ConfigurationError(
            "the password in the outbox URL has characters that a URL must escape, or"
            " // is missing before the user. Write %2F for /, %3F for ?, %23 for #,"
            " %40 for @, %5B for [, %25 for %, %20 for a blank"
        )
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
    if parts.scheme in _SCHEMES:
        named: dict[str, Any] = _mysql_options(url)
        if port is not None:
            named["port"] = port
        return MySQLOutbox(**{**named, **options})
    raise ConfigurationError(
        f"outbox URL {redacted(url)!r} has the scheme {parts.scheme!r}, known are"
        f" {_FORMS}"
    )


def has_password(url: str) -> bool:
    """Whether ``url`` has a password, or may have one that is badly escaped."""
    scheme, mark, rest = url.partition("://")
    if not mark:
        # The slashes were forgotten; what is before the host is no less secret.
        scheme, rest = url.partition(":")[0], url
    if _PASSWORD_IN_QUERY.search(url):
        return True
    if scheme.lower() == "sqlite":
        # After the host comes a path, which may hold anything.
        rest = rest.partition("/")[0]
    user, at, _ = rest.rpartition("@")
    return bool(at) and ":" in user


def _password_is_escaped(url: str) -> bool:
    """Whether the password ends where a URL's does.

    Cut at a slash, the rest of a password would pass for a path and be shown.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    after = url.partition("://")[2][len(parts.netloc) :]
    return parts.password is not None and not re.search(r"\s", url) and "@" not in after


def _mysql_options(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    database = unquote(parts.path[1:])
    if not database or "/" in database:
        raise ConfigurationError(
            f"outbox URL {redacted(url)!r} names no database; write {_FORMS}"
        )
    if parts.fragment:
        raise ConfigurationError(
            f"outbox URL {redacted(url)!r} has a fragment, which MySQL takes none of;"
            " in a name write %23 for #"
        )
    options: dict[str, Any] = {"database": database}
    if parts.hostname:
        options["host"] = unquote(parts.hostname)
    if parts.username:
        options["user"] = unquote(parts.username)
    if parts.password:
        options["password"] = unquote(parts.password)
    tls = {}
    query = parse_qsl(parts.query, keep_blank_values=True)
    for name, value in query:
        given = [each for each, _ in query].count(name)
        if name in _OPTIONS and given > 1:
            raise ConfigurationError(
                f"outbox URL {redacted(url)!r} has {name} {given} times"
            )
        if name == "unix_socket" and not value:
            raise ConfigurationError(
                f"outbox URL {redacted(url)!r}: unix_socket must be a path, not empty"
            )
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
                positive_ms(name, options[name])
            except ValueError:
                raise ConfigurationError(
                    f"outbox URL {redacted(url)!r}: {name} must be seconds, not"
                    f" {value!r}"
                ) from None
        elif name == "pool_size":
            if not re.fullmatch(r"[1-9][0-9]{0,3}", value):
                raise ConfigurationError(
                    f"outbox URL {redacted(url)!r}: pool_size must be a number from 1"
                    f" to 9999, not {value!r}"
                )
            options[name] = int(value)
        else:
            shown = repr(name) if re.fullmatch(r"[a-z_]{1,30}", name) else ""
            raise ConfigurationError(
                f"outbox URL {redacted(url)!r} has an unknown option {shown}; known"
                f" are {', '.join(_OPTIONS)}"
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
    if parts.path != parts.path.strip():
        raise ConfigurationError(
            f"outbox URL {redacted(url)!r} begins or ends with a blank, which would be"
            " part of the file's name; write %20 if it is"
        )
    path = unquote(parts.path[1:])
    if path in ("", ":memory:"):
        raise ConfigurationError(
            "the outbox URL names no file; a database in memory is seen by one"
            " process only: use MemoryOutbox there, and in tests of an app a"
            " RecordingOutbox of hydracache_sync.testing"
        )
    return path


def redacted(url: str) -> str:
    """Return ``url`` without what is secret in it, or may be.

    ``***`` is in place of the password and of unknown options. It is in place of a
    whole URL where a password that was not escaped may be anywhere in it.
    """
    scheme, mark, rest = url.partition("://")
    if not mark:
        scheme, _, rest = url.rpartition(":")
        hidden = scheme not in ("", *_SCHEMES) or has_password(url)
        return "***" if hidden else url
    nothing = f"{scheme}://***" if scheme in _SCHEMES else "***"
    # What passes for a scheme may be a user, and what follows the password.
    if "@" in rest and scheme not in _SCHEMES:
        return nothing
    if has_password(url) and not _password_is_escaped(url):
        return nothing
    try:
        parts = urlsplit(url)
        parts.port  # raises where it is none, as a password without its host
    except ValueError:
        return nothing
    user, at, host = parts.netloc.rpartition("@")
    if parts.password is not None:
        user = f"{user.partition(':')[0]}:***"
    names = [name for name, _ in parse_qsl(parts.query, keep_blank_values=True)]
    query = parts.query if set(names) <= set(_OPTIONS) else "***"
    return (
        f"{scheme}://{user}{at}{host}{parts.path}"
        + (f"?{query}" if parts.query else "")
        + ("#***" if parts.fragment else "")
    )
