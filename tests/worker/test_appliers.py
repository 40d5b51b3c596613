"""Appliers of tokens: each intent changes the one token that its readers compare.

``PlainKeyApplier`` has a file of its own, ``test_plain_keys.py``.
"""

from __future__ import annotations

from typing import Callable, Iterator, Sequence, Union

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydracache_sync import (
    ApplyError,
    ApplyPermanent,
    ApplyTransient,
    ApplyUnavailable,
    InvalidationApplier,
    InvalidationIntent,
    InvalidationIntentBatch,
    MemcachedApplier,
    MemcachedStore,
    MemoryOutbox,
    MemoryStore,
    OutboxState,
    OutboxWorker,
    PublishReport,
    RecordingApplier,
    SQLiteOutbox,
    TaggedCache,
    collection_tag,
    entity_tag,
)
from hydracache_sync.cache import Address, CacheStore, Copy, Keyspace, Maker
from hydracache_sync.cache.tokens.token import fresh_token, is_live, stamp_ms
from support.clock import FakeClock
from support.faulty_memcached import FaultyMemcached, Mode
from support.servers import Memcached

SHOP = "shop"

#: Seconds that a store waits for a server that never answers.
QUICK = 1.0

#: As long as any row of an outage waits.
LONGEST_OUTAGE_WAIT = 5.0

Outbox = Union[MemoryOutbox, SQLiteOutbox]

KEY = InvalidationIntent.key("report")
TAG = InvalidationIntent.tag("prices")
ENTITY = InvalidationIntent.entity("user", "42")
COLLECTION = InvalidationIntent.collection("users:active")
FLUSH = InvalidationIntent.flush()
INTENTS = [KEY, TAG, ENTITY, COLLECTION, FLUSH]

#: Anything that an intent may be about.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


class PartlyFailingStore(MemoryStore):
    """Acknowledges no write to some addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.failing: dict[Address, ApplyError] = {}

    def replace_many(
        self, copies: Sequence[Copy], placeholders: Sequence[bytes], make: Maker
    ) -> list[bool | ApplyError]:
        outcomes = super().replace_many(copies, placeholders, make)
        return [
            self.failing.get(address, outcome)
            for (address, _), outcome in zip(copies, outcomes)
        ]


class InterruptedStore(CacheStore):
    """Writes half of a batch, has something happen, and writes the other half."""

    def __init__(self, store: CacheStore, happening: Callable[[], object]) -> None:
        super().__init__(store.ring)
        self._store = store
        self._happening = happening

    def copies(self, addresses: Sequence[Address]) -> list[Copy]:
        return self._store.copies(addresses)

    def replace_many(
        self, copies: Sequence[Copy], placeholders: Sequence[bytes], make: Maker
    ) -> list[bool | ApplyError]:
        half = len(copies) // 2
        first = self._store.replace_many(copies[:half], placeholders[:half], make)
        self._happening()
        return first + self._store.replace_many(
            copies[half:], placeholders[half:], make
        )


@pytest.fixture(params=["memory", "memcached"])
def store(request: pytest.FixtureRequest, unique: str) -> Iterator[CacheStore]:
    if request.param == "memory":
        yield MemoryStore(ring=unique)
        return
    server: Memcached = request.getfixturevalue("memcached")
    with MemcachedStore([server.address], ring=unique) as store:
        yield store


@pytest.fixture
def faulty() -> Iterator[FaultyMemcached]:
    with FaultyMemcached() as server:
        yield server


def quick_store(server: FaultyMemcached | Memcached) -> MemcachedStore:
    return MemcachedStore(
        [server.address], connect_timeout=QUICK, timeout=QUICK, retry_after=0
    )


def batch_of(*intents: InvalidationIntent) -> InvalidationIntentBatch:
    batch = InvalidationIntentBatch("test")
    for intent in intents:
        batch.intent(intent)
    return batch


def keys(count: int) -> list[InvalidationIntent]:
    return [InvalidationIntent.key(f"key:{number}") for number in range(count)]


def token_addresses(store: CacheStore) -> dict[InvalidationIntent, Address]:
    """Where readers look for the token that each of INTENTS is to change."""
    keyspace = Keyspace(store.ring, SHOP)
    _, namespace_token, key_token = keyspace.of_key("report")
    return {
        KEY: key_token,
        TAG: keyspace.tag_token("prices"),
        ENTITY: keyspace.tag_token(entity_tag("user", "42")),
        COLLECTION: keyspace.tag_token(collection_tag("users:active")),
        FLUSH: namespace_token,
    }


class TestTokens:
    @pytest.mark.parametrize("intent", INTENTS, ids=lambda intent: intent.kind)
    def test_an_intent_changes_its_own_token_and_no_other(
        self, store: CacheStore, intent: InvalidationIntent
    ) -> None:
        addresses = token_addresses(store)
        before = {each: fresh_token(1) for each in INTENTS}
        store.set_many([(addresses[each], before[each], None) for each in INTENTS])

        MemcachedApplier(store, SHOP).apply_invalidation(intent)

        after = dict(zip(INTENTS, store.get_many([addresses[i] for i in INTENTS])))
        assert [each for each in INTENTS if after[each] != before[each]] == [intent]
        assert is_live(after[intent])

    @pytest.mark.parametrize("intent", INTENTS, ids=lambda intent: intent.kind)
    def test_an_intent_makes_its_own_readers_miss_and_no_other(
        self, store: CacheStore, intent: InvalidationIntent
    ) -> None:
        cache = TaggedCache(store, SHOP)
        reads = {
            KEY: ("report", ()),
            TAG: ("page 1", ("prices", "news")),
            ENTITY: ("page 2", (entity_tag("user", "42"),)),
            COLLECTION: ("page 3", (collection_tag("users:active"),)),
        }
        for key, tags in [*reads.values(), ("untouched", ("other",))]:
            cache.get_or_load(key, lambda: "old", tags=tags)

        MemcachedApplier(store, SHOP).apply_invalidation(intent)

        missed = [
            each
            for each, (key, tags) in reads.items()
            if cache.get(key, tags=tags) is None
        ]
        assert missed == (list(reads) if intent is FLUSH else [intent])
        untouched = cache.get("untouched", tags=("other",))
        assert untouched == (None if intent is FLUSH else "old")

    @pytest.mark.parametrize("intent", INTENTS, ids=lambda intent: intent.kind)
    def test_other_namespaces_and_rings_are_not_touched(
        self, store: CacheStore, intent: InvalidationIntent
    ) -> None:
        cache = TaggedCache(store, "blog")
        tags = ["prices", entity_tag("user", "42"), collection_tag("users:active")]
        cache.get_or_load("report", lambda: "old", tags=tags)

        MemcachedApplier(store, SHOP).apply_invalidation(intent)

        assert cache.get("report", tags=tags) == "old"

    @pytest.mark.parametrize("intent", INTENTS, ids=lambda intent: intent.kind)
    def test_each_attempt_makes_a_token_of_its_own(
        self, store: CacheStore, intent: InvalidationIntent, clock: FakeClock
    ) -> None:
        applier = MemcachedApplier(store, SHOP, clock=clock)
        address = token_addresses(store)[intent]
        tokens = []

        for _ in range(20):
            applier.apply_invalidation(intent)
            tokens += store.get_many([address])

        assert len(set(tokens)) == 20
        assert all(map(is_live, tokens))

    def test_intents_of_one_batch_get_different_tokens(self, store: CacheStore) -> None:
        MemcachedApplier(store, SHOP).apply_batch(INTENTS)

        tokens = store.get_many(list(token_addresses(store).values()))
        assert len(set(tokens)) == len(INTENTS)

    def test_a_token_is_stamped_when_it_is_applied(
        self, store: CacheStore, clock: FakeClock
    ) -> None:
        clock.advance(1.234)

        MemcachedApplier(store, SHOP, clock=clock).apply_invalidation(KEY)

        [token] = store.get_many([token_addresses(store)[KEY]])
        assert token is not None and stamp_ms(token) == clock.now_ms

    def test_a_token_stays_for_as_long_as_the_store_keeps_it(
        self, clock: FakeClock
    ) -> None:
        store = MemoryStore(clock=clock)
        MemcachedApplier(store, SHOP).apply_batch(INTENTS)
        addresses = list(token_addresses(store).values())
        before = store.get_many(addresses)

        clock.advance(10 * 365 * 86_400)

        assert store.get_many(addresses) == before
        assert None not in before

    def test_an_entry_loaded_before_and_filled_after_is_not_served(
        self, store: CacheStore
    ) -> None:
        cache = TaggedCache(store, SHOP)
        reservation = cache.reserve("report", tags=["prices"])

        MemcachedApplier(store, SHOP).apply_invalidation(TAG)
        reservation.fill("old")

        assert cache.get("report", tags=["prices"]) is None

    def test_a_bare_store_without_any_token_takes_them_all(
        self, store: CacheStore
    ) -> None:
        failures = MemcachedApplier(store, SHOP).apply_batch(INTENTS)

        assert failures == [None] * len(INTENTS)

    def test_an_empty_batch_is_nothing(self, store: CacheStore) -> None:
        assert MemcachedApplier(store, SHOP).apply_batch([]) == []

    def test_it_names_its_store_and_namespace(self) -> None:
        applier = MemcachedApplier(MemcachedStore(["cache1:11211"]), SHOP)

        assert applier.namespace == SHOP
        assert "cache1:11211" in repr(applier) and "shop" in repr(applier)

    @pytest.mark.parametrize("namespace", ["", "n" * 65])
    def test_a_namespace_that_no_reader_can_have_is_refused(
        self, namespace: str
    ) -> None:
        with pytest.raises(ValueError, match="namespace"):
            MemcachedApplier(MemoryStore(), namespace)


class TestTags:
    def test_an_entity_and_its_own_tag_meet(self, store: CacheStore) -> None:
        cache = TaggedCache(store, SHOP)
        cache.get_or_load("page", lambda: "old", tags=[entity_tag("user", "42")])

        MemcachedApplier(store, SHOP).apply_invalidation(
            InvalidationIntent.tag("user:42")
        )

        assert cache.get("page", tags=[entity_tag("user", "42")]) is None

    def test_intents_that_meet_in_one_tag_share_its_fate(self) -> None:
        store = PartlyFailingStore()
        intents = [InvalidationIntent.tag("user:42"), KEY, ENTITY]
        store.failing[token_addresses(store)[ENTITY]] = ApplyUnavailable("away")

        failures = MemcachedApplier(store, SHOP).apply_batch(intents)

        assert [type(failure) for failure in failures] == [
            ApplyUnavailable,
            type(None),
            ApplyUnavailable,
        ]

    @given(entity=texts, key=texts)
    def test_an_entity_reaches_the_reads_of_it_whatever_its_name(
        self, entity: str, key: str
    ) -> None:
        store = MemoryStore()
        cache = TaggedCache(store, SHOP)
        cache.get_or_load("page", lambda: "old", tags=[entity_tag(entity, key)])

        MemcachedApplier(store, SHOP).apply_invalidation(
            InvalidationIntent.entity(entity, key)
        )

        assert cache.get("page", tags=[entity_tag(entity, key)]) is None

    @given(name=texts)
    def test_a_collection_reaches_the_reads_of_it_whatever_its_name(
        self, name: str
    ) -> None:
        store = MemoryStore()
        cache = TaggedCache(store, SHOP)
        cache.get_or_load("page", lambda: "old", tags=[collection_tag(name)])

        MemcachedApplier(store, SHOP).apply_invalidation(
            InvalidationIntent.collection(name)
        )

        assert cache.get("page", tags=[collection_tag(name)]) is None

    @given(one=st.tuples(texts, texts), other=st.tuples(texts, texts))
    def test_an_entity_leaves_the_reads_of_others_alone(
        self, one: tuple[str, str], other: tuple[str, str]
    ) -> None:
        store = MemoryStore()
        cache = TaggedCache(store, SHOP)
        cache.get_or_load("page", lambda: "old", tags=[entity_tag(*other)])

        MemcachedApplier(store, SHOP).apply_invalidation(
            InvalidationIntent.entity(*one)
        )

        served = cache.get("page", tags=[entity_tag(*other)])
        assert (served is None) is (one == other)

    @pytest.mark.parametrize("letter", ["x", ":", "é"], ids=["plain", "colon", "wide"])
    @pytest.mark.parametrize("kind", ["tag", "entity", "collection"])
    def test_names_at_their_limit_work_on_both_sides(
        self, store: CacheStore, kind: str, letter: str
    ) -> None:
        # The tag of an entity holds both of its names, and the escapes in each.
        name = letter * (4096 // len(letter.encode("utf-8")))
        intent, tag = {
            "tag": (InvalidationIntent.tag(name), name),
            "entity": (InvalidationIntent.entity(name, name), entity_tag(name, name)),
            "collection": (InvalidationIntent.collection(name), collection_tag(name)),
        }[kind]
        cache = TaggedCache(store, SHOP)
        cache.get_or_load("page", lambda: "old", tags=[tag])
        before = cache.get("page", tags=[tag])

        MemcachedApplier(store, SHOP).apply_invalidation(intent)

        assert before == "old"
        assert cache.get("page", tags=[tag]) is None

    def test_a_key_at_its_limit_works_on_both_sides(self, store: CacheStore) -> None:
        key = "k" * 4096
        cache = TaggedCache(store, SHOP)
        cache.get_or_load(key, lambda: "old")
        before = cache.get(key)

        MemcachedApplier(store, SHOP).apply_invalidation(InvalidationIntent.key(key))

        assert before == "old"
        assert cache.get(key) is None

    def test_a_long_name_does_no_harm_to_the_rows_beside_it(
        self, outbox: Outbox, store: CacheStore
    ) -> None:
        longest = InvalidationIntent.entity("e" * 4096, "k" * 4096)
        outbox.enqueue(SHOP, batch_of(KEY, longest, TAG))

        report = OutboxWorker(outbox, MemcachedApplier(store, SHOP)).drain()

        assert report == PublishReport(claimed=3, published=3)


class TestPartialFailure:
    def test_only_the_rows_that_were_not_acknowledged_wait(
        self, outbox: Outbox
    ) -> None:
        store = PartlyFailingStore()
        addresses = token_addresses(store)
        store.failing[addresses[TAG]] = ApplyUnavailable("away", node="cache2")
        store.failing[addresses[ENTITY]] = ApplyUnavailable("away", node="cache2")
        outbox.enqueue(SHOP, batch_of(*INTENTS))

        report = OutboxWorker(outbox, MemcachedApplier(store, SHOP)).run_once()

        assert report == PublishReport(claimed=5, published=3, released=2)
        waiting = outbox.rows(SHOP, state=OutboxState.PENDING)
        assert [row.intent for row in waiting] == [TAG, ENTITY]
        assert [row.attempts for row in waiting] == [0, 0]

    def test_what_the_node_refuses_for_good_is_dead_alone(self, outbox: Outbox) -> None:
        store = PartlyFailingStore()
        store.failing[token_addresses(store)[KEY]] = ApplyPermanent("too large")
        outbox.enqueue(SHOP, batch_of(KEY, TAG))
        worker = OutboxWorker(outbox, MemcachedApplier(store, SHOP), escalate=False)

        report = worker.run_once()

        assert report == PublishReport(claimed=2, published=1, dead_lettered=1)

    def test_a_single_intent_raises_its_failure(self) -> None:
        store = PartlyFailingStore()
        store.failing[token_addresses(store)[KEY]] = ApplyUnavailable("away")

        with pytest.raises(ApplyUnavailable, match="away"):
            MemcachedApplier(store, SHOP).apply_invalidation(KEY)


class TestFaultyMemcached:
    @pytest.mark.parametrize(
        "mode",
        [
            Mode.REFUSE,
            Mode.HANG,
            Mode.GARBAGE,
            Mode.SERVER_ERROR,
            Mode.CLOSE_MID_REPLY,
        ],
        ids=lambda mode: mode.value,
    )
    def test_rows_wait_unharmed_and_arrive_when_it_is_back(
        self, outbox: Outbox, faulty: FaultyMemcached, clock: FakeClock, mode: Mode
    ) -> None:
        outbox.enqueue(SHOP, batch_of(*INTENTS, *keys(20)))
        with quick_store(faulty) as store:
            worker = OutboxWorker(outbox, MemcachedApplier(store, SHOP), max_attempts=1)
            faulty.mode = mode
            during = PublishReport()
            for _ in range(3):
                during += worker.run_once()
                clock.advance(LONGEST_OUTAGE_WAIT)
            faulty.mode = Mode.WORKING

            after = worker.drain()

            assert during.published + during.released == during.claimed
            assert during.released > 0
            assert during.published + after.published == 25
            tokens = store.get_many(list(token_addresses(store).values()))
        assert all(map(is_live, tokens))
        rows = outbox.rows(SHOP)
        assert {row.state for row in rows} == {OutboxState.PUBLISHED}
        assert {row.attempts for row in rows} == {0}

    @pytest.mark.parametrize(
        "mode, named",
        [
            (Mode.REFUSE, "refused"),
            (Mode.HANG, "time"),
            (Mode.GARBAGE, "time"),
            (Mode.SERVER_ERROR, "out of memory"),
        ],
        ids=lambda value: getattr(value, "value", value),
    )
    def test_a_waiting_row_says_which_node_failed_and_how(
        self, outbox: Outbox, faulty: FaultyMemcached, mode: Mode, named: str
    ) -> None:
        outbox.enqueue(SHOP, batch_of(KEY))
        faulty.mode = mode

        with quick_store(faulty) as store:
            OutboxWorker(outbox, MemcachedApplier(store, SHOP)).run_once()

        [row] = outbox.rows(SHOP)
        assert f"memcached node {faulty.address}" in (row.last_error or "")
        assert named in (row.last_error or "")

    def test_a_server_that_closes_halfway_keeps_what_it_has_acknowledged(
        self, outbox: Outbox, faulty: FaultyMemcached
    ) -> None:
        outbox.enqueue(SHOP, batch_of(*keys(20)))
        faulty.once(Mode.CLOSE_MID_REPLY)

        with quick_store(faulty) as store:
            report = OutboxWorker(outbox, MemcachedApplier(store, SHOP)).run_once()

        assert report.published + report.released == 20
        assert 0 < report.released
        assert outbox.status(SHOP).pending == report.released

    def test_a_server_that_closed_idle_connections_is_simply_asked_again(
        self, outbox: Outbox, faulty: FaultyMemcached
    ) -> None:
        with quick_store(faulty) as store:
            worker = OutboxWorker(outbox, MemcachedApplier(store, SHOP))
            outbox.enqueue(SHOP, batch_of(KEY))
            worker.run_once()
            faulty.restart()
            outbox.enqueue(SHOP, batch_of(TAG))

            report = worker.run_once()

        assert report == PublishReport(claimed=1, published=1)

    def test_a_publish_of_the_writer_survives_an_outage_too(
        self, outbox: Outbox, faulty: FaultyMemcached
    ) -> None:
        receipt = outbox.enqueue(SHOP, batch_of(KEY, TAG))
        faulty.mode = Mode.REFUSE
        with quick_store(faulty) as store:
            worker = OutboxWorker(outbox, MemcachedApplier(store, SHOP))

            report = worker.publish(receipt)
            faulty.mode = Mode.WORKING

            assert report == PublishReport(claimed=2, released=2)
            assert worker.drain() == PublishReport(claimed=2, published=2)


class TestRestart:
    @pytest.fixture
    def own(self) -> Iterator[Memcached]:
        """A memcached of its own, to be restarted."""
        with Memcached() as server:
            yield server

    def test_one_that_comes_back_empty_in_mid_batch_serves_nothing_old(
        self, outbox: Outbox, own: Memcached, clock: FakeClock
    ) -> None:
        intents = keys(40)
        with quick_store(own) as store:
            cache = TaggedCache(store, SHOP)
            for intent in intents:
                cache.get_or_load(str(intent.value), lambda: "old")
            outbox.enqueue(SHOP, batch_of(*intents))
            interrupted = InterruptedStore(store, own.restart)
            worker = OutboxWorker(outbox, MemcachedApplier(interrupted, SHOP))

            first = worker.run_once()
            clock.advance(LONGEST_OUTAGE_WAIT)
            second = OutboxWorker(outbox, MemcachedApplier(store, SHOP)).drain()

            served = [cache.get(str(intent.value)) for intent in intents]
        assert first.published + first.released == 40
        assert first.published + second.published == 40
        assert served == [None] * 40
        assert outbox.status(SHOP).dead_lettered == 0

    def test_one_that_dies_in_mid_batch_gets_the_rest_when_it_is_back(
        self, outbox: Outbox, own: Memcached, clock: FakeClock
    ) -> None:
        outbox.enqueue(SHOP, batch_of(*keys(40)))
        with quick_store(own) as store:
            interrupted = InterruptedStore(store, own.kill)
            worker = OutboxWorker(outbox, MemcachedApplier(interrupted, SHOP))

            first = worker.run_once()
            own.start()
            clock.advance(LONGEST_OUTAGE_WAIT)
            second = OutboxWorker(outbox, MemcachedApplier(store, SHOP)).drain()

        assert first == PublishReport(claimed=40, published=20, released=20)
        assert second == PublishReport(claimed=20, published=20)

    def test_one_that_stands_still_is_left_within_its_time(
        self, outbox: Outbox, own: Memcached, clock: FakeClock
    ) -> None:
        outbox.enqueue(SHOP, batch_of(KEY, TAG))
        with quick_store(own) as store:
            worker = OutboxWorker(outbox, MemcachedApplier(store, SHOP))
            own.pause()

            during = worker.run_once()
            own.resume()
            clock.advance(LONGEST_OUTAGE_WAIT)
            after = worker.drain()

        assert during == PublishReport(claimed=2, released=2)
        assert after == PublishReport(claimed=2, published=2)


class TestEndToEnd:
    def test_after_a_drain_no_reader_is_served_the_old_value(
        self, outbox: Outbox, store: CacheStore
    ) -> None:
        cache = TaggedCache(store, SHOP)
        tags = [entity_tag("user", "42")]
        cache.get_or_load("page", lambda: "old", tags=tags)
        with outbox.transaction() as connection:
            outbox.enqueue_in(connection, SHOP, batch_of(ENTITY))

        OutboxWorker(outbox, MemcachedApplier(store, SHOP)).drain()

        assert cache.get_or_load("page", lambda: "new", tags=tags) == "new"
        assert cache.get("page", tags=tags) == "new"


class TestBase:
    def test_one_by_one_each_failure_is_told_beside_its_intent(self) -> None:
        failure = ApplyTransient("later")

        class Applier(InvalidationApplier):
            def apply_invalidation(self, intent: InvalidationIntent) -> None:
                if intent == TAG:
                    raise failure

        assert Applier().apply_batch([KEY, TAG, FLUSH]) == [None, failure, None]

    def test_an_end_from_outside_is_no_failure_of_an_intent(self) -> None:
        class Applier(InvalidationApplier):
            def apply_invalidation(self, intent: InvalidationIntent) -> None:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            Applier().apply_batch([KEY])

    def test_one_that_overrides_nothing_says_so(self) -> None:
        with pytest.raises(NotImplementedError):
            InvalidationApplier().apply_invalidation(KEY)

    def test_it_leaves_the_namespace_to_the_worker_and_can_flush(self) -> None:
        assert InvalidationApplier().namespace is None
        assert InvalidationApplier().can_flush


class TestRecordingApplier:
    def test_it_keeps_what_was_applied_in_order(self, outbox: Outbox) -> None:
        outbox.enqueue(SHOP, batch_of(*INTENTS))
        applier = RecordingApplier()

        report = OutboxWorker(outbox, applier, SHOP).drain()

        assert report == PublishReport(claimed=5, published=5)
        assert applier.applied == INTENTS

    def test_it_asks_for_no_flush(self) -> None:
        assert not RecordingApplier().can_flush

    def test_it_may_have_a_namespace(self) -> None:
        assert RecordingApplier("blog").namespace == "blog"
        assert RecordingApplier().namespace is None
