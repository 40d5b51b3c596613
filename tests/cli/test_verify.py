"""The check of the cache in production: it finds what is stale, and only that."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from typing import Any, Callable, Iterable, Iterator

import pytest

from hydracache_sync import (
    CachedRead,
    CacheVerifier,
    InvalidationIntent,
    InvalidationIntentBatch,
    MemcachedApplier,
    MemoryOutbox,
    MemoryStore,
    OutboxWorker,
    StaleRead,
    TaggedCache,
    Within,
    entity_tag,
)
from hydracache_sync.decorated_reads import DecoratedReads
from hydracache_sync.integrations.flask import HydraCache as FlaskHydraCache
from support.clock import FakeClock

SHOP = "shop"


class Shop:
    """A database of one value a key, its outbox and cache, and a time to be moved."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.outbox = MemoryOutbox(clock=self.clock)
        store = MemoryStore()
        self.cache = TaggedCache(store, SHOP)
        self.worker = OutboxWorker(self.outbox, MemcachedApplier(store, SHOP))
        self.rows: dict[str, Any] = {}
        self.seconds = 0.0
        self.when_slept: Callable[[], object] = lambda: None

    def verifier(self, **options: Any) -> CacheVerifier:
        verifier = CacheVerifier(
            self.outbox,
            self.cache,
            options.pop("reads_of", self.reads_of),
            monotonic=lambda: self.seconds,
            sleep=self.sleep,
            **options,
        )
        verifier.look()
        return verifier

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        self.clock.now_ms += max(1, round(seconds * 1000))
        self.when_slept()

    def reads_of(self, intent: InvalidationIntent) -> Iterable[CachedRead]:
        if intent.kind == "key" and intent.value is not None:
            yield self.read(intent.value)

    def read(self, key: str) -> CachedRead:
        return CachedRead(key, lambda: self.rows.get(key))

    def get(self, key: str) -> Any:
        return self.cache.get_or_load(key, lambda: self.rows.get(key))

    def write(self, key: str, value: Any) -> None:
        self.rows[key] = value
        self.outbox.enqueue(SHOP, InvalidationIntentBatch().invalidate_key(key))

    def write_unseen(self, key: str, value: Any) -> None:
        """As a script does that knows of no outbox: the cache stays stale."""
        self.rows[key] = value


@pytest.fixture
def shop() -> Iterator[Shop]:
    yield Shop()


def counted(verifier: CacheVerifier) -> dict[str, int]:
    return {name: n for name, n in verifier.report().checks.items() if n}


def test_a_published_invalidation_is_checked_at_each_delay(shop: Shop) -> None:
    verifier = shop.verifier(delays=(1, 60, 300))
    shop.write("a", "new")
    shop.worker.drain()
    shop.get("a")
    shop.sleep(0.5)

    taken = verifier.look()

    seen = []
    for moment in (0.9, 1.1, 59.9, 60.1, 299.9, 300.1):
        shop.sleep(moment - shop.seconds)
        seen.append(verifier.check_due())
    assert taken == 1
    assert seen == [0, 1, 0, 1, 0, 1]
    assert counted(verifier) == {"equal": 3}
    assert verifier.report().waiting == 0


def test_a_change_past_the_outbox_is_found_stale(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    verifier = shop.verifier(delays=(1,))
    shop.write("a", "old")
    shop.worker.drain()
    shop.get("a")
    shop.write_unseen("a", "new and secret")
    shop.sleep(2)

    verifier.look()
    verifier.check_due()

    [finding] = verifier.report().findings
    assert verifier.report().stale == 1
    assert (finding.key, finding.delay) == ("a", 1)
    [record] = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert "'a'" in record.getMessage() and "secret" not in caplog.text


def test_a_miss_is_no_finding(shop: Shop) -> None:
    verifier = shop.verifier(delays=(0,))
    shop.write("a", "new")
    shop.worker.drain()
    shop.sleep(1)

    verifier.look()
    verifier.check_due()

    assert counted(verifier) == {"miss": 1}


def test_a_change_on_its_way_is_waited_for(shop: Shop) -> None:
    shop.rows["a"] = "old"
    shop.get("a")
    shop.write("a", "new")
    shop.when_slept = lambda: shop.worker.drain()

    verdict = shop.verifier().check(shop.read("a"))

    assert verdict == "miss"
    assert shop.outbox.status(SHOP).pending == 0


def test_what_is_not_published_in_time_is_unsettled_and_not_stale(shop: Shop) -> None:
    shop.rows["a"] = "old"
    shop.get("a")
    shop.write("a", "new")

    verdict = shop.verifier(settle_timeout=3).check(shop.read("a"))

    assert verdict == "unsettled"
    assert 3 <= shop.seconds < 4


def test_rows_that_come_later_are_not_waited_for(shop: Shop) -> None:
    shop.rows["a"] = "old"
    shop.get("a")
    shop.write_unseen("a", "new")
    shop.write("b", "before the load")
    verifier = shop.verifier(settle_timeout=30)

    def publish_and_write_more() -> None:
        shop.worker.drain()
        shop.write("b", "after the load")

    shop.when_slept = publish_and_write_more

    # Something is pending at every look, as in any busy app.
    assert verifier.check(shop.read("a")) == "stale"
    assert shop.outbox.status(SHOP).pending == 1


def test_values_that_change_all_the_while_are_not_called_stale(shop: Shop) -> None:
    shop.rows["a"] = 0
    shop.get("a")
    versions = itertools.count(1)

    def load() -> int:
        # Between the read and the load: written, published, read by others; and
        # written once more.
        shop.write("a", next(versions))
        shop.worker.drain()
        shop.get("a")
        shop.write_unseen("a", next(versions))
        return shop.rows["a"]  # type: ignore[no-any-return]

    assert shop.verifier().check(CachedRead("a", load)) == "changing"


def test_a_loader_that_raises_is_counted_and_the_next_row_goes_on(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    def reads_of(intent: InvalidationIntent) -> Iterable[CachedRead]:
        if intent.value == "bad":
            raise RuntimeError("no such table")
        return shop.reads_of(intent)

    verifier = shop.verifier(delays=(0,), reads_of=reads_of)
    for key in ("bad", "good"):
        shop.write(key, 1)
    shop.worker.drain()
    shop.get("good")
    shop.sleep(1)

    verifier.look()
    verifier.check_due()

    assert counted(verifier) == {"failed": 1, "equal": 1}
    assert "no such table" in caplog.text


def test_rows_without_reads_are_counted_once(shop: Shop) -> None:
    verifier = shop.verifier(delays=(0, 1), reads_of=lambda intent: ())
    shop.write("a", 1)
    shop.worker.drain()
    shop.sleep(2)

    verifier.look()
    verifier.check_due()

    assert verifier.report().unmapped == 1
    assert counted(verifier) == {}


def test_the_sample_is_bounded_and_repeats_with_its_seed(shop: Shop) -> None:
    first, second = (shop.verifier(delays=(0,), sample=3, seed=7) for _ in range(2))
    other = shop.verifier(delays=(0,), sample=3, seed=8)
    for n in range(50):
        shop.write(f"key:{n}", n)
        shop.rows[f"key:{n}"] = n
        shop.get(f"key:{n}")
        shop.write_unseen(f"key:{n}", -1)
    shop.worker.drain()
    for n in range(50):
        shop.get(f"key:{n}")
        shop.write_unseen(f"key:{n}", -2)
    shop.sleep(1)

    keys = []
    for verifier in (first, second, other):
        assert verifier.look() == 3
        verifier.check_due()
        keys.append([finding.key for finding in verifier.report().findings])

    assert keys[0] == keys[1] != keys[2]
    assert first.report().published == 50
    assert first.report().sampled == 3


def test_rows_published_before_the_first_look_are_left_out(shop: Shop) -> None:
    shop.write("a", 1)
    shop.worker.drain()
    shop.sleep(1)

    verifier = shop.verifier(delays=(0,))
    shop.sleep(1)

    assert verifier.look() == 0


def test_run_ends_when_the_last_check_is_done() -> None:
    outbox, store = MemoryOutbox(), MemoryStore()
    worker = OutboxWorker(outbox, MemcachedApplier(store, SHOP))
    done = threading.Event()

    def reads_of(intent: InvalidationIntent) -> Iterable[CachedRead]:
        return [CachedRead("a", lambda: 1)]

    def write() -> None:
        while not done.is_set():
            outbox.enqueue(SHOP, InvalidationIntentBatch().invalidate_key("a"))
            worker.drain()
            done.wait(0.05)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        verifier = CacheVerifier(
            outbox, TaggedCache(store, SHOP), reads_of, delays=(0, 0.2)
        )
        report = verifier.run(seconds=1.5)
    finally:
        done.set()
        writer.join()

    assert report.sampled > 0
    assert report.waiting == 0
    assert sum(report.checks.values()) == 2 * report.sampled


def test_run_ends_at_once_when_told_to(shop: Shop) -> None:
    stop = threading.Event()
    stop.set()

    report = shop.verifier().run(stop=stop)

    assert report.sampled == 0


@pytest.mark.parametrize(
    "options, named",
    [
        ({"delays": ()}, "delays"),
        ({"delays": (-1,)}, "delays"),
        ({"sample": 0}, "sample"),
        ({"sample": 2.5}, "sample"),
        ({"settle_timeout": float("nan")}, "settle_timeout"),
    ],
)
def test_wrong_options_are_named(
    shop: Shop, options: dict[str, Any], named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        shop.verifier(**options)


def decorated(shop: Shop, function: Callable[..., Any], **options: Any) -> Any:
    return shop.cache.cached(**options)(function)


def writes_tag(shop: Shop, key: str, value: Any) -> None:
    shop.rows[key] = value
    batch = InvalidationIntentBatch().invalidate_entity("item", key)
    shop.outbox.enqueue(SHOP, batch)
    shop.worker.drain()


def item_tags(number: int) -> list[str]:
    return [entity_tag("item", number)]


class TestCachedFunctions:
    @pytest.mark.parametrize("key", [None, lambda number: f"n:{number}"])
    def test_a_read_through_the_decorator_needs_no_reads_of(
        self, shop: Shop, key: Any
    ) -> None:
        def item(number: int) -> Any:
            return shop.rows.get(str(number))

        item.__qualname__ = "item"
        cached = decorated(shop, item, key=key, tags=item_tags)
        verifier = shop.verifier(delays=(0,), reads_of=None)
        writes_tag(shop, "42", "old")
        cached(42)
        shop.write_unseen("42", "new")
        shop.sleep(1)

        verifier.look()
        verifier.check_due()

        [finding] = verifier.report().findings
        assert finding.key == cached.key(42)
        assert verifier.report().unmapped == 0

    def test_an_invalidated_call_of_several_arguments_is_read_from_its_key(
        self, shop: Shop
    ) -> None:
        def pages(shelf: str, page: int) -> Any:
            return shop.rows.get(f"{shelf}{page}")

        pages.__qualname__ = "pages"
        cached = decorated(shop, pages, tags=())
        verifier = shop.verifier(delays=(0,), reads_of=None)
        batch = InvalidationIntentBatch().intent(cached.intent("new", 2))
        shop.outbox.enqueue(SHOP, batch)
        shop.worker.drain()
        cached("new", 2)
        shop.write_unseen("new2", "other")
        shop.sleep(1)

        verifier.look()
        verifier.check_due()

        assert [each.key for each in verifier.report().findings] == [
            cached.key("new", 2)
        ]

    def test_tags_that_it_inherits_are_found(self, shop: Shop) -> None:
        def made() -> tuple[Any, Any]:
            def name(number: int) -> Any:
                return shop.rows.get(str(number))

            def page(number: int) -> Any:
                return [inner(number)]

            inner = decorated(shop, name, key=lambda n: f"name:{n}", tags=item_tags)
            key = "page:{}".format
            return inner, decorated(shop, page, key=key, tags=lambda n: [key(n)])

        _, page = made()
        page(7), page(7)
        # As in a process of its own, which has loaded nothing yet.
        _, page = made()
        tags = page.tags(7)
        [read, *_] = DecoratedReads(shop.cache)(InvalidationIntent.tag("page:7"))

        assert (tags, read.tags) == (("page:7",), ("page:7", "item:7"))
        assert shop.cache.get(read.key, tags=read.tags) == read.load() == [None]

    def test_functions_of_another_namespace_are_left_out(self, shop: Shop) -> None:
        other = TaggedCache(MemoryStore(), "other")
        home = other.cached(key=lambda: "home", tags=["all"])(lambda: 1)

        reads = DecoratedReads(shop.cache)(InvalidationIntent.tag("all"))

        assert home() == 1
        assert list(reads) == []

    def test_functions_of_an_app_outside_of_its_context_are_said(
        self, shop: Shop, caplog: pytest.LogCaptureFixture
    ) -> None:
        calls = FlaskHydraCache()
        of_app = calls.cached(key=lambda: "page", tags=["said"])(lambda: 1)
        home = decorated(shop, lambda: 1, key=lambda: "home", tags=["said"])

        reads = list(DecoratedReads(shop.cache)(InvalidationIntent.tag("said")))

        assert [read.key for read in reads] == [home.key()]
        # One message: it may name another such function that the process still has.
        assert "is not verified" in caplog.text
        assert of_app is not None

    def test_a_function_that_takes_no_guess_ends_nothing(self, shop: Shop) -> None:
        def item(number: Any) -> Any:
            return number.name

        kept = (
            decorated(shop, item, key=lambda number: "k", tags=["guessed"]),
            decorated(shop, lambda: 1, key=lambda: "home", tags=["guessed"]),
        )

        reads = DecoratedReads(shop.cache)(InvalidationIntent.tag("guessed"))

        assert [read.key for read in reads] == ["home"]
        assert len(kept) == 2


class TestBlame:
    def found(self, shop: Shop, verifier: CacheVerifier) -> StaleRead:
        shop.sleep(1)
        verifier.look()
        verifier.check_due()
        [finding] = verifier.report().findings
        return finding

    def test_a_row_that_was_carried_is_not_blamed_for_a_write_past_the_outbox(
        self, shop: Shop
    ) -> None:
        verifier = shop.verifier(delays=(0,))
        shop.write("a", "old")
        shop.worker.drain()
        shop.get("a")
        shop.write_unseen("a", "new")

        finding = self.found(shop, verifier)

        assert (finding.row, finding.cause) == (None, "passed_by")
        assert "no row names" in str(finding)

    def test_a_row_that_was_carried_elsewhere_is(self, shop: Shop) -> None:
        elsewhere = OutboxWorker(shop.outbox, MemcachedApplier(MemoryStore(), SHOP))
        shop.write("a", "old")
        shop.worker.drain()
        shop.get("a")
        # The token is of the host's clock, and the row of the test's.
        shop.clock.now_ms = int(time.time() * 1000) + 3_600_000
        verifier = shop.verifier(delays=(0,))
        shop.write("a", "new")
        elsewhere.drain()

        finding = self.found(shop, verifier)

        assert finding.cause == "no_effect"
        assert finding.row is not None and str(finding.row.id) in str(finding)

    def test_a_row_whose_tag_the_read_lacks_is(self, shop: Shop) -> None:
        verifier = shop.verifier(
            delays=(0,), reads_of=lambda intent: [CachedRead("a", lambda: "new")]
        )
        shop.rows["a"] = "old"
        shop.get("a")
        shop.outbox.enqueue(SHOP, InvalidationIntentBatch().invalidate_tag("forgotten"))
        shop.worker.drain()

        finding = self.found(shop, verifier)

        assert finding.cause == "not_tagged"
        assert finding.row is not None

    def test_a_token_that_only_readers_made_does_not_tell(self, shop: Shop) -> None:
        elsewhere = OutboxWorker(shop.outbox, MemcachedApplier(MemoryStore(), SHOP))
        verifier = shop.verifier(delays=(0,))
        shop.rows["a"] = "old"
        shop.get("a")
        shop.write("a", "new")
        elsewhere.drain()

        finding = self.found(shop, verifier)

        assert (finding.row, finding.cause) == (None, "unknown")

    def test_a_flush_that_was_carried_is_known_by_its_token(self, shop: Shop) -> None:
        verifier = shop.verifier(delays=(0,), reads_of=lambda _: [shop.read("a")])
        shop.outbox.enqueue(SHOP, InvalidationIntentBatch().flush())
        shop.worker.drain()
        shop.rows["a"] = "old"
        shop.get("a")
        shop.write_unseen("a", "new")

        assert self.found(shop, verifier).cause == "passed_by"


class TestNines:
    def test_they_are_counted_at_each_delay(self, shop: Shop) -> None:
        verifier = shop.verifier(delays=(1, 60, 300))
        shop.write("a", "old")
        shop.worker.drain()
        shop.get("a")
        shop.sleep(1.1)
        verifier.look()
        verifier.check_due()
        shop.write_unseen("a", "new")
        for _ in range(2):
            shop.sleep(300)
            verifier.check_due()

        within = verifier.report().within

        counts = [(each.delay, each.checks, each.stale) for each in within]
        assert counts == [(1, 1, 0), (60, 1, 1), (300, 1, 1)]

    @pytest.mark.parametrize(
        "checks, stale, text",
        [
            (10_000, 1, "within 60 s: 4.0 nines, 1 stale of 10000"),
            (10, 10, "within 60 s: 0.0 nines, 10 stale of 10"),
            (30_000, 0, "within 60 s: at least 4.0 nines, 0 stale of 30000"),
            (3, 0, "within 60 s: too few to tell, 0 stale of 3"),
        ],
    )
    def test_they_say_no_more_than_was_seen(
        self, checks: int, stale: int, text: str
    ) -> None:
        assert str(Within(60, checks, stale)) == text
