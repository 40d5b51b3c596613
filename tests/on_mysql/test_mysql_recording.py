"""The outbox of an app's tests on connections of each driver of MySQL."""

from __future__ import annotations

from contextlib import closing

import pytest
from mysql_callers import CALLERS, Caller
from mysql_databases import Database

from hydracache_sync import InvalidationIntentBatch, NotInTransactionError
from hydracache_sync.testing import Invalidations


@pytest.fixture(params=CALLERS, ids=lambda caller: caller.name)
def caller(request: pytest.FixtureRequest) -> Caller:
    return request.param


@pytest.mark.parametrize("autocommit", [False, True], ids=["off", "BEGIN"])
def test_what_was_not_rolled_back_counts(
    database: Database, caller: Caller, autocommit: bool
) -> None:
    database.sql("create table app (id integer primary key) engine=InnoDB")
    seen = Invalidations()
    with closing(caller.connect(database, autocommit=autocommit)) as connection:
        with pytest.raises(NotInTransactionError):
            if not autocommit:
                raise NotInTransactionError("its next statement begins one")
            seen.outbox.enqueue_in(
                connection, "shop", InvalidationIntentBatch().flush()
            )
        for key, ends in (
            ("committed", ["commit"]),
            ("rolled back", ["rollback"]),
            ("savepoint rolled back", ["rollback to app", "commit"]),
            ("savepoint kept, transaction open", ["release savepoint app"]),
        ):
            caller.execute(connection, "begin")
            caller.execute(connection, "savepoint app")
            batch = InvalidationIntentBatch().invalidate_key(key)
            seen.outbox.enqueue_in(connection, "shop", batch)
            for end in ends:
                caller.execute(connection, end)

        values = [intent.value for intent in seen.intents]

    assert values == ["committed", "savepoint kept, transaction open"]


@pytest.mark.parametrize(
    "caller",
    # It cannot tell whether a transaction is open, so the look's is left as it is.
    [each for each in CALLERS if each.name != "mysqlclient"],
    ids=lambda caller: caller.name,
)
def test_a_look_begins_no_snapshot(database: Database, caller: Caller) -> None:
    database.sql("create table app (id integer primary key) engine=InnoDB")
    seen = Invalidations()
    with closing(caller.connect(database)) as connection:
        caller.execute(connection, "insert into app values (1)")
        seen.outbox.enqueue_in(
            connection, "shop", InvalidationIntentBatch().invalidate_key("a")
        )
        connection.commit()

        seen.assert_invalidated(key="a")
        database.sql("insert into app values (2)")

        found = caller.execute(connection, "select count(*) from app")
        assert [tuple(row) for row in found] == [(2,)]
