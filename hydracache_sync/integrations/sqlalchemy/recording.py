"""The statements of an engine, for a recorder of what cached loads read."""

from __future__ import annotations

import re
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Engine

from hydracache_sync.statement_recorder import StatementRecorder

#: What stands for a parameter of PyMySQL's, and a percent sign that is none.
_PARAMETER = re.compile(r"%\(\w+\)s|%s|%%")


def record_statements(engine: Engine, recorder: StatementRecorder) -> None:
    """Have ``recorder`` note all that is executed on ``engine``, from now on."""
    name = engine.dialect.name
    dialect = {"mariadb": "mysql", "postgresql": "postgres"}.get(name, name)
    formats = engine.dialect.paramstyle in ("format", "pyformat")

    def executes(
        conn: Any, cursor: Any, statement: str, params: Any, context: Any, many: bool
    ) -> None:
        if formats:
            statement = _PARAMETER.sub(
                lambda found: "%" if found.group() == "%%" else "?", statement
            )
        recorder.note(statement, dialect)

    event.listen(engine, "before_cursor_execute", executes)
