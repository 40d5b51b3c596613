"""Fixtures for the tests of the integrations."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Iterator

import pytest
from fresh_mariadb import fresh_mariadb
from library import Library
from shop import Shop

from hydracache_sync import MySQLOutbox, SQLiteOutbox
from support.servers import MariaDB


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """A Flask app on a SQLite file with one item, no pool, an in-process cache."""
    return Shop(tmp_path / "shop.db")


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDB]:
    """A MariaDB for all tests, or the server that HYDRACACHE_TEST_MYSQL names."""
    with MariaDB.of_environment() as server:
        yield server


def sqlite_library_on(path: Path) -> Library:
    return Library(f"sqlite:///{path}", lambda table: SQLiteOutbox(path, table=table))


def mariadb_library_on(url: str, options: dict[str, Any]) -> Library:
    return Library(url, lambda table: MySQLOutbox(**options, table=table))


@pytest.fixture(scope="session")
def sqlite_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the tables, to be copied: making it takes longer than most tests."""
    path = tmp_path_factory.mktemp("library") / "empty.db"
    library = sqlite_library_on(path)
    library.install()
    library.close()
    return path


@pytest.fixture(scope="session")
def mariadb_library(mariadb: MariaDB) -> Iterator[tuple[str, dict[str, Any]]]:
    """A database with the tables; the arguments of an engine and of an outbox."""
    with fresh_mariadb(mariadb) as (url, options):
        library = mariadb_library_on(url, options)
        library.install()
        library.close()
        yield url, options


@pytest.fixture(params=["sqlite", "mariadb"])
def library(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Library]:
    """An empty library on each kind of database, nothing attached."""
    if request.param == "sqlite":
        path = tmp_path / "library.db"
        shutil.copyfile(request.getfixturevalue("sqlite_library"), path)
        library = sqlite_library_on(path)
    else:
        url, options = request.getfixturevalue("mariadb_library")
        library = mariadb_library_on(url, options)
        library.empty()
    yield library
    library.close()
