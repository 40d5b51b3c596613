"""Events of ORM sessions: their begins, their savepoints and their ends."""

from __future__ import annotations

import weakref
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import UnboundExecutionError
from sqlalchemy.orm import Session

from hydracache_sync.errors import ConfigurationError
from hydracache_sync.integrations.sqlalchemy.followed import Followed
from hydracache_sync.integrations.sqlalchemy.session import (
    SessionState,
    SessionTransaction,
)
from hydracache_sync.integrations.sqlalchemy.unattached import dbapi_connection
from hydracache_sync.printable import printable_logger
from hydracache_sync.snapshots import NEVER

logger = printable_logger(__name__)


class SessionEvents:
    """Follows the transactions of sessions."""

    def __init__(self, followed: Followed, target: Any) -> None:
        self._followed = followed
        self._home = followed.home
        self._warned = False
        # First of all: who else listens may begin a snapshot.
        event.listen(target, "after_transaction_create", self.begun, insert=True)
        event.listen(target, "after_begin", self.connected, insert=True)
        event.listen(target, "before_commit", self.commits)
        event.listen(target, "after_commit", self.committed, insert=True)
        event.listen(target, "after_transaction_end", self.ended)
        event.listen(target, "detached_to_persistent", self.joined)

    def begun(self, session: Session, transaction: Any) -> None:
        state = self._followed.state(session)
        if transaction.parent is None:
            state.over = False
            state.current = SessionTransaction(self._home, session, state.kept)
            state.current.add(*state.waiting)
            state.waiting.clear()
        elif transaction.nested and state.current is not None:
            state.current.begin_savepoint()

    def connected(
        self, session: Session, transaction: Any, connection: Connection
    ) -> None:
        current, info = self._followed.current(session), connection.info
        if current is None:
            return
        fresh = not _was_given(transaction, connection)
        current.has_connection(fresh=fresh)
        current.of_engine[connection.engine] = connection
        known = self._followed.transaction_on(connection)
        if known is not current:
            before = None if fresh else info.get(self._home)
            if fresh and known is not None:
                known.abandon()
            current.known_to.append((info, before))
            info[self._home] = weakref.ref(current)
        self._followed.watch(connection)

    def commits(self, session: Session) -> None:
        if session.in_nested_transaction():
            return
        if not getattr(session, "_flushing", False):
            session.flush()
        current = self._followed.current(session)
        if current is not None:
            current.write(lambda: self._connection_for(session, current))

    def committed(self, session: Session) -> None:
        state = self._followed.state(session)
        if session.in_nested_transaction():
            state.released = True
            return
        current = self._followed.current(session)
        if current is not None:
            state.over = True
            if session.expire_on_commit:
                state.kept.forget()
            elif current.began is not None:
                state.kept.add(current.began)
            self._end(state, committed=True)
            current.after_commit()
            self._followed.remember(session, current)

    def ended(self, session: Session, transaction: Any) -> None:
        state = self._followed.state(session)
        if transaction.parent is None:
            self._end(state, committed=False)
            state.over = False
        elif transaction.nested and state.current is not None:
            state.current.end_savepoint(kept=state.released)
            state.released = False

    def joined(self, session: Session, instance: object) -> None:
        """An object of elsewhere was put into it, with what was read there."""
        self._followed.state(session).kept.add(NEVER)

    def _end(self, state: SessionState, *, committed: bool) -> None:
        current, state.current = state.current, None
        if current is None:
            return
        for info, before in current.known_to:
            if before is None:
                info.pop(self._home, None)
            else:
                info[self._home] = before
        current.end(committed=committed)

    def _connection_for(self, session: Session, current: SessionTransaction) -> Any:
        """The driver's connection to the outbox's database, in this transaction."""
        bind = self._followed.engine()
        engines = list(current.of_engine)
        if bind is not None:
            self._warn_of_others(session, [each for each in engines if each != bind])
            connection = session.connection(bind_arguments={"bind": bind})
        elif len(engines) == 1:
            connection = current.of_engine[engines[0]]
        elif engines:
            raise ConfigurationError(
                f"the session's transaction is in {len(engines)} databases,"
                f" {_names(engines)}: attach it with bind=, the engine of the one that"
                " has the outbox"
            )
        else:
            try:
                connection = session.connection()
            except UnboundExecutionError as exc:
                raise ConfigurationError(
                    "the session has used no database yet and has no bind of its own:"
                    " attach it with bind=, the engine of the outbox's database"
                ) from exc
        return dbapi_connection(connection)

    def _warn_of_others(self, session: Session, others: list[Engine]) -> None:
        if not others or session.twophase or self._warned:
            return
        self._warned = True
        logger.warning(
            "a session uses %s too: what it changes there is not committed together"
            " with its invalidations, unless it is made with twophase=True",
            _names(others),
        )


def _was_given(transaction: Any, connection: Connection) -> bool:
    """Whether a session was given a connection, of which nobody knows when it began.

    By ``bind=``, by ``binds=`` or for a statement: it closes only what it has opened.
    """
    known = getattr(transaction, "_connections", {}).get(connection)
    return known is None or known[-1] is not True


def _names(engines: list[Engine]) -> str:
    return ", ".join(repr(engine.url) for engine in engines)
