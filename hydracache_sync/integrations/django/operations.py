"""The operation of our migrations: the DDL that ``hydracache schema show`` prints."""

from __future__ import annotations

from typing import Any

from django.db import router
from django.db.migrations.operations.base import Operation

from hydracache_sync.integrations.django.project import table_name
from hydracache_sync.outbox.schema import drop_statements, install_statements


class CreateOutbox(Operation):  # type: ignore[misc]
    """Make what is missing of the tables; backwards, drop them with their rows.

    Harmless to repeat, and by several at once. ``sqlmigrate`` prints it. Where a router
    keeps the app from a database it does nothing there, nor in one that has no outbox.
    """

    reduces_to_sql = True

    def state_forwards(self, app_label: str, state: Any) -> None:
        """There are no models of ours."""

    def database_forwards(
        self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any
    ) -> None:
        if self._is_for(app_label, schema_editor):
            vendor = schema_editor.connection.vendor
            for statement in install_statements(vendor, table_name()):
                schema_editor.execute(statement, None)

    def database_backwards(
        self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any
    ) -> None:
        if self._is_for(app_label, schema_editor):
            for statement in drop_statements(table_name()):
                schema_editor.execute(statement, None)

    def _is_for(self, app_label: str, schema_editor: Any) -> bool:
        connection = schema_editor.connection
        allowed: bool = router.allow_migrate(connection.alias, app_label)
        return allowed and connection.vendor in ("sqlite", "mysql")

    def describe(self) -> str:
        return "Create the tables of the outbox"
