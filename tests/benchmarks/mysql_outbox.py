"""What an enqueue and a drain cost on MariaDB, against only the necessary by hand.

    python tests/benchmarks/mysql_outbox.py [--server mysql9] [--rows 20000]

Servers are private ones on loopback, the data in memory where there is room, with every
commit flushed as InnoDB does it by default. Goals: an enqueue's transaction at most
1.10 of the hand-written one, a drain at least 0.90 of its rows a second.

After that 1, 2 and 4 worker processes drain together; beside them, as many that do by
hand what would be an alternative: hold the locks of the rows while they are applied,
in place of a claim that is written first. What a slow cache or a worker that stands
still does then to an inline publish of the same rows is measured last.
"""

from __future__ import annotations

import argparse
import secrets
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pymysql  # noqa: E402
from _results import Results, add_save  # noqa: E402
from _side_by_side import (  # noqa: E402
    COLUMNS,
    NAMESPACE,
    SIDES,
    HandTokens,
    compare_drains,
    compare_transactions,
    hand_apply,
    hand_targets,
    library_batch,
    library_worker,
    rows_to_drain,
)
from _together import Drain, drain_together  # noqa: E402

from hydracache_sync import MemcachedStore, open_outbox  # noqa: E402
from support.servers import SQL_SERVERS, Memcached, SQLServer  # noqa: E402

DATABASE = "benchmark"

#: As InnoDB does it by default, and users have it.
ARGUMENTS = ("--innodb-flush-log-at-trx-commit=1", "--innodb-buffer-pool-size=256M")

INSERT_3 = f"insert into hydracache_outbox ({COLUMNS}) values " + ", ".join(
    ["(%s, %s, %s, %s, %s, %s, %s, %s, %s, 0)"] * 3
)

SELECT_DUE = (
    "select id, kind, value, entity_name from hydracache_outbox"
    " where namespace = %s and state = 0 and at_ms <= %s"
    " and (claim_until_ms is null or claim_until_ms <= %s)"
    " order by at_ms, created_at_ms, id limit %s for update"
)


class Place:
    """Where everything is; travels to the worker processes."""

    def __init__(self, server: SQLServer, memcached: Memcached) -> None:
        # Both sides without TLS, which the newer servers would speak with one of them.
        self.url = server.url(DATABASE) + "?ssl_disabled=true"
        self.host, self.port, self.user = server.host, server.port, server.user
        self.memcached = memcached.address
        self.select_due = SELECT_DUE + (
            " skip locked" if server.skips_locked_rows else ""
        )

    def connect(self, **options: Any) -> Any:
        return pymysql.connect(
            host=self.host,
            port=self.port,
            user=self.user,
            charset="utf8mb4",
            ssl_disabled=True,
            **options,
        )

    def versions(self) -> dict[str, str]:
        with closing(self.connect()) as connection, closing(
            connection.cursor()
        ) as cursor:
            cursor.execute("select version()")
            [[version]] = cursor.fetchall()
        return {"server": version, "PyMySQL": pymysql.VERSION_STRING}

    def worker_connection(self) -> Any:
        connection = self.connect(database=DATABASE, autocommit=True)
        connection.query("set session transaction isolation level read committed")
        return connection

    def client(self) -> HandTokens:
        return HandTokens(self.memcached)


def prepare(place: Place, rows: int) -> None:
    with closing(place.connect(autocommit=True)) as connection:
        connection.query(f"create database {DATABASE}")
    with closing(open_outbox(place.url)) as outbox:
        outbox.install_schema()
    with closing(place.connect(database=DATABASE, autocommit=True)) as connection:
        connection.query("create table users (id int primary key, version int)")
        connection.query("insert into users values (42, 0)")
        connection.query("create table rows_to_drain like hydracache_outbox")
        with closing(connection.cursor()) as cursor:
            cursor.executemany(
                f"insert into rows_to_drain ({COLUMNS})"
                " values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
                list(rows_to_drain(rows)),
            )


def fill(connection: Any) -> None:
    connection.query("truncate hydracache_outbox")
    connection.query("insert into hydracache_outbox select * from rows_to_drain")


def hand_enqueue(connection: Any, cursor: Any, number: int) -> None:
    connection.begin()
    cursor.execute("update users set version = version + 1 where id = 42")
    position = f"{time.time_ns():016x}{secrets.token_hex(8)}"
    now = int(time.time() * 1000)
    shared = (NAMESPACE, position, "write", now, now)
    first, second, third = hand_targets(number)
    cursor.execute(INSERT_3, (*first, *shared, *second, *shared, *third, *shared))
    connection.commit()


def library_enqueue(outbox: Any, connection: Any, cursor: Any, number: int) -> None:
    connection.begin()
    cursor.execute("update users set version = version + 1 where id = 42")
    outbox.enqueue_in(connection, NAMESPACE, library_batch(number))
    connection.commit()


def enqueue(
    place: Place, rounds: int, transactions: int, saved: list[list[str]]
) -> None:
    with closing(place.connect(database=DATABASE)) as connection, closing(
        open_outbox(place.url)
    ) as outbox, closing(connection.cursor()) as cursor:
        compare_transactions(
            [
                lambda number: hand_enqueue(connection, cursor, number),
                lambda number: library_enqueue(outbox, connection, cursor, number),
            ],
            rounds,
            transactions,
            saved,
        )


def hand_drain(place: Place, connection: Any, client: HandTokens, batch: int) -> int:
    total = 0
    with closing(connection.cursor()) as cursor:
        while True:
            connection.begin()
            now = int(time.time() * 1000)
            cursor.execute(place.select_due, (NAMESPACE, now, now, batch))
            rows = cursor.fetchall()
            if not rows:
                connection.rollback()
                return total
            ids = ", ".join([str(row[0]) for row in rows])
            token = secrets.randbits(63)
            cursor.execute(
                f"update hydracache_outbox set claimed_at_ms = {now},"
                f" claim_until_ms = {now + 30_000}, claim_owner = 'hand',"
                f" claim_token = {token} where id in ({ids})"
            )
            connection.commit()
            hand_apply(client, [row[2].decode() for row in rows])
            total += cursor.execute(
                f"update hydracache_outbox set state = 1,"
                f" at_ms = {int(time.time() * 1000)}, last_error = null,"
                " claimed_at_ms = null, claim_until_ms = null, claim_owner = null,"
                f" claim_token = null where id in ({ids}) and claim_token = {token}"
            )


def locking_drain(place: Place, connection: Any, client: HandTokens, batch: int) -> int:
    """By hand without a claim: the locks of the rows are held during the apply."""
    total = 0
    with closing(connection.cursor()) as cursor:
        while True:
            connection.begin()
            now = int(time.time() * 1000)
            cursor.execute(place.select_due, (NAMESPACE, now, now, batch))
            rows = cursor.fetchall()
            if not rows:
                connection.rollback()
                return total
            ids = ", ".join([str(row[0]) for row in rows])
            hand_apply(client, [row[2].decode() for row in rows])
            total += cursor.execute(
                f"update hydracache_outbox set state = 1,"
                f" at_ms = {int(time.time() * 1000)}, last_error = null"
                f" where id in ({ids})"
            )
            connection.commit()


def drain(
    place: Place, rounds: int, rows: int, batch: int, saved: list[list[str]]
) -> None:
    filler = place.connect(database=DATABASE, autocommit=True)
    connection = place.worker_connection()
    client = place.client()
    store = MemcachedStore([place.memcached])
    with closing(open_outbox(place.url)) as outbox:
        worker = library_worker(outbox, store, batch)
        compare_drains(
            lambda: fill(filler),
            [
                lambda: hand_drain(place, connection, client, batch),
                lambda: worker.drain().published,
            ],
            rounds,
            rows,
            batch,
            saved,
        )
    for closed in (filler, connection, client, store):
        closed.close()


# Several processes


def library_process(place: Place, batch: int) -> Drain:
    outbox = open_outbox(place.url)
    outbox.status(NAMESPACE)  # connects
    worker = library_worker(outbox, MemcachedStore([place.memcached]), batch)
    return lambda: worker.drain().published


def hand_process(place: Place, batch: int) -> Drain:
    connection, client = place.worker_connection(), place.client()
    return lambda: hand_drain(place, connection, client, batch)


def locking_process(place: Place, batch: int) -> Drain:
    connection, client = place.worker_connection(), place.client()
    return lambda: locking_drain(place, connection, client, batch)


PROCESSES = {
    "library": library_process,
    "claims by hand": hand_process,
    "row locks by hand": locking_process,
}


def together(
    place: Place, rounds: int, rows: int, batch: int, results: Results
) -> None:
    with closing(place.connect(database=DATABASE, autocommit=True)) as filler:
        drain_together(
            PROCESSES, place, batch, lambda: fill(filler), rounds, rows, results
        )


def beside_a_worker(place: Place, batch: int) -> None:
    """Publish a row, as an inline publish does, while a worker is still applying it."""
    with closing(open_outbox(place.url)) as outbox, closing(
        place.worker_connection()
    ) as worker, closing(place.worker_connection()) as writer:
        fill(writer)
        writer.query("set session innodb_lock_wait_timeout = 2")
        [row, *_] = outbox.claim(NAMESPACE, "slow", limit=batch, claim_ttl=600)
        claimed = publish_one(writer, row.id)
        fill(writer)
        worker.begin()
        with closing(worker.cursor()) as cursor:
            now = int(time.time() * 1000)
            cursor.execute(place.select_due, (NAMESPACE, now, now, batch))
            [first, *_] = cursor.fetchall()
        locked = publish_one(writer, first[0])
    print(
        f"inline publish of a row that a worker is at: claimed {claimed},"
        f" locked {locked}"
    )


def publish_one(connection: Any, id: int) -> str:
    started = time.perf_counter()
    try:
        connection.query(f"update hydracache_outbox set state = 1 where id = {id}")
        how = "done"
    except pymysql.OperationalError as exc:
        how = f"failed with {exc.args[0]}"
    return f"{how} after {(time.perf_counter() - started) * 1000:.0f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", choices=SQL_SERVERS, default="mariadb")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--transactions", type=int, default=300)
    parser.add_argument(
        "--only", choices=("enqueue", "drain", "together"), help="one part of it"
    )
    add_save(parser)
    options = parser.parse_args()
    results = Results()
    kind = SQL_SERVERS[options.server]
    with kind(arguments=ARGUMENTS) as server, Memcached() as cache:
        place = Place(server, cache)
        prepare(place, options.rows)
        versions = place.versions()
        print(f"Python {sys.version.split()[0]}, {versions}", flush=True)
        saved = results.table("One process:", SIDES)
        if options.only in (None, "enqueue"):
            enqueue(place, options.rounds, options.transactions, saved)
        if options.only in (None, "drain"):
            drain(place, options.rounds, options.rows, options.batch, saved)
        if options.only in (None, "together"):
            together(place, options.rounds, options.rows, options.batch, results)
            beside_a_worker(place, options.batch)
    if options.save:
        results.save(options.save, **versions)


if __name__ == "__main__":
    main()
