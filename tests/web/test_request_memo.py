"""Within a request that changes nothing an entry is fetched once, and no longer."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping

import pytest
from flask import Flask, g, stream_with_context
from shop import Shop, close_db, hydracache, text

from hydracache_sync import (
    ConfigurationError,
    InvalidationIntentBatch,
    MemcachedApplier,
    MemcachedStore,
    MemoryStore,
    OutboxWorker,
)
from hydracache_sync.cache.read_memo import MAX_BYTES, MAX_KEPT
from hydracache_sync.integrations.flask import HydraCache as FlaskHydraCache
from hydracache_sync.integrations.wsgi import HydraCache as WSGIHydraCache
from support.faulty_memcached import FaultyMemcached

TAGS = ("item",)


class Page:
    """A shop whose views are given: each is the whole of a request."""

    def __init__(self, tmp_path: Path, **config: Any) -> None:
        config = {"REQUEST_MEMO": True, "SNAPSHOT": "fresh", "WAIT": 0, **config}
        self.shop = Shop(
            tmp_path / "memo.db",
            **{f"HYDRACACHE_{name}": value for name, value in config.items()},
            first=lambda app: app.teardown_appcontext(close_db),
            options={"connection": lambda: g.get("db")},
        )
        self.shop.app.testing = True
        self.loads = 0
        self.view: Callable[[], Any] = str
        self.shop.app.add_url_rule(
            "/", "page", lambda: self.view(), methods=["GET", "POST"]
        )

    def load(self) -> Any:
        self.loads += 1
        return self.shop.name()

    def read(self, key: Any = "item:1", tags: Any = TAGS) -> Any:
        return hydracache.get_or_load(key, self.load, tags=tags)

    def publish(self, *tags: str) -> None:
        """As a worker of another process: of what others have committed."""
        batch = InvalidationIntentBatch()
        for tag in tags or TAGS:
            batch.invalidate_tag(tag)
        applier = MemcachedApplier(self.shop.store, "shop")
        assert applier.apply_batch(list(batch.intents)) == [None] * len(batch.intents)

    def rename_elsewhere(self, name: str) -> None:
        with closing(sqlite3.connect(self.shop.path)) as connection:
            connection.execute("update item set name = ? where id = 1", (name,))
            connection.commit()
        self.publish()

    def serve(self, view: Callable[[], Any], method: str = "GET") -> Any:
        """Answer a request, and return what its view has: no need to be a response."""
        found: list[Any] = []

        def answer() -> str:
            found.append(view())
            return "done"

        self.view = answer
        assert text(self.shop.client.open("/", method=method)) == "done"
        return found.pop()


@pytest.fixture
def page(tmp_path: Path) -> Page:
    """Its one entry is cached."""
    page = Page(tmp_path)
    page.serve(page.read)
    return page


def test_an_entry_is_as_it_was_at_the_first_read_of_the_request(page: Page) -> None:
    def view() -> list[Any]:
        first = page.read()
        page.rename_elsewhere("after")
        return [first, page.read(), page.read(tags=list(TAGS))]

    assert page.serve(view) == ["before"] * 3
    assert page.serve(page.read) == "after"


def test_a_key_with_other_tags_is_another_entry(page: Page) -> None:
    def view() -> list[Any]:
        first = page.read()
        page.rename_elsewhere("after")
        return [first, page.read(tags=("item", "other"))]

    assert page.serve(view) == ["before", "after"]


@pytest.mark.parametrize("key", [7, "7"])
def test_a_number_is_its_text(page: Page, key: Any) -> None:
    page.serve(lambda: page.read(7))

    def view() -> list[Any]:
        first = page.read(key)
        page.rename_elsewhere("after")
        return [first, page.read(7), page.read("7")]

    assert page.serve(view) == ["before"] * 3


def test_values_are_each_readers_own(page: Page) -> None:
    def read() -> Any:
        return hydracache.get_or_load("rows", lambda: {"rows": [1]}, tags=TAGS)

    def view() -> list[Any]:
        values = [read(), read(), read()]
        values[0]["rows"].append("mine")
        values[1].clear()
        return [*values, read()]

    page.serve(read)

    assert page.serve(view)[2:] == [{"rows": [1]}] * 2


def collect(page: Page) -> None:
    hydracache.invalidate_tag("other")


def write_and_commit(page: Page) -> None:
    page.shop.rename("mine")
    hydracache.invalidate_tag("other")
    hydracache.write(page.shop.db())
    page.shop.db().commit()


def commit_in_a_block(page: Page) -> None:
    with hydracache.transaction(page.shop.db()):
        page.shop.rename("mine")


def enqueue_and_commit(page: Page) -> None:
    page.shop.rename("mine")
    batch = InvalidationIntentBatch().invalidate_tag("other")
    hydracache.enqueue(page.shop.db(), batch)
    page.shop.db().commit()


def write_a_batch(page: Page) -> None:
    batch = InvalidationIntentBatch().invalidate_tag("item")
    with hydracache.cache.writing(batch):
        pass


def refresh_another(page: Page) -> None:
    hydracache.refresh("another", lambda: 1)


def delete_another(page: Page) -> None:
    hydracache.cache.delete("another")


def set_another(page: Page) -> None:
    hydracache.cache.set("another", 1, since=0.0)


@pytest.mark.parametrize(
    "act",
    [
        collect,
        write_and_commit,
        commit_in_a_block,
        enqueue_and_commit,
        write_a_batch,
        refresh_another,
        delete_another,
        set_another,
    ],
)
def test_it_ends_when_the_request_changes_something(
    page: Page, act: Callable[[Page], None]
) -> None:
    def view() -> list[Any]:
        first = page.read()
        act(page)
        page.rename_elsewhere("after")
        return [first, page.read(), page.read()]

    assert page.serve(view) == ["before", "after", "after"]


def test_what_is_not_committed_is_read_past_it(page: Page) -> None:
    def view() -> list[Any]:
        first = page.read()
        page.shop.rename("mine")
        shown = hydracache.get_or_load("item:1", own_name, tags=TAGS)
        page.shop.db().rollback()
        return [first, shown, page.read()]

    def own_name() -> str:
        [(name,)] = page.shop.db().execute("select name from item where id = 1")
        return str(name)

    assert page.serve(view) == ["before", "mine", "before"]


def test_a_value_that_was_refreshed_is_read_again(page: Page) -> None:
    def read(value: int) -> int:
        return hydracache.get_or_load("count", lambda: value)

    page.serve(lambda: read(1))

    def view() -> list[int]:
        return [read(2), hydracache.refresh("count", lambda: 3), read(4)]

    assert page.serve(view) == [1, 3, 3]


def test_a_value_past_its_soft_ttl_is_not_older_than_the_one_before(
    page: Page,
) -> None:
    def read(value: str) -> str:
        return hydracache.get_or_load("soft", lambda: value, soft_ttl=0.001)

    page.serve(lambda: read("old"))

    deadline, found = time.monotonic() + 60, ["old", "old"]
    while found[0] == "old" and time.monotonic() < deadline:
        assert found[1] == "old"
        found = page.serve(lambda: [read("new"), read("newer")])

    assert found[0] == "new"
    assert found[1] in ("new", "newer")


def test_nothing_of_the_plain_cache_takes_the_place_of_own_writes(page: Page) -> None:
    def write() -> None:
        with hydracache.transaction(page.shop.db()):
            page.shop.rename("mine")
            hydracache.invalidate_tag("item")

    page.serve(write, method="POST")

    def plain() -> Any:
        return hydracache.cache.get_or_load("item:1", page.load, tags=TAGS)

    def published_meanwhile() -> list[Any]:
        worker = OutboxWorker(
            page.shop.outbox, MemcachedApplier(page.shop.store, "shop")
        )
        return [plain(), worker.drain().complete, page.read()]

    # The plain cache does not know what this browser has written.
    assert page.serve(lambda: [plain(), page.read()]) == ["before", "mine"]
    assert page.serve(published_meanwhile) == ["before", True, "mine"]


def test_a_post_has_none(page: Page) -> None:
    def view() -> list[Any]:
        first = page.read()
        page.rename_elsewhere("after")
        return [first, page.read()]

    assert page.serve(view, method="POST") == ["before", "after"]


def test_what_is_streamed_later_has_none(page: Page) -> None:
    def view() -> Any:
        first = page.read()

        def body() -> Iterator[str]:
            yield first
            page.rename_elsewhere("after")
            yield page.read()

        return stream_with_context(body())

    page.view = lambda: page.shop.app.response_class(view())

    assert text(page.shop.client.get("/")) == "beforeafter"


def test_an_app_context_around_requests_has_none(page: Page) -> None:
    def view() -> Any:
        raise ValueError("let out")

    with page.shop.app.app_context():
        page.view = lambda: (page.read(), view())
        with pytest.raises(ValueError):
            page.shop.client.get("/")
        page.rename_elsewhere("after")

        assert page.read() == "after"
        page.rename_elsewhere("later")
        assert page.read() == "later"


def test_without_the_setting_there_is_none(tmp_path: Path) -> None:
    page = Page(tmp_path, REQUEST_MEMO=False)
    page.serve(page.read)

    def view() -> list[Any]:
        first = page.read()
        page.rename_elsewhere("after")
        return [first, page.read()]

    assert page.serve(view) == ["before", "after"]


@pytest.mark.parametrize(
    ("entries", "size"), [(MAX_KEPT - 1, 1), (5, MAX_BYTES // 5)], ids=["many", "large"]
)
def test_beyond_its_limit_entries_are_fetched_each_time(
    page: Page, entries: int, size: int
) -> None:
    def fill() -> None:
        for number in range(entries):
            hydracache.get_or_load(f"filler:{number}", lambda: "x" * size)

    page.serve(fill)
    page.serve(lambda: page.read("other"))

    def view() -> list[Any]:
        first = [page.read()]
        fill()
        first.append(page.read("other"))
        page.rename_elsewhere("after")
        return [*first, page.read(), page.read("other")]

    assert page.serve(view) == ["before", "before", "before", "after"]


class TestWhatIsForeseen:
    """Entries that the last two requests of the view have both read."""

    KEYS = [f"key:{number}" for number in range(5)]

    def read_all(self, page: Page) -> list[Any]:
        return [page.read(key, tags=(key, "item")) for key in self.KEYS * 2]

    def test_takes_one_round_trip(self, tmp_path: Path) -> None:
        with FaultyMemcached() as server:
            store = MemcachedStore([server.address], timeout=10, connect_timeout=10)
            page = Page(tmp_path, MEMCACHED=store)
            # Loaded by the first, and read by the two after it.
            for _ in range(3):
                page.serve(lambda: self.read_all(page))
            server.forget()

            assert page.serve(lambda: self.read_all(page)) == ["before"] * 10

            assert server.round_trips == 1
            assert page.loads == 5
            store.close()

    def test_is_as_it_was_at_the_first_read_of_the_request(self, page: Page) -> None:
        for _ in range(3):
            page.serve(lambda: self.read_all(page))

        def view() -> list[Any]:
            first = page.read(self.KEYS[0], tags=(self.KEYS[0], "item"))
            page.rename_elsewhere("after")
            return [first, *self.read_all(page)]

        assert page.serve(view) == ["before"] * 11
        assert page.serve(lambda: self.read_all(page)) == ["after"] * 10

    @pytest.mark.parametrize("act", [collect, write_a_batch, refresh_another])
    def test_ends_with_what_the_request_changes(
        self, page: Page, act: Callable[[Page], None]
    ) -> None:
        for _ in range(3):
            page.serve(lambda: self.read_all(page))

        def view() -> list[Any]:
            page.read(self.KEYS[0], tags=(self.KEYS[0], "item"))
            page.rename_elsewhere("after")
            act(page)
            return self.read_all(page)

        assert page.serve(view) == ["after"] * 10

    def test_is_not_what_only_one_of_them_has_read(self, page: Page) -> None:
        def read(number: int) -> None:
            page.serve(lambda: (page.read(f"a:{number}"), page.read(f"b:{number}")))

        for number in range(6):
            read(number)
        before = hits(page)

        for number in range(6):
            read(number)

        assert hits(page) - before == 12

    def test_is_still_loaded_anew_when_it_is_due(self, page: Page) -> None:
        loads: list[str] = []

        def view() -> None:
            for key in self.KEYS:
                hydracache.get_or_load(key, lambda: loads.append(key), soft_ttl=1e-3)

        deadline = time.monotonic() + 60
        while len(loads) < 4 * len(self.KEYS) and time.monotonic() < deadline:
            page.serve(view)

        assert len(loads) >= 4 * len(self.KEYS)


def hits(page: Page) -> int:
    return int(page.shop.state.cache.diagnostics().hits)


@pytest.mark.parametrize(
    "beside", [{"MODE": "strict"}, {"MAX_STALENESS": 60}], ids=["strict", "bound"]
)
@pytest.mark.parametrize("kind", ["flask", "wsgi"])
def test_it_is_refused_beside_what_it_would_break(
    tmp_path: Path, beside: Mapping[str, Any], kind: str
) -> None:
    settings = {
        "OUTBOX": f"sqlite:///{tmp_path}/s.db",
        "NAMESPACE": "shop",
        "MEMCACHED": MemoryStore(),
        "POOL": "none",
        "REQUEST_MEMO": True,
        **beside,
    }
    config = {f"HYDRACACHE_{name}": value for name, value in settings.items()}
    app = Flask("shop")
    app.config.update(config)

    with pytest.raises(ConfigurationError, match="HYDRACACHE_REQUEST_MEMO"):
        FlaskHydraCache(app) if kind == "flask" else WSGIHydraCache(config)


def test_a_wsgi_app_has_one_until_its_response_is_there(tmp_path: Path) -> None:
    store = MemoryStore()
    calls = WSGIHydraCache(
        {
            "HYDRACACHE_OUTBOX": f"sqlite:///{tmp_path}/w.db",
            "HYDRACACHE_NAMESPACE": "shop",
            "HYDRACACHE_MEMCACHED": store,
            "HYDRACACHE_POOL": "none",
            "HYDRACACHE_SNAPSHOT": "fresh",
            "HYDRACACHE_REQUEST_MEMO": "yes",
        }
    )
    values = iter(["first", "second", "third", "fourth"])

    def read() -> bytes:
        found: str = calls.get_or_load("k", lambda: next(values), tags=TAGS)
        return found.encode()

    def invalidate() -> None:
        batch = InvalidationIntentBatch().invalidate_tag("item")
        MemcachedApplier(store, "shop").apply_batch(list(batch.intents))

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        read()
        found = [read()]
        invalidate()
        return body([*found, read()])

    def body(found: list[bytes]) -> Iterator[bytes]:
        yield from found
        yield read()

    wrapped = calls.middleware(app)
    answer = wrapped({"REQUEST_METHOD": "GET", "PATH_INFO": "/"}, None)

    assert list(answer) == [b"first", b"first", b"second"]
