"""Connections of SQLAlchemy that nothing follows: whether they have changed something.

An app that has attached its session may change more on a connection of another engine,
or in another session. Nobody wants intents of them, but what they show is not to be
stored. All engines of the process are listened to, from the first attach on.
"""

from __future__ import annotations

import weakref
from functools import partial
from typing import Any, Protocol

from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.pool import Pool

from hydracache_sync.app import open_transactions, replica_reads, savepoints
from hydracache_sync.app.open_transactions import OpenTransaction
from hydracache_sync.cache.unstorable import withhold
from hydracache_sync.drivers import find_driver
from hydracache_sync.integrations.sql_kind import changes_data, changes_rows
from hydracache_sync.integrations.sqlalchemy.transaction import TransactionIntents
from hydracache_sync.snapshots import oldest

#: Where a connection of the driver keeps what is known of it.
_KEY = "hydracache_sync unattached"


class _Unattached(OpenTransaction):
    """A connection that has changed something since its last commit or rollback."""

    def __init__(self, dbapi_connection: Any) -> None:
        self._connection = dbapi_connection

    def has_changes(self) -> bool:
        return not has_committed(self._connection)


class Watching(Protocol):
    """What knows of models, and is told of statements that nothing follows."""

    def warn_of_unseen(self, statement: str, context: Any) -> None: ...


_watching: weakref.WeakSet[Watching] = weakref.WeakSet()


def listen(watching: Watching) -> None:
    """Begin to look at all engines; harmless to repeat."""
    _watching.add(watching)
    if event.contains(Engine, "before_cursor_execute", _executes):
        return
    event.listen(Engine, "before_cursor_execute", _executes)
    event.listen(Engine, "savepoint", _sets_savepoint)
    event.listen(Engine, "rollback_savepoint", _goes_back)
    for end in ("commit", "rollback", "commit_twophase", "rollback_twophase"):
        event.listen(Engine, end, _ended)
    event.listen(Pool, "checkin", _returned)


def changes_something(context: Any, statement: str) -> bool:
    """Whether a statement that is about to be sent does, as far as can be told."""
    compiled = getattr(context, "compiled", None)
    if compiled is None or _is_text(compiled):
        return changes_data(statement)
    if context.isinsert or context.isupdate or context.isdelete:
        return True
    # A construct of the program's own, or a text in ``DDL``. What SQLAlchemy makes of
    # a schema changes no rows, and may come before the tables of the outbox.
    is_select = getattr(compiled.statement, "is_select", False)
    return not is_select and changes_rows(statement)


def _is_text(compiled: Any) -> bool:
    """Whether a program has written the statement as text, for the ORM or not."""
    statement = getattr(compiled, "statement", None)
    # Of text with columns, which the ORM may have put into a statement of its own.
    inner = getattr(statement, "element", None)
    return getattr(compiled, "isplaintext", False) or any(
        getattr(each, "is_text", False) for each in (statement, inner)
    )


def has_committed(dbapi_connection: Any) -> bool:
    """Whether nothing is open on it; False if that is not known."""
    driver = find_driver(dbapi_connection)
    try:
        return driver is not None and driver.has_committed()
    except Exception:
        return False  # it was closed


def dbapi_connection(connection: Connection) -> Any:
    """The driver's connection of one of SQLAlchemy's."""
    lent = connection.connection
    # One that was detached is known to no pool, which is asked: None, or no such name.
    found = getattr(lent, "driver_connection", None)
    return lent.dbapi_connection if found is None else found


def _executes(
    connection: Connection,
    cursor: Any,
    statement: str,
    parameters: Any,
    context: Any,
    executemany: bool,
) -> None:
    own = partial(dbapi_connection, connection)
    replica_reads.sends(own)
    info = connection.info
    followed = followed_transactions(info)
    began = oldest(*(each.since() for each in followed))
    open_transactions.note_statement(began, own)
    savepoints.note_statement(statement)
    if _shows_changes_of_another_thread(info, followed):
        withhold()
    if followed or not changes_something(context, statement):
        return
    for watching in list(_watching):
        watching.warn_of_unseen(statement, context)
    if _KEY in info:
        return
    info[_KEY] = unattached = _Unattached(dbapi_connection(connection))
    open_transactions.opened(unattached)


def _shows_changes_of_another_thread(
    info: Any, followed: list[TransactionIntents]
) -> bool:
    """Whether what is read on a connection may be rolled back by another thread.

    Of its own transactions a thread knows that: they are looked at before each read.
    """
    unattached = info.get(_KEY)
    known: list[OpenTransaction] = [*followed] if unattached is None else [unattached]
    return any(
        not open_transactions.is_of_this_thread(each) and each.has_changes()
        for each in known
    )


def followed_transactions(info: Any) -> list[TransactionIntents]:
    """The transaction of a connection, as each attach knows it that follows it."""
    found = [each() for each in info.values() if isinstance(each, weakref.ref)]
    return [each for each in found if isinstance(each, TransactionIntents)]


def _sets_savepoint(connection: Connection, name: str) -> None:
    savepoints.note_set(name)


def _goes_back(connection: Connection, name: str, context: None) -> None:
    savepoints.note_rollback(name)


def _ended(connection: Connection, *_: Any) -> None:
    _forget(connection.info)


def _returned(dbapi_connection: Any, record: Any) -> None:
    _forget(record.info)


def _forget(info: Any) -> None:
    unattached = info.pop(_KEY, None)
    if unattached is not None:
        open_transactions.ended(unattached)
