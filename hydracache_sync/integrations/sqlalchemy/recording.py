"""The statements of an engine, for a recorder of what cached loads read."""

from __future__ import annotations

from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Engine

from hydracache_sync.statement_recorder import StatementRecorder


def record_statements(engine: Engine, recorder: StatementRecorder) -> None:
    """Have ``recorder`` note all that is executed on ``engine``, from now on."""
    name = engine.dialect.name
    dialect = {"mariadb": "mysql", "postgresql": "postgres"}.get(name, name)

    def executes(
        conn: Any, cursor: Any, statement: str, params: Any, context: Any, many: bool
    ) -> None:
        recorder.note(statement, dialect)

    event.listen(engine, "before_cursor_execute", executes)
