"""The audit of hits: it finds what is stale, and calls nothing else so."""

from __future__ import annotations

import itertools
import logging
import random
from typing import Any, Callable, Iterator

import pytest

from hydracache_sync import (
    Event,
    InvalidationIntentBatch,
    MemcachedApplier,
    MemoryOutbox,
    MemoryStore,
    OutboxError,
    OutboxWorker,
    PickleCodec,
    StaleHit,
    TaggedCache,
)
from hydracache_sync.cache import audit
from support.clock import FakeClock
from support.page_blocks import blocks_of


class Shop:
    """Rows by key, cached with a tag each, in a time that is moved by hand."""

    def __init__(self, **options: Any) -> None:
        self.seconds = 1000.0
        self.store = MemoryStore()
        self.clock = FakeClock()
        self.outbox = MemoryOutbox(clock=self.clock)
        self.worker = OutboxWorker(self.outbox, MemcachedApplier(self.store, "shop"))
        self.rows: dict[str, Any] = {"a": "old"}
        self.loads = 0
        options = {"audit": 1, "oldest_pending": self.oldest_pending, **options}
        self.cache = TaggedCache(self.store, "shop", **options)
        self.events: list[StaleHit] = []
        self.cache.subscribe(self.note)

    def note(self, event: Event) -> None:
        assert isinstance(event, StaleHit)
        self.events.append(event)

    def oldest_pending(self) -> float:
        return self.outbox.status("shop").oldest_pending_age_ms / 1000

    def load(self) -> Any:
        self.loads += 1
        return self.rows["a"]

    def get(self, loader: Callable[[], Any] | None = None, **options: Any) -> Any:
        return self.cache.get_or_load("a", loader or self.load, tags=["t"], **options)

    def pass_seconds(self, seconds: float) -> None:
        self.seconds += seconds
        self.clock.now_ms += round(seconds * 1000)

    def write(self, value: Any) -> None:
        self.rows["a"] = value
        self.outbox.enqueue("shop", InvalidationIntentBatch().invalidate_tag("t"))

    def found(self) -> dict[str, int]:
        counts = self.cache.diagnostics()
        names = ("audited", "audit_stale", "audit_unsettled", "audit_failed")
        return {name: getattr(counts, name) for name in names if getattr(counts, name)}


@pytest.fixture
def shops(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Shop]]:
    made: list[Shop] = []

    def make(**options: Any) -> Shop:
        made.append(Shop(**options))
        return made[-1]

    monkeypatch.setattr(audit, "monotonic", lambda: made[-1].seconds)
    yield make


@pytest.fixture
def shop(shops: Callable[..., Shop]) -> Shop:
    return shops()


def test_an_equal_value_is_audited_and_nothing_more(shop: Shop) -> None:
    shop.get()

    assert shop.get() == "old"
    assert shop.loads == 2
    assert shop.found() == {"audited": 1}


def test_a_write_past_the_outbox_is_found(
    shops: Callable[..., Shop], caplog: pytest.LogCaptureFixture
) -> None:
    shop = shops(request=lambda: "GET /product/1")
    shop.get()
    shop.rows["a"] = "new and secret"

    first = shop.get()
    before = list(shop.events)
    shop.pass_seconds(audit.SETTLE)
    second = shop.get()

    [event] = shop.events
    assert (first, before, second) == ("old", [], "old")
    assert (event.namespace, event.key, event.tags) == ("shop", "a", ("t",))
    assert event.place.startswith(__file__) and event.place.endswith(" in get")
    assert (event.max_age, event.request) == (None, "GET /product/1")
    [record] = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert record.__dict__["hydracache_tags"] == ("t",)
    assert record.__dict__["hydracache_event"] == "StaleHit"
    [shown] = [
        block.body
        for block in blocks_of("docs/how_to/stale_page.md")
        if block.language == "text"
    ]
    shown = shown.replace("shop.both(1)", "a").replace("product:1", "t")
    shown = shown.replace("/srv/shop/shop.py:117 in show", event.place)
    assert record.getMessage() == shown.rstrip()
    assert "secret" not in caplog.text
    assert shop.found()["audit_stale"] == 1


def test_its_age_is_at_most_that_of_its_youngest_token(shop: Shop) -> None:
    shop.get()
    shop.write("old")
    shop.worker.drain()
    shop.get()
    shop.rows["a"] = "new"

    shop.get()
    shop.pass_seconds(audit.SETTLE)
    shop.get()

    [event] = shop.events
    assert event.max_age is not None and 0 <= event.max_age < 120


def test_a_change_on_its_way_is_no_finding(shop: Shop) -> None:
    shop.get()
    shop.write("new")

    served = shop.get()
    shop.pass_seconds(audit.SETTLE)
    while_pending = shop.get()
    shop.worker.drain()
    shop.pass_seconds(audit.SETTLE)
    after = shop.get(), shop.get()

    assert (served, while_pending, after) == ("old", "old", ("new", "new"))
    shop.pass_seconds(audit.PATIENCE)
    shop.get()
    assert shop.events == []
    assert shop.found()["audit_unsettled"] >= 1


def test_rows_that_nobody_publishes_prove_nothing(shop: Shop) -> None:
    shop.get()
    shop.write("new")
    shop.get()

    for _ in range(10):
        shop.pass_seconds(audit.PATIENCE)
        shop.get()

    assert shop.events == []
    assert shop.found()["audit_unsettled"] >= 1


def test_rows_that_came_after_the_load_are_not_waited_for(shop: Shop) -> None:
    shop.get()
    shop.rows["a"] = "new"
    shop.get()
    shop.pass_seconds(audit.SETTLE)
    shop.outbox.enqueue("shop", InvalidationIntentBatch().invalidate_tag("busy"))
    shop.pass_seconds(1.0)

    shop.get()

    assert len(shop.events) == 1


def test_an_outbox_that_is_away_proves_nothing(shops: Callable[..., Shop]) -> None:
    def oldest_pending() -> float:
        raise OutboxError("away")

    shop = shops(oldest_pending=oldest_pending)
    shop.get()
    shop.rows["a"] = "new"
    for _ in range(5):
        shop.get()
        shop.pass_seconds(audit.SETTLE)

    assert shop.events == []


def test_an_oldest_pending_that_raises_costs_its_reader_nothing(
    shops: Callable[..., Shop], caplog: pytest.LogCaptureFixture
) -> None:
    def oldest_pending() -> float:
        raise ZeroDivisionError("of the app's")

    shop = shops(oldest_pending=oldest_pending)
    shop.get()
    shop.rows["a"] = "new"
    served = []
    for _ in range(5):
        served.append(shop.get())
        shop.pass_seconds(audit.SETTLE)

    assert served == ["old"] * 5
    assert shop.events == []
    assert shop.found()["audit_failed"] > 0
    assert "of the app's" in caplog.text


def test_without_an_outbox_time_alone_decides(shops: Callable[..., Shop]) -> None:
    shop = shops(oldest_pending=None)
    shop.get()
    shop.rows["a"] = "new"
    shop.get()
    shop.pass_seconds(audit.SETTLE - 0.1)
    shop.get()
    early = list(shop.events)
    shop.pass_seconds(0.1)
    shop.get()

    assert early == []
    assert len(shop.events) == 1


def test_a_loader_that_raises_costs_its_reader_nothing(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> Any:
        raise RuntimeError("no such table")

    shop.get()

    assert shop.get(broken) == "old"
    assert shop.found() == {"audit_failed": 1}
    assert "no such table" in caplog.text


def test_a_loader_that_never_says_the_same_is_no_finding(shop: Shop) -> None:
    numbers = itertools.count()
    shop.get(lambda: next(numbers))
    shop.get(lambda: next(numbers))
    shop.pass_seconds(audit.SETTLE)
    shop.get(lambda: next(numbers))

    assert shop.events == []
    assert shop.found()["audit_unsettled"] >= 1


def test_a_load_of_an_older_snapshot_proves_nothing(shop: Shop) -> None:
    shop.get()
    shop.write("new")
    shop.worker.drain()
    shop.get()
    shop.rows["a"] = "old"

    # As in a transaction that began before the write.
    assert shop.get(since=1.0) == "new"
    assert shop.found() == {}
    assert shop.loads == 2


def test_audits_are_few_however_many_hits_there_are(shop: Shop) -> None:
    shop.get()
    for _ in range(100):
        shop.get()
        shop.pass_seconds(0.01)

    assert shop.loads - 1 <= 1 + 100 * 0.01 / audit.PAUSE


def test_a_slow_loader_makes_them_fewer(shop: Shop) -> None:
    def slow() -> Any:
        shop.pass_seconds(3.0)
        return shop.load()

    shop.get()
    shop.get(slow)
    shop.pass_seconds(3.0 * audit.COST - 0.1)
    shop.get(slow)
    assert shop.loads == 2

    shop.pass_seconds(0.2)
    shop.get(slow)
    assert shop.loads == 3


def test_a_share_is_drawn(
    shops: Callable[..., Shop], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random, "random", random.Random(7).random)
    shop = shops(audit=0.25)
    shop.get()
    for _ in range(1000):
        shop.get()
        shop.pass_seconds(1.0)

    assert 200 < shop.found()["audited"] < 300


def test_by_default_nothing_is_audited() -> None:
    cache = TaggedCache(MemoryStore(), "shop")
    loads: list[int] = []
    for _ in range(3):
        cache.get_or_load("a", lambda: loads.append(1))

    assert len(loads) == 1
    assert cache.diagnostics().audited == 0


def test_a_cached_function_and_its_callees_are_audited_one_at_a_time(
    shop: Shop,
) -> None:
    @shop.cache.cached(key=lambda: "inner", tags=["t"])
    def inner() -> Any:
        return shop.load()

    @shop.cache.cached(key=lambda: "outer", tags=["t"])
    def outer() -> Any:
        return [inner()]

    outer()
    shop.pass_seconds(1.0)

    assert outer() == ["old"]
    assert shop.found() == {"audited": 1}


def test_several_keys_are_audited_each_by_a_load_of_its_own(shop: Shop) -> None:
    shop.rows = {"a": 1, "b": 2}
    asked: list[list[str]] = []

    def load(keys: list[str]) -> dict[str, Any]:
        asked.append(keys)
        return {key: shop.rows[key] for key in keys if key in shop.rows}

    def read() -> dict[str, Any]:
        return shop.cache.get_many_or_load(["a", "b"], load, tags=["t"])

    read()
    del shop.rows["a"]
    served = read()
    shop.pass_seconds(audit.SETTLE)
    read()

    assert served == {"a": 1, "b": 2}
    assert asked == [["a", "b"], ["a"], ["a"], ["a"], ["a"]]
    assert [each.key for each in shop.events] == ["a"]


class Plain:
    """Has no ``==`` of its own."""

    def __init__(self, name: str) -> None:
        self.name = name


def test_objects_without_equality_are_compared_by_what_is_stored(
    shops: Callable[..., Shop],
) -> None:
    shop = shops(codec=PickleCodec(key=b"k" * 32))
    shop.rows["a"] = Plain("old")
    shop.get()
    shop.get()
    shop.pass_seconds(1.0)
    equal = shop.found()
    shop.rows["a"] = Plain("new")
    shop.get()
    shop.pass_seconds(audit.SETTLE)
    shop.get()

    assert equal == {"audited": 1}
    assert len(shop.events) == 1


@pytest.mark.parametrize(
    "share, error", [(-0.1, ValueError), (1.1, ValueError), ("1", TypeError)]
)
def test_what_is_no_share_is_refused(share: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="audit must be"):
        TaggedCache(MemoryStore(), "shop", audit=share)
