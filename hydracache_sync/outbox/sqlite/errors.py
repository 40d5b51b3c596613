"""What SQLite's errors mean."""

from __future__ import annotations

import sqlite3
from typing import Any

from hydracache_sync.errors import OutboxBusyError, OutboxError, SchemaError
from hydracache_sync.outbox.schema import SCHEMA_VERSION

#: SQLITE_BUSY and SQLITE_LOCKED, without their extended parts (such as 517, a
#: snapshot that can no longer be written to).
_BUSY_CODES = (5, 6)


def sqlite_error(exc: sqlite3.Error, name: str) -> OutboxError:
    """Return what ``exc`` means to a user of the outbox called ``name``."""
    text = str(exc)
    # The code is there from Python 3.11 on.
    code = getattr(exc, "sqlite_errorcode", None)
    if (code is not None and code & 0xFF in _BUSY_CODES) or "is locked" in text:
        return OutboxBusyError(
            f"{name}: {text}; another connection writes. Roll back and run the"
            " transaction again, if it is yours; BEGIN IMMEDIATE avoids most of it"
        )
    if "no such table" in text:
        return SchemaError(
            f"{name}: {text}; run `hydracache schema install` or install_schema()",
            expected=SCHEMA_VERSION,
        )
    if "no such column" in text or "has no column" in text:
        return SchemaError(
            f"{name}: {text}; the table was made by another version or altered,"
            " compare it with `hydracache schema show`",
            expected=SCHEMA_VERSION,
        )
    if "unable to open" in text:
        return OutboxError(
            f"{name}: {text}; check the path and its rights, or create the file with"
            " `hydracache schema install`"
        )
    if "is full" in text:
        text += "; free space where the file is. Nothing that was committed is lost"
    return OutboxError(f"{name}: {text}")


def to_text(value: Any) -> str:
    """Text of a connection that may give it as bytes."""
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)
