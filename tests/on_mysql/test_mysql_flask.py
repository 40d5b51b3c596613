"""A Flask app on MariaDB: in its drivers' transactions, and with the server away."""

from __future__ import annotations

import contextlib
import contextvars
import threading
import time
from contextlib import closing
from typing import Any, Callable, Iterator

import mysql.connector
import MySQLdb
import pytest
from flask import Flask, g
from mysql_databases import KINDS, PATIENCE, Database, fresh_database, started
from pymysql.constants import CLIENT

from hydracache_sync import InvalidationIntent, MemcachedApplier, MemoryStore
from hydracache_sync.integrations.flask import HydraCache
from support.servers import SQLServer

hydracache = HydraCache()


@pytest.fixture(params=KINDS[:1])
def server(request: pytest.FixtureRequest) -> Iterator[SQLServer]:
    """A server of the test's own: it is paused."""
    with started(request.param) as server:
        yield server


@pytest.fixture
def database(server: SQLServer) -> Iterator[Database]:
    with fresh_database(server) as database:
        yield database


@pytest.mark.parametrize("given", ["as a URL", "as an object"])
def test_a_database_gone_at_teardown_costs_the_page_a_bounded_time_and_no_row(
    server: SQLServer,
    database: Database,
    caplog: pytest.LogCaptureFixture,
    given: str,
) -> None:
    # Its own limits are those of a server that is only slow.
    outbox = database.outbox(connect_timeout=PATIENCE, read_timeout=PATIENCE)
    outbox.install_schema()
    app = Flask("shop")
    app.config.update(
        SECRET_KEY="not secret",
        HYDRACACHE_OUTBOX=(
            outbox if given == "as an object" else server.url(str(database.name))
        ),
        HYDRACACHE_NAMESPACE="shop",
        HYDRACACHE_MEMCACHED=MemoryStore(),
        HYDRACACHE_POOL="none",
        HYDRACACHE_NET_TIMEOUT=0.3,
    )
    hydracache.init_app(app)

    @app.get("/")
    def view() -> str:
        hydracache.invalidate_key("item:1")
        server.pause()
        return "done"

    @app.get("/after")
    def after() -> str:
        return "done"

    began = time.monotonic()
    answer = app.test_client().get("/")
    took = time.monotonic() - began
    server.resume()
    deadline = time.monotonic() + PATIENCE
    # The pages after it try again, each within its own short time.
    while not outbox.rows("shop") and time.monotonic() < deadline:
        app.test_client().get("/after")

    assert answer.status_code == 200
    assert took < PATIENCE / 2
    assert "the outbox could not be written at the end of a request" in caplog.text
    assert [row.intent and row.intent.value for row in outbox.rows("shop")] == [
        "item:1"
    ]
    outbox.close()


class Shop:
    """A Flask app on a database of the shared MariaDB, with one view."""

    def __init__(
        self,
        database: Database,
        connect: Callable[[], Any],
        *,
        autocommits: bool = False,
        **config: Any,
    ) -> None:
        self.database = database
        self.autocommits = autocommits
        self.store = MemoryStore()
        self.outbox = database.outbox()
        self.outbox.install_schema()
        database.sql("create table item (name varchar(20)) engine=InnoDB")
        database.sql("insert into item values ('before')")
        self.app = Flask("shop")
        self.app.config.update(
            SECRET_KEY="not secret",
            HYDRACACHE_OUTBOX=database.server.url(str(database.name)),
            HYDRACACHE_NAMESPACE="shop",
            HYDRACACHE_MEMCACHED=self.store,
            HYDRACACHE_POOL="none",
            HYDRACACHE_NET_TIMEOUT=PATIENCE,
        )
        self.app.config.update(config)
        self.app.teardown_appcontext(self._end)
        hydracache.init_app(self.app, connection=lambda: g.get("db"))
        self._connect = connect

    def _end(self, exc: BaseException | None) -> None:
        connection = g.pop("db", None)
        if connection is not None:
            if exc is None:
                connection.commit()
            connection.close()

    def change(self) -> Any:
        g.db = self._connect()
        g.db.cursor().execute("update item set name = 'after'")
        hydracache.invalidate_key("item:1")
        return g.db

    def get(self, view: Callable[[], str]) -> int:
        self.app.add_url_rule("/", "view", view)
        return self.app.test_client().get("/").status_code

    def written(self) -> tuple[str, list[Any]]:
        [(name,)] = self.database.sql("select name from item")
        rows = self.outbox.rows("shop")
        return name, [row.intent and row.intent.value for row in rows]


@pytest.fixture
def shared(mariadb: SQLServer) -> Iterator[Database]:
    with fresh_database(mariadb) as database:
        yield database


class TestOnPyMySQL:
    @pytest.fixture(params=[False, True], ids=["transactions", "autocommit"])
    def shop(self, shared: Database, request: pytest.FixtureRequest) -> Iterator[Shop]:
        shop = Shop(
            shared,
            lambda: shared.connect(autocommit=request.param),
            autocommits=request.param,
        )
        yield shop
        shop.outbox.close()

    def test_a_transaction_commits_both(self, shop: Shop) -> None:
        with shop.app.app_context():
            g.db = shop._connect()
            with hydracache.transaction(g.db):
                g.db.cursor().execute("update item set name = 'after'")
                hydracache.invalidate_key("item:1")

        assert shop.written() == ("after", ["item:1"])

    def test_an_error_rolls_both_back(self, shop: Shop) -> None:
        with shop.app.app_context():
            g.db = shop._connect()
            with pytest.raises(ZeroDivisionError):
                with hydracache.transaction(g.db):
                    g.db.cursor().execute("update item set name = 'after'")
                    hydracache.invalidate_key("item:1")
                    raise ZeroDivisionError

        assert shop.written() == ("before", [])

    def test_what_a_statement_has_committed_is_invalidated(self, shop: Shop) -> None:
        with shop.app.app_context():
            g.db = shop._connect()
            with pytest.raises(ZeroDivisionError):
                with hydracache.transaction(g.db):
                    g.db.cursor().execute("update item set name = 'after'")
                    hydracache.invalidate_key("item:1")
                    g.db.cursor().execute("create table other (id int)")
                    raise ZeroDivisionError

        assert shop.written() == ("after", ["item:1"])

    def test_the_teardown_gets_both_or_the_net_has_it(
        self, shop: Shop, caplog: pytest.LogCaptureFixture
    ) -> None:
        def view() -> str:
            shop.change()
            return "done"

        assert shop.get(view) == 200

        assert shop.written() == ("after", ["item:1"])
        # In autocommit there is no transaction to be part of, and it is said.
        said = "its transaction is not open any more" in caplog.text
        assert said is shop.autocommits

    def test_a_view_that_raises_is_rolled_back_and_costs_a_miss(
        self, shop: Shop
    ) -> None:
        def view() -> str:
            shop.change()
            raise ZeroDivisionError

        assert shop.get(view) == 500

        name = "after" if shop.autocommits else "before"
        assert shop.written() == (name, ["item:1"])

    def test_a_second_transaction_swallows_nothing(self, shop: Shop) -> None:
        def view() -> str:
            connection = shop.change()
            connection.commit()
            connection.begin()
            connection.cursor().execute("insert into item values ('audit')")
            raise ZeroDivisionError  # after which the teardown rolls back

        assert shop.get(view) == 500

        assert shop.written() == ("after", ["item:1"])


class TestLateWrites:
    """``write`` after the commit: nobody commits what it begins."""

    @pytest.mark.parametrize("driver", ["pymysql", "mysqlclient", "connector"])
    @pytest.mark.parametrize("late", [True, False])
    def test_what_is_not_there_at_the_end_goes_out(
        self,
        shared: Database,
        driver: str,
        late: bool,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        caplog.set_level("INFO")
        connect = {
            "pymysql": lambda: shared.connect(autocommit=False),
            "mysqlclient": lambda: connect_mysqlclient(shared),
            "connector": lambda: connect_connector(shared),
        }[driver]
        shop = Shop(shared, connect)

        def view() -> str:
            connection = shop.change()
            if late:
                connection.commit()
            hydracache.write(connection)
            if not late:
                connection.commit()
            # The app's own teardown would commit what was begun by write().
            g.pop("db").close()
            return "done"

        assert shop.get(view) == 200

        assert shop.written() == ("after", ["item:1"])
        assert ("GET view wrote key item:1" in caplog.text) is late
        shop.outbox.close()


class TestAuto:
    """A page reads in the middle of another's change; what is old is not stored."""

    def shop(self, database: Database, connect: Callable[[], Any]) -> Shop:
        return Shop(database, connect)

    def read(self, connection: Any) -> str:
        with closing(connection.cursor()) as cursor:
            cursor.execute("select name from item")
            [(name,)] = cursor.fetchall()
        return str(name)

    def shown_and_stored(
        self,
        shop: Shop,
        before: Callable[[Any], Any],
        load: Callable[[Any], str] | None = None,
    ) -> tuple[str, Any]:
        """What a page shows, and what it stores.

        :param before: what it does with its connection before the change.
        """
        cache = shop.app.extensions["hydracache"].cache
        applier = MemcachedApplier(shop.store, "shop")
        shown: list[str] = []

        def view() -> str:
            g.db = shop._connect()
            before(g.db)
            # In a thread of its own: what this one sends counts as the request's.
            update = threading.Thread(
                target=shop.database.sql, args=("update item set name = 'after'",)
            )
            update.start()
            update.join(60)
            assert applier.apply_batch([InvalidationIntent.key("item:1")]) == [None]
            loader = load or self.read
            shown.append(hydracache.get_or_load("item:1", lambda: loader(g.get("db"))))
            return "done"

        assert shop.get(view) == 200
        shop.outbox.close()
        return shown[0], cache.get("item:1")

    @pytest.mark.parametrize("autocommit", [False, True])
    def test_of_a_connection_that_was_opened_before_it_is_not_known_what_was_read(
        self, shared: Database, autocommit: bool
    ) -> None:
        shop = self.shop(shared, lambda: shared.connect(autocommit=autocommit))

        def before(connection: Any) -> None:
            rows.append(self.read(connection))
            connection.commit()

        def load(connection: Any) -> str:
            self.read(connection)
            return rows[0]

        rows: list[str] = []
        assert self.shown_and_stored(shop, before, load) == ("before", None)

    def test_the_next_request_stores_what_it_reads_there(
        self, shared: Database
    ) -> None:
        """Whose tokens were there before it began."""
        shop = self.shop(shared, shared.connect)
        cache = shop.app.extensions["hydracache"].cache
        applier = MemcachedApplier(shop.store, "shop")
        stored: list[Any] = []

        def view() -> str:
            g.db = shop._connect()
            self.read(g.db)
            hydracache.get_or_load("item:1", lambda: self.read(g.db))
            return "done"

        assert applier.apply_batch([InvalidationIntent.key("item:1")]) == [None]
        shop.app.add_url_rule("/", "view", view)
        for _ in range(2):
            assert shop.app.test_client().get("/").status_code == 200
            stored.append(cache.get("item:1"))
        shop.outbox.close()

        assert stored == [None, "before"]

    @pytest.mark.parametrize(
        ("autocommit", "stored"),
        # A SELECT begins a transaction: a pool may have left it there as well.
        [(True, "after"), (False, None)],
    )
    def test_one_that_the_load_opens_is_fresh_unless_it_is_in_a_transaction(
        self, shared: Database, autocommit: bool, stored: str | None
    ) -> None:
        shop = self.shop(shared, lambda: shared.connect(autocommit=autocommit))

        def load(_: Any) -> str:
            g.db = shop._connect()
            return self.read(g.db)

        def before(connection: Any) -> None:
            connection.close()
            del g.db

        assert self.shown_and_stored(shop, before, load) == ("after", stored)

    def test_nor_is_one_that_a_pool_hands_out_in_the_load(
        self, shared: Database
    ) -> None:
        """Somebody has left a transaction open on it."""
        shop = self.shop(shared, shared.connect)

        def before(connection: Any) -> None:
            self.read(pooled)
            connection.close()
            del g.db

        def load(_: Any) -> str:
            g.db = pooled
            return self.read(pooled)

        pooled = shared.connect()
        assert self.shown_and_stored(shop, before, load) == ("before", None)

    @pytest.mark.parametrize(
        ("autocommit", "statement"),
        [
            (False, "select name from item"),
            (True, "start transaction with consistent snapshot"),
            (False, "start transaction read only, with consistent snapshot"),
        ],
    )
    def test_what_is_read_in_one_is_not(
        self, shared: Database, autocommit: bool, statement: str
    ) -> None:
        shop = self.shop(shared, lambda: shared.connect(autocommit=autocommit))

        def before(connection: Any) -> None:
            connection.cursor().execute(statement)

        assert self.shown_and_stored(shop, before) == ("before", None)

    def test_nor_if_the_loader_ends_it(self, shared: Database) -> None:
        shop = self.shop(shared, shared.connect)

        def load(connection: Any) -> str:
            found = self.read(connection)
            connection.commit()
            connection.cursor().execute("select 1")
            return found

        found = self.shown_and_stored(shop, self.read, load)

        assert found == ("before", None)

    @pytest.mark.parametrize("snapshot", ["auto", "replica"])
    def test_a_connection_that_another_thread_uses_is_not_asked(
        self, shared: Database, snapshot: str
    ) -> None:
        """A thread in a copy of the request's context has a connection of its own."""
        shop = Shop(
            shared,
            lambda: shared.connect(autocommit=True),
            HYDRACACHE_SNAPSHOT=snapshot,
        )
        shown: list[str] = []

        def loads(blocked: int) -> None:
            query = (
                f"select info from information_schema.processlist where id={blocked}"
            )
            deadline = time.monotonic() + PATIENCE
            while time.monotonic() < deadline:
                [(found,)] = shared.sql(query)
                if found and "get_lock" in found:
                    break
            with closing(shared.connect(autocommit=True)) as own:
                shown.append(hydracache.get_or_load("item:1", lambda: self.read(own)))

        def view() -> str:
            g.db = shop._connect()
            holder = shared.connect(autocommit=True)
            holder.cursor().execute("select get_lock('page', 0)")
            run = contextvars.copy_context().run
            thread = threading.Thread(target=run, args=(loads, g.db.thread_id()))

            def release() -> None:
                thread.join(PATIENCE)
                holder.close()

            releases = threading.Thread(target=release)
            thread.start()
            releases.start()
            with closing(g.db.cursor()) as cursor:
                cursor.execute("select get_lock('page', 20)")
                answer = cursor.fetchone()
            releases.join()
            return str(answer[0])

        shop.app.add_url_rule("/", "view", view)
        answer = shop.app.test_client().get("/")
        shop.outbox.close()

        assert answer.status_code == 200
        assert answer.get_data() == b"1"
        assert shown == ["before"]

    def test_begin_alone_makes_nothing_old(self, shared: Database) -> None:
        shop = self.shop(shared, lambda: shared.connect(autocommit=True))

        shown, stored = self.shown_and_stored(shop, lambda each: each.begin())

        assert shown == "after" and stored in (None, "after")

    def test_nor_what_is_read_on_a_connection_that_was_not_named(
        self, shared: Database
    ) -> None:
        shop = self.shop(shared, shared.connect)
        with shared.connect() as other:

            def before(connection: Any) -> None:
                self.read(connection)
                connection.commit()
                self.read(other)

            found = self.shown_and_stored(shop, before, lambda _: self.read(other))

        assert found == ("before", None)

    @pytest.mark.parametrize("driver", ["mysqlclient", "connector"])
    def test_of_a_driver_that_shows_no_reads_nothing_old_is_stored(
        self, shared: Database, driver: str
    ) -> None:
        connect = {
            "mysqlclient": lambda: connect_mysqlclient(shared),
            "connector": lambda: connect_connector(shared),
        }[driver]

        found = self.shown_and_stored(self.shop(shared, connect), self.read)

        assert found == ("before", None)

    def test_a_look_does_not_make_a_reader_one_that_has_written(
        self, shared: Database
    ) -> None:
        """Which would read past the cache from then on."""
        shop = self.shop(shared, shared.connect)
        loads: list[str] = []

        def load() -> str:
            g.db = shop._connect()
            return self.read(g.db)

        def view() -> str:
            hydracache.get_or_load("b", load)
            hydracache.get_or_load("a", lambda: loads.append("again"))
            return "done"

        def store() -> str:
            g.db = shop._connect()
            return hydracache.get_or_load("a", lambda: self.read(g.db))

        shop.app.add_url_rule("/store", "store", store)
        shop.app.add_url_rule("/", "view", view)
        for url in ("/store", "/store", "/"):
            assert shop.app.test_client().get(url).status_code == 200

        assert loads == []
        shop.outbox.close()

    def test_a_look_takes_nothing_from_the_app(self, shared: Database) -> None:
        """Neither answers that it has not read yet, nor what the last one said."""
        shared.sql("create table numbered (id int primary key auto_increment)")
        shop = self.shop(
            shared,
            lambda: shared.connect(
                autocommit=True, client_flag=CLIENT.MULTI_STATEMENTS
            ),
        )
        kept: list[Any] = []

        def after(statement: str) -> Any:
            def load() -> str:
                g.db = shop._connect()
                g.cursor = g.db.cursor()
                g.cursor.execute(statement)
                return statement

            g.pop("db", None)
            hydracache.get_or_load(statement, load)
            return g.cursor

        def view() -> str:
            after("insert into numbered values (7)")
            kept.append(g.db.insert_id())
            cursor = after("select 1; select 2")
            assert cursor.nextset()
            kept.append(cursor.fetchall())
            return "done"

        assert shop.get(view) == 200

        assert kept == [7, ((2,),)]
        shop.outbox.close()


class TestUncommitted:
    """What a request has changed and not committed is not stored, by each driver."""

    def shop(self, database: Database, connect: Callable[[], Any]) -> Shop:
        return Shop(database, connect, HYDRACACHE_SNAPSHOT="fresh")

    def read(self) -> str:
        def load() -> str:
            cursor = g.db.cursor()
            cursor.execute("select name from item")
            [(name,)] = cursor.fetchall()
            return str(name)

        return hydracache.get_or_load("item:1", load)

    def stored(self, shop: Shop) -> Any:
        return shop.app.extensions["hydracache"].cache.get("item:1")

    @pytest.mark.parametrize("begins", [False, True])
    def test_pymysql_tells_also_in_a_get(self, shared: Database, begins: bool) -> None:
        shop = self.shop(shared, lambda: shared.connect(autocommit=begins))
        seen: list[str] = []

        def view() -> str:
            g.db = shop._connect()
            if begins:
                g.db.begin()
            g.db.cursor().execute("update item set name = 'never'")
            seen.append(self.read())
            g.db.rollback()
            return "done"

        assert shop.get(view) == 200

        assert (seen, self.stored(shop)) == (["never"], None)
        shop.outbox.close()

    @pytest.mark.parametrize(
        "statement", ["select 1", "start transaction read only", "commit", None]
    )
    def test_a_page_that_only_reads_by_pymysql_stores(
        self, shared: Database, statement: str | None
    ) -> None:
        shop = self.shop(shared, lambda: shared.connect(autocommit=False))

        def view() -> str:
            g.db = shop._connect()
            if statement is not None:
                g.db.cursor().execute(statement)
            return self.read()

        assert shop.get(view) == 200

        assert self.stored(shop) == "before"
        shop.outbox.close()

    @pytest.mark.parametrize("driver", ["pymysql", "mysqlclient", "connector"])
    def test_in_a_post_none_stores_what_it_cannot_tell(
        self, shared: Database, driver: str
    ) -> None:
        connect = {
            "pymysql": lambda: shared.connect(autocommit=False),
            "mysqlclient": lambda: connect_mysqlclient(shared),
            "connector": lambda: connect_connector(shared),
        }[driver]
        shop = self.shop(shared, connect)
        seen: list[str] = []

        def view() -> str:
            g.db = shop._connect()
            g.db.cursor().execute("update item set name = 'never'")
            seen.append(self.read())
            g.db.rollback()
            return "done"

        shop.app.add_url_rule("/", "view", view, methods=["POST"])
        assert shop.app.test_client().post("/").status_code == 200

        assert (seen, self.stored(shop)) == (["never"], None)
        shop.outbox.close()


def connect_mysqlclient(database: Database) -> Any:
    options = {**database.options, "passwd": database.options["password"]}
    options["db"] = options.pop("database")
    del options["password"]
    return MySQLdb.connect(**options)


def connect_connector(database: Database) -> Any:
    return mysql.connector.connect(**database.options)


@pytest.mark.parametrize("connect", [connect_mysqlclient, connect_connector])
def test_a_transaction_that_only_reads_does_not_swallow_it(
    shared: Database, connect: Callable[[Database], Any]
) -> None:
    shop = Shop(shared, lambda: connect(shared))

    def view() -> str:
        shop.change().commit()
        cursor = g.db.cursor()
        cursor.execute("select * from item")
        cursor.fetchall()
        raise ZeroDivisionError

    assert shop.get(view) == 500

    assert shop.written() == ("after", ["item:1"])
    shop.outbox.close()


@pytest.mark.parametrize("connect", [connect_mysqlclient, connect_connector])
@pytest.mark.parametrize("mode", ["eventual", "strict"])
def test_where_a_driver_cannot_tell_it_is_written_twice_rather_than_never(
    shared: Database,
    connect: Callable[[Database], Any],
    mode: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    shop = Shop(shared, lambda: connect(shared), HYDRACACHE_MODE=mode)
    cache = shop.app.extensions["hydracache"].cache
    quarantine = cache.quarantine
    held_off_at: list[str] = []

    def watched(batch: Any, **options: Any) -> Any:
        held_off_at.append(shop.written()[0])
        return quarantine(batch, **options)

    cache.quarantine = watched

    def view() -> str:
        shop.change()
        return "done"

    assert shop.get(view) == 200

    assert shop.written() == ("after", ["item:1", "item:1"])
    assert "its driver cannot tell whether a transaction is open" in caplog.text
    assert held_off_at == (["before", "after"] if mode == "strict" else [])
    shop.outbox.close()


@pytest.mark.parametrize(
    "connect", [Database.connect, connect_mysqlclient, connect_connector]
)
@pytest.mark.parametrize("raises", [True, False])
def test_what_a_block_has_committed_before_another_transaction_is_invalidated(
    shared: Database,
    connect: Callable[[Database], Any],
    raises: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    shop = Shop(shared, lambda: connect(shared))

    with shop.app.app_context():
        db = shop._connect()
        commit = db.commit
        with contextlib.suppress(ZeroDivisionError):
            with hydracache.transaction(db):
                db.cursor().execute("update item set name = 'after'")
                hydracache.invalidate_key("item:1")
                db.commit()
                db.cursor().execute("create table if not exists more (id int)")
                db.cursor().execute("insert into more values (1)")
                if raises:
                    raise ZeroDivisionError
        assert db.commit == commit
        db.close()

    assert shop.written() == ("after", ["item:1"])
    said = "did not write it in its transaction" if raises else "a crash in between"
    assert said in caplog.text
    shop.outbox.close()


@pytest.mark.parametrize(
    "connect", [Database.connect, connect_mysqlclient, connect_connector]
)
def test_a_block_that_commits_nothing_itself_is_not_complained_of(
    shared: Database,
    connect: Callable[[Database], Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    shop = Shop(shared, lambda: connect(shared))

    with shop.app.app_context():
        db = shop._connect()
        for raises in (True, False):
            with contextlib.suppress(ZeroDivisionError):
                with hydracache.transaction(db):
                    db.cursor().execute("update item set name = 'after'")
                    hydracache.invalidate_key("item:1")
                    if raises:
                        raise ZeroDivisionError
        db.close()

    assert shop.written() == ("after", ["item:1"])
    assert not caplog.messages
    shop.outbox.close()
