"""Events of an engine's connections, for Core."""

from __future__ import annotations

import weakref
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine

from hydracache_sync.integrations.sqlalchemy.followed import Followed
from hydracache_sync.integrations.sqlalchemy.session import SessionTransaction
from hydracache_sync.integrations.sqlalchemy.transaction import TransactionIntents
from hydracache_sync.snapshots import NEVER, LocalMoment


class EngineEvents:
    """Follows the transactions of an engine's connections, for Core.

    A session's own transactions are the session's, where it is attached as well.
    """

    def __init__(self, followed: Followed, engine: Engine) -> None:
        self._followed = followed
        self._home = followed.home
        self._sent = ("hydracache_sync sent", self)
        self._idle = ("hydracache_sync idle", self)
        self._open: weakref.WeakKeyDictionary[Connection, TransactionIntents]
        self._open = weakref.WeakKeyDictionary()
        event.listen(engine, "checkout", self.taken)
        event.listen(engine, "begin", self.begins)
        event.listen(engine, "begin_twophase", self.begins)
        event.listen(engine, "savepoint", self.savepoint)
        event.listen(engine, "release_savepoint", self.release)
        event.listen(engine, "rollback_savepoint", self.roll_back_to)
        followed.listen(engine)
        event.listen(engine, "commit", self.commits)
        event.listen(engine, "commit_twophase", self.commits)
        event.listen(engine, "rollback", self.rolls_back)
        event.listen(engine, "rollback_twophase", self.rolls_back)
        event.listen(engine, "checkin", self.returned)

    def taken(self, dbapi_connection: Any, record: Any, fairy: Any) -> None:
        record.info[self._idle] = LocalMoment.now()

    def begins(self, connection: Connection, *_: Any) -> None:
        info = connection.info
        self._after_commit(info)
        # Not now: another listener may have sent the statement that begins it, and in
        # SQLAlchemy 1.4 nobody can ask to be told first.
        transaction = TransactionIntents(self._home, since=info.get(self._idle, NEVER))
        transaction.has_connection()
        self._open[connection] = transaction
        connection.info[self._home] = weakref.ref(transaction)

    def savepoint(self, connection: Connection, name: str | None) -> None:
        transaction = self._own(connection)
        if transaction is not None:
            transaction.begin_savepoint()

    def release(self, connection: Connection, name: str, context: Any) -> None:
        transaction = self._own(connection)
        if transaction is not None:
            transaction.end_savepoint(kept=True)

    def roll_back_to(self, connection: Connection, name: str, context: Any) -> None:
        transaction = self._own(connection)
        if transaction is not None:
            transaction.end_savepoint(kept=False)

    def commits(self, connection: Connection, *_: Any) -> None:
        transaction = self._own(connection)
        if transaction is None:
            return
        # Nobody tells when it is done; that nothing comes in between is certain.
        del connection.info[self._home]
        connection.info[self._idle] = LocalMoment.now()
        transaction.end(committed=True)
        if transaction.written:
            self._followed.remember(connection, transaction)
            connection.info[self._sent] = transaction

    def rolls_back(self, connection: Connection, *_: Any) -> None:
        transaction = self._own(connection)
        if transaction is not None:
            del connection.info[self._home]
            connection.info[self._idle] = LocalMoment.now()
            transaction.end(committed=False)

    def returned(self, dbapi_connection: Any, record: Any) -> None:
        self._after_commit(record.info)
        found = record.info.pop(self._home, None)
        transaction = None if found is None else found()
        if transaction is not None:
            # Its commit was refused, by this library or another listener.
            transaction.end(committed=False)

    def _after_commit(self, info: Any) -> None:
        transaction = info.pop(self._sent, None)
        if transaction is not None:
            transaction.after_commit(certain=False)

    def _own(self, connection: Connection) -> TransactionIntents | None:
        transaction = self._followed.transaction_on(connection)
        return None if isinstance(transaction, SessionTransaction) else transaction
