"""Clusters: what doctor says of them, and that a failover loses nothing."""

from __future__ import annotations

import contextlib
import time
from typing import Iterator

import pymysql
import pytest
from mysql_databases import Database

from faults.failover import failover
from faults.stale_reads import WAITS as SESSION_WAITS
from faults.stale_reads import Stale
from hydracache_sync import (
    InvalidationIntentBatch,
    MemcachedApplier,
    MemoryStore,
    MySQLOutbox,
    OutboxWorker,
    ReplicaSnapshot,
    TaggedCache,
)
from hydracache_sync.snapshots import NEVER
from support.clusters import (
    GaleraNode,
    catch_up,
    promote,
    replication,
    sql,
    take_writes,
    until,
)
from support.commands import run
from support.servers import SQLServer

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

#: Servers that have replicas here, and what failover.py calls a primary with one.
REPLICATED = [
    pytest.param(kind, marks=pytest.mark.needs_server(kind))
    for kind in ("mariadb", "mysql9")
]
REPLICATIONS = [
    pytest.param("replica", marks=pytest.mark.needs_server("mariadb")),
    pytest.param("replica-mysql9", marks=pytest.mark.needs_server("mysql9")),
]

#: What doctor says of each of the two, and of a replica that takes writes.
PRIMARY = "ok       cluster: asynchronous replicas: 1. Loaders must read this"
REPLICA = "WARNING  cluster: the server takes no writes: it is a replica"
WRITABLE = "WARNING  cluster: the server takes writes and is itself a replica"

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
            said.append(said_of(nodes[1]))
        stale = Stale(nodes[0], nodes[1], SESSION_WAITS[cluster])
        assert stale.count("primary", 10) == 0
        assert stale.count("waiting", 10) == 0
        assert stale.count("heartbeat", 10) == 0
        assert stale.read("heartbeat", 300, 10).stale == 0
        sql(nodes[0], "drop database shop")

    result = failover(cluster, seconds=3, seed=20261129, before=examine)

    assert LATE[cluster] in said[0]
    assert "ok       cluster: " in said[1]
    # A secondary of a group takes no writes.
    assert ("takes no writes" in said[0]) == (cluster == "group")
    assert result.good, result
    assert result.committed > 0
    assert result.carried_again < SOON


def said_of(node: SQLServer) -> str:
    return run("doctor", outbox=node.url("mysql")).out


@pytest.mark.parametrize("cluster", REPLICATIONS)
def test_replica_that_has_caught_up_takes_over_without_a_loss(
    cluster: str,
) -> None:
    said: list[str] = []

    def examine(nodes: list[SQLServer]) -> None:
        # A primary counts a replica from the moment that it asks for the log.
        until(lambda: PRIMARY in said_of(nodes[0]), "doctor's word of the replica")
        said.extend(map(said_of, nodes))

    result = failover(
        cluster,
        seconds=3,
        seed=20261129,
        before=examine,
        after=lambda nodes: said.extend(map(said_of, nodes)),
    )

    assert PRIMARY in said[0] and REPLICA in said[1]
    assert "cluster" not in said[2]
    assert result.good, result
    assert result.committed > 0
    assert result.carried_again < SOON


@pytest.mark.parametrize("cluster", REPLICATIONS[:1])
def test_replica_without_the_last_commits_has_lost_them_whole(
    cluster: str,
) -> None:
    """That is what hydracache flush is for: no row is left that would tell."""
    result = failover(cluster, seconds=3, seed=20261129, lose=1.0)

    assert result.lost
    assert result.consistent, result


@pytest.fixture(scope="module", params=REPLICATED)
def late(request: pytest.FixtureRequest) -> Iterator[list[SQLServer]]:
    """A primary and a replica that is a second late."""
    with replication(request.param, delay=1) as nodes:
        yield nodes


def test_loader_on_a_late_replica_leaves_old_values_and_since_does_not(
    late: list[SQLServer],
) -> None:
    stale = Stale(*late, wait=None)

    assert stale.count("primary", 2) == 0
    assert stale.count("other", 2) == 2
    assert stale.count("since", 2, late=3.0) == 0
    assert stale.count("heartbeat", 2) == 0
    assert stale.read("heartbeat", 300, 10).stale == 0
    sql(late[0], "drop database shop")


def test_heartbeat_of_a_replica_that_loses_the_order_is_not_trusted(
    late: list[SQLServer],
) -> None:
    primary, replica = late
    sql(primary, "create database ordered")
    with contextlib.closing(outbox_on(primary, "ordered")) as outbox:
        outbox.install_schema()
        outbox.write_heartbeat()
    until(lambda: moment_on(replica, "ordered") != NEVER, "the heartbeat")
    if replica.is_mariadb:
        return  # it always keeps the order, but for several domains
    try:
        sql(replica, "stop replica sql_thread")
        sql(replica, "set global replica_preserve_commit_order = OFF")
        sql(replica, "start replica sql_thread")

        assert moment_on(replica, "ordered") == NEVER
    finally:
        sql(replica, "stop replica sql_thread")
        sql(replica, "set global replica_preserve_commit_order = ON")
        sql(replica, "start replica sql_thread")
    assert moment_on(replica, "ordered") != NEVER


def outbox_on(server: SQLServer, name: str) -> MySQLOutbox:
    return MySQLOutbox(
        host=server.host, port=server.port, user="root", database=name, ssl=False
    )


def moment_on(server: SQLServer, name: str) -> float:
    """What a new connection's snapshot says; no database, or no table, is nothing."""
    with pymysql.connect(host=server.host, port=server.port, user="root") as connection:
        return ReplicaSnapshot(connection, table=f"{name}.hydracache_outbox")()


def test_replica_that_takes_over_in_mid_load_leaves_nothing_old() -> None:
    with replication("mariadb") as (primary, replica):
        sql(primary, "create database shop")
        sql(primary, "create table shop.item (name varchar(20))")
        sql(primary, "insert into shop.item values ('old')")
        with contextlib.closing(outbox_on(primary, "shop")) as outbox:
            outbox.install_schema()
            outbox.write_heartbeat()
            catch_up(replica, primary)
            store = MemoryStore()
            cache = TaggedCache(store, "shop", clock_skew=0)
            with pymysql.connect(
                host=replica.host, port=replica.port, user="root"
            ) as connection:
                snapshot = ReplicaSnapshot(
                    connection, table="shop.hydracache_outbox", clock_skew=0
                )

                def load() -> str:
                    with connection.cursor() as cursor:
                        cursor.execute("select name from shop.item")
                        return str(cursor.fetchone()[0])

                def read() -> tuple[str, object]:
                    value = cache.get_or_load("item", load, since=snapshot())
                    return value, cache.get("item")

                load()  # its snapshot is open
                batch = InvalidationIntentBatch().invalidate_key("item")
                with outbox.transaction() as writer:
                    writer.cursor().execute("update shop.item set name = 'new'")
                    receipt = outbox.enqueue_in(writer, "shop", batch)
                worker = OutboxWorker(outbox, MemcachedApplier(store, "shop"))
                assert worker.publish(receipt).complete
                catch_up(replica, primary)
                promote(replica)
                with contextlib.closing(outbox_on(replica, "shop")) as promoted:
                    time.sleep(0.005)  # stamps are cut to the millisecond
                    promoted.write_heartbeat()

                    assert read() == ("old", None)
                    connection.rollback()
                    # The first look has made tokens that are younger.
                    time.sleep(0.005)
                    promoted.write_heartbeat()
                    assert read() == ("new", "new")


def test_login_without_rights_is_told_of_what_it_may_see(
    late: list[SQLServer],
) -> None:
    primary, _ = late
    sql(primary, "create user app@'%' identified by ''")
    sql(primary, "create database app")
    sql(primary, "grant all on app.* to app@'%'")

    said = run("doctor", outbox=f"mysql://app@{primary.address}/app").out

    assert "cluster" not in said
    assert "schema install" in said


def test_doctor_knows_a_replica_that_takes_writes(late: list[SQLServer]) -> None:
    _, replica = late

    take_writes(replica, True)
    said = said_of(replica)
    take_writes(replica, False)

    assert WRITABLE in said


def test_server_that_is_alone_is_no_cluster(database: Database) -> None:
    assert "cluster" not in run("doctor", outbox=database.server.url("mysql")).out
