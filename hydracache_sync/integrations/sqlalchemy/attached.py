"""Invalidations in the transactions of SQLAlchemy, 1.4 and 2.x: ORM sessions and Core.

Listens to events and writes, right before a commit, through the connection that is
about to commit: rows and data are one transaction. Commits nothing, and rolls back only
what must not be committed. What belongs to a savepoint that was rolled back is not
written.
"""

from __future__ import annotations

import contextlib
import time
import weakref
from typing import Any, Callable, Iterable, Sequence, Union

from sqlalchemy import event, inspect
from sqlalchemy.engine import Connection, Engine, TwoPhaseTransaction
from sqlalchemy.exc import UnboundExecutionError
from sqlalchemy.orm import Session, object_session, scoped_session, sessionmaker

from hydracache_sync.app import open_transactions
from hydracache_sync.app.open_transactions import OpenTransaction
from hydracache_sync.app.request_state import EnqueuedBatch
from hydracache_sync.app.standalone_writer import StandaloneWriter
from hydracache_sync.cache.tagged import TaggedCache
from hydracache_sync.drivers import find_driver
from hydracache_sync.drivers.sqlite import SQLiteConnection
from hydracache_sync.errors import ConfigurationError
from hydracache_sync.integrations.sqlalchemy import unattached
from hydracache_sync.integrations.sqlalchemy.model_intents import (
    ModelIntents,
    entity_key,
)
from hydracache_sync.integrations.sqlalchemy.transaction import Home, TransactionIntents
from hydracache_sync.integrations.sqlalchemy.unattached import (
    changes_something,
    dbapi_connection,
    has_committed,
)
from hydracache_sync.intents import InvalidationIntent
from hydracache_sync.outbox.base import InvalidationOutbox
from hydracache_sync.printable import printable_logger
from hydracache_sync.receipts import InvalidationReceipt
from hydracache_sync.snapshots import NEVER

__all__ = ["Attached", "Engine", "attach", "entity_key", "reads_own_writes", "snapshot"]

logger = printable_logger(__name__)

#: What can be attached.
Target = Union[
    Engine, Session, "type[Session]", "sessionmaker[Any]", "scoped_session[Any]"
]

#: An engine, or what returns it where it is made later.
Bind = Union[Engine, Callable[[], Engine], None]

snapshot = open_transactions.snapshot


def reads_own_writes() -> bool:
    """Whether this thread's open transactions have changed nothing.

    Otherwise a cached read would show less than they do, and what it loads must not be
    stored: ask the database.
    """
    return not open_transactions.writing()


def attach(
    target: Target,
    outbox: InvalidationOutbox,
    namespace: str,
    *,
    bind: Bind = None,
    cache: TaggedCache | None = None,
) -> Attached:
    """Write the intents of ``target``'s transactions to ``outbox``, in each of them.

    For programs that are no web app; those call ``hydracache.attach(db.session)``.

    :param target: what makes your sessions (``sessionmaker``, ``scoped_session``, a
        class), one session, or an engine if you use Core.
    :param bind: the engine of the outbox's database, or a function that returns it, for
        sessions that use several databases. Intents are atomic with what is written
        through it, and with the rest only in sessions with ``twophase=True``.
    :param cache: of a strict namespace, and needed there: each commit is held off by
        it, or fails with ``QuarantineError`` while memcached is away.
    """
    return attach_to(StandaloneWriter(outbox, namespace, cache), target, bind=bind)


#: Kept alive by what they are attached to.
_all: weakref.WeakSet[Attached] = weakref.WeakSet()


def attach_to(home: Home, target: Target, *, bind: Bind = None) -> Attached:
    """As :func:`attach`, to an app; a second time it returns what the first has made.

    An app factory that attaches may run more than once, and rows would be doubled.
    """
    resolved = _resolved(target)
    for each in list(_all):
        if each.target is resolved and each._home == home:
            return each
    attached = Attached(home, resolved, bind=bind)
    _all.add(attached)
    open_transactions.follow(home)
    unattached.listen()
    return attached


class Attached:
    """What was attached: takes intents, maps models, gives receipts. Thread-safe.

    :ivar target: the engine, or what sessions are made of.
    """

    def __init__(self, home: Home, target: Target, *, bind: Bind = None) -> None:
        self._home = home
        self._bind = bind
        self._models: list[tuple[type, ModelIntents]] = []
        self._of_table: dict[str, tuple[InvalidationIntent, ...]] = {}
        self._watched: weakref.WeakSet[Engine] = weakref.WeakSet()
        self._written: weakref.WeakKeyDictionary[Any, list[EnqueuedBatch]]
        self._written = weakref.WeakKeyDictionary()
        self._said = False
        #: What has been complained of: models, and names of entities.
        self._said_of: set[Any] = set()
        self.target = _resolved(target)
        if isinstance(self.target, Engine):
            if bind is not None:
                raise TypeError("an engine needs no bind=")
            _EngineEvents(self, self.target)
        else:
            _SessionEvents(self, self.target)

    # Collecting

    def invalidate(
        self,
        owner: Session | scoped_session[Any] | Connection,
        *intents: InvalidationIntent,
    ) -> None:
        """Have the transaction that is open on ``owner`` write ``intents``.

        They go with the savepoint that is open, if it is rolled back. Nothing is
        written unless the transaction is committed.

        :param owner: a session; a connection of Core must have begun a transaction.
        """
        checked = [intent.checked() for intent in intents]
        if isinstance(owner, Connection):
            joined = self._transaction_on(owner)
            if joined is None:
                raise ConfigurationError("the connection has no transaction open")
            joined.add(*checked)
            return
        session = _session_of(owner)
        current = self._current(session)
        if current is None:
            self._state(session).waiting += checked
        else:
            current.add(*checked)

    def watch(
        self,
        model: type,
        *,
        entity: str | None = None,
        collections: Sequence[str] = (),
        key: Callable[..., str] = entity_key,
        more: Callable[[Any], Iterable[InvalidationIntent]] | None = None,
    ) -> None:
        """Have changes of ``model``'s objects invalidate what shows them.

        An object that is inserted, updated or deleted invalidates its entity and the
        collections; one whose primary key changes, the old entity and the new one. A
        statement that changes the table without objects (bulk, Core) invalidates the
        collections: which rows it hits is not known. Subclasses are included.

        :param entity: name of the entities; None for none.
        :param collections: names of collections that any change touches.
        :param key: makes the key of the primary key's columns. Reads must make the same
            one: ``entity_tag("user", entity_key(42))``.
        :param more: gives further intents for an object, as it is after the change.
        """
        intents = ModelIntents(entity, collections, key=key, more=more)
        self._models.append((model, intents))
        self._of_table = {}
        updating: weakref.WeakSet[Any] = weakref.WeakSet()

        def inserted(mapper: Any, connection: Connection, target: Any) -> None:
            changed(connection, target, [mapper.primary_key_from_instance(target)])

        def updates(mapper: Any, connection: Connection, target: Any) -> None:
            # What the database computes (``user.visits = User.visits + 1``) is not in
            # the object's history any more when its UPDATE is done.
            if is_modified(target):
                updating.add(inspect(target))

        def updated(mapper: Any, connection: Connection, target: Any) -> None:
            # Told of all that were looked at; most have no change. Asked again, because
            # listeners that came after ours may have changed something, too.
            if inspect(target) in updating or is_modified(target):
                updating.discard(inspect(target))
                keys = [mapper.primary_key_from_instance(target)]
                old = inspect(target).identity
                if old is not None and list(old) != keys[0]:
                    keys.insert(0, old)
                changed(connection, target, keys)

        def deleted(mapper: Any, connection: Connection, target: Any) -> None:
            changed(connection, target, [inspect(target).identity])

        def is_modified(target: Any) -> bool:
            session = object_session(target)
            return session is not None and session.is_modified(target)

        def changed(connection: Connection, target: Any, keys: list[Any]) -> None:
            transaction = self._transaction_on(connection)
            if transaction is not None:
                transaction.add(*intents.of_object(target, keys))
            else:
                self._warn_of_unattached(model, object_session(target), connection)

        event.listen(model, "after_insert", inserted, propagate=True)
        event.listen(model, "before_update", updates, propagate=True)
        event.listen(model, "after_update", updated, propagate=True)
        event.listen(model, "after_delete", deleted, propagate=True)

    # After the commit

    def receipts(
        self, owner: Session | scoped_session[Any] | Connection
    ) -> list[InvalidationReceipt]:
        """Receipts of the last transaction of ``owner`` that wrote and was committed.

        One, unless something was invalidated while it was committed.
        """
        key = owner if isinstance(owner, Connection) else _session_of(owner)
        return [each.receipt for each in self._written.get(key, ())]

    def receipt(
        self, owner: Session | scoped_session[Any] | Connection
    ) -> InvalidationReceipt | None:
        """The last of :meth:`receipts`."""
        receipts = self.receipts(owner)
        return receipts[-1] if receipts else None

    # Reading

    def get_or_load(
        self, cache: TaggedCache, key: str, loader: Callable[[], Any], **options: Any
    ) -> Any:
        """As ``cache.get_or_load``, and never less than the open transaction shows.

        A transaction that has changed something neither reads nor fills. For the rest
        make the cache with ``TaggedCache(..., snapshot=snapshot)``.
        """
        if not reads_own_writes():
            return loader()
        return cache.get_or_load(key, loader, **options)

    # For the events

    def _transaction_on(self, connection: Connection) -> TransactionIntents | None:
        # Kept where clones of a connection find it, too. Weak: what a connection of the
        # driver knows outlives a session that is dropped without an end.
        found: weakref.ref[TransactionIntents] | None
        found = connection.info.get(self._home)
        return None if found is None else found()

    def _current(self, session: Session) -> _OfSession | None:
        """The transaction that is open in ``session``."""
        state = self._state(session)
        if state.current is None and not state.over and session.in_transaction():
            # Attached while it was open: nobody knows since when.
            state.current = _OfSession(self._home, session)
            state.current.has_connection(fresh=False)
        return state.current

    def _remember(self, owner: Any, transaction: TransactionIntents) -> None:
        if transaction.written:
            self._written[owner] = transaction.written

    def _state(self, session: Session) -> _SessionState:
        state: _SessionState | None = session.info.get(self)
        if state is None:
            state = session.info[self] = _SessionState(session)
            if not session.expire_on_commit:
                state.kept.add(NEVER)  # it is not known since when it has what it has
        return state

    def _watch(self, connection: Connection) -> None:
        """Look at the statements of a connection, and be there when it commits."""
        engine = connection.engine
        if engine not in self._watched:
            self._watched.add(engine)
            self._listen(engine)

    def _listen(self, target: Any) -> None:
        event.listen(target, "before_cursor_execute", self._executes)
        event.listen(target, "after_cursor_execute", self._has_executed)
        event.listen(target, "commit", self._commits)
        event.listen(target, "prepare_twophase", self._prepares)
        event.listen(target, "savepoint", _begin_before_savepoint)

    def _executes(
        self,
        connection: Connection,
        cursor: Any,
        statement: str,
        parameters: Any,
        context: Any,
        executemany: bool,
    ) -> None:
        transaction = self._transaction_on(connection)
        if transaction is None:
            return
        if not changes_something(context, statement):
            return
        transaction.changed()
        compiled = getattr(context, "compiled", None)
        table = getattr(getattr(compiled, "statement", None), "table", None)
        if self._models and table is not None:
            transaction.add(*self._intents_of(table))
            if not _is_of_objects(transaction, context):
                for entity in self._entities_of(table):
                    transaction.changed_in_bulk(entity, table.key)

    def _has_executed(
        self,
        connection: Connection,
        cursor: Any,
        statement: str,
        parameters: Any,
        context: Any,
        executemany: bool,
    ) -> None:
        transaction = self._transaction_on(connection)
        if transaction is None or not transaction.has_changed:
            return
        if isinstance(connection.get_transaction(), TwoPhaseTransaction):
            return  # when it is prepared none is open, and it may be rolled back
        if has_committed(dbapi_connection(connection)):
            transaction.is_durable()

    def _intents_of(self, table: Any) -> tuple[InvalidationIntent, ...]:
        """Collections of the models that have rows in ``table``."""
        name = table.key
        found = self._of_table.get(name)
        if found is None:
            found = self._of_table[name] = tuple(
                intent
                for model, intents in self._models
                if name in _tables_of(model)
                for intent in intents.of_table
            )
        return found

    def _entities_of(self, table: Any) -> set[str]:
        """Names of the entities of models that have rows in ``table``."""
        return {
            intents.entity
            for model, intents in self._models
            if intents.entity is not None and table.key in _tables_of(model)
        }

    def _warn_of_bulk(self, transaction: TransactionIntents) -> None:
        """Say, once for each, which entities a commit has changed and not named."""
        for entity, table in transaction.unnamed().items():
            if entity in self._said_of:
                continue
            self._said_of.add(entity)
            logger.warning(
                "a statement without objects has changed table %s, and no entity %s was"
                " invalidated in its transaction: which rows it hit is not known."
                " Invalidate them beside the statement, or read them with a collection"
                " of the model among the tags",
                table,
                entity,
            )

    def _warn_of_unattached(
        self, model: type, session: Session | None, connection: Connection
    ) -> None:
        """Say once that objects of ``model`` were changed where nobody follows."""
        if session is None or model in self._said_of:
            return
        if any(isinstance(each, Attached) for each in session.info) or any(
            isinstance(each(), TransactionIntents)
            for each in connection.info.values()
            if isinstance(each, weakref.ref)
        ):
            return  # another app's, or another outbox's
        self._said_of.add(model)
        logger.warning(
            "a session that is not attached has changed a %s, which is watched: nothing"
            " is invalidated. Make it by what attach() was given, or attach it too",
            model.__name__,
        )

    def _commits(self, connection: Connection) -> None:
        """Write what came after the events of the session that is committing."""
        try:
            self._write_rest(connection)
            self._hold_off(connection)
        except BaseException:
            # SQLAlchemy has let go of the transaction by now: a close() without a
            # rollback would give the connection back with it open, and who gets it
            # next would commit what was refused here.
            with contextlib.suppress(Exception):
                target = dbapi_connection(connection)
                driver = find_driver(target)
                (target.rollback if driver is None else driver.roll_back)()
            raise

    def _prepares(self, connection: Connection, xid: Any) -> None:
        """As :meth:`_commits`; what is prepared must not be refused any more.

        It would stay in the database, with its locks, until somebody looks for it.
        """
        self._write_rest(connection)
        self._hold_off(connection)

    def _write_rest(self, connection: Connection) -> None:
        transaction = self._transaction_on(connection)
        if transaction is not None and self._is_outboxs(connection, transaction):
            transaction.write(lambda: dbapi_connection(connection))

    def _hold_off(self, connection: Connection) -> None:
        """Of several connections the first that ends: nothing may commit before."""
        transaction = self._transaction_on(connection)
        if transaction is not None:
            transaction.hold_off()

    def _is_outboxs(
        self, connection: Connection, transaction: TransactionIntents
    ) -> bool:
        bind = self._engine()
        if bind is not None:
            return connection.engine is bind
        return not isinstance(transaction, _OfSession) or transaction.connections == 1

    def _engine(self) -> Engine | None:
        if self._bind is None or isinstance(self._bind, Engine):
            return self._bind
        return self._bind()


def _resolved(target: Target) -> Engine | Session | type[Session]:
    """What events are told for."""
    made_by: Any = target
    if isinstance(made_by, scoped_session):
        made_by = made_by.session_factory
    if isinstance(made_by, sessionmaker):
        made_by = made_by.class_
    if isinstance(made_by, (Engine, Session)) or (
        isinstance(made_by, type) and issubclass(made_by, Session)
    ):
        return made_by
    raise TypeError(
        "only an engine, a session, or what makes sessions can be attached, not"
        f" {target!r}"
    )


def _session_of(owner: Session | scoped_session[Any]) -> Session:
    if isinstance(owner, scoped_session):
        session: Session = owner()
        return session
    return owner


def _begin_before_savepoint(connection: Connection, name: str | None) -> None:
    """Have SQLite begin a transaction, where the driver has not done so yet.

    A savepoint outside of one is one itself, and its release commits: then a rollback
    of the session would forget the invalidations of data that is durable.
    """
    driver = find_driver(dbapi_connection(connection))
    if isinstance(driver, SQLiteConnection) and driver.begins_late():
        driver.begin()


def _tables_of(model: type) -> set[str]:
    whole: Any = inspect(model)
    return {
        table.key for mapper in whole.self_and_descendants for table in mapper.tables
    }


def _is_of_objects(transaction: TransactionIntents, context: Any) -> bool:
    """Whether a flush sends the statement, so that mappers tell of its objects.

    Or it only makes rows, which nobody has read yet.
    """
    statement = context.compiled.statement
    if context.isinsert and getattr(statement, "_post_values_clause", None) is None:
        return True
    if isinstance(transaction, _OfSession):
        session = transaction.session()
        return session is not None and getattr(session, "_flushing", False)
    # Of a session that is not attached itself: a flush brings its mapper's cache.
    return "compiled_cache" in context.execution_options


class _OfSession(TransactionIntents):
    """Of a session; may have connections to several databases."""

    def __init__(self, home: Home, session: Session) -> None:
        self.session = weakref.ref(session)
        super().__init__(
            home,
            pending=lambda: bool(session.new or session.dirty or session.deleted),
        )
        #: By engine.
        self.of_engine: dict[Engine, Connection] = {}
        #: What connections know of their transaction, and what they knew before.
        self.known_to: list[tuple[Any, Any]] = []

    @property
    def connections(self) -> int:
        return len(self.of_engine)


class _KeptObjects(OpenTransaction):
    """What a session goes on serving from its memory after a commit.

    With ``expire_on_commit=False`` its objects are as old as the transaction that has
    loaded them: whoever asks for one by its key gets it without a statement.
    """

    def __init__(self, session: Session) -> None:
        self._session = weakref.ref(session)
        self._since: float | None = None

    def has_changes(self) -> bool:
        return False  # what changes an object begins a transaction

    def since(self) -> float | None:
        session = self._session()
        if session is None or not len(session.identity_map):
            self._since = None
        return self._since

    def add(self, began: float) -> None:
        """A transaction that began then is over, and the session keeps its objects."""
        session = self._session()
        if session is None or not len(session.identity_map):
            return
        since = self.since()
        self._since = began if since is None else min(since, began)
        open_transactions.keep(self)


class _SessionState:
    """What is known of one session.

    :ivar waiting: given before its transaction has begun.
    :ivar released: the savepoint that is ending was released.
    :ivar over: the transaction that is ending was committed.
    """

    def __init__(self, session: Session) -> None:
        self.current: _OfSession | None = None
        self.kept = _KeptObjects(session)
        self.waiting: list[InvalidationIntent] = []
        self.released = False
        self.over = False


class _SessionEvents:
    """Follows the transactions of sessions."""

    def __init__(self, attached: Attached, target: Any) -> None:
        self._attached = attached
        self._home = attached._home
        # First of all: who else listens may begin a snapshot.
        event.listen(target, "after_transaction_create", self.begun, insert=True)
        event.listen(target, "after_begin", self.connected, insert=True)
        event.listen(target, "before_commit", self.commits)
        event.listen(target, "after_commit", self.committed, insert=True)
        event.listen(target, "after_transaction_end", self.ended)

    def begun(self, session: Session, transaction: Any) -> None:
        state = self._attached._state(session)
        if transaction.parent is None:
            state.over = False
            state.current = _OfSession(self._home, session)
            state.current.add(*state.waiting)
            state.waiting.clear()
        elif transaction.nested and state.current is not None:
            state.current.begin_savepoint()

    def connected(
        self, session: Session, transaction: Any, connection: Connection
    ) -> None:
        current, info = self._attached._current(session), connection.info
        if current is None:
            return
        # Of a connection that was given to the session nobody knows when it began.
        fresh = connection is not session.bind
        current.has_connection(fresh=fresh)
        current.of_engine[connection.engine] = connection
        known = self._attached._transaction_on(connection)
        if known is not current:
            before = None if fresh else info.get(self._home)
            if fresh and known is not None:
                known.abandon()
            current.known_to.append((info, before))
            info[self._home] = weakref.ref(current)
        self._attached._watch(connection)

    def commits(self, session: Session) -> None:
        if session.in_nested_transaction():
            return
        if not getattr(session, "_flushing", False):
            session.flush()
        current = self._attached._current(session)
        if current is not None:
            current.write(lambda: self._connection_for(session, current))

    def committed(self, session: Session) -> None:
        state = self._attached._state(session)
        if session.in_nested_transaction():
            state.released = True
            return
        current = self._attached._current(session)
        if current is not None:
            state.over = True
            if current.began is not None and not session.expire_on_commit:
                state.kept.add(current.began)
            self._attached._warn_of_bulk(current)
            self._end(state, committed=True)
            current.after_commit()
            self._attached._remember(session, current)

    def ended(self, session: Session, transaction: Any) -> None:
        state = self._attached._state(session)
        if transaction.parent is None:
            self._end(state, committed=False)
            state.over = False
        elif transaction.nested and state.current is not None:
            state.current.end_savepoint(kept=state.released)
            state.released = False

    def _end(self, state: _SessionState, *, committed: bool) -> None:
        current, state.current = state.current, None
        if current is None:
            return
        for info, before in current.known_to:
            if before is None:
                info.pop(self._home, None)
            else:
                info[self._home] = before
        current.end(committed=committed)

    def _connection_for(self, session: Session, current: _OfSession) -> Any:
        """The driver's connection to the outbox's database, in this transaction."""
        bind = self._attached._engine()
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
        if not others or session.twophase or self._attached._said:
            return
        self._attached._said = True
        logger.warning(
            "a session uses %s too: what it changes there is not committed together"
            " with its invalidations, unless it is made with twophase=True",
            _names(others),
        )


def _names(engines: list[Engine]) -> str:
    return ", ".join(repr(engine.url) for engine in engines)


class _EngineEvents:
    """Follows the transactions of an engine's connections, for Core.

    A session's own transactions are the session's, where it is attached as well.
    """

    def __init__(self, attached: Attached, engine: Engine) -> None:
        self._attached = attached
        self._home = attached._home
        self._sent = ("hydracache_sync sent", self)
        self._idle = ("hydracache_sync idle", self)
        self._open: weakref.WeakKeyDictionary[Connection, TransactionIntents]
        self._open = weakref.WeakKeyDictionary()
        attached._watched.add(engine)
        event.listen(engine, "checkout", self.taken)
        event.listen(engine, "begin", self.begins)
        event.listen(engine, "begin_twophase", self.begins_twophase)
        event.listen(engine, "savepoint", self.savepoint)
        event.listen(engine, "release_savepoint", self.release)
        event.listen(engine, "rollback_savepoint", self.roll_back_to)
        attached._listen(engine)
        event.listen(engine, "commit", self.commits)
        event.listen(engine, "commit_twophase", self.commits_twophase)
        event.listen(engine, "rollback", self.rolls_back)
        event.listen(engine, "rollback_twophase", self.rolls_back_twophase)
        event.listen(engine, "checkin", self.returned)

    def taken(self, dbapi_connection: Any, record: Any, fairy: Any) -> None:
        record.info[self._idle] = time.time()

    def begins(self, connection: Connection) -> None:
        info = connection.info
        self._after_commit(info)
        # Not now: another listener may have sent the statement that begins it, and in
        # SQLAlchemy 1.4 nobody can ask to be told first.
        transaction = TransactionIntents(self._home, since=info.get(self._idle, NEVER))
        transaction.has_connection()
        self._open[connection] = transaction
        connection.info[self._home] = weakref.ref(transaction)

    def begins_twophase(self, connection: Connection, xid: Any) -> None:
        self.begins(connection)

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

    def commits(self, connection: Connection) -> None:
        transaction = self._own(connection)
        if transaction is None:
            return
        # Nobody tells when it is done; that nothing comes in between is certain.
        del connection.info[self._home]
        connection.info[self._idle] = time.time()
        self._attached._warn_of_bulk(transaction)
        transaction.end(committed=True)
        if transaction.written:
            self._attached._remember(connection, transaction)
            connection.info[self._sent] = transaction

    def commits_twophase(
        self, connection: Connection, xid: Any, is_prepared: bool
    ) -> None:
        self.commits(connection)

    def rolls_back(self, connection: Connection) -> None:
        transaction = self._own(connection)
        if transaction is not None:
            del connection.info[self._home]
            connection.info[self._idle] = time.time()
            transaction.end(committed=False)

    def rolls_back_twophase(
        self, connection: Connection, xid: Any, is_prepared: bool
    ) -> None:
        self.rolls_back(connection)

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
        transaction = self._attached._transaction_on(connection)
        return None if isinstance(transaction, _OfSession) else transaction
