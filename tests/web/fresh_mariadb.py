"""A database of a test's own on the MariaDB that the tests of the integrations share.

Beside tests/on_mysql, whose fixtures need drivers that an old environment has not.
"""

from __future__ import annotations

import contextlib
import secrets
from typing import Any, Iterator

import pymysql

from support.servers import MariaDB


@contextlib.contextmanager
def fresh_mariadb(server: MariaDB) -> Iterator[tuple[str, dict[str, Any]]]:
    """Make a database without tables; drop it at the end.

    :return: its URL for SQLAlchemy, and the arguments of an outbox or of PyMySQL.
    """
    name = "t" + secrets.token_hex(6)
    options = {
        "host": server.host,
        "port": server.port,
        "user": server.user,
        "password": server.password,
    }
    _say(options, f"create database `{name}`")
    try:
        yield (
            f"mysql+pymysql://{server.user}:{server.password}"
            f"@{server.host}:{server.port}/{name}",
            {**options, "database": name},
        )
    finally:
        _say(options, f"drop database `{name}`")


def _say(options: dict[str, Any], statement: str) -> None:
    with contextlib.closing(pymysql.connect(**options)) as connection:
        with connection.cursor() as cursor:
            cursor.execute(statement)
