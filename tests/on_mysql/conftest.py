"""Servers and databases for the tests on MariaDB and MySQL."""

from __future__ import annotations

import os
from importlib import metadata
from typing import Iterator

import mysql.connector
import pytest
from mysql_databases import KINDS, Database, fresh_database, tls_context_made_once

from support.servers import SQL_SERVERS, MariaDB, SQLServer


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say with which drivers the tests ran: not every Python has them all."""
    names = "PyMySQL", "mysqlclient", "mysql-connector-python"
    drivers = ", ".join(f"{name} {metadata.version(name)}" for name in names)
    in_c = "pure and in C" if mysql.connector.HAVE_CEXT else "pure: no C extension here"
    terminalreporter.write_line(f"drivers: {drivers} ({in_c})")


@pytest.fixture(scope="session")
def mariadb(mariadb: SQLServer) -> Iterator[SQLServer]:
    """The one of the whole suite."""
    with tls_context_made_once():
        yield mariadb


#: One server that is there already takes the place of all others.
SHARED = ["external"] if os.environ.get(SQLServer.variable) else KINDS


@pytest.fixture(scope="session", params=SHARED)
def sql_server(request: pytest.FixtureRequest) -> Iterator[SQLServer]:
    """Each server of this run. A test that kills or pauses one starts its own."""
    if request.param in ("external", MariaDB.of_this_run().kind):
        yield request.getfixturevalue("mariadb")
        return
    with SQL_SERVERS[request.param]() as server, tls_context_made_once():
        yield server


@pytest.fixture
def database(sql_server: SQLServer) -> Iterator[Database]:
    """A database of this test's own, without tables."""
    with fresh_database(sql_server) as database:
        yield database
