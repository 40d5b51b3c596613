"""The outbox of an app's tests: what was not rolled back counts, and nothing else."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any, Iterator

import pytest
from sqlalchemy import create_engine, event, text
from sqlalchemy.orm import Session, sessionmaker

from hydracache_sync import (
    InvalidationIntent,
    InvalidationIntentBatch,
    MemoryOutbox,
    NotInTransactionError,
    TaggedCache,
    open_outbox,
)
from hydracache_sync.errors import ConfigurationError, OutboxError
from hydracache_sync.integrations.sqlalchemy import attach
from hydracache_sync.integrations.wsgi import HydraCache
from hydracache_sync.testing import Invalidations, RecordingOutbox


@pytest.fixture
def seen() -> Invalidations:
    return Invalidations()


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.execute("create table item (id integer)")
        yield connection


def batch(*keys: str) -> InvalidationIntentBatch:
    found = InvalidationIntentBatch()
    for key in keys:
        found.invalidate_key(key)
    return found


def keys(seen: Invalidations) -> list[str | None]:
    return [intent.value for intent in seen.intents]


class TestAConnectionOfSQLite:
    def test_what_is_committed_counts_in_its_order(
        self, seen: Invalidations, db: sqlite3.Connection
    ) -> None:
        for key in "abc":
            db.execute("begin")
            receipt = seen.outbox.enqueue_in(db, "shop", batch(key))
            db.execute("commit")

        assert keys(seen) == ["a", "b", "c"]
        assert (receipt.targets, receipt.inserted) == (1, 1)

    def test_what_is_rolled_back_does_not(
        self, seen: Invalidations, db: sqlite3.Connection
    ) -> None:
        for end in ("rollback", "commit", "rollback"):
            db.execute("begin")
            seen.outbox.enqueue_in(db, "shop", batch(end))
            db.execute(end)

        assert keys(seen) == ["commit"]

    def test_it_goes_with_its_savepoint_in_a_transaction_of_the_test(
        self, seen: Invalidations, db: sqlite3.Connection
    ) -> None:
        db.execute("begin")
        for key, end in ("kept", "release"), ("lost", "rollback to"):
            db.execute("savepoint app")
            seen.outbox.enqueue_in(db, "shop", batch(key))
            db.execute(f"{end} app")

        assert keys(seen) == ["kept"]
        db.execute("rollback")
        assert keys(seen) == []

    def test_so_it_does_where_it_was_seen_before(
        self, seen: Invalidations, db: sqlite3.Connection
    ) -> None:
        db.execute("begin")
        seen.outbox.enqueue_in(db, "shop", batch("stays"))
        db.execute("savepoint part")
        seen.outbox.enqueue_in(db, "shop", batch("goes"))
        seen.assert_invalidated(key="goes")

        db.execute("rollback to part")
        assert keys(seen) == ["stays"]
        db.execute("rollback")
        assert keys(seen) == []

    def test_the_transaction_is_left_as_it_is(
        self, seen: Invalidations, db: sqlite3.Connection
    ) -> None:
        db.execute("begin")
        db.execute("insert into item values (1)")
        seen.outbox.enqueue_in(db, "shop", batch("a"))
        assert keys(seen) == ["a"]
        assert db.in_transaction
        db.execute("rollback")

        assert db.execute("select * from item").fetchall() == []
        assert not db.in_transaction

    def test_without_a_transaction_it_is_refused_as_ever(
        self, seen: Invalidations, db: sqlite3.Connection
    ) -> None:
        with pytest.raises(NotInTransactionError, match="no transaction open"):
            seen.outbox.enqueue_in(db, "shop", batch("a"))

        assert seen.intents == []

    def test_a_closed_connection_counts(
        self, seen: Invalidations, tmp_path: Path
    ) -> None:
        with closing(sqlite3.connect(tmp_path / "shop.db")) as db:
            seen.outbox.enqueue_in(db, "shop", batch("a"))
            db.commit()

        assert keys(seen) == ["a"]

    def test_so_does_one_of_another_thread_which_may_be_using_it(
        self, seen: Invalidations
    ) -> None:
        with closing(sqlite3.connect(":memory:", check_same_thread=False)) as db:
            db.execute("create table item (id integer)")
            asked: list[str] = []

            def serve() -> None:
                seen.outbox.enqueue_in(db, "shop", batch("a"))
                db.commit()
                db.set_trace_callback(asked.append)

            thread = threading.Thread(target=serve)
            thread.start()
            thread.join()

            assert (keys(seen), asked) == (["a"], [])

    def test_a_closed_one_is_refused_as_an_error_of_the_outbox(
        self, seen: Invalidations
    ) -> None:
        db = sqlite3.connect(":memory:")
        db.execute("begin")
        db.set_authorizer(lambda *_: sqlite3.SQLITE_DENY)

        with pytest.raises(OutboxError, match="not authorized"):
            seen.outbox.enqueue_in(db, "shop", batch("a"))
        db.close()

    def test_what_is_no_connection_is_refused_as_ever(
        self, seen: Invalidations
    ) -> None:
        with pytest.raises(TypeError, match="attach"):
            seen.outbox.enqueue_in(Session(), "shop", batch("a"))

    def test_it_sees_what_was_not_rolled_back(
        self, seen: Invalidations, db: sqlite3.Connection
    ) -> None:
        outbox = seen.outbox
        db.execute("begin")
        receipt = outbox.enqueue_in(db, "shop", batch("a"))
        assert outbox.sees(db, receipt)
        # Not committed yet, for what asks in the middle of it.
        assert outbox.status_for_commit("shop", receipt.commit_position).pending == 0
        db.execute("rollback")

        assert not outbox.sees(db, receipt)

    def test_its_own_blocks_are_those_of_any_outbox(self, seen: Invalidations) -> None:
        with seen.outbox.transaction() as connection:
            seen.outbox.enqueue_in(connection, "shop", batch("a"))

        assert keys(seen) == ["a"]


class TestAnApp:
    @pytest.mark.parametrize("mode", ["eventual", "inline"])
    def test_a_block_that_raises_invalidates_nothing(
        self, seen: Invalidations, db: sqlite3.Connection, mode: str
    ) -> None:
        calls = HydraCache(
            {**seen.settings, "HYDRACACHE_NAMESPACE": "shop", "HYDRACACHE_MODE": mode}
        )
        with calls.collecting():
            with calls.transaction(db):
                calls.invalidate_key("a")
            with pytest.raises(ZeroDivisionError), calls.transaction(db):
                calls.invalidate_key("b")
                calls.write(db)
                1 / 0

        assert keys(seen) == ["a"]
        assert seen.drain() == (1 if mode == "eventual" else 0)

    def test_what_is_tried_again_after_a_rollback_counts_once(
        self, seen: Invalidations, db: sqlite3.Connection
    ) -> None:
        calls = HydraCache({**seen.settings, "HYDRACACHE_NAMESPACE": "shop"})
        with calls.collecting():
            calls.invalidate_key("a")
            for end in "rollback", "commit":
                db.execute("begin")
                calls.write(db)
                db.execute(end)

        assert keys(seen) == ["a"]

    def test_what_is_committed_by_hand_is_not_written_again_at_the_end(
        self,
        seen: Invalidations,
        db: sqlite3.Connection,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        calls = HydraCache({**seen.settings, "HYDRACACHE_NAMESPACE": "shop"})
        with calls.collecting():
            db.execute("begin")
            calls.invalidate_key("a")
            calls.write(db)
            db.execute("commit")

        assert (keys(seen), caplog.records) == (["a"], [])


class TestSQLAlchemy:
    @pytest.mark.parametrize("mode", ["create_savepoint", "rollback_only"])
    def test_a_session_that_joins_a_transaction_of_the_test(
        self, seen: Invalidations, mode: str
    ) -> None:
        engine = create_engine("sqlite://")
        # SQLAlchemy's own recipe, for savepoints that hold with sqlite3.
        event.listen(
            engine, "connect", lambda db, _: setattr(db, "isolation_level", None)
        )
        event.listen(engine, "begin", lambda db: db.exec_driver_sql("begin"))
        with engine.connect() as connection:
            transaction = connection.begin()
            options: dict[str, Any] = {"join_transaction_mode": mode}
            maker = sessionmaker(connection, **options)
            attached = attach(maker, seen.outbox, "shop")
            with maker() as session:
                session.execute(text("create table item (id integer)"))
                attached.invalidate(session, InvalidationIntent.key("kept"))
                session.commit()
                attached.invalidate(session, InvalidationIntent.key("lost"))
                session.execute(text("insert into item values (1)"))
                if mode == "create_savepoint":
                    session.rollback()

            assert keys(seen) == ["kept"]
            transaction.rollback()
        engine.dispose()


class TestWhatIsAsked:
    def test_each_name_that_a_value_has(self, seen: Invalidations) -> None:
        found = batch("page:1").invalidate_tag("red")
        found.invalidate_entity("user", 42).invalidate_collection("users")
        seen.outbox.enqueue("shop", found)

        for asked in (
            {"key": "page:1"},
            {"tag": "red"},
            {"entity": ("user", 42)},
            {"entity": ("user", "42")},
            {"collection": "users"},
        ):
            seen.assert_invalidated(**asked)
            with pytest.raises(AssertionError, match="was invalidated, by one of: key"):
                seen.refute_invalidated(**asked)
        for asked in (
            {"key": "red"},
            {"tag": "page:1"},
            {"entity": ("user", 4)},
            {"collection": "user"},
        ):
            seen.refute_invalidated(**asked)
            with pytest.raises(AssertionError, match="was not invalidated; what was"):
                seen.assert_invalidated(**asked)

    def test_a_flush_invalidates_all(self, seen: Invalidations) -> None:
        seen.outbox.enqueue("shop", InvalidationIntentBatch().flush())

        seen.assert_invalidated(key="page:1")
        seen.assert_invalidated(entity=("user", 42))

    def test_one_thing_is_asked_at_once(self, seen: Invalidations) -> None:
        with pytest.raises(TypeError, match=r"not \[\]"):
            seen.assert_invalidated()
        with pytest.raises(TypeError, match="not .'key', 'tag'."):
            seen.refute_invalidated(key="a", tag="b")
        with pytest.raises(TypeError, match="not .'user'."):
            seen.refute_invalidated(user=1)
        for wrong in ("ab", ("user",), ("user", 1, 2), {"user": 1, "b": 2}):
            with pytest.raises(TypeError, match="entity must be its name and its id"):
                seen.refute_invalidated(entity=wrong)

    def test_more_than_a_page_is_all_there(self, seen: Invalidations) -> None:
        names = [f"k{number:03}" for number in range(250)]
        seen.outbox.enqueue("shop", batch(*names))

        assert sorted(map(str, keys(seen))) == names
        assert seen.drain() == 250
        assert sorted(map(str, keys(seen))) == names

    def test_a_drain_makes_the_value_a_miss(self, seen: Invalidations) -> None:
        cache = TaggedCache(seen.store, "shop")
        assert cache.get_or_load("page:1", lambda: "old") == "old"
        seen.outbox.enqueue("shop", batch("page:1"))
        assert cache.get_or_load("page:1", lambda: "new") == "old"

        assert seen.drain() == 1

        assert cache.get_or_load("page:1", lambda: "new") == "new"

    def test_the_next_test_begins_with_nothing(self, seen: Invalidations) -> None:
        cache = TaggedCache(seen.store, "shop")
        cache.get_or_load("page:1", lambda: "old")
        seen.outbox.enqueue("shop", batch("page:1"))
        db = sqlite3.connect(":memory:")
        seen.outbox.enqueue_in(db, "shop", batch("held"))
        db.close()

        later = Invalidations(seen.outbox, seen.store)

        assert later.intents == []
        assert cache.get_or_load("page:1", lambda: "new") == "new"


def test_what_cannot_take_part_says_what_can(db: sqlite3.Connection) -> None:
    db.execute("begin")
    with pytest.raises(NotInTransactionError, match="RecordingOutbox"):
        MemoryOutbox().enqueue_in(db, "shop", batch("a"))
    with pytest.raises(ConfigurationError, match="RecordingOutbox"):
        open_outbox("sqlite:///:memory:")


def test_it_is_an_outbox() -> None:
    assert isinstance(RecordingOutbox(max_batch=2), MemoryOutbox)
    with pytest.raises(ValueError, match="max_batch"):
        RecordingOutbox(max_batch=2).enqueue("shop", batch("a", "b", "c"))
