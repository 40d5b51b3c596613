"""The models whose changes invalidate something, and what tells of their changes."""

from __future__ import annotations

import re
import sys
import weakref
from typing import Any, Callable, NamedTuple

from sqlalchemy import ForeignKeyConstraint, Table, event, inspect
from sqlalchemy.engine import Connection
from sqlalchemy.orm import object_session

from hydracache_sync.integrations.sql_kind import hides_its_tables
from hydracache_sync.integrations.sqlalchemy import flushes
from hydracache_sync.integrations.sqlalchemy.cascades import Cascades
from hydracache_sync.integrations.sqlalchemy.links import (
    Link,
    links_to,
    may_be_linked,
)
from hydracache_sync.integrations.sqlalchemy.model_intents import (
    ModelIntents,
    have_other_texts,
)
from hydracache_sync.integrations.sqlalchemy.statement_rows import named_rows
from hydracache_sync.integrations.sqlalchemy.transaction import TransactionIntents
from hydracache_sync.intents import InvalidationIntent
from hydracache_sync.printable import printable_logger

logger = printable_logger(__name__)

#: Packages whose frames are not the program's.
_LIBRARIES = frozenset(["flask_sqlalchemy", "hydracache_sync", "sqlalchemy"])


class _Table(NamedTuple):
    """The models that have rows in a table, and those that its rows link to."""

    models: list[tuple[type, ModelIntents]]
    links: list[Link]


class WatchedModels:
    """The models of one attach. Thread-safe.

    :param transaction_on: returns that of a connection, None if it is not followed.
    """

    def __init__(
        self, transaction_on: Callable[[Connection], TransactionIntents | None]
    ) -> None:
        self._transaction_on = transaction_on
        self._models: list[tuple[type, ModelIntents]] = []
        self._tables: dict[str, _Table] = {}
        self._links_to: dict[ModelIntents, list[tuple[set[str], Link]]] = {}
        self._cascades: Cascades | None = None
        self._generation = -1
        #: Classes of linking objects that are listened to.
        self._children: set[tuple[Any, Any]] = set()
        self._told_of_children = -1
        self._said: set[tuple[str, str]] = set()
        flushes.listen(self)

    def watch(self, model: type, intents: ModelIntents) -> None:
        """Add ``intents`` of each object that changes to the transaction it is in."""
        self._models.append((model, intents))
        self._generation = self._told_of_children = -1
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
                columns = inspect(type(target)).primary_key
                if intents.kind and any(have_other_texts(columns, key) for key in keys):
                    transaction.add(intents.kind)

        event.listen(model, "after_insert", inserted, propagate=True)
        event.listen(model, "before_update", updates, propagate=True)
        event.listen(model, "after_update", updated, propagate=True)
        event.listen(model, "after_delete", deleted, propagate=True)

    def before_flush(self) -> None:
        """Be told of the changes of linking objects; mappers are configured by now."""
        if self._told_of_children == flushes.generation():
            return
        self._told_of_children = flushes.generation()
        links = [each for model, to in self._models for each in self._links(model, to)]
        for _, link in links:
            known = link.child, link.intents
            if link.child is not None and known not in self._children:
                self._children.add(known)
                self._listen_to_children(link)

    def _listen_to_children(self, link: Link) -> None:
        def changed(mapper: Any, connection: Connection, target: Any) -> None:
            tell(connection, link.of_child(target, updated=False))

        def updated(mapper: Any, connection: Connection, target: Any) -> None:
            tell(connection, link.of_child(target, updated=True))

        def tell(connection: Connection, intents: list[InvalidationIntent]) -> None:
            transaction = self._transaction_on(connection)
            if transaction is not None:
                transaction.add(*intents)

        child = link.child.class_
        event.listen(child, "after_insert", changed, propagate=True)
        # Twice, as what the database computes is not to be seen after its UPDATE.
        event.listen(child, "before_update", updated, propagate=True)
        event.listen(child, "after_update", updated, propagate=True)
        event.listen(child, "after_delete", changed, propagate=True)

    def of_instance(self, instance: object) -> list[tuple[type, ModelIntents]]:
        """The models that ``instance`` is an object of, and their intents."""
        return [each for each in self._models if isinstance(instance, each[0])]

    def add_statement(
        self, transaction: TransactionIntents, statement: str, context: Any
    ) -> None:
        """Add what a statement that changes something invalidates.

        :param statement: its text.
        """
        if self._models:
            transaction.add(*self._of_statement(statement, context))

    def _of_statement(self, statement: str, context: Any) -> list[InvalidationIntent]:
        """What a statement invalidates, by the table that it changes."""
        table = _changed_table(context)
        if table is None:
            if hides_its_tables(statement):
                self._say_unseen(
                    f"sends {statement.partition('(')[0][:100]!r}, which does not say"
                    " what it changes",
                    "Invalidate it in the same transaction",
                )
            return self._of_text(statement)
        known = self._table(table)
        found = [intent for _, each in known.models for intent in each.of_table]
        flushing = flushes.flushing()
        sender = context.execution_options.get("compiled_cache") if flushing else None
        for model, intents in known.models:
            # Of the objects of a flush their mapper tells.
            if intents.kind is not None and not _is_mappers(sender, inspect(model)):
                found += _of_rows(context, inspect(model), table, intents)
        for link in known.links:
            if link.child is None or not _is_mappers(sender, link.child):
                found += link.of_statement(context, of_objects=flushing)
        head = statement.partition(" SET ")[0] if context.isupdate else ""
        if "," in head:
            found += self._of_text(head)  # MySQL changes several tables at once
        for reached in self._known_cascades().of_statement(
            context, table, self._mappers_of(sender)
        ):
            found += self._of_all(reached.table, reached)
        return found

    def _of_text(self, statement: str) -> list[InvalidationIntent]:
        """What a text invalidates: all of each table whose name is in it."""
        found = []
        for table in self._named_in(statement):
            found += self._of_all(table)
            for reached in self._known_cascades().of_text(statement, table):
                found += self._of_all(reached.table, reached)
        return found

    def _of_all(
        self, table: Table, reached: ForeignKeyConstraint | None = None
    ) -> list[InvalidationIntent]:
        """What the change of any rows of a table invalidates.

        :param reached: they change with the rows that this foreign key refers to, which
            are not told of again.
        """
        models, links = self._table(table)
        found = []
        for link in links:
            if reached is None or set(link.columns or ()) != set(reached.columns):
                found += link.of_kind()
        for _, intents in models:
            found += intents.of_table
            found += [] if intents.kind is None else [intents.kind]
        return found

    def _named_in(self, statement: str) -> list[Table]:
        """The tables whose change invalidates something, and that a text names."""
        cascades = self._known_cascades()
        return [
            table
            for table in self._all_tables()
            if (any(self._table(table)) or cascades.begin_at(table))
            and _names(statement, table)
        ]

    def _all_tables(self) -> list[Table]:
        """Those of watched models, and those that are known beside them."""
        metadatas = {
            table.metadata
            for model, _ in self._models
            for table in _tables_of(model)
            if isinstance(table, Table)
        }
        return [each for known in metadatas for each in known.tables.values()]

    def _known_cascades(self) -> Cascades:
        self._forget_old()
        if self._cascades is None:
            self._cascades = Cascades(self._all_tables(), _is_among)
        return self._cascades

    def _mappers_of(self, compiled_cache: Any) -> list[Any]:
        """The mappers whose objects a statement that was compiled into it changes."""
        if compiled_cache is None:
            return []
        registries: set[Any] = {inspect(model).registry for model, _ in self._models}
        return [
            each
            for known in registries
            for each in known.mappers
            if _is_mappers(compiled_cache, each)
        ]

    def _forget_old(self) -> None:
        """Forget what was found before mappers were configured again."""
        generation = flushes.generation()
        if generation != self._generation:
            self._tables, self._links_to, self._cascades = {}, {}, None
            self._generation = generation

    def _table(self, table: Any) -> _Table:
        self._forget_old()
        known = self._tables.get(table.key)
        if known is None:
            known = self._tables[table.key] = _Table(
                [each for each in self._models if _is_among(table, _keys_of(each[0]))],
                [
                    link
                    for model, intents in self._models
                    if may_be_linked(table, inspect(model))
                    for keys, link in self._links(model, intents)
                    if _is_among(table, keys)
                ],
            )
        return known

    def _links(self, model: type, intents: ModelIntents) -> list[tuple[set[str], Link]]:
        found = self._links_to.get(intents)
        if found is None:
            found = self._links_to[intents] = links_to(inspect(model), intents)
        return found

    def warn_of_unseen(self, statement: str, context: Any) -> None:
        """Say that a statement changes a watched model where no attach follows it."""
        cascades = self._known_cascades()
        table = _changed_table(context)
        if table is not None:
            tables = [table]
            reached = cascades.of_statement(context, table, ())
        else:
            tables = self._named_in(statement)
            reached = [
                key for each in tables for key in cascades.of_text(statement, each)
            ]
        tables = [*tables, *(key.table for key in reached)]
        known = [each for each in tables if any(self._table(each))]
        if known:
            self._say_unseen(
                f"changes table {known[0].key} of a watched model on a connection that"
                " is not attached: nothing is invalidated",
                "Make the session by what attach() was given, or attach the engine too",
            )

    def _say_unseen(self, what: str, advice: str) -> None:
        """Log the place of the program, what it does there and what to do; once."""
        frame = sys._getframe(1)
        while frame.f_back is not None:
            package = frame.f_globals.get("__name__", "").partition(".")[0]
            if package not in _LIBRARIES:
                break
            frame = frame.f_back
        place = f"{frame.f_code.co_filename}:{frame.f_lineno}"
        if (place, what) not in self._said:
            self._said.add((place, what))
            logger.warning("%s %s. %s. Said once of each place", place, what, advice)


def _changed_table(context: Any) -> Any:
    """The table that a compiled statement changes; None if only its text says.

    That of a join, or of a table that is nothing but a name, has no keys to compare.
    """
    compiled = getattr(context, "compiled", None)
    table = getattr(getattr(compiled, "statement", None), "table", None)
    return table if isinstance(table, Table) else None


def _tables_of(model: type) -> set[Any]:
    whole: Any = inspect(model)
    return {table for mapper in whole.self_and_descendants for table in mapper.tables}


def _keys_of(model: type) -> set[str]:
    return {table.key for table in _tables_of(model)}


def _is_among(table: Table, keys: set[str]) -> bool:
    """Whether one of ``keys`` is of this table; one of the two may omit the schema.

    A program may have a second ``Table`` of the same rows, a reflected one say.
    """
    if table.key in keys or table.name in keys:
        return True
    names = {key.rpartition(".")[2] for key in keys}
    return table.schema is None and table.name in names


def _is_mappers(compiled_cache: Any, mapper: Any) -> bool:
    """Whether a statement that was compiled into this cache is of its objects."""
    return compiled_cache is not None and (
        compiled_cache is mapper.base_mapper._compiled_cache
    )


def _of_rows(
    context: Any, mapper: Any, table: Any, intents: ModelIntents
) -> list[InvalidationIntent]:
    """The entities that a statement names by their primary key, or all of them."""
    assert intents.kind is not None
    keys = None
    if all(each.table.key == table.key for each in mapper.primary_key):
        keys = named_rows(context, mapper.primary_key)
    if keys is None or any(None in key for key in keys):
        return [intents.kind]
    return [each for each in map(intents.of_entity, keys) if each is not None]


def _names(statement: str, table: Any) -> bool:
    """Whether a text has the name of a table in it."""
    name = re.escape(table.name)
    return re.search(rf"(?<!\w){name}(?!\w)", statement, re.IGNORECASE) is not None
