"""What a program attaches, and what it gets for it."""

from __future__ import annotations

import weakref
from typing import Any, Callable, Iterable, Sequence, Union

from sqlalchemy import inspect
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from hydracache_sync.app import open_transactions
from hydracache_sync.app.standalone_writer import StandaloneWriter
from hydracache_sync.cache.entity_kinds import EntityKinds
from hydracache_sync.cache.tag_sets import several
from hydracache_sync.cache.tagged import TaggedCache
from hydracache_sync.errors import ConfigurationError
from hydracache_sync.integrations.sqlalchemy import unattached
from hydracache_sync.integrations.sqlalchemy.core import EngineEvents
from hydracache_sync.integrations.sqlalchemy.followed import Bind, Followed
from hydracache_sync.integrations.sqlalchemy.model_intents import (
    ModelIntents,
    require_plain_keys,
)
from hydracache_sync.integrations.sqlalchemy.orm import SessionEvents
from hydracache_sync.integrations.sqlalchemy.transaction import Home
from hydracache_sync.integrations.sqlalchemy.watched_models import WatchedModels
from hydracache_sync.integrations.unknown_object import unknown_object
from hydracache_sync.intents import InvalidationIntent
from hydracache_sync.keys import Identity, entity_key
from hydracache_sync.outbox.base import InvalidationOutbox
from hydracache_sync.receipts import InvalidationReceipt

#: What can be attached.
Target = Union[
    Engine, Session, "type[Session]", "sessionmaker[Any]", "scoped_session[Any]"
]

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
        if each.is_of(home, resolved):
            return each
    attached = Attached(home, resolved, bind=bind)
    _all.add(attached)
    home.transactions_are_followed = True
    unattached.listen(attached.models)
    return attached


def intents_of(home: Home, instance: object) -> list[InvalidationIntent]:
    """What a change of ``instance`` invalidates, as watched by what ``home`` attached.

    :raises TypeError: nothing is known of it.
    :raises ValueError: it has no primary key yet.
    """
    return _intents_of(instance, [each for each in list(_all) if each.home is home])


def tag_of(instance: object) -> str:
    """Tag of the entity that an object of a watched model is.

    ``tags=[tag_of(user)]`` is ``tags=[entity_tag("user", user.id)]`` where the model is
    watched as ``entity="user"``.

    :raises TypeError: its class is not watched with ``entity=``, or under several names
        by several attached.
    :raises ValueError: it has no primary key yet: it was not flushed.
    """
    known = [
        found for each in list(_all) for found in each.models.of_instance(instance)
    ]
    # Under the name of its nearest class.
    for kind in type(instance).__mro__:
        named = [
            intents
            for model, intents in known
            if model is kind and intents.entity is not None
        ]
        if named:
            key = _primary_key(instance)
            tags = {
                intent.to_cache_invalidation().value
                for intent in (each.of_entity(key) for each in named)
                if intent is not None
            }
            if len(tags) > 1:
                raise TypeError(
                    f"{kind.__name__} is watched under several names: make the tag by"
                    " entity_tag()"
                )
            [tag] = tags
            assert tag is not None
            return tag
    raise unknown_object(instance)


def _intents_of(
    instance: object, watching: Iterable[Attached]
) -> list[InvalidationIntent]:
    known = [
        intents for each in watching for _, intents in each.models.of_instance(instance)
    ]
    if not known:
        raise unknown_object(instance)
    key = _primary_key(instance)
    return [intent for each in known for intent in each.of_object(instance, [key])]


def _primary_key(instance: object) -> tuple[Any, ...]:
    state: Any = inspect(instance)
    key: tuple[Any, ...] | None = state.identity
    if key is None:
        key = tuple(state.mapper.primary_key_from_instance(instance))
        if None in key:
            raise ValueError(
                f"a {type(instance).__name__} has no primary key yet: flush its session"
                " before"
            )
    return key


class Attached:
    """What was attached: takes intents, maps models, gives receipts. Thread-safe.

    :ivar target: the engine, or what sessions are made of.
    """

    def __init__(self, home: Home, target: Target, *, bind: Bind = None) -> None:
        self._followed = Followed(home, bind)
        self.target = _resolved(target)
        if isinstance(self.target, Engine):
            if bind is not None:
                raise TypeError("an engine needs no bind=")
            EngineEvents(self._followed, self.target)
        else:
            SessionEvents(self._followed, self.target)

    @property
    def home(self) -> Home:
        return self._followed.home

    @property
    def models(self) -> WatchedModels:
        return self._followed.models

    @property
    def kinds(self) -> EntityKinds:
        """The kinds of what is watched, for ``TaggedCache(kinds=...)``; an app's cache
        has them."""
        return self.home.kinds

    def is_of(self, home: Home, target: Any) -> bool:
        """Whether it is what attaching ``target`` to ``home`` has made."""
        return self.target is target and self._followed.home == home

    # Collecting

    def invalidate(
        self,
        owner: Session | scoped_session[Any] | Connection,
        *what: InvalidationIntent | object,
    ) -> None:
        """Have the transaction that is open on ``owner`` write ``what``.

        They go with the savepoint that is open, if it is rolled back. Nothing is
        written unless the transaction is committed.

        :param owner: a session; a connection of Core must have begun a transaction.
        :param what: intents; of an object of a model that is watched here, what its
            change invalidates.
        :raises TypeError, ValueError: nothing is known of one, or it has no key yet.
        """
        checked: list[InvalidationIntent] = []
        for each in what:
            if isinstance(each, InvalidationIntent):
                checked.append(each.checked())
            else:
                checked += _intents_of(each, [self])
        if isinstance(owner, Connection):
            joined = self._followed.transaction_on(owner)
            if joined is None:
                raise ConfigurationError("the connection has no transaction open")
            joined.add(*checked)
            return
        session = _session_of(owner)
        current = self._followed.current(session)
        if current is None:
            self._followed.state(session).waiting += checked
        else:
            current.add(*checked)

    def watch(
        self,
        model: type,
        *,
        entity: str | None = None,
        collections: Sequence[str] = (),
        key: Callable[..., Identity] = entity_key,
        more: Callable[[Any], Iterable[InvalidationIntent]] | None = None,
    ) -> None:
        """Have changes of ``model``'s objects invalidate what shows them.

        An object that is inserted, updated or deleted invalidates its entity and the
        collections; one whose primary key changes, the old entity and the new one. A
        statement that changes the table without objects (bulk, Core, text) invalidates
        the collections and the entities that it names by their keys, or all of them. A
        row that links to an entity invalidates that. Subclasses are included.

        :param entity: name of the entities; None for none.
        :param collections: names of collections that any change touches.
        :param key: makes the key of the primary key's columns. Reads must make the same
            one: ``entity_tag("user", entity_key(42))``.
        :param more: gives further intents for an object, as it is after the change.
        :raises TypeError: without a ``key``, a column of the primary key is of a type
            whose values have no text of their own: not ``str``, ``int`` or ``UUID``.
        """
        if entity is not None and key is entity_key:
            require_plain_keys(model)
        intents = ModelIntents(entity, collections, key=key, more=more)
        if entity is not None:
            self.kinds.add(entity)
        self._followed.models.watch(model, intents)

    # After the commit

    def receipts(
        self, owner: Session | scoped_session[Any] | Connection
    ) -> list[InvalidationReceipt]:
        """Receipts of the last transaction of ``owner`` that wrote and was committed.

        One, unless something was invalidated while it was committed.
        """
        key = owner if isinstance(owner, Connection) else _session_of(owner)
        return [each.receipt for each in self._followed.written.get(key, ())]

    def receipt(
        self, owner: Session | scoped_session[Any] | Connection
    ) -> InvalidationReceipt | None:
        """The last of :meth:`receipts`."""
        receipts = self.receipts(owner)
        return receipts[-1] if receipts else None

    # Reading

    def get_or_load(
        self,
        cache: TaggedCache,
        key: Identity,
        loader: Callable[[], Any],
        **options: Any,
    ) -> Any:
        """As ``cache.get_or_load``, and never less than the open transaction shows.

        A transaction that has changed something neither reads nor fills. For the rest
        make the cache with ``TaggedCache(..., snapshot=snapshot)``.
        """
        if not reads_own_writes():
            return loader()
        tags = self.kinds.completed(several(options.pop("tags", ())))
        return cache.get_or_load(key, loader, tags=tags, **options)


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
