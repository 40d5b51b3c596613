"""Clusters: what doctor says of them, and that a failover loses nothing."""

from __future__ import annotations

import pytest
from mysql_databases import Database

from clusters import GaleraNode, sql
from failover import failover
from servers import SQLServer
from test_cli import run

#: A cluster takes half a minute to form on a busy machine.
pytestmark = pytest.mark.timeout(400)

#: Seconds from the name's move to the first row that is carried: a Galera finds out
#: after five that a node was killed; the rest is for a busy machine.
SOON = 40.0

CLUSTERS = [
    pytest.param(
        "galera",
        marks=pytest.mark.needs_server(
            *(["mariadb118"] if not GaleraNode.missing() else ["Galera"])
        ),
    ),
    pytest.param("group", marks=pytest.mark.needs_server("mysql9")),
]


#: What doctor says of a cluster as it is by default, and when it waits for commits.
LATE = {
    "galera": "WARNING  cluster: Galera, wsrep_sync_wait = 0: a loader on another node",
    "group": "WARNING  cluster: group replication, group_replication_consistency = ",
}
WAITS = {
    "galera": "set global wsrep_sync_wait = 1",
    "group": "set global group_replication_consistency = 'BEFORE'",
}


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_failover_of_the_primary_loses_nothing_and_is_over_soon(cluster: str) -> None:
    said: list[str] = []

    def examine(nodes: list[SQLServer]) -> None:
        for setting in (None, WAITS[cluster]):
            if setting:
                sql(nodes[1], setting)
            said.append(run("doctor", outbox=nodes[1].url("mysql")).out)

    result = failover(cluster, seconds=3, seed=20261129, before=examine)

    assert LATE[cluster] in said[0]
    assert "ok       cluster: " in said[1]
    # A secondary of a group takes no writes.
    assert ("takes no writes" in said[0]) == (cluster == "group")
    assert result.good, result
    assert result.committed > 0
    assert result.carried_again < SOON


def test_server_that_is_alone_is_no_cluster(database: Database) -> None:
    assert "cluster" not in run("doctor", outbox=database.server.url("mysql")).out
