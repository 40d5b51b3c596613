"""Alembic and Flask-Migrate: the outbox's tables among an app's migrations.

To import it is to have ``op.create_hydracache_outbox`` and what autogenerate does with
the tables. Commits nothing by itself: the statements are run as ``op.execute`` does it.
"""

from __future__ import annotations

from typing import Any, Mapping

from alembic import util
from alembic.autogenerate import comparators, renderers
from alembic.operations import MigrateOperation, Operations
from alembic.operations.ops import CreateTableOp, UpgradeOps

from hydracache_sync.app import settings
from hydracache_sync.integrations.sqlalchemy.tables import OF_OUTBOX, tables
from hydracache_sync.outbox.schema import (
    DEFAULT_TABLE,
    drop_statements,
    install_statements,
    table_names,
)

__all__ = ["include_name", "tables"]


def include_name(
    name: str | None,
    type_: str,
    parent_names: Mapping[str, str | None],
    *,
    table: str = DEFAULT_TABLE,
) -> bool:
    """For ``context.configure``: have autogenerate leave the outbox's tables alone.

    For an app that has not called ``tables``; with both, the tables are made again in
    each revision.

    :param table: ``HYDRACACHE_TABLE``, by ``functools.partial``.
    """
    return type_ != "table" or name not in table_names(table)


class _OfOutbox(MigrateOperation):  # type: ignore[misc]
    """An operation on all tables of one outbox."""

    name = ""

    def __init__(self, table: str = DEFAULT_TABLE) -> None:
        self.table = settings.TABLE.parse(table)

    @classmethod
    def run(cls, operations: Operations, *, table: str = DEFAULT_TABLE) -> None:
        operations.invoke(cls(table))


class CreateOutbox(_OfOutbox):
    """Make what is missing of the tables; harmless to repeat, and by several at once.

    ``op.create_hydracache_outbox(table=...)``; it runs what ``hydracache schema show``
    prints, in the transaction of the migration where the database has one for DDL.

    :raises ValueError: no table's name, or a database that has no outbox.
    """

    name = "create_hydracache_outbox"

    def reverse(self) -> DropOutbox:
        return DropOutbox(self.table)


class DropOutbox(_OfOutbox):
    """Drop the tables, and the rows that were not applied yet.

    ``op.drop_hydracache_outbox(table=...)``; harmless to repeat.
    """

    name = "drop_hydracache_outbox"

    def reverse(self) -> CreateOutbox:
        return CreateOutbox(self.table)


def _create(operations: Operations, operation: CreateOutbox) -> None:
    dialect = operations.get_context().dialect.name
    for statement in install_statements(dialect, operation.table):
        operations.execute(statement)


def _drop(operations: Operations, operation: DropOutbox) -> None:
    for statement in drop_statements(operation.table):
        operations.execute(statement)


def _render(context: Any, operation: _OfOutbox) -> str:
    table = "" if operation.table == DEFAULT_TABLE else f"table={operation.table!r}"
    return f"op.{operation.name}({table})"


def _as_one(context: Any, upgrade_ops: UpgradeOps, schemas: Any) -> None:
    """Have autogenerate make an outbox by its own operation.

    A table that is made by itself has not the row of its version.
    """
    outbox_of = {
        each.name: each.info[OF_OUTBOX]
        for each in context.sorted_tables
        if OF_OUTBOX in each.info
    }
    for table in dict.fromkeys(outbox_of.values()):
        of_it = [
            each
            for each in upgrade_ops.ops
            if outbox_of.get(getattr(each, "table_name", None)) == table
        ]
        made = [each for each in of_it if isinstance(each, CreateTableOp)]
        # With the outbox's own table there, the downgrade is not to drop it.
        if table in [each.table_name for each in made]:
            kept = [each for each in upgrade_ops.ops if each not in of_it]
            upgrade_ops.ops[:] = [*kept, CreateOutbox(table)]


for _operation, _run in ((CreateOutbox, _create), (DropOutbox, _drop)):
    Operations.register_operation(_operation.name, "run")(_operation)
    Operations.implementation_for(_operation)(_run)
    renderers.dispatch_for(_operation)(_render)

# After the one that finds the tables; before 1.18 that was the order they are added in.
_priority = getattr(util, "DispatchPriority", None)
comparators.dispatch_for(
    "schema", **({} if _priority is None else {"priority": _priority.LAST})
)(_as_one)
