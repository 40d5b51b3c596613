"""Which rows a statement of Core names by the values of some columns.

What is not certain is not told: a row that was taken for another would keep its page.
"""

from __future__ import annotations

import uuid
from typing import Any, Iterator, Sequence

from sqlalchemy import Table
from sqlalchemy.sql import operators
from sqlalchemy.sql.elements import BinaryExpression, BindParameter, BooleanClauseList

from hydracache_sync.integrations.sqlalchemy.model_intents import python_type

#: Rows of a statement beyond which one token for all of their kind is cheaper.
MAX_ROWS = 100


def named_rows(
    context: Any, columns: Sequence[Any], *, of_objects: bool = False
) -> list[tuple[Any, ...]] | None:
    """Return the values of ``columns`` in all rows that a statement hits.

    :param of_objects: the values are those of mapped objects, as their tags have them;
        otherwise a text may be another spelling of what the database has.
    :return: None if the statement does not say.
    """
    names = (
        _inserted(context.compiled.statement, columns)
        if context.isinsert
        else _compared(context, columns)
    )
    rows = context.compiled_parameters
    if not names or not 0 < len(rows) <= MAX_ROWS:
        return None
    found = []
    for row in rows:
        if not all(name in row for name in names):
            return None
        found.append(tuple(row[name] for name in names))
    certain = of_objects or all(
        _has_one_text(column, value)
        for row in found
        for column, value in zip(columns, row)
    )
    return list(dict.fromkeys(found)) if certain else None


def changes(context: Any, columns: Sequence[Any]) -> bool:
    """Whether an UPDATE sets one of ``columns``."""
    statement = context.compiled.statement
    values = dict(getattr(statement, "_values", None) or {})
    values.update(getattr(statement, "_ordered_values", None) or {})
    changed = {getattr(each, "key", each) for each in values}
    changed.update(*context.compiled_parameters)
    return any(column.key in changed for column in columns)


def _inserted(statement: Any, columns: Sequence[Any]) -> list[str] | None:
    """Names of the parameters that become these columns of new rows."""
    for what in ("_post_values_clause", "_prefixes", "_multi_values", "select"):
        # An upsert and a REPLACE change other rows.
        found = getattr(statement, what, None)
        if found is not None and found != ():
            return None
    return [column.key for column in columns]


def _compared(context: Any, columns: Sequence[Any]) -> list[str] | None:
    """Names of the parameters that the WHERE asks these columns to equal."""
    if context.isupdate and changes(context, columns):
        return None
    names = {}
    for each in conjuncts(getattr(context.compiled.statement, "_where_criteria", ())):
        if not isinstance(each, BinaryExpression) or each.operator is not operators.eq:
            continue
        table = getattr(each.left, "table", None)
        if isinstance(table, Table) and isinstance(each.right, BindParameter):
            name = context.compiled.bind_names.get(each.right)
            names[table.key, getattr(each.left, "key", None)] = name
    found = [names.get((column.table.key, column.key)) for column in columns]
    return None if None in found else [name for name in found if name is not None]


def conjuncts(criteria: Sequence[Any]) -> Iterator[Any]:
    """The conditions that all have to hold, one by one."""
    for each in criteria:
        if isinstance(each, BooleanClauseList) and each.operator is operators.and_:
            yield from conjuncts(each.clauses)
        else:
            yield each


def _has_one_text(column: Any, value: object) -> bool:
    if value is None:
        return True
    return type(value) in (int, uuid.UUID) and python_type(column) is type(value)
