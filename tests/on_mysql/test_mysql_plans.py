"""What every statement reads in a table of many rows: no more than it has to.

The plans are the server's, and it may change its mind with the contents of the table:
how many rows are due, and how many published ones are still in the index because an old
transaction could ask for them.
"""

from __future__ import annotations

import contextlib
from time import monotonic
from typing import Any, Callable, Iterator, Mapping

import pytest
from mysql_databases import fresh_database

from hydracache_sync.outbox import MySQLOutbox
from support.servers import SQLServer
from support.statement_cases import DEAD, FEW, KEPT, MADE, runs


@contextlib.contextmanager
def kept(server: SQLServer, due: int, published: int = 0) -> Iterator[MySQLOutbox]:
    """Fill a table: the first rows are due, the last ones dead, the others published.

    :param published: of the due ones, so many are published before the block, while an
        older transaction is open, which stays so.
    """
    digits = " union all ".join(f"select {n} as d" for n in range(10))
    numbers = " cross join ".join(f"({digits}) as d{n}" for n in range(5))
    number = " + ".join(f"{10 ** n} * d{n}.d" for n in range(5))
    with contextlib.ExitStack() as stack:
        database = stack.enter_context(fresh_database(server))
        outbox = stack.enter_context(contextlib.closing(database.outbox()))
        outbox.install_schema()
        database.sql(
            "insert into hydracache_outbox (target_hash, kind, value, namespace,"
            " commit_position, reason, created_at_ms, at_ms, state)"
            " select unhex(sha2(n, 256)), 'key', concat('key:', n), 'shop',"
            f" concat('tx:', if(n < {KEPT - DEAD}, n, 'dead')), '',"
            f" {MADE} + n, {MADE} + n,"
            f" case when n < {due} then 0 when n < {KEPT - DEAD} then 1 else 2 end"
            f" from (select {number} as n from {numbers}) as numbers order by n"
        )
        database.sql("analyze table hydracache_outbox")
        if published:
            old = stack.enter_context(database.connect())
            old.cursor().execute("select 1 from hydracache_outbox limit 1")
            database.sql(
                f"update hydracache_outbox set state = 1 where id <= {published}"
            )
        yield outbox


def rows_read(cursor: Any) -> int:
    """Rows that the storage engine was asked for on this connection so far."""
    cursor.execute("show session status like 'Handler_read%'")
    return sum(int(value) for _, value in cursor.fetchall())


def excess(
    outbox: MySQLOutbox, entries: Mapping[int, int]
) -> dict[str, tuple[int, int]]:
    """Run each statement; return what read too many rows, how many, and of how many."""
    found = {}
    outbox.due_namespaces(["shop"])  # connects
    # What was used last is lent first: the connection that all of these are run on.
    place = outbox._sessions.connections.take(monotonic() + 10)
    outbox._sessions.connections.put(place)
    connection = place.connection
    cursor = connection.cursor()
    rows_read(cursor)
    before = rows_read(cursor)
    asking = rows_read(cursor) - before

    def reading(name: str, at_most: int, run: Callable[[], Any]) -> None:
        before = rows_read(cursor)
        run()
        read = rows_read(cursor) - before - asking
        if read > at_most:
            found[name] = read, at_most

    # In the question's own form too, from the second time on.
    for namespaces in (["shop"], ["shop", *(f"shop{n}" for n in range(7))]):
        for n in range(2):
            name = f"DUE {n} of {len(namespaces)}"
            reading(name, FEW, lambda: outbox.due_namespaces(namespaces))
    for name, run, at_most in runs(
        outbox, entries, outbox._claims._order.locking(cursor)
    ):
        connection.begin()
        reading(name, at_most, lambda: run(cursor))
        connection.rollback()
    return found


@pytest.mark.parametrize("due", [0, 30_000, KEPT - DEAD])
def test_no_statement_reads_more_than_it_has_to(
    sql_server: SQLServer, due: int
) -> None:
    entries = {0: due, 1: KEPT - DEAD - due, 2: DEAD}
    with kept(sql_server, due) as outbox:
        assert excess(outbox, entries) == {}


@pytest.mark.parametrize("published", [30_000, KEPT - DEAD])
def test_nor_beside_an_old_transaction(sql_server: SQLServer, published: int) -> None:
    # What that transaction could still ask for stays in the index.
    entries = {0: KEPT - DEAD, 1: published, 2: DEAD}
    with kept(sql_server, KEPT - DEAD, published) as outbox:
        assert excess(outbox, entries) == {}
