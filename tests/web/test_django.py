"""Django on SQLite: what an atomic block invalidates is committed with it."""

from __future__ import annotations

import contextlib
import decimal
import sqlite3
import tempfile
import uuid
from contextlib import closing
from pathlib import Path
from typing import Any, Callable, Iterator

import django
import pytest
from django.conf import settings
from django.db import connection, connections, models, transaction
from django.http import HttpResponse
from django.test import Client, RequestFactory, override_settings
from django.urls import path as route
from replicated import Replicated, until

from hydracache_sync import (
    ConfigurationError,
    InvalidationIntent,
    InvalidationIntentBatch,
    MemcachedApplier,
    MemoryStore,
    NotInTransactionError,
    SQLiteOutbox,
    TaggedCache,
    entity_key,
    entity_tag,
)
from hydracache_sync.missing_tags import find_missing_tags
from hydracache_sync.statement_recorder import StatementRecorder

#: Django is configured once in a process; the file is made again for each test.
FILE = Path(tempfile.mkdtemp(prefix="hydracache-django-")) / "site.db"

#: A second database, of a few tests.
OTHER_FILE = FILE.with_name("other.db")

urlpatterns: list[Any] = []

settings.configure(
    SECRET_KEY="not secret",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    DATABASES={
        "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": str(FILE)},
        "other": {"ENGINE": "django.db.backends.sqlite3", "NAME": str(OTHER_FILE)},
    },
    MIDDLEWARE=[f"{__name__}.middleware"],
    USE_TZ=True,
    HYDRACACHE_OUTBOX=f"sqlite:///{FILE}",
    HYDRACACHE_NAMESPACE="shop",
    HYDRACACHE_MEMCACHED=MemoryStore(),
    HYDRACACHE_MODE="inline",
    HYDRACACHE_POOL="none",
)
django.setup()

from hydracache_sync.integrations.django import HydraCache, tag_of  # noqa: E402

hydracache = HydraCache()
middleware = hydracache.middleware


# Not of the module: a process may come back to it, after tests of others.
@pytest.fixture(scope="session", autouse=True)
def folder() -> Iterator[None]:
    yield
    FILE.parent.rmdir()


@pytest.fixture(autouse=True)
def outbox() -> Iterator[SQLiteOutbox]:
    outbox = SQLiteOutbox(FILE)
    outbox.install_schema()
    with closing(sqlite3.connect(FILE)) as beside:
        beside.execute("create table item (name text)")
        beside.execute("insert into item values ('before')")
        beside.commit()
    yield outbox
    connection.close()
    outbox.close()
    hydracache.outbox.close()
    FILE.unlink()


def change(name: str = "after", *, key: str = "item:1") -> None:
    with connection.cursor() as cursor:
        cursor.execute("update item set name = %s", [name])
    hydracache.invalidate_key(key)


def written(outbox: SQLiteOutbox) -> tuple[str, list[Any]]:
    with closing(sqlite3.connect(FILE)) as beside:
        [(name,)] = beside.execute("select name from item")
    return name, [row.intent and row.intent.value for row in outbox.rows("shop")]


def get(view: Any) -> Any:
    urlpatterns[:] = [route("items/", view)]
    return Client(raise_request_exception=False).get("/items/")


class TestAtomic:
    def test_both_are_committed_and_published_after_it(
        self, outbox: SQLiteOutbox
    ) -> None:
        def view(request: Any) -> HttpResponse:
            with hydracache.atomic():
                change()
                inside = hydracache.receipts
            return HttpResponse(f"{len(inside)} {hydracache.reads_own_writes()}")

        answer = get(view)

        assert answer.content == b"0 True"
        assert written(outbox) == ("after", ["item:1"])
        [row] = outbox.rows("shop")
        assert row.is_published
        assert row.reason == "GET /items/"

    def test_an_error_rolls_both_back(
        self, outbox: SQLiteOutbox, caplog: pytest.LogCaptureFixture
    ) -> None:
        def view(request: Any) -> HttpResponse:
            with hydracache.atomic():
                change()
                raise ZeroDivisionError

        assert get(view).status_code == 500

        assert written(outbox) == ("before", [])
        assert "did not write it" not in caplog.text

    def test_an_error_after_the_commit_forgets_nothing(
        self, outbox: SQLiteOutbox
    ) -> None:
        def fail() -> None:
            raise ZeroDivisionError

        with hydracache.collecting():
            with pytest.raises(ZeroDivisionError), hydracache.atomic():
                change()
                transaction.on_commit(fail)

            assert written(outbox) == ("after", ["item:1"])
            assert not hydracache.wait(0).satisfied
            assert not hydracache.reads_own_writes()
            assert hydracache.publish().complete

    def test_a_durable_one_refuses_to_be_nested_and_leaves_the_outer_one(
        self, outbox: SQLiteOutbox
    ) -> None:
        with hydracache.atomic(durable=True):
            change("outer", key="outer")
            with pytest.raises(RuntimeError, match="durable"):
                with hydracache.atomic(durable=True):
                    change("inner", key="inner")

        assert written(outbox) == ("outer", ["outer"])

    def test_it_decorates_a_function_as_often_as_that_is_called(
        self, outbox: SQLiteOutbox
    ) -> None:
        @hydracache.atomic()
        def rename(name: str) -> None:
            change(name, key=name)

        rename("first")
        rename("second")

        assert written(outbox) == ("second", ["first", "second"])

    def test_rows_go_with_their_savepoint(self, outbox: SQLiteOutbox) -> None:
        def view(request: Any) -> HttpResponse:
            with hydracache.atomic():
                change("outer", key="outer")
                try:
                    with hydracache.atomic():
                        change("inner", key="inner")
                        raise ZeroDivisionError
                except ZeroDivisionError:
                    pass
                with hydracache.atomic():
                    hydracache.invalidate_key("kept")
            return HttpResponse("done")

        get(view)

        name, keys = written(outbox)
        assert (name, sorted(keys)) == ("outer", ["kept", "outer"])
        assert all(row.is_published for row in outbox.rows("shop"))

    def test_within_an_atomic_of_django_it_waits_for_that_commit(
        self, outbox: SQLiteOutbox
    ) -> None:
        def view(request: Any) -> HttpResponse:
            with transaction.atomic():
                with hydracache.atomic():
                    change()
                between = written(outbox)
            return HttpResponse(repr(between))

        answer = get(view)

        assert answer.content == b"('before', [])"
        assert written(outbox) == ("after", ["item:1"])
        assert [row.is_published for row in outbox.rows("shop")] == [True]

    def test_a_rollback_of_django_outside_takes_it_along(
        self, outbox: SQLiteOutbox
    ) -> None:
        def view(request: Any) -> HttpResponse:
            with transaction.atomic():
                with hydracache.atomic():
                    change()
                transaction.set_rollback(True)
            return HttpResponse("done")

        get(view)

        assert written(outbox) == ("before", [])

    def test_a_command_needs_no_request(self, outbox: SQLiteOutbox) -> None:
        with hydracache.atomic():
            change()

        assert written(outbox) == ("after", ["item:1"])


class TestByHand:
    """With Django's own atomic, as docs/integrations/django.md shows."""

    def test_write_in_the_block_and_publish_on_commit(
        self, outbox: SQLiteOutbox
    ) -> None:
        def view(request: Any) -> HttpResponse:
            with transaction.atomic():
                change()
                hydracache.write(connection.connection)
                transaction.on_commit(hydracache.publish)
            return HttpResponse(str(hydracache.reads_own_writes()))

        answer = get(view)

        assert answer.content == b"True"
        assert written(outbox) == ("after", ["item:1"])

    def test_what_was_written_before_its_savepoint_was_rolled_back_is_saved(
        self, outbox: SQLiteOutbox, caplog: pytest.LogCaptureFixture
    ) -> None:
        def view(request: Any) -> HttpResponse:
            with transaction.atomic():
                change()
                try:
                    with transaction.atomic():
                        hydracache.write(connection.connection)
                        raise ZeroDivisionError
                except ZeroDivisionError:
                    pass
            return HttpResponse("done")

        get(view)

        assert written(outbox) == ("after", ["item:1"])
        assert "went back to a savepoint" in caplog.text

    def test_what_was_collected_in_its_savepoint_is_rolled_back_with_it(
        self, outbox: SQLiteOutbox, caplog: pytest.LogCaptureFixture
    ) -> None:
        def view(request: Any) -> HttpResponse:
            with transaction.atomic():
                try:
                    with transaction.atomic():
                        change()
                        hydracache.write(connection.connection)
                        raise ZeroDivisionError
                except ZeroDivisionError:
                    pass
            return HttpResponse("done")

        get(view)

        assert written(outbox) == ("before", [])
        assert not caplog.records

    def test_enqueue_in_goes_with_the_savepoint(self, outbox: SQLiteOutbox) -> None:
        batch = InvalidationIntentBatch().invalidate_key("item:1")

        with transaction.atomic():
            try:
                with transaction.atomic():
                    outbox.enqueue_in(connection.connection, "shop", batch)
                    raise ZeroDivisionError
            except ZeroDivisionError:
                pass
            inner = InvalidationIntentBatch().invalidate_key("item:2")
            outbox.enqueue_in(connection.connection, "shop", inner)

        assert written(outbox) == ("before", ["item:2"])

    def test_outside_of_an_atomic_block_it_is_refused(
        self, outbox: SQLiteOutbox
    ) -> None:
        batch = InvalidationIntentBatch().invalidate_key("item:1")
        connection.ensure_connection()

        with pytest.raises(NotInTransactionError):
            outbox.enqueue_in(connection.connection, "shop", batch)

        assert written(outbox) == ("before", [])

    def test_what_a_view_forgets_to_write_goes_out_with_a_warning(
        self, outbox: SQLiteOutbox, caplog: pytest.LogCaptureFixture
    ) -> None:
        def view(request: Any) -> HttpResponse:
            change()  # autocommit, Django's default
            return HttpResponse("done")

        get(view)

        assert written(outbox) == ("after", ["item:1"])
        assert "GET /items/ collected key item:1" in caplog.text


class Place(models.Model):
    class Meta:
        app_label = "town"


class Restaurant(Place):
    class Meta:
        app_label = "town"


class Pizzeria(Restaurant):
    class Meta:
        app_label = "town"
        proxy = True


class Visit(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)

    class Meta:
        app_label = "town"


class Price(models.Model):
    amount = models.DecimalField(max_digits=8, decimal_places=2, primary_key=True)

    class Meta:
        app_label = "town"


def restaurant(model: Any, id: int | None) -> Any:
    return model(id=id, place_ptr_id=id)


class TestModels:
    """An object of a model in place of its entity's name and key."""

    def test_its_tag_is_of_its_label_and_primary_key(self) -> None:
        visit = Visit()

        assert tag_of(Place(pk=42)) == entity_tag("town.place", 42)
        assert tag_of(Place(pk="42")) == entity_tag("town.place", 42)
        assert tag_of(visit) == entity_tag("town.visit", visit.id)
        for spelling in (str(visit.id).upper(), visit.id.hex):
            assert tag_of(Visit(pk=spelling)) == tag_of(visit)
        for model in (Restaurant, Pizzeria):
            assert tag_of(restaurant(model, 7)) == entity_tag("town.restaurant", 7)

    def test_it_is_invalidated_with_what_it_inherits_from(
        self, outbox: SQLiteOutbox
    ) -> None:
        with hydracache.collecting(), hydracache.atomic():
            hydracache.invalidate(Place(pk=42), restaurant(Pizzeria, 7))

        found = [row.intent for row in outbox.rows("shop")]
        assert sorted(found, key=str) == [
            InvalidationIntent.entity("town.place", 42),
            InvalidationIntent.entity("town.place", 7),
            InvalidationIntent.entity("town.restaurant", 7),
        ]

    @pytest.mark.parametrize(
        "wrong, error, message",
        [
            (Place(), ValueError, "a Place has no primary key yet: save it"),
            (restaurant(Pizzeria, None), ValueError, "a Pizzeria has no primary key"),
            (Visit("x"), ValueError, "the primary key of a Visit: .x. is not a valid"),
            (Price(decimal.Decimal(1)), TypeError, "must be str, int or UUID, not Dec"),
            (Place, TypeError, "Place is a class, which names no row"),
            ("place:1", TypeError, "str"),
            (42, TypeError, "int"),
        ],
        ids=str,
    )
    def test_what_has_no_key_or_is_no_object_is_refused(
        self, wrong: Any, error: type[Exception], message: str
    ) -> None:
        with hydracache.collecting():
            for call in (tag_of, hydracache.invalidate):
                with pytest.raises(error, match=message):
                    call(wrong)
            assert not hydracache.collected()

    if hasattr(models, "CompositePrimaryKey"):  # since Django 5.2

        def test_the_key_of_several_columns_is_that_of_entity_key(self) -> None:
            class Seat(models.Model):
                pk = models.CompositePrimaryKey("row", "number")
                row = models.CharField(max_length=3)
                number = models.IntegerField()

                class Meta:
                    app_label = "town"

            seat = Seat(row="a:b", number=7)

            assert tag_of(seat) == entity_tag("town.seat", entity_key("a:b", 7))
            with pytest.raises(ValueError, match="a Seat has no primary key yet"):
                tag_of(Seat(row="a"))


class TestUncommitted:
    """What a block has changed is read by it alone, until it is committed."""

    @pytest.fixture
    def fresh(self) -> Iterator[HydraCache]:
        """Stores what is read without a transaction open."""
        calls = HydraCache(
            {
                "HYDRACACHE_OUTBOX": f"sqlite:///{FILE}",
                "HYDRACACHE_NAMESPACE": "shop",
                "HYDRACACHE_MEMCACHED": MemoryStore(),
                "HYDRACACHE_SNAPSHOT": "fresh",
                "HYDRACACHE_POOL": "none",
            }
        )
        yield calls
        calls.outbox.close()

    def serve(
        self, calls: HydraCache, view: Callable[[], str], method: str = "POST"
    ) -> str:
        def get_response(request: Any) -> HttpResponse:
            return HttpResponse(view())

        request = RequestFactory().generic(method, "/items/")
        answer: bytes = calls.middleware(get_response)(request).content
        return answer.decode()

    def name(self, calls: HydraCache) -> str:
        def load() -> str:
            with connection.cursor() as cursor:
                cursor.execute("select name from item")
                [(name,)] = cursor.fetchall()
            return str(name)

        return calls.get_or_load("item:1", load)

    @pytest.mark.parametrize("atomic", ["hydracache", "django"])
    def test_what_is_rolled_back_is_not_stored(
        self, fresh: HydraCache, atomic: str
    ) -> None:
        def view() -> str:
            block = fresh.atomic if atomic == "hydracache" else transaction.atomic
            with contextlib.suppress(ZeroDivisionError), block():
                with connection.cursor() as cursor:
                    cursor.execute("update item set name = 'never'")
                seen = self.name(fresh)
                raise ZeroDivisionError
            return seen

        assert self.serve(fresh, view) == "never"
        assert fresh.cache.get("item:1") is None

    def test_nor_without_a_request(self, fresh: HydraCache) -> None:
        with contextlib.suppress(ZeroDivisionError), fresh.atomic():
            with connection.cursor() as cursor:
                cursor.execute("update item set name = 'never'")
            assert self.name(fresh) == "never"
            raise ZeroDivisionError

        assert fresh.cache.get("item:1") is None

    def test_a_block_reads_its_own_change_though_another_value_is_cached(
        self, fresh: HydraCache
    ) -> None:
        self.serve(fresh, lambda: self.name(fresh))

        def view() -> str:
            with transaction.atomic():
                with connection.cursor() as cursor:
                    cursor.execute("update item set name = 'after'")
                return self.name(fresh)

        assert self.serve(fresh, view) == "after"
        assert fresh.cache.get("item:1") == "before"

    @pytest.mark.parametrize("method", ["GET", "POST"])
    @pytest.mark.parametrize("atomic", [False, True])
    def test_a_view_that_only_reads_stores(
        self, fresh: HydraCache, method: str, atomic: bool
    ) -> None:
        def view() -> str:
            if not atomic:
                return self.name(fresh)
            with transaction.atomic():
                return self.name(fresh)

        self.serve(fresh, view, method)

        assert fresh.cache.get("item:1") == "before"

    @pytest.fixture
    def other(self) -> Iterator[Any]:
        """The connection of the second database, which has the table, too."""
        with closing(sqlite3.connect(OTHER_FILE)) as beside:
            beside.execute("create table item (name text)")
            beside.execute("insert into item values ('before')")
            beside.commit()
        yield connections["other"]
        connections["other"].close()
        OTHER_FILE.unlink()

    def test_a_block_of_one_database_sees_the_changes_in_another(
        self, fresh: HydraCache, other: Any
    ) -> None:
        with fresh.atomic(), transaction.atomic("other"), other.cursor() as cursor:
            cursor.execute("update item set name = 'never'")
            seen = fresh.get_or_load("item:1", lambda: "never")
            transaction.set_rollback(True, "other")

        assert seen == "never"
        assert fresh.cache.get("item:1") is None

    def test_so_does_a_script(self, fresh: HydraCache, other: Any) -> None:
        with fresh.collecting(), transaction.atomic("other"):
            with other.cursor() as cursor:
                cursor.execute("update item set name = 'never'")
            fresh.get_or_load("item:1", lambda: "never")
            transaction.set_rollback(True, "other")

        assert fresh.cache.get("item:1") is None

    def test_what_was_changed_before_the_block_began_is_not_stored(
        self, fresh: HydraCache
    ) -> None:
        with contextlib.suppress(ZeroDivisionError), transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute("update item set name = 'never'")
            with fresh.collecting():
                assert self.name(fresh) == "never"
            raise ZeroDivisionError

        assert fresh.cache.get("item:1") is None

    def test_nor_what_a_raw_connection_has_changed_in_a_post(
        self, fresh: HydraCache
    ) -> None:
        def view() -> str:
            with closing(sqlite3.connect(FILE)) as raw:
                raw.execute("update item set name = 'never'")
                seen = fresh.get_or_load(
                    "item:1",
                    lambda: str(raw.execute("select name from item").fetchone()[0]),
                )
                raw.rollback()
            return seen

        assert self.serve(fresh, view) == "never"
        assert fresh.cache.get("item:1") is None

    def test_after_the_commit_it_stores_again(self, fresh: HydraCache) -> None:
        def view() -> str:
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute("update item set name = 'after'")
            return self.name(fresh)

        self.serve(fresh, view)

        assert fresh.cache.get("item:1") == "after"


class TestStrict:
    @pytest.fixture
    def strict(self) -> Iterator[HydraCache]:
        calls = HydraCache(
            {
                "HYDRACACHE_OUTBOX": f"sqlite:///{FILE}",
                "HYDRACACHE_NAMESPACE": "shop",
                "HYDRACACHE_MEMCACHED": MemoryStore(),
                "HYDRACACHE_MODE": "strict",
                "HYDRACACHE_POOL": "none",
            }
        )
        yield calls
        calls.outbox.close()

    def test_the_commit_is_held_off(
        self,
        strict: HydraCache,
        outbox: SQLiteOutbox,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        seen: list[Any] = []
        quarantine = strict.cache.quarantine

        def watched(batch: Any, **options: Any) -> Any:
            seen.append((written(outbox), len(batch)))
            return quarantine(batch, **options)

        monkeypatch.setattr(strict.cache, "quarantine", watched)

        with strict.collecting():
            with strict.atomic():
                with connection.cursor() as cursor:
                    cursor.execute("update item set name = 'after'")
                strict.invalidate_key("item:1")
            receipt = strict.receipt

        assert seen == [(("before", []), 1)]
        assert receipt is not None and receipt.strict is True
        assert written(outbox) == ("after", ["item:1"])
        assert caplog.records == []


def test_settings_are_checked_at_the_start() -> None:
    with pytest.raises(ConfigurationError, match="did you mean HYDRACACHE_NAMESPACE"):
        HydraCache({"HYDRACACHE_NAMSPACE": "shop"})


class TestAuto:
    """A view reads in the middle of another's change; what is old is not stored."""

    @pytest.fixture
    def auto(self) -> Iterator[HydraCache]:
        calls = HydraCache(
            {
                "HYDRACACHE_OUTBOX": f"sqlite:///{FILE}",
                "HYDRACACHE_NAMESPACE": "shop",
                "HYDRACACHE_MEMCACHED": MemoryStore(),
                "HYDRACACHE_POOL": "none",
            }
        )
        yield calls
        calls.outbox.close()

    def name(self, through: Any = connection) -> str:
        with contextlib.closing(through.cursor()) as cursor:
            cursor.execute("select name from item")
            [(name,)] = cursor.fetchall()
        return str(name)

    def shown_and_stored(
        self, calls: HydraCache, around: Callable[[Callable[..., str]], str]
    ) -> tuple[str, Any]:
        """:param around: a view, which is given what changes and then reads."""

        def change_and_read(load: Callable[[], str] = self.name) -> str:
            with closing(sqlite3.connect(FILE)) as beside:
                beside.execute("update item set name = 'after'")
                beside.commit()
            applier = MemcachedApplier(calls.cache._store, "shop")
            assert applier.apply_batch([InvalidationIntent.key("item:1")]) == [None]
            return str(calls.get_or_load("item:1", load))

        def get_response(request: Any) -> HttpResponse:
            return HttpResponse(around(change_and_read))

        request = RequestFactory().get("/items/")
        answer: bytes = calls.middleware(get_response)(request).content
        return answer.decode(), calls.cache.get("item:1")

    @pytest.fixture(autouse=True)
    def beside_readers(self, outbox: SQLiteOutbox) -> None:
        with closing(sqlite3.connect(FILE)) as beside:
            beside.execute("pragma journal_mode = wal")

    def test_what_is_read_without_a_transaction_open_is_stored(
        self, auto: HydraCache
    ) -> None:
        def view(change_and_read: Callable[..., str]) -> str:
            return change_and_read()

        assert self.shown_and_stored(auto, view) == ("after", "after")

    def test_a_row_that_the_request_had_read_before_is_not(
        self, auto: HydraCache
    ) -> None:
        """Its transaction is over, and the loader returns it."""

        def view(change_and_read: Callable[..., str]) -> str:
            found = self.name()

            def load() -> str:
                self.name()
                return found

            return change_and_read(load)

        assert self.shown_and_stored(auto, view) == ("before", None)
        assert auto.cache.diagnostics().refused_earlier == 1

    def test_also_in_a_block_of_the_loader(self, auto: HydraCache) -> None:
        def load() -> str:
            with transaction.atomic():
                return self.name()

        def view(change_and_read: Callable[..., str]) -> str:
            return change_and_read(load)

        assert self.shown_and_stored(auto, view) == ("after", "after")

    def test_what_is_read_in_an_open_block_is_not(self, auto: HydraCache) -> None:
        def view(change_and_read: Callable[..., str]) -> str:
            with transaction.atomic():
                self.name()
                return change_and_read()

        assert self.shown_and_stored(auto, view) == ("before", None)

    def test_nor_after_a_begin_that_was_sent_as_text(self, auto: HydraCache) -> None:
        def view(change_and_read: Callable[..., str]) -> str:
            with connection.cursor() as cursor:
                cursor.execute("begin")
                self.name()
                found = change_and_read()
                cursor.execute("rollback")
            return found

        assert self.shown_and_stored(auto, view) == ("before", None)

    def test_nor_beside_a_cursor_that_still_reads(self, auto: HydraCache) -> None:
        def view(change_and_read: Callable[..., str]) -> str:
            with connection.cursor() as cursor:
                cursor.execute("select 1 union all select name from item")
                cursor.fetchone()
                return change_and_read()

        assert self.shown_and_stored(auto, view) == ("before", None)

    def test_nor_what_a_raw_connection_reads(self, auto: HydraCache) -> None:
        with closing(sqlite3.connect(FILE, isolation_level=None)) as raw:

            def view(change_and_read: Callable[..., str]) -> str:
                raw.execute("begin")
                self.name(raw)
                return change_and_read(lambda: self.name(raw))

            assert self.shown_and_stored(auto, view) == ("before", None)

    @pytest.mark.parametrize("tells", [True, False], ids=["told", "not told"])
    def test_nor_what_is_read_in_a_transaction_that_an_earlier_request_left_open(
        self, auto: HydraCache, tells: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Out of autocommit, on a connection that is kept."""
        if not tells:
            module = "hydracache_sync.integrations.django.find_driver"
            monkeypatch.setattr(module, lambda connection: None)

        def left_open(change_and_read: Callable[..., str]) -> str:
            connection.set_autocommit(False)
            with connection.cursor() as cursor:
                cursor.execute("begin")
            self.name()
            return change_and_read()

        self.shown_and_stored(auto, left_open)
        for _ in range(2):  # the second one knows the token

            def get_response(request: Any) -> HttpResponse:
                return HttpResponse(auto.get_or_load("item:1", self.name))

            request = RequestFactory().get("/items/")
            assert auto.middleware(get_response)(request).content == b"before"

        assert auto.cache.get("item:1") is None


class TestReplica:
    def test_what_a_late_replica_shows_is_not_stored(self) -> None:
        site = Replicated(FILE.parent, "other", primary=FILE)
        calls = HydraCache(site.config)

        def read(key: str, using: str) -> tuple[str, Any]:
            def load() -> str:
                with connections[using].cursor() as cursor:
                    cursor.execute("select name from item")
                    return str(cursor.fetchone()[0])

            site.beat()
            with calls.collecting():
                return calls.get_or_load(key, load), calls.cache.get(key)

        def replicated() -> tuple[str, Any]:
            site.replicate()
            return read("item", "other")

        try:
            until(lambda: replicated() == ("before", "before"))
            with calls.collecting(), calls.atomic():
                with connection.cursor() as cursor:
                    cursor.execute("update item set name = 'after'")
                calls.invalidate_key("item")

            # What is up to date is stored before, and so might this be.
            until(lambda: read("probe", "default") == ("after", "after"))
            late = read("item", "other")

            assert late == ("before", None)
            until(lambda: replicated() == ("after", "after"))
        finally:
            connections["other"].close()
            calls.outbox.close()
            site.close()
            OTHER_FILE.unlink()


class TestAMemo:
    def test_ends_with_what_the_request_changes(self) -> None:
        with override_settings(
            HYDRACACHE_MEMCACHED=MemoryStore(),
            HYDRACACHE_REQUEST_MEMO=True,
            HYDRACACHE_SNAPSHOT="fresh",
        ):
            memoized = HydraCache()

        def read() -> str:
            return memoized.get_or_load("k", lambda: "old", tags=["t"])

        def publish() -> None:
            batch = InvalidationIntentBatch().invalidate_tag("t")
            memoized.runtime.worker.applier.apply_batch(list(batch.intents))

        found: list[str] = []

        def view(request: Any) -> HttpResponse:
            found[:] = [read()]
            publish()
            found.append(memoized.get_or_load("k", lambda: "new", tags=["t"]))
            memoized.invalidate_tag("other")
            found.append(memoized.get_or_load("k", lambda: "new", tags=["t"]))
            return HttpResponse()

        serve = memoized.middleware(view)
        memoized.cache.refresh("k", lambda: "old", tags=["t"])
        serve(RequestFactory().get("/"))

        assert found == ["old", "old", "new"]
        memoized.outbox.close()


def test_what_django_sends_is_read_by_the_finder_of_missing_tags(
    tmp_path: Path,
) -> None:
    recorded, baseline = tmp_path / "loads.jsonl", tmp_path / "tags.ini"
    baseline.write_text("[tables]\nitem = item:*\n")

    def noted(execute: Any, sql: str, *rest: Any) -> Any:
        recorder.note(sql, "sqlite")
        return execute(sql, *rest)

    def load() -> str:
        with connection.cursor() as cursor:
            cursor.execute("select name from item where name = %s", ["before"])
            return str(cursor.fetchone()[0])

    with StatementRecorder(recorded) as recorder, connection.execute_wrapper(noted):
        TaggedCache(MemoryStore(), "shop").get_or_load("page", load, tags=["user:1"])
    found = find_missing_tags(recorded, baseline)

    assert [each.table for each in found.missing] == ["item"]
    assert found.unreadable == ()
