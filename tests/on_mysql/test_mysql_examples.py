"""The example app on each MariaDB and MySQL with memcached, as in make demo-mysql."""

from __future__ import annotations

import os

import pytest
from mysql_databases import KINDS, fresh_database

from support.examples import EXAMPLES, check_quickstart
from support.servers import Memcached, SQLServer

WITH_SERVERS = EXAMPLES.parent / "tests" / "support" / "with_servers.py"


@pytest.mark.parametrize("kind", KINDS)
def test_quickstart_runs_on_private_servers(kind: str) -> None:
    check_quickstart(
        [str(WITH_SERVERS), "--server", kind, str(EXAMPLES / "quickstart.py")]
    )


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
