"""Databases of their own for tests, on a MariaDB or MySQL that many tests share."""

from __future__ import annotations

import contextlib
import secrets
import time
from typing import Any, Callable, Iterator, Sequence

import pymysql
import pytest

from hydracache_sync.outbox import MySQLOutbox
from support.servers import SQL_SERVERS, SQLServer, servers_of_this_run

#: Kinds of servers of this run, that tests may start for themselves.
KINDS: list[Any] = list(servers_of_this_run()) or [
    pytest.param("none", marks=pytest.mark.needs_server(*SQL_SERVERS))
]

#: What a test asks for that needs a MariaDB, or what only MariaDB can.
MARIADBS = ("mariadb", "mariadb118", "mariadb105")


def one_of(*kinds: str) -> str:
    """The first of ``kinds`` that this run has; for tests that need one of them."""
    return next((kind for kind in kinds if kind in servers_of_this_run()), kinds[0])


#: Seconds until an answer of a test's server counts as missing.
PATIENCE = 60.0


@contextlib.contextmanager
def started(kind: str, *arguments: str) -> Iterator[SQLServer]:
    """Start a server of a test's own; end it after the block."""
    with SQL_SERVERS[kind](arguments=arguments) as server, tls_context_made_once():
        yield server


class Database:
    """A database on ``server``, and one connection to look at it from beside."""

    def __init__(self, server: SQLServer, name: str | None) -> None:
        self.server = server
        self.name = name
        self._beside: Any = None

    @property
    def options(self) -> dict[str, Any]:
        """What drivers and MySQLOutbox want to know; the names are the same in all."""
        options = {
            "host": self.server.host,
            "port": self.server.port,
            "user": self.server.user,
            "password": self.server.password,
        }
        return options if self.name is None else {**options, "database": self.name}

    def outbox(self, **options: Any) -> MySQLOutbox:
        return MySQLOutbox(**{**self.options, **options})

    def connect(self, **options: Any) -> Any:
        """Open a PyMySQL connection, as an app would; it closes as a context."""
        return pymysql.connect(
            **{
                **self.options,
                "read_timeout": PATIENCE,
                "charset": "utf8mb4",
                **options,
            }
        )

    def sql(self, statement: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """Run one statement with ``?`` markers, commit, return its rows."""
        if self._beside is None:
            self._beside = self.connect(autocommit=True)
        with self._beside.cursor() as cursor:
            if parameters:
                cursor.execute(statement.replace("?", "%s"), parameters)
            else:
                cursor.execute(statement)
            return list(cursor.fetchall())

    def kill(self, id: int) -> None:
        """Kill the idle connection with this id, and wait until it is gone.

        A statement that comes meanwhile may leave it open in MySQL 5.6, with its locks.
        """
        self.sql(f"kill {id}")
        deadline = time.monotonic() + PATIENCE
        while self.has_connection(id):
            assert time.monotonic() < deadline, f"connection {id} was not killed"
            time.sleep(0.002)

    def has_connection(self, id: int) -> bool:
        where = f"from information_schema.processlist where id = {id}"
        return bool(self.sql(f"select 1 {where}"))

    def close(self) -> None:
        if self._beside is not None:
            self._beside.close()
            self._beside = None


@contextlib.contextmanager
def fresh_database(server: SQLServer, name: str | None = None) -> Iterator[Database]:
    """Make a database without tables; drop it at the end."""
    name = name or "t" + secrets.token_hex(6)
    database = Database(server, name)
    _say(server, f"create database `{name}`")
    try:
        yield database
    finally:
        database.close()
        _say(server, f"drop database `{name}`")


def _say(server: SQLServer, statement: str) -> None:
    # On a connection of its own: the server may be killed between two of them.
    nowhere = Database(server, None)
    with contextlib.closing(nowhere):
        nowhere.sql(statement)


@contextlib.contextmanager
def tls_context_made_once() -> Iterator[None]:
    """Have PyMySQL read the machine's certificates once, not for each connection.

    It tries TLS by default and verifies nothing then; 30 ms for each connection would
    be half of the time of these tests.
    """
    make = pymysql.connections.Connection._create_ssl_ctx
    made: list[Any] = []

    def once(connection: Any, options: Any) -> Any:
        if options != {}:
            return make(connection, options)
        if not made:
            made.append(make(connection, options))
        return made[0]

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(pymysql.connections.Connection, "_create_ssl_ctx", once)
        yield


def spy_on_statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that grows by each statement that PyMySQL sends from now on."""
    statements: list[str] = []
    execute = pymysql.connections.Connection._execute_command

    def spied(connection: Any, command: int, sql: Any) -> None:
        if command == pymysql.constants.COMMAND.COM_QUERY:
            statements.append(
                sql if isinstance(sql, str) else sql.decode(errors="replace")
            )
        execute(connection, command, sql)

    monkeypatch.setattr(pymysql.connections.Connection, "_execute_command", spied)
    return statements


def at_statement(
    monkeypatch: pytest.MonkeyPatch, beginning: str, action: Callable[[], Any]
) -> None:
    """Run ``action`` right before the first statement with this beginning is sent."""
    actions = [action]
    execute = pymysql.connections.Connection._execute_command

    def acting(connection: Any, command: int, sql: Any) -> None:
        if actions and _begins(command, sql, beginning):
            actions.pop()()
        execute(connection, command, sql)

    monkeypatch.setattr(pymysql.connections.Connection, "_execute_command", acting)


def lose_answer_to(monkeypatch: pytest.MonkeyPatch, beginning: str) -> None:
    """Break the connection when the first statement with this beginning is done."""
    losses = [pymysql.OperationalError(2013, "Lost connection to MySQL server")]
    execute = pymysql.connections.Connection._execute_command

    def losing(connection: Any, command: int, sql: Any) -> None:
        execute(connection, command, sql)
        if losses and _begins(command, sql, beginning):
            connection._read_packet()
            connection._force_close()
            raise losses.pop()

    monkeypatch.setattr(pymysql.connections.Connection, "_execute_command", losing)


def interrupt_after(
    monkeypatch: pytest.MonkeyPatch, beginning: str, interrupt: BaseException
) -> None:
    """Raise when the first statement with this beginning was sent, as a signal's
    handler may: its answer is not read."""
    interrupts = [interrupt]
    execute = pymysql.connections.Connection._execute_command

    def interrupted(connection: Any, command: int, sql: Any) -> None:
        execute(connection, command, sql)
        if interrupts and _begins(command, sql, beginning):
            raise interrupts.pop()

    monkeypatch.setattr(pymysql.connections.Connection, "_execute_command", interrupted)


def _begins(command: int, sql: Any, beginning: str) -> bool:
    text = sql if isinstance(sql, str) else sql.decode(errors="replace")
    is_query = command == pymysql.constants.COMMAND.COM_QUERY
    return is_query and text.strip().lower().startswith(beginning)
