"""The grants of docs/operations/databases.md: enough for each role, none too much."""

from __future__ import annotations

import contextlib
import time
from typing import Callable, Iterator

import pymysql
import pytest
from mysql_databases import Database
from mysql_grants import ROLES, Grant, grant, grants_of, revoke

from hydracache_sync.errors import OutboxError
from hydracache_sync.outbox import MySQLOutbox, privileges
from hydracache_sync.outbox.workers import WorkerBeat
from outbox_contract.common import SHOP, batch_of

BEAT = WorkerBeat("w", "worker", "host", 7, "1", (SHOP,), 1.0, 10.0, 1)

LOGIN = {"password": "se-cret"}


@pytest.fixture
def user(database: Database) -> Iterator[str]:
    """A user without any right yet."""
    name = str(database.name)
    database.sql(f"create user '{name}'@'%' identified by 'se-cret'")
    yield name
    database.sql(f"drop user '{name}'@'%'")


def do_as_writer(outbox: MySQLOutbox, database: Database, user: str) -> None:
    with database.connect(user=user, **LOGIN) as connection:
        connection.begin()
        outbox.enqueue_in(connection, SHOP, batch_of("a", "b", "e"))
        connection.commit()


def do_as_producer(outbox: MySQLOutbox, database: Database, user: str) -> None:
    do_as_writer(outbox, database, user)
    receipt = outbox.enqueue(SHOP, batch_of("c"))
    for _ in range(2):
        with database.connect(user=user, **LOGIN) as connection:
            connection.begin()
            outbox.enqueue_in(connection, SHOP, batch_of("d"), commit_position="tx:7")
            connection.commit()
    assert outbox.status_for_commit(SHOP, receipt.commit_position).pending == 1
    assert outbox.status(SHOP).pending > 0
    assert outbox.publish_commit(receipt) == 1


def do_as_worker(outbox: MySQLOutbox, database: Database, user: str) -> None:
    do_as_producer(outbox, database, user)
    assert outbox.due_namespaces([SHOP]) == [SHOP]
    published, failed, released, dead = outbox.claim(SHOP, "w", limit=4, claim_ttl=30)
    assert outbox.mark_published([published]) == 1
    assert outbox.mark_failed([failed], "e", backoff=0, dead=False) == 1
    assert outbox.release([released]) == 1
    assert outbox.mark_failed([dead], "e", backoff=0, dead=True) == 1
    outbox.escalate(SHOP)
    for _ in range(2):
        outbox.beat(BEAT)
    time.sleep(0.005)
    assert outbox.purge_published(SHOP, older_than=0.001) > 0
    assert outbox.purge_workers(older_than=0.001) == 1


def do_as_operator(outbox: MySQLOutbox, database: Database, user: str) -> None:
    do_as_worker(outbox, database, user)
    outbox.pause(SHOP, "one reason")
    outbox.pause(SHOP, "another")
    assert outbox.paused()[SHOP].reason == "another"
    assert outbox.resume(SHOP)
    [dead] = outbox.dead_letters(SHOP)
    assert outbox.reset_dead_letters(SHOP) == 1
    [row] = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)
    outbox.mark_failed([row], "e", backoff=0, dead=True)
    assert outbox.discard_dead_letters(SHOP, [row.id]) == 1
    assert outbox.missing_rights() == {}


def do_as_installer(outbox: MySQLOutbox, database: Database, user: str) -> None:
    outbox.install_schema()
    outbox.install_schema()
    outbox.check_schema()


DOINGS: dict[str, Callable[..., None]] = {
    "writer": do_as_writer,
    "producer": do_as_producer,
    "worker": do_as_worker,
    "operator": do_as_operator,
    "installer": do_as_installer,
}


@pytest.fixture
def tables(database: Database, user: str) -> Callable[[str], None]:
    """Call it to have what a role finds: the outbox's tables, and one of the app."""

    def make(role: str) -> None:
        database.sql("create table app (id integer primary key)")
        database.sql(f"grant select on `{database.name}`.app to '{user}'@'%'")
        if role != "installer":
            with contextlib.closing(database.outbox()) as outbox:
                outbox.install_schema()

    return make


def attempt(role: str, database: Database, user: str) -> None:
    with contextlib.closing(database.outbox(user=user, **LOGIN)) as outbox:
        DOINGS[role](outbox, database, user)


@pytest.mark.parametrize("role", ROLES)
def test_grants_are_enough_for_the_role(database, user, tables, role):
    tables(role)
    grant(database, user, role)

    attempt(role, database, user)


@pytest.mark.parametrize(
    ("role", "right"),
    [
        pytest.param(role, right, id=f"{role}, {right.verb} {right.on}")
        for role in ROLES
        for right in grants_of(role)
    ],
)
def test_role_cannot_do_without_any_of_its_grants(database, user, tables, role, right):
    tables(role)
    grant(database, user, role)
    revoke(database, user, right)

    with pytest.raises(OutboxError, match="grants|schema install"):
        attempt(role, database, user)


def test_writer_cannot_take_the_last_id(database, user, tables):
    """With it taken no row could be inserted any more, by whomever."""
    tables("writer")
    grant(database, user, "writer")

    with database.connect(user=user, **LOGIN) as connection:
        with pytest.raises(pymysql.OperationalError, match="1143"):
            connection.cursor().execute(
                "insert into hydracache_outbox (id, target_hash, kind, namespace,"
                " commit_position, reason, created_at_ms, at_ms)"
                " values (9223372036854775807, '', '', '', '', '', 0, 0)"
            )

    attempt("writer", database, user)


@pytest.mark.parametrize("role", sorted(privileges.ROLES))
def test_readme_and_doctor_say_the_same(role: str) -> None:
    shown = {
        Grant(right.verb, f"hydracache_outbox{right.suffix}")
        for right in privileges.ROLES[role]
    }

    assert set(grants_of(role)) == shown


def test_every_role_has_grants() -> None:
    assert all(grants_of(role) for role in ROLES)
