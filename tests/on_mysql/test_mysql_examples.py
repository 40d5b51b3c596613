"""The example app on MariaDB and MySQL 5.6 with memcached, as in make demo-mysql."""

from __future__ import annotations

import os

import pytest
from mysql_databases import fresh_database

from servers import Memcached, MySQL56, SQLServer
from test_examples import EXAMPLES, check_quickstart

WITH_SERVERS = EXAMPLES.parent / "tests" / "with_servers.py"


@pytest.mark.parametrize("options", [[], ["--mysql56"]], ids=["MariaDB", "MySQL 5.6"])
def test_quickstart_runs_on_private_servers(options: list[str]) -> None:
    unavailable = MySQL56.unavailable()
    if options and unavailable:
        pytest.skip(unavailable)

    check_quickstart([str(WITH_SERVERS), *options, str(EXAMPLES / "quickstart.py")])


def test_quickstart_runs_twice_on_servers_that_are_there(
    sql_server: SQLServer, memcached: Memcached
) -> None:
    with fresh_database(sql_server) as database:
        environment = {
            **os.environ,
            "HYDRACACHE_OUTBOX": sql_server.url(str(database.name)),
            "HYDRACACHE_MEMCACHED": memcached.address,
        }
        for _ in range(2):
            check_quickstart([str(EXAMPLES / "quickstart.py")], env=environment)

        tables = {table for (table,) in database.sql("show tables")}

    assert tables >= {"hydracache_outbox", "hydracache_outbox_schema"}
    assert "app_users" not in tables
