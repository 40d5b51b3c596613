"""Logins that read_only does not stop, see docs/operations/databases.md."""

from __future__ import annotations

import contextlib
from typing import Iterator

import pytest
from mysql_databases import KINDS, Database, fresh_database, started

from hydracache_sync import OutboxWorker, ReadOnlyServerError, RecordingApplier
from outbox_contract.common import SHOP, batch_of
from support.commands import run
from support.servers import Memcached, SQLServer

LOGIN = {"user": "privileged", "password": "se-cret"}

#: What each kind of server has of the rights that stand above read_only.
RIGHTS = {
    "mariadb": ["read_only admin"],
    "mariadb118": ["read_only admin"],
    "mariadb105": ["super", "read_only admin"],
    "mysql9": ["super", "connection_admin"],
    "mysql56": ["super"],
}


@contextlib.contextmanager
def read_only(database: Database, variable: str = "read_only") -> Iterator[None]:
    database.sql(f"set global {variable} = 1")
    try:
        yield
    finally:
        database.sql("set global read_only = 0")  # and with it super_read_only


@pytest.fixture(scope="module", params=KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[SQLServer]:
    """One that only these tests make read-only."""
    with started(request.param) as server:
        yield server


@pytest.fixture
def login(server: SQLServer) -> Iterator[Database]:
    """The tables, and a login that may do everything with them and no more."""
    with fresh_database(server) as database:
        with contextlib.closing(database.outbox()) as outbox:
            outbox.install_schema()
        database.sql("create user privileged@'%' identified by 'se-cret'")
        database.sql(f"grant all on `{database.name}`.* to privileged@'%'")
        yield database
        database.sql("drop user privileged@'%'")


def enqueue(database: Database, key: str) -> None:
    with contextlib.closing(database.outbox()) as outbox:
        outbox.enqueue(SHOP, batch_of(key))


def carry(database: Database) -> list[str]:
    """What a worker with the privileged login applies and publishes."""
    applier = RecordingApplier(SHOP)
    with contextlib.closing(database.outbox(**LOGIN)) as outbox:
        report = OutboxWorker(outbox, applier).run_once()
    assert report.published == len(applier.applied)
    return [str(intent.value) for intent in applier.applied]


@pytest.mark.parametrize("right", ["super", "read_only admin", "connection_admin"])
def test_worker_writes_by_a_right_that_stands_above_read_only(
    server: SQLServer, login: Database, memcached: Memcached, right: str
) -> None:
    stands_above = right in RIGHTS[server.kind]
    if right != "super" and not stands_above:
        return  # the server does not know it
    enqueue(login, "a")
    login.sql(f"grant {right} on *.* to privileged@'%'")
    with read_only(login):
        if stands_above:
            assert carry(login) == ["a"]
        else:
            with pytest.raises(ReadOnlyServerError):
                carry(login)

        # What an idle pool asks, and an operator.
        with contextlib.closing(login.outbox(**LOGIN)) as outbox:
            with pytest.raises(ReadOnlyServerError, match="primary"):
                outbox.check_writable()
        url = server.url(str(login.name))
        doctor = run("doctor", "--outbox", url, "--memcached", memcached.address)
        assert "WARNING  cluster: the server takes no writes" in doctor.out


def test_super_read_only_stops_every_login(server: SQLServer, login: Database) -> None:
    if server.kind != "mysql9":
        return  # the server does not have it
    enqueue(login, "a")
    login.sql("grant super, connection_admin on *.* to privileged@'%'")
    with read_only(login, "super_read_only"):
        with pytest.raises(ReadOnlyServerError, match="1290"):
            carry(login)
    assert carry(login) == ["a"]
