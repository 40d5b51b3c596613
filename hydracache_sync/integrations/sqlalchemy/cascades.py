"""Which tables a database changes by itself when a row of another one changes.

Told from the foreign keys of the tables: their ``ON DELETE`` and ``ON UPDATE``. What
the mapper of a deleted object has changed itself before, object by object, is left out.
"""

from __future__ import annotations

import re
from typing import Any, Callable, Collection, Iterable

from sqlalchemy import ForeignKeyConstraint, Table

from hydracache_sync.integrations.sqlalchemy.statement_rows import changes, conjuncts

#: What a foreign key has the database do; with others it refuses the statement.
_ACTIONS = frozenset(("CASCADE", "SET NULL", "SET DEFAULT"))

_DELETES = re.compile(r"\b(?:delete|replace)\b", re.IGNORECASE)
_UPDATES = re.compile(r"\bupdate\b", re.IGNORECASE)

#: Whether one of the columns of these names has changed.
_Changed = Callable[[Collection[str]], object]


def _any(names: Collection[str]) -> bool:
    return True


class Cascades:
    """Those among some tables.

    :param is_among: whether a table is one of those with these keys.
    """

    def __init__(
        self, tables: Iterable[Table], is_among: Callable[[Table, set[str]], bool]
    ) -> None:
        self._acting = [
            each
            for table in tables
            for each in table.foreign_key_constraints
            if _acts(each.ondelete) or _acts(each.onupdate)
        ]
        self._is_among = is_among
        self._known: dict[Table, bool] = {}

    def begin_at(self, table: Table) -> bool:
        """Whether a change of ``table`` may change rows that refer to it."""
        known = self._known.get(table)
        if known is None:
            known = any(self._refers(each, table) for each in self._acting)
            self._known[table] = known
        return known

    def of_statement(
        self, context: Any, table: Table, mappers: Iterable[Any]
    ) -> list[ForeignKeyConstraint]:
        """The foreign keys whose rows change with a compiled statement on ``table``.

        :param mappers: those of the objects that it changes, in a flush.
        """
        if not self.begin_at(table):
            return []
        if context.isdelete:
            return self._of_delete(table, seen_to_by(mappers))
        if context.isinsert:
            statement = context.compiled.statement
            if any(_DELETES.search(str(each)) for each, _ in statement._prefixes):
                return self._of_delete(table)
            upserts = getattr(statement, "_post_values_clause", None) is not None
            return self._of_update(table, _any) if upserts else []

        def changed(names: Collection[str]) -> bool:
            columns = [table.c[each] for each in names if each in table.c]
            return len(columns) < len(names) or changes(context, columns)

        return self._of_update(table, changed)

    def of_text(self, statement: str, table: Table) -> list[ForeignKeyConstraint]:
        """Those whose rows may change with a text that names ``table``."""
        found = self._of_delete(table) if _DELETES.search(statement) else []
        return found + (
            self._of_update(table, _any) if _UPDATES.search(statement) else []
        )

    def _of_delete(
        self, table: Table, seen_to: Collection[ForeignKeyConstraint] = ()
    ) -> list[ForeignKeyConstraint]:
        found: list[ForeignKeyConstraint] = []
        pending = [table]
        while pending:
            gone = pending.pop()
            for each in self._acting:
                if not _acts(each.ondelete) or each in seen_to or each in found:
                    continue
                if self._refers(each, gone):
                    found.append(each)
                    if _acts(each.ondelete, among={"CASCADE"}):
                        pending.append(each.table)
        return found

    def _of_update(self, table: Table, changed: _Changed) -> list[ForeignKeyConstraint]:
        found: list[ForeignKeyConstraint] = []
        pending = [(table, changed)]
        while pending:
            parent, changed = pending.pop()
            for each in self._acting:
                if not _acts(each.onupdate) or each in found:
                    continue
                if self._refers(each, parent) and changed(_referred(each)):
                    found.append(each)
                    pending.append((each.table, set(each.column_keys).intersection))
        return found

    def _refers(self, constraint: ForeignKeyConstraint, table: Table) -> bool:
        target = constraint.elements[0].target_fullname.rpartition(".")[0]
        return self._is_among(table, {target})


def seen_to_by(mappers: Iterable[Any]) -> set[ForeignKeyConstraint]:
    """The foreign keys whose rows a mapper loads and changes before it deletes theirs.

    By a relationship that all objects of its hierarchy have, and that leaves nothing to
    the database.
    """
    found: set[ForeignKeyConstraint] = set()
    for mapper in mappers:
        for each in mapper.base_mapper.relationships:
            pairs = each.synchronize_pairs
            if (
                each.direction.name == "MANYTOONE"
                or each.viewonly
                or each.passive_deletes
                or each.lazy == "noload"
                # Further conditions leave out some of the rows.
                or len(list(conjuncts([each.primaryjoin]))) != len(pairs)
            ):
                continue
            columns = {column for _, column in pairs}
            for column in columns:
                found.update(
                    key.constraint
                    for key in column.foreign_keys
                    if set(key.constraint.columns) == columns
                )
    return found


def _referred(constraint: ForeignKeyConstraint) -> frozenset[str]:
    return frozenset(
        each.target_fullname.rpartition(".")[2] for each in constraint.elements
    )


def _acts(action: str | None, *, among: Collection[str] = _ACTIONS) -> bool:
    return action is not None and action.upper() in among
