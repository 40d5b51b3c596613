"""Fixtures for the tests behind real web servers."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Iterator

import pymysql
import pytest
from served_shop import ServedShop

from support.servers import MariaDB, Memcached

# uWSGI has no build for them: nothing to test, and so nothing to skip.
collect_ignore = ["test_uwsgi.py"] if sys.version_info >= (3, 13) else []


@pytest.fixture
def shop(
    mariadb: MariaDB, memcached: Memcached, unique: str, tmp_path: Path
) -> Iterator[ServedShop]:
    """The database and the cache of one app, without a server yet."""
    with pymysql.connect(
        host=mariadb.host,
        port=mariadb.port,
        user=mariadb.user,
        password=mariadb.password,
        ssl_disabled=True,
        autocommit=True,
    ) as connection:
        connection.cursor().execute(f"create database {unique}")
        connection.select_db(unique)
        try:
            shop = ServedShop(
                mariadb.url(unique), connection, memcached, unique, tmp_path
            )
            with contextlib.closing(shop):
                yield shop
        finally:
            connection.cursor().execute(f"drop database {unique}")
