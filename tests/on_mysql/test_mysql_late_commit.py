"""Inline publishing while the COMMIT is still on its way to the server.

Its sender has lost the connection and opened another, as apps and their pools do. That
the connection has no transaction open then says nothing of the one before.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from typing import Any, Callable, Iterator

import pytest
from late_requests import LateLink
from mysql_callers import CALLERS, Caller
from mysql_databases import PATIENCE, Database

from hydracache_sync import MySQLOutbox, OutboxWorker, PublishReport, RecordingApplier
from outbox_contract.common import SHOP, batch_of


def _ping(connection: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        connection.ping(reconnect=True)


def _another(connection: Any) -> None:
    """As a pool does, which puts another connection in the place of a broken one."""
    with contextlib.suppress(Exception):
        connection.close()


#: How an app comes to a new session, by driver.
WAYS: dict[str, dict[str, Callable[[Any], object]]] = {
    "PyMySQL": {
        "ping": _ping,
        "connect": lambda connection: connection.connect(),
        "another": _another,
    },
    "mysqlclient": {"another": _another},
    "mysql-connector-python": {
        "ping": _ping,
        "reconnect": lambda connection: connection.reconnect(),
        "connect": lambda connection: connection.connect(),
        "another": _another,
    },
}
WAYS["mysql-connector-python in C"] = WAYS["mysql-connector-python"]


@pytest.fixture
def outbox(database: Database) -> Iterator[MySQLOutbox]:
    with contextlib.closing(database.outbox()) as outbox:
        outbox.install_schema()
        yield outbox


@pytest.mark.parametrize(
    ("caller", "way"),
    [
        pytest.param(caller, way, id=f"{caller.name}, {way}")
        for caller in CALLERS
        for way in WAYS[caller.name]
    ],
)
def test_a_commit_that_is_still_on_its_way_is_not_taken_for_done(
    outbox: MySQLOutbox, database: Database, caller: Caller, way: str
) -> None:
    applier = RecordingApplier(SHOP)
    worker = OutboxWorker(outbox, applier)
    with LateLink(database.server.host, database.server.port) as link:
        options: dict[str, Any] = {"host": "127.0.0.1", "port": link.port}
        connection = caller.connect(database, **options)
        with contextlib.ExitStack() as ended:
            ended.callback(_another, connection)
            receipt = outbox.enqueue_in(connection, SHOP, batch_of("a"))
            link.hold()
            # The C extension lets an error of its own through.
            with pytest.raises(Exception, match="(?i)connection"):
                connection.commit()
            WAYS[caller.name][way](connection)

            early = worker.publish(receipt)
            known = receipt.is_over
            applied_early = list(applier.applied)
            link.deliver()
            deadline = time.monotonic() + PATIENCE
            while not outbox.status(SHOP).pending:
                assert time.monotonic() < deadline, "the COMMIT did not arrive"
                time.sleep(0.005)
            late = worker.publish(receipt)

    assert (known, applied_early) == (False, [])
    assert early == PublishReport(claimed=1, unseen=1)
    assert late == PublishReport(claimed=1, published=1)
    assert [intent.value for intent in applier.applied] == ["a"]
