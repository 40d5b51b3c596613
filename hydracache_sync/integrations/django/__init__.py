"""Django: an ``atomic`` that writes what it invalidates, and a middleware.

Keeps to Django's order of things: nothing runs between the last statement of an atomic
block and its commit, so the rows are written at the end of the block; ``on_commit`` is
dropped with the savepoint that is rolled back. Commits nothing by itself.
"""

from __future__ import annotations

import contextlib
from typing import Any, Callable, ContextManager, Iterator, Mapping

from django.core import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
    exceptions,
)
from django.db import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
    DEFAULT_DB_ALIAS,
    connections,
    models,
    transaction,
)

from hydracache_sync.app import open_transactions, replica_reads, savepoints
from hydracache_sync.app.context_extension import ContextExtension, Scope
from hydracache_sync.app.extension import ENDED_WITHIN, kept_in_doubt
from hydracache_sync.app.known_connections import KnownReads, LeftOpen
from hydracache_sync.app.request_writes import RequestWrites
from hydracache_sync.drivers import find_driver
from hydracache_sync.integrations.attaching import attach
from hydracache_sync.integrations.attaching import intents_of as intents_of_watched
from hydracache_sync.integrations.django.project import (
    is_installed,
    project_settings,
)
from hydracache_sync.integrations.sql_kind import changes_data
from hydracache_sync.integrations.unknown_object import unknown_object
from hydracache_sync.intents import InvalidationIntent
from hydracache_sync.keys import entity_key, entity_tag
from hydracache_sync.snapshots import LocalMoment, oldest

View = Callable[[Any], Any]


def tag_of(instance: models.Model) -> str:
    """Tag of the entity that an object is: ``entity_tag("shop.user", 42)``.

    Its name is the label of its model in lower case, ``app_label.model``, of a proxy
    that of what it stands for. ``hydracache.invalidate(user)`` names the same.

    :raises TypeError: no object of a model, or one whose primary key is neither text
        nor an integer nor a UUID.
    :raises ValueError: it has no primary key yet: it was not saved; or one that its
        column does not take.
    """
    if not isinstance(instance, models.Model):
        raise unknown_object(instance)
    return entity_tag(*_entity_of(instance, instance._meta.concrete_model))


def _entity_of(instance: Any, model: Any) -> tuple[str, str]:
    """Name and key of ``instance`` as an object of ``model``, or of a parent of it."""
    # Several since Django 5.2.
    fields = getattr(model._meta, "pk_fields", None) or [model._meta.pk]
    # An object keeps what it was given: the text of a UUID has several spellings.
    try:
        columns = [each.to_python(getattr(instance, each.attname)) for each in fields]
    except exceptions.ValidationError as exc:
        raise ValueError(
            f"the primary key of a {type(instance).__name__}: {' '.join(exc.messages)}"
        ) from exc
    if None in columns:
        raise ValueError(
            f"a {type(instance).__name__} has no primary key yet: save it before"
        )
    return model._meta.label_lower, entity_key(*columns)


class _Writes(RequestWrites):
    """All connections of Django's in this thread, by the statements that it sends.

    What goes past Django, by ``connection.connection``, is not seen.
    """

    def __init__(self, *, safe: bool) -> None:
        super().__init__(None, safe=False, followed=True)
        self.checks_loads = not safe
        #: By alias, those that have changed something, or perhaps have.
        self._changed: dict[str, Any] = {}
        #: A transaction was open when the request began, in which it may read.
        self._were_open = False
        #: Connections of which it is not known whether an earlier request has left a
        #: transaction open, with the driver's.
        self._may_be_left_open: list[tuple[Any, Any]] = []

    def know(self, connection: Any) -> None:
        """A driver's connection; those of Django's are known better by themselves."""
        known = connections.all()
        if all(each.connection is not connection for each in known):
            super().know(connection)

    def has_written(self) -> bool | None:
        for alias, connection in list(self._changed.items()):
            if _in_transaction(connection):
                return True
            del self._changed[alias]
        return super().has_written()

    def before_load(self, request_began: float) -> KnownReads:
        reads = super().before_load(request_began)
        if self._were_open:
            opened = LocalMoment.because("transaction", request_began)
            reads.since = oldest(reads.since, opened)
        return reads

    def reads_in_left_open(self) -> bool:
        may_be_open = super().reads_in_left_open()
        return may_be_open or any(
            connection.connection is own for connection, own in self._may_be_left_open
        )

    def _find_left_open(self) -> None:
        """Out of autocommit a SELECT begins a transaction, which a connection that is
        kept for the next request still has. Not all drivers tell."""
        kept = [
            (each, each.connection)
            for each in connections.all()
            if _in_transaction(each) and not each.in_atomic_block
        ]
        self.left_open = LeftOpen(own for _, own in kept)
        for connection, own in kept:
            driver = find_driver(own)
            if driver is None or not driver.tells_snapshots:
                self._may_be_left_open.append((connection, own))

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """See the statements of all connections in the block."""
        self._find_left_open()
        with contextlib.ExitStack() as watched:
            for connection in connections.all():
                self._were_open |= _in_transaction(connection)
                if connection.in_atomic_block:
                    # What was sent before in it, nobody has seen.
                    self._changed[connection.alias] = connection
                watched.enter_context(self._watch(connection))
            yield

    def _watch(self, connection: Any) -> ContextManager[None]:
        def run(
            execute: Callable[..., Any],
            sql: str,
            params: Any,
            many: bool,
            context: dict[str, Any],
        ) -> Any:
            # Of a connection that is looked at before each load.
            open_transactions.note_statement(
                LocalMoment.now(), lambda: connection.connection
            )
            replica_reads.sends(lambda: connection.connection)
            savepoints.note_statement(sql)
            if _in_transaction(connection) and changes_data(str(sql)):
                self._changed[connection.alias] = connection
            return execute(sql, params, many, context)

        watched: ContextManager[None] = connection.execute_wrapper(run)
        return watched


def _in_transaction(connection: Any) -> bool:
    """Whether what is sent stays open until somebody commits it."""
    return connection.connection is not None and (
        connection.in_atomic_block or not connection.autocommit
    )


class HydraCache(ContextExtension):
    """Cache invalidation in the transactions of a Django project.

    One for the project, in a module of its own::

        hydracache = HydraCache()
        middleware = hydracache.middleware     # "shop.cache.middleware" in MIDDLEWARE

    :param config: by default the ``HYDRACACHE_`` names of ``django.conf.settings``.
    """

    attach = attach

    def intents_of(self, instance: object) -> list[InvalidationIntent]:
        """Of an object of a model its entity, and that of each model it inherits from.

        As ``tag_of`` names them; of a model of SQLAlchemy as of a watched one.
        """
        if not isinstance(instance, models.Model):
            return intents_of_watched(self, instance)
        meta = instance._meta
        return [
            InvalidationIntent.entity(*_entity_of(instance, model))
            for model in (meta.concrete_model, *meta.get_parent_list())
        ]

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(
            project_settings() if config is None else config, commands=is_installed()
        )

    def middleware(self, get_response: View) -> View:
        """For ``MIDDLEWARE``, as the first: what views collect is of their request.

        What a view has collected and not written goes out on an own connection when it
        has returned, with a warning that names it.
        """

        def serve(request: Any) -> Any:
            scope = self.begin(request.method, request.path)
            try:
                with self.current(scope):
                    return get_response(request)
            finally:
                scope.end()

        return serve

    def _is_open(self, connection: Any) -> bool | None:
        for each in connections.all():
            if each.connection is connection and each.in_atomic_block:
                return True  # which mysqlclient cannot tell
        return super()._is_open(connection)

    @contextlib.contextmanager
    def current(self, scope: Scope) -> Iterator[None]:
        scope.writes = writes = _Writes(safe=scope.safe)
        with super().current(scope), writes.watching():
            yield

    @contextlib.contextmanager
    def atomic(
        self, using: str = DEFAULT_DB_ALIAS, *, durable: bool = False
    ) -> Iterator[None]:
        """As ``transaction.atomic``; what the block collects is written at its end.

        May be nested in the one and in the other: the rows go with their savepoint, and
        are published, or the pool is woken, after the commit of the outermost. In mode
        ``strict`` that has to be one of these. Works outside of requests, too.

        :param durable: refuse, with Django's ``RuntimeError``, to be nested.
        :raises QuarantineError: in mode ``strict``: memcached could not be told, and
            ``HYDRACACHE_DEGRADE`` is off. All is rolled back.
        """
        with contextlib.ExitStack() as around_all:
            if self.current_scope is None:
                around_all.enter_context(self.collecting())
            collected = self.collected()
            before, earlier = collected.intents, list(collected.written)
            around_all.enter_context(collected.in_block())
            connection = connections[using]
            around_the_commit = around_all.enter_context(contextlib.ExitStack())
            is_outermost = not connection.in_atomic_block
            commits = savepoints.commits()
            try:
                with transaction.atomic(using=using, durable=durable):
                    yield
                    written = self._write(connection.connection)
                    if written is not None:
                        transaction.on_commit(
                            lambda: self.runtime.committed(written), using=using
                        )
                    if is_outermost:
                        around_the_commit.enter_context(
                            self.runtime.quarantine(collected.written)
                        )
            except BaseException:
                if connection.vendor == "mysql" and savepoints.commits() != commits:
                    before = kept_in_doubt(collected, earlier, ENDED_WITHIN)
                self._go_back(collected, before, earlier)
                raise
