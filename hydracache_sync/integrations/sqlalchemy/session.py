"""What is known of one session of the ORM: its transaction, and what it keeps."""

from __future__ import annotations

import weakref
from typing import Any, Iterable

from sqlalchemy.engine import Connection, Engine
from sqlalchemy.orm import Session

from hydracache_sync.app import open_transactions
from hydracache_sync.app.open_transactions import OpenTransaction
from hydracache_sync.integrations.sqlalchemy.transaction import Home, TransactionIntents
from hydracache_sync.integrations.sqlalchemy.unattached import dbapi_connection
from hydracache_sync.intents import InvalidationIntent
from hydracache_sync.snapshots import oldest


class SessionTransaction(TransactionIntents):
    """The transaction of a session; may have connections to several databases."""

    def __init__(self, home: Home, session: Session, kept: KeptObjects) -> None:
        self.session = weakref.ref(session)
        self._kept = kept
        super().__init__(
            home,
            pending=lambda: bool(session.new or session.dirty or session.deleted),
        )
        #: By engine.
        self.of_engine: dict[Engine, Connection] = {}
        #: What connections know of their transaction, and what they knew before.
        self.known_to: list[tuple[Any, Any]] = []

    def since(self) -> float | None:
        # What the session kept it shows in any thread that uses it.
        return oldest(self.began, self._kept.since())

    def outlives_reads(self) -> bool:
        return self._kept.outlives_reads()

    @property
    def connections(self) -> int:
        return len(self.of_engine)

    def read_on(self) -> Iterable[Any]:
        return [dbapi_connection(each) for each in self.of_engine.values()]


class KeptObjects(OpenTransaction):
    """What a session serves from its memory and has not read in its transaction.

    With ``expire_on_commit=False`` its objects are as old as the transaction that has
    loaded them: whoever asks for one by its key gets it without a statement. Of one
    that was put into it, by ``add`` or ``merge(load=False)``, nobody knows the age.
    """

    def __init__(self, session: Session) -> None:
        self._session = weakref.ref(session)
        self._since: float | None = None

    def has_changes(self) -> bool:
        return False  # what changes an object begins a transaction

    def outlives_reads(self) -> bool:
        return self.since() is not None

    def since(self) -> float | None:
        session = self._session()
        if session is None or not len(session.identity_map):
            self._since = None
        return self._since

    def forget(self) -> None:
        """A commit expires all of them."""
        self._since = None

    def add(self, began: float) -> None:
        """A transaction that began then is over, and the session keeps its objects."""
        session = self._session()
        if session is None or not len(session.identity_map):
            return
        self._since = oldest(self.since(), began)
        open_transactions.keep(self)


class SessionState:
    """What is known of one session.

    :ivar waiting: given before its transaction has begun.
    :ivar released: the savepoint that is ending was released.
    :ivar over: the transaction that is ending was committed.
    """

    def __init__(self, session: Session) -> None:
        self.current: SessionTransaction | None = None
        self.kept = KeptObjects(session)
        self.waiting: list[InvalidationIntent] = []
        self.released = False
        self.over = False
