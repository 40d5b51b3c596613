"""The models whose changes invalidate something, and what tells of their changes."""

from __future__ import annotations

import weakref
from typing import Any, Callable

from sqlalchemy import event, inspect
from sqlalchemy.engine import Connection
from sqlalchemy.orm import Session, object_session

from hydracache_sync.integrations.sqlalchemy.model_intents import ModelIntents
from hydracache_sync.integrations.sqlalchemy.session import (
    SessionState,
    SessionTransaction,
)
from hydracache_sync.integrations.sqlalchemy.transaction import TransactionIntents
from hydracache_sync.integrations.sqlalchemy.unattached import followed_transactions
from hydracache_sync.intents import InvalidationIntent
from hydracache_sync.printable import printable_logger

logger = printable_logger(__name__)


class WatchedModels:
    """The models of one attach. Thread-safe."""

    def __init__(self) -> None:
        self._models: list[tuple[type, ModelIntents]] = []
        self._of_table: dict[str, tuple[InvalidationIntent, ...]] = {}
        #: What has been complained of: models, and names of entities.
        self._said_of: set[Any] = set()

    def watch(
        self,
        model: type,
        intents: ModelIntents,
        transaction_on: Callable[[Connection], TransactionIntents | None],
    ) -> None:
        """Add ``intents`` of each object that changes to the transaction it is in.

        :param transaction_on: returns that of a connection, None if it is not followed.
        """
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
            transaction = transaction_on(connection)
            if transaction is not None:
                transaction.add(*intents.of_object(target, keys))
            else:
                self._warn_of_unattached(model, object_session(target), connection)

        event.listen(model, "after_insert", inserted, propagate=True)
        event.listen(model, "before_update", updates, propagate=True)
        event.listen(model, "after_update", updated, propagate=True)
        event.listen(model, "after_delete", deleted, propagate=True)

    def of_instance(self, instance: object) -> list[tuple[type, ModelIntents]]:
        """The models that ``instance`` is an object of, and their intents."""
        return [each for each in self._models if isinstance(instance, each[0])]

    def add_statement(self, transaction: TransactionIntents, context: Any) -> None:
        """Add what an INSERT, UPDATE or DELETE invalidates, by the table it changes."""
        compiled = getattr(context, "compiled", None)
        table = getattr(getattr(compiled, "statement", None), "table", None)
        if not self._models or table is None:
            return
        transaction.add(*self._intents_of(table))
        if not _is_of_objects(transaction, context):
            for entity in self._entities_of(table):
                transaction.changed_in_bulk(entity, table.key)

    def warn_of_bulk(self, transaction: TransactionIntents) -> None:
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
        if any(isinstance(each, SessionState) for each in session.info.values()):
            return  # another app's, or another outbox's
        if followed_transactions(connection.info):
            return  # another app's, or another outbox's
        self._said_of.add(model)
        logger.warning(
            "a session that is not attached has changed a %s, which is watched: nothing"
            " is invalidated. Make it by what attach() was given, or attach it too",
            model.__name__,
        )

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
    if isinstance(transaction, SessionTransaction):
        session = transaction.session()
        return session is not None and getattr(session, "_flushing", False)
    # Of a session that is not attached itself: a flush brings its mapper's cache.
    return "compiled_cache" in context.execution_options
