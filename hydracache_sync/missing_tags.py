"""Which tables a cached load has read that none of its tags covers.

Reads what a :class:`~hydracache_sync.statement_recorder.StatementRecorder` has written,
and a baseline that says which tags a change of each table invalidates. What cannot be
read is reported, and never passed. Needs sqlglot, the extra ``finder``.
"""

from __future__ import annotations

import configparser
import json
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Iterable

from hydracache_sync.errors import ConfigurationError

#: First words of statements without tables that sqlglot does not take apart.
_NO_TABLES = ("SAVEPOINT", "RELEASE")

SECTIONS = ("tables", "static", "accepted", "unreadable")

#: A parameter of PyMySQL's or Django's, and a percent sign that is none.
_PARAMETER = re.compile(r"%\(\w+\)s|%s|%%")


@dataclass(frozen=True)
class MissingTag:
    """A loader read a table that none of its tags covers.

    :ivar loader: module and name of the function that read it.
    :ivar tags: of one of its loads.
    :ivar known: whether the baseline has the table at all.
    """

    loader: str
    table: str
    tags: tuple[str, ...]
    known: bool

    def __str__(self) -> str:
        tags = ", ".join(self.tags) or "it has none"
        text = f"{self.loader} read table {self.table}, none of its tags covers it: "
        return f"{text}{tags}" + ("" if self.known else "; not in the baseline")


@dataclass(frozen=True)
class MissingTags:
    """What came of a recorded run.

    :ivar statements: different ones that were read.
    :ivar missing: tables without a tag, each once for its loader.
    :ivar unreadable: loader and statement, of what sqlglot could not read and the
        baseline does not accept.
    :ivar unseen: keys whose load ran no statement that was recorded, and no other load.
    """

    statements: int
    missing: tuple[MissingTag, ...]
    unreadable: tuple[tuple[str, str], ...]
    unseen: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether statements were read, and none of them lacks a tag."""
        return bool(self.statements and not self.missing and not self.unreadable)


class Baseline:
    """Which tags cover a table, and what is accepted without.

    :param path: of an INI file: ``[tables]`` has ``table = pattern, pattern``, patterns
        of tags as a shell has them; ``[static]`` a table a line that never changes;
        ``[accepted]`` ``loader = table, table``; ``[unreadable]`` a loader a line,
        whose SQL need not be read. Tables by name, without a schema, in any case.
    :raises ConfigurationError: the file cannot be read, or has another section.
    """

    def __init__(self, path: str | Path) -> None:
        parser = configparser.ConfigParser(
            allow_no_value=True, delimiters=("=",), interpolation=None
        )
        parser.optionxform = str  # type: ignore[assignment,method-assign]
        try:
            with open(path, encoding="utf-8") as file:
                parser.read_file(file)
        except (OSError, ValueError, configparser.Error) as exc:
            raise ConfigurationError(f"baseline {str(path)!r}: {exc}") from exc
        unknown = sorted(set(parser.sections()) - set(SECTIONS))
        if unknown:
            raise ConfigurationError(
                f"baseline {str(path)!r} has {unknown}: allowed are {list(SECTIONS)}"
            )
        tables, static, accepted, unreadable = (
            dict(parser[name]) if parser.has_section(name) else {} for name in SECTIONS
        )
        self._patterns = {name.lower(): _several(tables[name]) for name in tables}
        self._static = {name.lower() for name in static}
        self._accepted = {
            loader: {table.lower() for table in _several(accepted[loader])}
            for loader in accepted
        }
        self._unreadable = set(unreadable)

    def may_be_unread(self, loader: str) -> bool:
        """Whether SQL of ``loader`` that cannot be read is accepted."""
        return loader in self._unreadable

    def knows(self, table: str) -> bool:
        return table in self._patterns

    def covers(self, loader: str, table: str, tags: Iterable[str]) -> bool:
        """Whether a change of ``table`` invalidates an entry with ``tags``."""
        if table in self._static or table in self._accepted.get(loader, ()):
            return True
        patterns = self._patterns.get(table, ())
        return any(fnmatchcase(tag, each) for tag in tags for each in patterns)


def _several(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def find_missing_tags(recorded: str | Path, baseline: str | Path) -> MissingTags:
    """Look for tables without a tag in a file of a recorder; for a test or a command.

    :raises ConfigurationError: a file cannot be read, the first has no load in it, or
        sqlglot is not installed.
    """
    known = Baseline(baseline)
    missing: dict[tuple[str, str], MissingTag] = {}
    unreadable: dict[tuple[str, str], None] = {}
    unseen: dict[str, None] = {}
    tables: dict[tuple[str, str], set[str] | None] = {}
    for record in _records(Path(recorded)):
        loader, sql, tags = record["loader"], record["sql"], tuple(record["tags"])
        if sql is None:
            unseen[record["key"]] = None
            continue
        statement = sql, record["dialect"]
        if statement not in tables:
            tables[statement] = tables_of(*statement)
        found = tables[statement]
        if found is None and not known.may_be_unread(loader):
            unreadable[loader, sql] = None
        for table in sorted(found or ()):
            if not known.covers(loader, table, tags):
                missing.setdefault(
                    (loader, table), MissingTag(loader, table, tags, known.knows(table))
                )
    return MissingTags(
        len(tables), tuple(missing.values()), tuple(unreadable), tuple(unseen)
    )


def _records(path: Path) -> list[dict[str, Any]]:
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, ValueError) as exc:
        raise ConfigurationError(f"{str(path)!r} cannot be read: {exc}") from exc
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            record["loader"], record["key"], record["tags"], record["dialect"]
            record["sql"]
        except (ValueError, TypeError, KeyError) as exc:
            raise ConfigurationError(
                f"{str(path)!r}, line {number}, is no line of a StatementRecorder"
            ) from exc
        records.append(record)
    if not records:
        raise ConfigurationError(f"{str(path)!r} has no load: nothing was recorded")
    return records


def tables_of(sql: str, dialect: str) -> set[str] | None:
    """Return the names of tables that a statement names; None if it cannot be read.

    :raises ConfigurationError: sqlglot is not installed.
    """
    found = _read(sql, dialect)
    if found is None and "%" in sql:
        # As it goes to a driver that puts the values in itself.
        found = _read(_PARAMETER.sub(_as_standard, sql), dialect)
    return found


def _as_standard(found: re.Match[str]) -> str:
    return "%" if found.group() == "%%" else "?"


def _read(sql: str, dialect: str) -> set[str] | None:
    try:
        import sqlglot
        from sqlglot import exp
        from sqlglot.errors import SqlglotError
    except ModuleNotFoundError as exc:
        raise ConfigurationError(
            "sqlglot is missing: install hydracache_sync with its extra 'finder'"
        ) from exc
    if sql.lstrip().upper().startswith(_NO_TABLES) and ";" not in sql:
        return set()
    found: set[str] = set()
    known = exp.Query, exp.DML, exp.Transaction, exp.Commit, exp.Rollback, exp.Pragma
    try:
        for statement in sqlglot.parse(sql, read=dialect):
            if statement is None:
                continue
            if not isinstance(statement, (*known, exp.Set)):
                return None  # an expression, for one, which misspelt SQL may pass for
            for table in statement.find_all(exp.Table):
                if table.name and not _is_cte(table):
                    found.add(table.name.lower())
    except (SqlglotError, ValueError, RecursionError):
        # No SQL of this dialect, or none that sqlglot knows. Reported by the caller.
        return None
    return found


def _is_cte(table: Any) -> bool:
    """Whether a name is that of a ``with`` around it, and no table."""
    from sqlglot import exp

    if table.db or not isinstance(table.this, exp.Identifier):
        return not isinstance(table.this, exp.Identifier)  # a function's rows
    around = [table]
    while around[-1].parent is not None:
        node = around[-1].parent
        clause = node.args.get("with_") or node.args.get("with")
        for cte in clause.expressions if clause is not None else ():
            within = any(each is cte for each in around)
            if cte.alias.lower() == table.name.lower():
                # In its own body the name is that of a table, unless it recurs.
                return bool(not within or clause.args.get("recursive"))
            if within:
                break  # what comes after it, it does not see
        around.append(node)
    return False
