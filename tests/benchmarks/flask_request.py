"""What the extension adds to a Flask request.

    PYTHONPATH=tests python tests/benchmarks/flask_request.py [--rounds 21]

The same app with the extension and without it, in turn; ratios and differences are
taken round by round, and their medians are told, and the difference of the quickest
tenth of both, which other programs disturb least. First through Flask's test client: a
page that invalidates nothing; a page that changes one row and invalidates three things,
against the same with the INSERT of three rows written by hand; the same published
inline, against one acknowledged multi-set and one UPDATE by hand. Then both apps
behind gunicorn, with a load generator on loopback: requests a second. There the pool
publishes what the app with the extension wrote; in the other nobody does.

On SQLite with WAL and synchronous FULL, in memory where there is room: a disk would
hide what is added. Starts a memcached of its own, and gunicorn of the extra test-web.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import os
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Callable, Iterator, Sequence

from _results import Results, add_save, tell, versions  # noqa: E402
from _side_by_side import (
    COLUMNS,
    NAMESPACE,
    HandTokens,
    hand_apply,
    hand_targets,
)
from flask import Flask, g

from hydracache_sync import CommitPosition, SQLiteOutbox
from hydracache_sync.integrations.flask import HydraCache
from support.servers import Memcached, free_port

hydracache = HydraCache()

#: Seconds of one slice of load, and connections of the load generator.
SLICE = 1.0
CONNECTIONS = 2

INSERT = (
    f"insert into hydracache_outbox ({COLUMNS})"
    f" values {', '.join(['(?, ?, ?, ?, ?, ?, ?, ?, ?, 0)'] * 3)}"
)
PUBLISH = (
    "update hydracache_outbox set state = 1, last_error = null"
    " where namespace = ? and commit_position = ? and state = 0"
)


def make_app(path: str, memcached: str, kind: str) -> Flask:
    """A page that reads nothing, and one that writes.

    :param kind: "bare-eventual" and "bare-inline" have no extension, and do by hand
        what it does in that mode in "extended-eventual" and "extended-inline".
    """
    app = Flask(kind)
    # In both: with a key Flask opens a session for each request, and that takes time.
    app.secret_key = "not secret"
    mode = kind.rpartition("-")[2]
    app.teardown_appcontext(close_db)

    def db() -> sqlite3.Connection:
        if "db" not in g:
            g.db = sqlite3.connect(path, timeout=10)
            g.db.execute("pragma synchronous = full")
        connection: sqlite3.Connection = g.db
        return connection

    @app.get("/")
    def nothing() -> str:
        return "nothing"

    if kind.startswith("bare"):
        client = HandTokens(memcached)
        own = sqlite3.connect(path, timeout=10, check_same_thread=False)
        own.execute("pragma synchronous = full")

        @app.post("/<int:id>")
        def change(id: int) -> str:
            db().execute("update item set name = 'new' where id = ?", (id,))
            position, now = str(CommitPosition.generate()), int(time.time() * 1000)
            values: list[Any] = []
            for target in hand_targets(id):
                values += [*target, NAMESPACE, position, "write", now, now]
            db().execute(INSERT, values)
            db().commit()
            if mode == "inline":
                hand_apply(client, (f"{id}{n}" for n in range(3)))
                own.execute(PUBLISH, (NAMESPACE, position))
                own.commit()
            return "changed"

    else:
        app.config.update(
            HYDRACACHE_OUTBOX=f"sqlite:///{path}",
            HYDRACACHE_NAMESPACE=NAMESPACE,
            HYDRACACHE_MEMCACHED=[memcached],
            HYDRACACHE_MODE=mode,
            HYDRACACHE_POOL=os.environ.get("POOL", "none"),
        )
        # "offered": what a view has not written is offered its open transaction.
        connection = (lambda: g.get("db")) if kind.startswith("offered") else None
        hydracache.init_app(app, connection=connection)

        @app.post("/<int:id>")
        def change(id: int) -> str:
            db().execute("update item set name = 'new' where id = ?", (id,))
            hydracache.invalidate_key(f"user:{id}")
            hydracache.invalidate_entity("user", str(id))
            hydracache.invalidate_tag("users")
            hydracache.write(db())
            db().commit()
            return "changed"

    return app


def close_db(exc: BaseException | None = None) -> None:
    connection = g.pop("db", None)
    if connection is not None:
        connection.close()


def make_database(path: str) -> None:
    with contextlib.closing(SQLiteOutbox(path)) as outbox:
        outbox.install_schema()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("pragma journal_mode = wal")
        connection.execute("create table item (id integer primary key, name text)")
        connection.executemany(
            "insert into item values (?, '')", [(n,) for n in range(100)]
        )
        connection.commit()


# Through the test client


def compare_calls(
    name: str,
    sides: Sequence[Callable[[int], object]],
    *,
    rounds: int,
    calls: int,
    clock: Callable[[], float],
    saved: list[list[str]],
) -> None:
    """Run slices of both in turn; print medians, the ratio and the difference."""
    times: list[list[float]] = []
    for round_ in range(rounds + 1):
        took = [0.0, 0.0]
        for number in range(calls):
            for side in (0, 1) if (round_ + number) % 2 else (1, 0):
                started = clock()
                sides[side](number % 100)
                took[side] += clock() - started
        if round_:
            times.append([seconds / calls * 1e6 for seconds in took])
    bare, extended = (statistics.median(side) for side in zip(*times))
    quick, quick_extended = (sorted(side)[len(side) // 10] for side in zip(*times))
    tell(
        saved,
        name,
        f"{bare:.0f} us",
        f"{extended:.0f} us",
        f"{statistics.median(b / a for a, b in times):.2f}",
        f"{statistics.median(b - a for a, b in times):.1f} us",
        f"{quick:.0f}, {quick_extended:.0f} us",
    )


def through_test_client(
    folder: Path, memcached: str, rounds: int, results: Results
) -> None:
    saved = results.table(
        f"Through Flask's test client, medians of {rounds * 10} rounds:",
        [
            "page",
            "by hand",
            "with the extension",
            "ratio",
            "difference",
            "of the quickest tenth",
        ],
    )
    others = []

    def clients(name: str, *kinds: str) -> list[Any]:
        path = str(folder / f"{name}.db")
        make_database(path)
        # As other workers have: the page's is not the last one to be closed, which
        # would write the WAL back.
        other = sqlite3.connect(path)
        other.execute("select * from item").fetchall()
        others.append(other)
        # No cookies: what the test client does with them a browser does elsewhere.
        return [
            make_app(path, memcached, kind).test_client(use_cookies=False)
            for kind in kinds
        ]

    for name, kind in ("", "extended"), (", `connection=`", "offered"):
        bare, extended = clients(f"nothing-{kind}", "bare", f"{kind}-eventual")
        compare_calls(
            f"invalidates nothing{name}, processor time",
            [lambda n: bare.get("/"), lambda n: extended.get("/")],
            rounds=rounds * 10,
            calls=20,
            clock=time.thread_time,
            saved=saved,
        )
    for mode in "eventual", "inline":
        by_hand, with_it = clients(mode, f"bare-{mode}", f"extended-{mode}")
        for client in by_hand, with_it:
            assert client.post("/1").status_code == 200
        compare_calls(
            f"writes 3 intents, {mode}",
            [lambda n: by_hand.post(f"/{n}"), lambda n: with_it.post(f"/{n}")],
            rounds=rounds * 10,
            calls=10,
            clock=time.perf_counter,
            saved=saved,
        )
    for other in others:
        other.close()


# Through gunicorn


@contextlib.contextmanager
def gunicorn(path: str, memcached: str, kind: str) -> Iterator[int]:
    port = free_port()
    server = subprocess.Popen(
        [
            f"{Path(sys.executable).parent}/gunicorn",
            f"flask_request:make_app({path!r}, {memcached!r}, {kind!r})",
            f"--bind=127.0.0.1:{port}",
            "--worker-class=gthread",
            f"--threads={CONNECTIONS}",
            "--log-level=warning",
        ],
        cwd=Path(__file__).parent,
        env={
            **os.environ,
            "POOL": "every",
            "HOME": str(Path(path).parent),
            "PYTHONPATH": str(Path(__file__).resolve().parent.parent),
        },
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if server.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        yield port
    finally:
        server.terminate()
        server.wait()


def requests_in_a_slice(port: int, method: str) -> float:
    """Requests a second over ``SLICE``, on a few connections at once."""
    done = [0] * CONNECTIONS
    end = time.monotonic() + SLICE

    def run(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        with contextlib.closing(connection):
            while time.monotonic() < end:
                path = "/" if method == "GET" else f"/{done[number] % 100}"
                connection.request(method, path)
                response = connection.getresponse()
                response.read()
                assert response.status == 200
                done[number] += 1

    started = time.monotonic()
    crowd = [threading.Thread(target=run, args=(n,)) for n in range(CONNECTIONS)]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join()
    return sum(done) / (time.monotonic() - started)


def through_gunicorn(
    folder: Path, memcached: str, rounds: int, results: Results
) -> None:
    saved = results.table(
        "Requests a second behind gunicorn, one gthread worker with two threads, two"
        f" connections of a load generator, medians of {rounds} rounds of {SLICE:g} s:",
        ["page", "without", "with the extension", "ratio"],
    )
    kinds = "bare-eventual", "extended-eventual"
    with contextlib.ExitStack() as stack:
        ports = []
        for kind in kinds:
            path = str(folder / f"gunicorn-{kind}.db")
            make_database(path)
            ports.append(stack.enter_context(gunicorn(path, memcached, kind)))
        for method, name in ("GET", "invalidates nothing"), (
            "POST",
            "writes 3 intents",
        ):
            rates = []
            for round_ in range(rounds + 1):
                rate = [0.0, 0.0]
                for side in (0, 1) if round_ % 2 else (1, 0):
                    rate[side] = requests_in_a_slice(ports[side], method)
                if round_:
                    rates.append(rate)
            bare, extended = (statistics.median(side) for side in zip(*rates))
            ratio = statistics.median(b / a for a, b in rates)
            tell(saved, name, f"{bare:.0f}", f"{extended:.0f}", f"{ratio:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--gunicorn-rounds", type=int, default=7)
    add_save(parser)
    options = parser.parse_args()
    results = Results()
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with Memcached() as memcached, tempfile.TemporaryDirectory(dir=memory) as folder:
        through_test_client(Path(folder), memcached.address, options.rounds, results)
        through_gunicorn(
            Path(folder), memcached.address, options.gunicorn_rounds, results
        )
    if options.save:
        results.save(options.save, **versions("Flask", "gunicorn"))


if __name__ == "__main__":
    main()
