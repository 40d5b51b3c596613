"""Servers and databases for the tests on MariaDB and MySQL."""

from __future__ import annotations

import os
from importlib import metadata
from typing import Iterator

import mysql.connector
import pytest
from mysql_databases import Database, fresh_database, tls_context_made_once

from servers import MariaDB, MySQL56, SQLServer


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say with which drivers the tests ran: not every Python has them all."""
    names = "PyMySQL", "mysqlclient", "mysql-connector-python"
    drivers = ", ".join(f"{name} {metadata.version(name)}" for name in names)
    in_c = "pure and in C" if mysql.connector.HAVE_CEXT else "pure: no C extension here"
    terminalreporter.write_line(f"drivers: {drivers} ({in_c})")


@pytest.fixture(scope="session")
def mariadb(mariadb: MariaDB) -> Iterator[MariaDB]:
    """The one of the whole suite."""
    with tls_context_made_once():
        yield mariadb


@pytest.fixture(scope="session")
def mysql56() -> Iterator[MySQL56]:
    """A MySQL 5.6 for all tests."""
    if os.environ.get(MySQL56.variable):
        pytest.skip(f"{MySQL56.variable} names the one server of this run")
    unavailable = MySQL56.unavailable()
    if unavailable:
        pytest.skip(unavailable)
    with MySQL56() as server, tls_context_made_once():
        yield server


@pytest.fixture(scope="session", params=["mariadb", "mysql56"])
def sql_server(request: pytest.FixtureRequest) -> SQLServer:
    """Each of the two. A test that kills, pauses or fills one starts its own."""
    server: SQLServer = request.getfixturevalue(request.param)
    return server


@pytest.fixture
def database(sql_server: SQLServer) -> Iterator[Database]:
    """A database of this test's own, without tables."""
    with fresh_database(sql_server) as database:
        yield database
