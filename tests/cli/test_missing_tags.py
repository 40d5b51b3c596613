"""Tables that a cached load reads and no tag of it covers: found, from real drivers."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Iterator

import pytest
from click.testing import CliRunner
from sqlalchemy import create_engine, text

from hydracache_sync import ConfigurationError, MemoryStore, TaggedCache
from hydracache_sync.cli.program import hydracache
from hydracache_sync.integrations.sqlalchemy.recording import record_statements
from hydracache_sync.missing_tags import find_missing_tags, tables_of
from hydracache_sync.statement_recorder import StatementRecorder

BASELINE = """
[tables]
users = user:*, users
orders = order:*, user:*

[static]
countries
"""


class Shop:
    """A database of three tables, a cache before it, and the file that is recorded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.recorded = folder / "loads.jsonl"
        self.baseline = folder / "tags.ini"
        self.baseline.write_text(BASELINE)
        self.cache = TaggedCache(MemoryStore(), "shop")
        self.connection = sqlite3.connect(folder / "shop.db")
        for table in ("users", "orders", "countries", "stock"):
            self.connection.execute(f"create table {table} (id integer, name text)")

    def load(self, sql: str) -> Any:
        return self.connection.execute(sql).fetchall() and None

    def read(self, sql: str, *tags: str, key: str = "key") -> None:
        self.cache.get_or_load(key, lambda: self.load(sql), tags=tags)

    def found(self) -> list[tuple[str, str]]:
        found = find_missing_tags(self.recorded, self.baseline)
        return [(each.table, each.loader.rpartition(".")[2]) for each in found.missing]

    def run(self) -> Any:
        arguments = [str(self.recorded), "--baseline", str(self.baseline)]
        return CliRunner().invoke(hydracache, ["missing-tags", *arguments])


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(tmp_path)
    yield shop
    shop.connection.close()


class TestSQLite:
    def test_a_table_that_no_tag_covers_is_found(self, shop: Shop) -> None:
        with StatementRecorder(shop.recorded) as recorder:
            recorder.watch(shop.connection)
            shop.read("select * from users join orders using (id)", "order:1")

        shown = shop.run()

        assert shop.found() == [("users", "<lambda>")]
        assert shown.exit_code == 1
        assert f"{__name__}.<lambda> read table users" in shown.output
        assert "order:1" in shown.output

    def test_what_is_covered_static_or_accepted_is_not(self, shop: Shop) -> None:
        accepted = f"\n[accepted]\n{__name__}.<lambda> = Stock\n"
        shop.baseline.write_text(BASELINE + accepted)
        with StatementRecorder(shop.recorded) as recorder:
            recorder.watch(shop.connection)
            shop.read("select * from Users, countries, stock", "user:1")

        shown = shop.run()

        assert shop.found() == []
        assert shown.exit_code == 0, shown.output

    def test_a_cached_function_is_named_and_each_load_has_its_own(
        self, shop: Shop
    ) -> None:
        @shop.cache.cached(key=lambda: "inner", tags=["users"])
        def inner() -> Any:
            return shop.load("select * from users")

        @shop.cache.cached(key=lambda: "outer", tags=["order:7"])
        def outer() -> Any:
            shop.load("select * from stock")
            return inner()

        with StatementRecorder(shop.recorded) as recorder:
            recorder.watch(shop.connection)
            outer()

        assert shop.found() == [("stock", "outer")]

    def test_loads_of_several_keys_and_refreshes_are_seen(self, shop: Shop) -> None:
        def several(keys: list[str]) -> dict[str, None]:
            shop.load("select * from users")
            return dict.fromkeys(keys)

        def again() -> None:
            shop.load("select * from orders")

        with StatementRecorder(shop.recorded) as recorder:
            recorder.watch(shop.connection)
            shop.cache.get_many_or_load(["a", "b"], several, tags=["t"])
            shop.cache.refresh("c", again, tags=["t"])

        assert shop.found() == [("users", "several"), ("orders", "again")]

    def test_what_runs_in_no_load_or_outside_of_the_block_is_not(
        self, shop: Shop
    ) -> None:
        with StatementRecorder(shop.recorded) as recorder:
            recorder.watch(shop.connection)
            shop.load("select * from stock")
            shop.read("select * from users", "users")
        shop.read("select * from stock", key="other")

        assert shop.found() == []

    def test_a_load_that_shows_no_statement_is_said(self, shop: Shop) -> None:
        with StatementRecorder(shop.recorded):
            shop.read("select * from stock", key="unseen")

        shown = shop.run()

        assert "'unseen' ran no statement" in shown.output
        # Its connection was not watched: that all is well is not known.
        assert shown.exit_code == 1
        assert "no load ran a statement that was recorded" in shown.output

    def test_one_such_load_among_others_is_only_said(self, shop: Shop) -> None:
        with StatementRecorder(shop.recorded) as recorder:
            shop.read("select * from stock", key="unseen")
            recorder.watch(shop.connection)
            shop.read("select 1", key="seen")

        shown = shop.run()

        assert "'unseen' ran no statement" in shown.output
        assert shown.exit_code == 0


class TestSQLAlchemy:
    def test_statements_of_an_engine_are_recorded(self, shop: Shop) -> None:
        engine = create_engine(f"sqlite:///{shop.folder / 'shop.db'}")

        def load() -> None:
            with engine.connect() as connection:
                connection.execute(
                    text("select * from stock where id = :id"), {"id": 1}
                )

        with StatementRecorder(shop.recorded) as recorder:
            record_statements(engine, recorder)
            shop.cache.get_or_load("a", load, tags=["user:1"])
        engine.dispose()

        assert shop.found() == [("stock", "load")]


class TestSQL:
    @pytest.mark.parametrize(
        "sql, tables",
        [
            ("select 1", set()),
            ("select * from shop.Users u where u.id in (select id from orders)", None),
            ("with users as (select * from users) select * from users", {"users"}),
            (
                "with recursive t as (select 1 as n union select n + 1 from t)"
                " select * from t",
                set(),
            ),
            ("with a as (select * from stock), b as (select * from a) select 1", None),
            ("savepoint a", set()),
            ("begin", set()),
            ("select 1; select * from users", {"users"}),
            ("select 5 %% 2 from users where id in (%s, %s)", {"users"}),
            ("select * from users where id = %(id)s limit %(limit)s", {"users"}),
            ("select name % 2 from users where name like '%s %%'", {"users"}),
        ],
    )
    def test_tables_are_read(self, sql: str, tables: set[str] | None) -> None:
        if tables is None:
            tables = {"stock"} if "stock" in sql else {"users", "orders"}

        assert tables_of(sql, "mysql") == tables
        assert tables_of(sql, "sqlite") == tables

    @pytest.mark.parametrize("sql", ["selec * frm users", "call refill()", "select ("])
    def test_what_cannot_be_read_is_listed_and_never_passed(
        self, shop: Shop, sql: str
    ) -> None:
        record = {"loader": "shop.home", "key": "a", "tags": ["users"], "sql": sql}
        shop.recorded.write_text(json.dumps({**record, "dialect": "mysql"}) + "\n")

        shown = shop.run()

        assert shown.exit_code == 1
        assert f"shop.home ran what cannot be read: {sql}" in shown.output

        shop.baseline.write_text(BASELINE + "\n[unreadable]\nshop.list\n")
        assert shop.run().exit_code == 1
        shop.baseline.write_text(BASELINE + "\n[unreadable]\nshop.home\n")
        assert shop.run().exit_code == 0


class TestBadInput:
    def test_a_file_without_a_load_is_not_passed(self, shop: Shop) -> None:
        shop.recorded.write_text("")

        with pytest.raises(ConfigurationError, match="nothing was recorded"):
            shop.found()

    @pytest.mark.parametrize("line", ["no json", "{}", "[1]"])
    def test_a_line_of_another_program_is_named(self, shop: Shop, line: str) -> None:
        shop.recorded.write_text(line + "\n")

        with pytest.raises(ConfigurationError, match="line 1, is no line"):
            shop.found()

    @pytest.mark.parametrize(
        "text, named", [("users = a", "no section"), ("[table]\nusers = a", "allowed")]
    )
    def test_a_wrong_baseline_is_named(self, shop: Shop, text: str, named: str) -> None:
        shop.baseline.write_text(text)

        with pytest.raises(ConfigurationError, match=f"baseline .*{named}"):
            shop.found()

    def test_a_connection_of_another_driver_is_refused(self, shop: Shop) -> None:
        with closing(sqlite3.connect(":memory:")) as connection:
            cursor = connection.cursor()

            with pytest.raises(TypeError, match="of sqlite3 or PyMySQL, not Cursor"):
                StatementRecorder(shop.recorded).watch(cursor)
