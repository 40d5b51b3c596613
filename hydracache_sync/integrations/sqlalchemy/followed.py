"""What one attach follows: connections, their statements and their commits.

Right before a commit it writes, through the connection that is about to commit, what
came after the events of the session that is committing.
"""

from __future__ import annotations

import contextlib
import weakref
from typing import Any, Callable, Union

from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine, TwoPhaseTransaction
from sqlalchemy.orm import Session

from hydracache_sync.app.request_state import EnqueuedBatch
from hydracache_sync.drivers import find_driver
from hydracache_sync.drivers.sqlite import SQLiteConnection
from hydracache_sync.integrations.sqlalchemy.session import (
    SessionState,
    SessionTransaction,
)
from hydracache_sync.integrations.sqlalchemy.transaction import Home, TransactionIntents
from hydracache_sync.integrations.sqlalchemy.unattached import (
    changes_something,
    dbapi_connection,
    has_committed,
)
from hydracache_sync.integrations.sqlalchemy.watched_models import WatchedModels
from hydracache_sync.snapshots import NEVER

#: An engine, or what returns it where it is made later.
Bind = Union[Engine, Callable[[], Engine], None]


class Followed:
    """The transactions of one attach. Thread-safe.

    :param home: where their intents go.
    :param bind: the engine of the outbox's database, where there may be several.
    :ivar models: whose changes invalidate something.
    :ivar written: what the last transaction of each session, or connection, wrote.
    """

    def __init__(self, home: Home, bind: Bind) -> None:
        self.home = home
        self.models = WatchedModels(self.transaction_on)
        self.written: weakref.WeakKeyDictionary[Any, list[EnqueuedBatch]]
        self.written = weakref.WeakKeyDictionary()
        self._bind = bind
        self._engines: weakref.WeakSet[Engine] = weakref.WeakSet()

    def transaction_on(self, connection: Connection) -> TransactionIntents | None:
        # Kept where clones of a connection find it, too. Weak: what a connection of the
        # driver knows outlives a session that is dropped without an end.
        found: weakref.ref[TransactionIntents] | None
        found = connection.info.get(self.home)
        return None if found is None else found()

    def current(self, session: Session) -> SessionTransaction | None:
        """The transaction that is open in ``session``."""
        state = self.state(session)
        if state.current is None and not state.over and session.in_transaction():
            # Attached while it was open: nobody knows since when.
            state.current = SessionTransaction(self.home, session, state.kept)
            state.current.has_connection(fresh=False)
        return state.current

    def state(self, session: Session) -> SessionState:
        state: SessionState | None = session.info.get(self)
        if state is None:
            state = session.info[self] = SessionState(session)
            if not session.expire_on_commit:
                state.kept.add(NEVER)  # it is not known since when it has what it has
        return state

    def remember(self, owner: Any, transaction: TransactionIntents) -> None:
        if transaction.written:
            self.written[owner] = transaction.written

    def engine(self) -> Engine | None:
        """That of the outbox's database, if it was named."""
        if self._bind is None or isinstance(self._bind, Engine):
            return self._bind
        return self._bind()

    def watch(self, connection: Connection) -> None:
        """Look at the statements of a connection, and be there when it commits."""
        if connection.engine not in self._engines:
            self.listen(connection.engine)

    def listen(self, engine: Engine) -> None:
        """The same for all connections of an engine."""
        self._engines.add(engine)
        event.listen(engine, "before_cursor_execute", self._executes)
        event.listen(engine, "after_cursor_execute", self._has_executed)
        event.listen(engine, "commit", self._commits)
        event.listen(engine, "rollback", self._rolls_back)
        event.listen(engine, "prepare_twophase", self._write_and_hold_off)
        event.listen(engine, "commit_twophase", self._commits_twophase)
        event.listen(engine, "savepoint", _begin_before_savepoint)

    def _executes(
        self,
        connection: Connection,
        cursor: Any,
        statement: str,
        parameters: Any,
        context: Any,
        executemany: bool,
    ) -> None:
        transaction = self.transaction_on(connection)
        if transaction is not None and changes_something(context, statement):
            self._notice_commit(connection)
            transaction.changed()
            self.models.add_statement(transaction, statement, context)

    def _has_executed(self, connection: Connection, *_: Any) -> None:
        transaction = self.transaction_on(connection)
        if transaction is None or not transaction.has_changed:
            return
        if isinstance(connection.get_transaction(), TwoPhaseTransaction):
            return  # when it is prepared none is open, and it may be rolled back
        if has_committed(dbapi_connection(connection)):
            transaction.is_durable()
        else:
            transaction.was_open = True

    def _commits(self, connection: Connection) -> None:
        """Write what came after the events of the session that is committing."""
        try:
            self._write_and_hold_off(connection)
        except BaseException:
            # SQLAlchemy has released the transaction by now. A close() without a
            # rollback would give the connection back with it open. The next user of the
            # connection would commit what was refused here.
            with contextlib.suppress(Exception):
                target = dbapi_connection(connection)
                driver = find_driver(target)
                (target.rollback if driver is None else driver.roll_back)()
            raise

    def _commits_twophase(
        self, connection: Connection, xid: Any, is_prepared: bool
    ) -> None:
        """The same without a call of ``prepare()``: then the commit does it."""
        if is_prepared:
            return
        try:
            self._write_and_hold_off(connection)
        except BaseException:
            with contextlib.suppress(Exception):
                dialect = connection.engine.dialect
                dialect.do_rollback_twophase(connection, xid, is_prepared=False)
            raise

    def _rolls_back(self, connection: Connection) -> None:
        # One that has been lost has no driver's connection, and nothing is durable.
        if not connection.closed and not connection.invalidated:
            self._notice_commit(connection)

    def _notice_commit(self, connection: Connection) -> None:
        """Notice one that the app has made by the driver's own connection."""
        transaction = self.transaction_on(connection)
        if transaction is None or not transaction.was_open:
            return
        target = dbapi_connection(connection)
        if getattr(target, "open", True) and has_committed(target):
            transaction.is_durable()

    def _write_and_hold_off(self, connection: Connection, *_: Any) -> None:
        """Before a commit, or before a transaction is prepared.

        What is prepared must not be refused any more: it would stay in the database,
        with its locks, until somebody looks for it.
        """
        transaction = self.transaction_on(connection)
        if transaction is not None:
            if self._is_outboxs(connection, transaction):
                transaction.write(lambda: dbapi_connection(connection))
            # Of several connections the first that ends: nothing may commit before.
            transaction.hold_off()

    def _is_outboxs(
        self, connection: Connection, transaction: TransactionIntents
    ) -> bool:
        bind = self.engine()
        if bind is not None:
            return connection.engine is bind
        return (
            not isinstance(transaction, SessionTransaction)
            or transaction.connections == 1
        )


def _begin_before_savepoint(connection: Connection, name: str | None) -> None:
    """Have SQLite begin a transaction, where the driver has not done so yet.

    A savepoint outside of one is one itself, and its release commits: then a rollback
    of the session would forget the invalidations of data that is durable.
    """
    driver = find_driver(dbapi_connection(connection))
    if isinstance(driver, SQLiteConnection) and driver.begins_late():
        driver.begin()
