"""What every statement reads in a table of many rows: no more than it has to.

The plans are the server's, and it may change its mind with the contents of the table:
how many rows are due, and how many published ones are still in the index because an old
transaction could ask for them.
"""

from __future__ import annotations

import contextlib
from typing import Any, Iterator, Mapping, NamedTuple, Sequence

import pytest
from mysql_databases import fresh_database

from hydracache_sync.outbox import MySQLOutbox, statements
from servers import SQLServer

KEPT = 100_000

#: Of them, the last ones by their numbers are dead.
DEAD = 1_000

#: Ids in one statement, and rows asked for by those with a limit.
SOME = 10

#: Milliseconds: when the rows were made; long before what the server's clock says.
MADE = 1_700_000_000_000

NAMESPACE = b"shop"

#: Rows that a statement may read in all cases: some for each one it is to find, as
#: an update reads a row again, a sort too, and a range is read to its first stranger.
FEW = 5 * SOME


class Case(NamedTuple):
    """How a statement is run."""

    params: Mapping[str, Any] = {}
    ids: Sequence[Any] = ()
    #: Rows of this state are read all; of a state that the statement chooses itself.
    reads_all_of: int | None = None
    #: Rows that it may read beyond that.
    at_most: int = FEW


IDS = tuple(range(1, SOME + 1))
HASHES = tuple(bytes([n]) * 32 for n in range(SOME))
SHOP = {"namespace": NAMESPACE}
COMMIT = {**SHOP, "position": b"tx:7"}
PATTERN = b"%refused%"

CASES = {
    "CLAIM_PEEK": Case(SHOP),
    "CLAIM_SELECT": Case({**SHOP, "limit": SOME}),
    "CLAIM_UPDATE": Case(
        {"claimed_at_ms": MADE, "until_ms": MADE, "owner": b"w", "token": 7}, IDS
    ),
    "CLAIMED_IDS": Case({"token": 7}, IDS),
    "MARK_PUBLISHED": Case({"token": 7}, IDS),
    "MARK_FAILED": Case({"token": 7, "state": 0, "delay_ms": 1, "error": b""}, IDS),
    "RELEASE": Case({"token": 7, "delay_ms": 1, "error": None}, IDS),
    "PUT_OFF": Case({**SHOP, "from_ms": 0, "pattern": PATTERN, "limit": SOME}),
    "MAKE_DUE": Case({"pattern": PATTERN}, IDS),
    "PUBLISH_COMMIT": Case(COMMIT, HASHES),
    # Two counts, each up to its cap: read, copied and summed up.
    "STATUS": Case({**SHOP, "cap": 1000}, at_most=8 * 1000),
    "STATUS_FOR_COMMIT": Case(COMMIT),
    "STATUS_FOR_TARGETS": Case(COMMIT, HASHES),
    "SEEN": Case(COMMIT),
    "ROW": Case({"id": 7}),
    "ROWS": Case({**SHOP, "after": 7, "limit": SOME}),
    "ROWS_OF_COMMIT": Case({**COMMIT, "state": 0, "after": 7, "limit": SOME}),
    "PUBLISHED_BETWEEN": Case(
        {**SHOP, "from_ms": MADE + 7, "until_ms": MADE + 9, "limit": SOME}
    ),
    "ROWS_BY_ID": Case(SHOP, IDS),
    "NEXT_NAMESPACE": Case({"after": b""}),
    "ALL_NAMESPACES": Case(),
    "NOW": Case(),
    "RESET_DEAD": Case(SHOP, IDS),
    "DISCARD_DEAD": Case(SHOP, IDS),
    "PURGE_SELECT": Case({**SHOP, "age_ms": 1, "limit": SOME}),
    "PURGE_DELETE": Case({}, IDS),
    "PAUSE": Case({**SHOP, "reason": b""}),
    "RESUME": Case(SHOP),
    "PAUSED": Case(),
    "SCHEMA_VERSION_SELECT": Case(),
    "ROWS_OF_STATE": Case(
        {**SHOP, "state": 2, "after": 7, "limit": SOME}, reads_all_of=2
    ),
    "ROW_IDS": Case(
        {**SHOP, "state": 2, "age_ms": None, "pattern": None}, reads_all_of=2
    ),
}


def test_every_statement_has_a_case() -> None:
    templates = {
        name
        for name, text in vars(statements).items()
        if name.isupper() and isinstance(text, str) and not name.startswith("_")
    }
    # Parts of others, and what the outbox puts together.
    parts = {
        "CLAIMED_ATTEMPTS",
        "CLAIMED_ERROR",
        "ANY_PAUSED_BIT",
        "INSERT",
        "ABANDONED",
    }
    assert templates - parts - {"DUE", "DUE_BIT"} == set(CASES)


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
            f" concat('tx:', n), '', {MADE} + n, {MADE} + n,"
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
    """Run each statement; return what read too many rows, and how many, of how many.

    :param entries: of each state, how many rows the index has.
    """
    found = {}
    outbox.due_namespaces(["shop"])  # connects
    connection = outbox._connections.get()
    cursor = connection.cursor()
    rows_read(cursor)
    before = rows_read(cursor)
    asking = rows_read(cursor) - before

    def reading(name: str, at_most: int, run: Any) -> None:
        before = rows_read(cursor)
        run()
        read = rows_read(cursor) - before - asking
        if read > at_most:
            found[name] = read, at_most

    # In the question's own form too, from the second time on.
    for n in range(2):
        reading(f"DUE {n}", FEW, lambda: outbox.due_namespaces(["shop"]))
    for name, case in CASES.items():
        template = getattr(statements, name)
        if name == "CLAIM_SELECT":
            template += outbox._lock_rows(cursor)
        endings = statements.PHASES.values() if name == "ROW_IDS" else ()
        states_asked = (0, 1, 2) if case.reads_all_of is not None else (None,)
        for state in states_asked:
            params = outbox._params(**case.params)
            at_most = case.at_most
            if state is not None:
                params["state"] = state
                rows = entries[state]
                # Of a tenth of them the table itself is the shorter way.
                at_most += 3 * (rows if rows < KEPT / 10 else KEPT)
            for ending in ("", *endings) if state == 0 else ("",):

                def run() -> None:
                    connection.begin()
                    outbox._statements.run(cursor, template + ending, params, case.ids)
                    cursor.fetchall()
                    connection.rollback()

                reading(f"{name} {state} {ending}".strip(), at_most, run)
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
