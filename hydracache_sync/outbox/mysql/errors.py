"""What MySQL's and MariaDB's errors mean."""

from __future__ import annotations

import re
import struct

from hydracache_sync.drivers.mysql import error_number
from hydracache_sync.drivers.pymysql_own import driver_error, is_cut_short
from hydracache_sync.errors import (
    ConnectionLostError,
    OutboxBusyError,
    OutboxError,
    ReadOnlyServerError,
    SchemaError,
)
from hydracache_sync.outbox.schema import SCHEMA_VERSION

#: Another transaction was in the way: deadlock, lock wait timeout, the same said of
#: NOWAIT, and by MariaDB with innodb_snapshot_isolation, the default from 11.6 on; and
#: a conflict that group replication finds at COMMIT.
_BUSY = frozenset((1020, 1205, 1213, 3101, 3572))

#: An error at COMMIT, of whatever kind. The storage engine's 149 is a deadlock, as
#: group replication calls some conflicts; "not connected to Primary" is an outage.
_AT_COMMIT = 1180
_DEADLOCK = re.compile(r"\berror 149\b")

#: The connection is dead, or its stream of packets is out of step.
_LOST = frozenset(
    (0, 1053, 1077, 1079, 1080, 1152, 1158, 1159, 1160, 1161, 1184, 1927)
    + (2000, 2002, 2003, 2006, 2013, 2014, 2027, 2055, 3169, 4031)
)

#: What PyMySQL raises where a server, or what stands before it, talks nonsense.
_GARBAGE = (struct.error, IndexError, AssertionError, UnicodeDecodeError, KeyError)

#: A transaction that was begun to read, or all of a session's. Our own sessions have
#: asked to write: there the server, or a proxy that chose it, does not let them.
_READ_ONLY_TRANSACTION = 1792

READ_ONLY = "; the server is read-only: a replica? Name the primary in the URL"
_CUT_OFF = "; a node of a cluster that is not part of it now"

#: The server takes no writes, and waiting here does not change that. It is a replica,
#: or was a primary until a failover (read_only, innodb_read_only, offline_mode). Or it
#: is a node of Galera or group replication that has lost its group.
_NO_WRITES = {
    1036: READ_ONLY,
    1047: _CUT_OFF,
    1290: READ_ONLY,
    _READ_ONLY_TRANSACTION: READ_ONLY,
    1836: READ_ONLY,
    1874: READ_ONLY,
    3032: "; the server is offline for all but its administrators",
    3100: _CUT_OFF,
}

_RIGHTS = "; the user lacks a right: see the grants in docs/operations/databases.md"
_HINTS = {
    1044: _RIGHTS,
    1045: "; is the password right? If it is: see the grants in"
    " docs/operations/databases.md",
    1142: _RIGHTS,
    1143: _RIGHTS,
    1049: "; the database in the URL does not exist on that server",
    _READ_ONLY_TRANSACTION: "; this transaction only reads. START TRANSACTION READ ONLY"
    " began it, or transaction_read_only is on in its session. End it, and begin one"
    " that writes",
    1153: "; max_allowed_packet is too small for one row",
    1021: "; free space on the server. Nothing that was committed is lost",
    1114: "; free space on the server. Nothing that was committed is lost",
}


def takes_no_writes(exc: BaseException) -> bool:
    """Whether ``exc`` says so of the server; it may be the driver's own error."""
    return isinstance(exc, ReadOnlyServerError) or error_number(exc) in _NO_WRITES


def is_unknown_index(exc: BaseException) -> bool:
    """Whether ``exc`` says that a table has no index of the name in a hint."""
    return error_number(exc) == 1176


def is_lost(exc: BaseException) -> bool:
    """Whether ``exc`` says that the own connection is of no more use."""
    if isinstance(exc, (ConnectionLostError, OSError)) or is_cut_short(exc):
        return True
    return isinstance(exc, driver_error()) and error_number(exc) in _LOST


def own_error(exc: Exception, name: str) -> OutboxError | None:
    """Return what ``exc`` of an own connection means; None if it is not PyMySQL's."""
    if isinstance(exc, (driver_error(), OSError)):
        return mysql_error(exc, name, own=True)
    if isinstance(exc, _GARBAGE) and is_cut_short(exc):
        return ConnectionLostError(f"{name}: not understood: {exc!r}")
    return None


def mysql_error(exc: BaseException, name: str, *, own: bool) -> OutboxError:
    """Return what a driver's ``exc`` means to a user of the outbox called ``name``.

    :param own: it is of an own connection, which may be replaced.
    """
    if isinstance(exc, OutboxError):
        return exc
    number = error_number(exc)
    text = f"{name}: {exc}"
    if number in _BUSY or (number == _AT_COMMIT and _DEADLOCK.search(text)):
        return OutboxBusyError(
            f"{text}; another transaction was in the way. Roll back and run the"
            " transaction again, if it is yours"
        )
    if number is None or number in _LOST or isinstance(exc, OSError):
        return (ConnectionLostError if own else OutboxError)(text)
    if number in _NO_WRITES and (own or number != _READ_ONLY_TRANSACTION):
        return ReadOnlyServerError(text + _NO_WRITES[number])
    if number == 1146:
        return SchemaError(
            f"{text}; run `hydracache schema install` or install_schema()",
            expected=SCHEMA_VERSION,
        )
    if number == 1054:
        return SchemaError(
            f"{text}; the table was made by another version or altered",
            expected=SCHEMA_VERSION,
        )
    return OutboxError(text + _HINTS.get(number, ""))
