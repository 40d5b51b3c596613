"""Which entities a row of another table concerns: those that it links to.

A row of an association table (``secondary=``) concerns the entities at both of its
ends. A row in a collection of an entity concerns that entity, and when it moves, the
one that it was at before. Told from the relationships of the mapped classes.
"""

from __future__ import annotations

from typing import Any, Iterable, NamedTuple, Sequence

from sqlalchemy import inspect
from sqlalchemy.orm.exc import UnmappedColumnError

from hydracache_sync.integrations.sqlalchemy.model_intents import (
    ModelIntents,
    have_other_texts,
)
from hydracache_sync.integrations.sqlalchemy.statement_rows import changes, named_rows
from hydracache_sync.intents import InvalidationIntent


class Link(NamedTuple):
    """How the rows of a table name an entity.

    :ivar intents: of the entity's model.
    :ivar columns: whose values are the entity's primary key; None if others are.
    :ivar child: mapper of the linking rows; None for those of an association table.
    """

    intents: ModelIntents
    columns: tuple[Any, ...] | None
    child: Any

    def of_keys(self, keys: Iterable[Sequence[Any]]) -> list[InvalidationIntent]:
        """The entities of these keys; those that are NULL link to none."""
        try:
            found = [self.intents.of_entity(key) for key in keys if None not in key]
        except (TypeError, ValueError):
            return self.of_kind()  # an expression of SQL, say
        return [each for each in found if each is not None]

    def of_kind(self) -> list[InvalidationIntent]:
        return [] if self.intents.kind is None else [self.intents.kind]

    def of_statement(
        self, context: Any, *, of_objects: bool
    ) -> list[InvalidationIntent]:
        """What a statement on the linking rows changes."""
        if self.columns is None:
            return self.of_kind()
        if context.isupdate:
            # Where the rows were linked to before is not known.
            moves = self.child is None or changes(context, self.columns)
            return self.of_kind() if moves else []
        keys = named_rows(context, self.columns, of_objects=of_objects)
        return self.of_kind() if keys is None else self.of_keys(keys)

    def of_child(self, child: object, *, updated: bool) -> list[InvalidationIntent]:
        """What the INSERT, UPDATE or DELETE of a linking object changes."""
        state: Any = inspect(child)
        new = state.key is None
        before: list[Sequence[Any]] = []
        after: list[Sequence[Any]] = []
        moved = False
        for column in self.columns or ():
            try:
                name = state.mapper.get_property_by_column(column).key
            except UnmappedColumnError:
                return self.of_kind()
            added, unchanged, deleted = state.attrs[name].history
            moved = moved or bool(added or deleted)
            if new and not added and not unchanged and column.server_default is None:
                added = (None,)
            after.append(added or unchanged or deleted)
            before.append(deleted or unchanged or (added if new else ()))
        if updated and self.columns and not moved:
            return []
        if not before or not all(before) or not all(after):
            return self.of_kind()
        keys = dict.fromkeys(
            tuple(each[0] for each in side) for side in (before, after)
        )
        if any(have_other_texts(self.columns or (), key) for key in keys):
            return self.of_kind()
        return self.of_keys(keys)


def links_to(whole: Any, intents: ModelIntents) -> list[tuple[set[str], Link]]:
    """What links to the entities of a mapper, with the keys of the rows' tables."""
    found = []
    for mapper in whole.registry.mappers if intents.entity is not None else ():
        for each in mapper.relationships:
            if each.parent is not mapper:
                continue
            ends = []
            if _is_of(each.parent, whole):
                ends.append(each.synchronize_pairs)
            if each.secondary is None:
                if not ends or each.direction.name != "ONETOMANY":
                    continue
                tables, child = {table.key for table in each.mapper.tables}, each.mapper
            else:
                tables, child = {each.secondary.key}, None
                if _is_of(each.mapper, whole):
                    ends.append(each.secondary_synchronize_pairs)
            found += [
                (tables, Link(intents, _columns(whole, pairs), child)) for pairs in ends
            ]
    return found


def _is_of(mapper: Any, whole: Any) -> bool:
    return bool(mapper.isa(whole) or whole.isa(mapper))


def may_be_linked(table: Any, whole: Any) -> bool:
    """Whether to look at relationships for a statement on ``table``.

    That configures mappers, which fails, for good, where a program has not imported all
    of its models yet. A foreign key shows that it is worth it.
    """
    if whole.configured:
        return True
    targets = {each.target_fullname.rpartition(".")[0] for each in table.foreign_keys}
    return any(each.key in targets for each in whole.tables)


def _columns(whole: Any, pairs: Sequence[tuple[Any, Any]]) -> tuple[Any, ...] | None:
    """The columns of a linking row that hold the primary key, in its order."""
    linking = {}
    for mapper in whole.self_and_descendants:
        for theirs, column in pairs:
            try:
                linking[mapper.get_property_by_column(theirs)] = column
            except UnmappedColumnError:
                continue  # of another class of the hierarchy, or it is no attribute
    names = {each.key: column for each, column in linking.items()}
    keys = [whole.get_property_by_column(each).key for each in whole.primary_key]
    if not all(key in names for key in keys):
        return None
    return tuple(names[key] for key in keys)
