"""A worker and several memcached nodes: each node's rows fare as that node does."""

from __future__ import annotations

import logging
import time
from collections import Counter
from typing import Any, Iterator, Sequence

import pytest

from hydracache_sync import (
    ApplyError,
    ApplyPermanent,
    ApplyUnavailable,
    ConfigurationError,
    InvalidationApplier,
    InvalidationIntent,
    InvalidationIntentBatch,
    MemcachedApplier,
    MemcachedStore,
    MemoryOutbox,
    MemoryStore,
    OutageBegan,
    OutageEnded,
    OutboxError,
    OutboxWorker,
    PlainKeyApplier,
    PublishReport,
    TaggedCache,
)
from hydracache_sync.cache import CacheStore, Copy, Maker
from hydracache_sync.worker.node_outages import (
    DEFAULT_OUTAGE_TIMING,
    MAX_OUTAGE_BACKOFF,
    CacheOutages,
    OutageTiming,
)
from hydracache_sync.worker.requeues import REQUEUE_EVERY
from support.clock import FakeClock
from support.faulty_memcached import FaultyMemcached, Mode
from support.servers import Memcached

SHOP = "shop"
CALM = DEFAULT_OUTAGE_TIMING.calm
LONGEST_WAIT = DEFAULT_OUTAGE_TIMING.longest_wait
RETRIES_PER_SECOND = DEFAULT_OUTAGE_TIMING.retries_per_second

#: An outage has ended as soon as the node is back.
NO_CALM = OutageTiming(calm=0.0)


@pytest.fixture
def outbox(clock: FakeClock) -> MemoryOutbox:
    return MemoryOutbox(clock=clock)


@pytest.fixture
def servers() -> Iterator[list[FaultyMemcached]]:
    with FaultyMemcached() as one, FaultyMemcached() as two, FaultyMemcached() as three:
        yield [one, two, three]


def store_on(servers: Sequence[FaultyMemcached | Memcached]) -> MemcachedStore:
    return MemcachedStore(
        [server.address for server in servers],
        timeout=0.3,
        connect_timeout=10,
        retry_after=0,
    )


@pytest.fixture
def applier(servers: list[FaultyMemcached]) -> MemcachedApplier:
    return MemcachedApplier(store_on(servers), SHOP)


def keys_on(
    applier: MemcachedApplier, server: FaultyMemcached | Memcached
) -> list[str]:
    keys = (f"key:{number}" for number in range(100))
    return [
        key
        for key in keys
        if applier.nodes_of(InvalidationIntent.key(key)) == [server.address]
    ]


def enqueue(outbox: MemoryOutbox, *keys: str) -> None:
    batch = InvalidationIntentBatch("test")
    for key in keys:
        batch.invalidate_key(key)
    outbox.enqueue(SHOP, batch)


def pending(outbox: MemoryOutbox) -> list[str | None]:
    rows = [row for row in outbox.rows(SHOP) if not row.is_published]
    return [None if row.intent is None else row.intent.value for row in rows]


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        f"{record.levelname} {record.getMessage()}"
        for record in caplog.records
        if "is away" in record.getMessage() or "is back" in record.getMessage()
    ]


@pytest.mark.parametrize("mode", [Mode.REFUSE, Mode.HANG, Mode.SERVER_ERROR])
@pytest.mark.parametrize("faulty", [0, 1, 2])
def test_rows_of_healthy_nodes_go_on_and_those_of_one_away_wait_unharmed(
    outbox: MemoryOutbox,
    applier: MemcachedApplier,
    servers: list[FaultyMemcached],
    clock: FakeClock,
    faulty: int,
    mode: Mode,
) -> None:
    of_each = [keys_on(applier, server)[:3] for server in servers]
    enqueue(outbox, *sum(of_each, []))
    worker = OutboxWorker(outbox, applier)
    servers[faulty].mode = mode

    during = [worker.run_once()]
    for _ in range(10):
        clock.advance(MAX_OUTAGE_BACKOFF)
        during.append(worker.run_once())
    waiting = pending(outbox)
    servers[faulty].mode = Mode.WORKING
    clock.advance(MAX_OUTAGE_BACKOFF)
    after = worker.run_once()

    assert during[0] == PublishReport(claimed=9, published=6, released=3)
    assert set(during[1:]) == {PublishReport(claimed=3, released=3)}
    assert waiting == of_each[faulty]
    assert after == PublishReport(claimed=3, published=3)
    assert {row.attempts for row in outbox.rows(SHOP)} == {0}


def test_an_outage_is_told_once_for_each_node_and_ends_when_that_node_answers(
    outbox: MemoryOutbox,
    applier: MemcachedApplier,
    servers: list[FaultyMemcached],
    clock: FakeClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    worker = OutboxWorker(outbox, applier, outage_timing=NO_CALM)
    events: list[object] = []
    worker.subscribe(events.append)
    one, two, three = servers
    of_one, of_two, of_three = (keys_on(applier, server) for server in servers)

    def round(*keys: str) -> None:
        enqueue(outbox, *keys)
        clock.advance(MAX_OUTAGE_BACKOFF)
        worker.run_once()

    one.mode = two.mode = Mode.REFUSE
    round(of_one[0], of_two[0], of_three[0])
    round(of_one[1], of_two[1], of_three[1])
    assert len(messages(caplog)) == 2
    assert worker.partly_away
    two.mode = Mode.WORKING
    round(of_three[2])
    one.mode = Mode.WORKING
    round()
    round(of_one[2])

    found = messages(caplog)
    assert [line.partition(",")[0].partition(" after")[0] for line in found] == [
        f"WARNING the cache of namespace shop is away on node {one.address}",
        f"WARNING the cache of namespace shop is away on node {two.address}",
        f"WARNING the cache of namespace shop is back on node {two.address}",
        f"WARNING the cache of namespace shop is back on node {one.address}",
    ]
    told = [
        (type(e), e.node) for e in events if isinstance(e, (OutageBegan, OutageEnded))
    ]
    assert told == [
        (OutageBegan, one.address),
        (OutageBegan, two.address),
        (OutageEnded, two.address),
        (OutageEnded, one.address),
    ]
    assert worker.diagnostics().outages == 2
    assert worker.outage is None and not worker.partly_away


def test_an_outage_does_not_end_because_the_node_was_not_needed(
    outbox: MemoryOutbox,
    applier: MemcachedApplier,
    servers: list[FaultyMemcached],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    worker = OutboxWorker(outbox, applier)
    servers[0].mode = Mode.REFUSE
    enqueue(outbox, keys_on(applier, servers[0])[0])
    worker.run_once()

    enqueue(outbox, *keys_on(applier, servers[1]))
    worker.run_once()

    assert len(messages(caplog)) == 1
    outage = worker.outage
    assert outage is not None and outage.node == servers[0].address


def test_a_flush_waits_for_every_node(
    outbox: MemoryOutbox,
    applier: MemcachedApplier,
    servers: list[FaultyMemcached],
    clock: FakeClock,
) -> None:
    worker = OutboxWorker(outbox, applier)
    outbox.enqueue(SHOP, InvalidationIntentBatch().flush())
    for server in servers:
        server.mode = Mode.REFUSE
        assert worker.run_once() == PublishReport(claimed=1, released=1)
        server.mode = Mode.WORKING
        clock.advance(MAX_OUTAGE_BACKOFF)

    assert worker.run_once() == PublishReport(claimed=1, published=1)


def test_a_drain_is_not_ended_by_a_batch_of_a_node_that_is_away(
    outbox: MemoryOutbox, applier: MemcachedApplier, servers: list[FaultyMemcached]
) -> None:
    away, healthy = (keys_on(applier, server)[:10] for server in servers[:2])
    enqueue(outbox, *away)
    enqueue(outbox, *healthy)
    servers[0].mode = Mode.REFUSE

    report = OutboxWorker(outbox, applier, batch_size=2).drain()

    assert report.published == len(healthy)
    assert set(pending(outbox)) == set(away)


def test_a_drain_ends_after_one_batch_when_every_node_is_away(
    outbox: MemoryOutbox, applier: MemcachedApplier, servers: list[FaultyMemcached]
) -> None:
    for server in servers:
        server.mode = Mode.REFUSE
        enqueue(outbox, *keys_on(applier, server)[:3])

    # Enough for a row of each node.
    report = OutboxWorker(outbox, applier, batch_size=9).drain()

    assert report == PublishReport(claimed=9, released=9)


def test_a_drain_ends_though_the_rows_of_a_node_away_come_round_at_once(
    outbox: MemoryOutbox, applier: MemcachedApplier, servers: list[FaultyMemcached]
) -> None:
    class Hurrying(MemoryOutbox):
        def release(self, rows, *, delay=0.0, **options):  # type: ignore
            return super().release(rows, delay=0.0, **options)

    hurrying = Hurrying()
    enqueue(hurrying, *keys_on(applier, servers[0])[:2])
    servers[0].mode = Mode.REFUSE

    report = OutboxWorker(hurrying, applier).drain()

    assert report.published == 0 and report.released > 2


# When an outage has ended


def back(*nodes: str) -> Any:
    return lambda: [nodes]


def test_a_node_that_comes_and_goes_is_one_outage(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    outages = outages_of(clock)

    for _ in range(10):
        clock.advance(0.9 * CALM)
        assert outages.note({}, back("node")) == []
        assert outages.current == [] and outages.leaves_some(["node"])
        clock.advance(0.9 * CALM)
        assert outages.note({"node": "away again"}, back("other")) == []
        assert [each.error for each in outages.current] == ["away"]
        assert not outages.leaves_some(["node"])
    clock.advance(1.0)
    outages.note({}, back("node"))
    clock.advance(CALM)

    [ended] = outages.note({}, back("other"))
    assert isinstance(ended, OutageEnded)
    # Until it was back, and not until that was certain.
    assert ended.seconds == pytest.approx(18 * CALM + 1.0)
    assert len(messages(caplog)) == 2


def test_an_outage_ends_though_there_is_no_batch_any_more(clock: FakeClock) -> None:
    outages = outages_of(clock)
    outages.note({}, back("node"))

    clock.advance(0.9 * CALM)
    early = outages.expire()
    clock.advance(0.2 * CALM)

    assert early == []
    assert [type(each) for each in outages.expire()] == [OutageEnded]
    assert outages.expire() == []


def test_a_node_that_is_still_away_does_not_calm(clock: FakeClock) -> None:
    outages = outages_of(clock)

    clock.advance(100.0)

    assert outages.expire() == []
    assert len(outages.current) == 1


# How long rows wait


def outages_of(clock: FakeClock, backoff: float = 1.0) -> CacheOutages:
    outages = CacheOutages(SHOP, logging.getLogger(__name__), backoff, clock=clock)
    outages.note({"node": "away"}, lambda: [])
    return outages


def test_few_rows_of_a_node_away_are_looked_at_every_few_seconds(
    clock: FakeClock,
) -> None:
    outages = outages_of(clock)

    waits = []
    for _ in range(50):
        waits.append(outages.delay("node", 10, alone=False))
        clock.advance(waits[-1])
        outages.note({"node": "away"}, lambda: [])

    assert 0.5 <= waits[0] <= 1.0
    assert all(
        MAX_OUTAGE_BACKOFF / 2 <= wait <= MAX_OUTAGE_BACKOFF for wait in waits[5:]
    )


@pytest.mark.parametrize("rows", [1_000, 50_000, 1_000_000])
def test_many_rows_of_a_node_away_leave_room_for_the_others(
    clock: FakeClock, rows: int
) -> None:
    outages = outages_of(clock)
    batch = 250
    due = Counter({0: rows // batch})
    looks: Counter[int] = Counter()
    minutes = 10

    # Every 100 ms all batches that are due are looked at, as fast as may be.
    for tick in range(minutes * 600):
        for _ in range(due.pop(tick, 0)):
            outages.note({"node": "away"}, lambda: [])
            wait = outages.delay("node", batch, alone=False)
            due[tick + max(1, round(wait * 10))] += 1
            looks[tick // 600] += batch
        clock.advance(0.1)

    busiest = max(looks[minute] for minute in range(5, minutes))
    # A wait is half of the longest or more.
    assert busiest / 60 <= 2 * max(RETRIES_PER_SECOND, rows / LONGEST_WAIT)


def test_rows_of_a_node_never_wait_longer_than_the_longest(clock: FakeClock) -> None:
    outages = outages_of(clock)

    for _ in range(100_000):
        wait = outages.delay("node", 256, alone=False)
        clock.advance(0.001)
        assert wait <= LONGEST_WAIT


def test_no_wait_is_so_short_that_the_rows_are_in_the_way(clock: FakeClock) -> None:
    outages = outages_of(clock, backoff=0.0)

    assert outages.delay("node", 1, alone=False) >= 0.05


# Rows of a node that is back


def waiting_for_a_minute(
    outbox: MemoryOutbox,
    applier: MemcachedApplier,
    server: FaultyMemcached,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
    rows: int,
    wait: float = LONGEST_WAIT,
) -> OutboxWorker:
    """Let ``rows`` wait that long, as if they were a hundred thousand."""
    monkeypatch.setattr(CacheOutages, "delay", lambda *args, **options: wait)
    worker = OutboxWorker(outbox, applier, batch_size=4, monotonic=clock)
    server.mode = Mode.REFUSE
    enqueue(outbox, *keys_on(applier, server)[:rows])
    worker.drain()
    return worker


def waits(outbox: MemoryOutbox, clock: FakeClock) -> list[float]:
    return sorted(
        (row.available_at_ms - clock.now_ms) / 1000
        for row in outbox.rows(SHOP)
        if not row.is_published
    )


def test_rows_of_a_node_are_due_as_soon_as_it_is_back(
    outbox: MemoryOutbox,
    applier: MemcachedApplier,
    servers: list[FaultyMemcached],
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker = waiting_for_a_minute(outbox, applier, servers[0], clock, monkeypatch, 12)
    clock.advance(10)
    assert min(waits(outbox, clock)) > 40

    servers[0].mode = Mode.WORKING
    enqueue(outbox, keys_on(applier, servers[0])[-1])
    report = worker.drain()

    assert report.published == 13 and pending(outbox) == []
    assert {row.attempts for row in outbox.rows(SHOP)} == {0}


def test_rows_of_another_node_that_is_away_are_left_alone(
    outbox: MemoryOutbox,
    applier: MemcachedApplier,
    servers: list[FaultyMemcached],
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker = waiting_for_a_minute(outbox, applier, servers[0], clock, monkeypatch, 6)
    waiting_for_a_minute(outbox, applier, servers[1], clock, monkeypatch, 6)
    clock.advance(10)

    servers[0].mode = Mode.WORKING
    enqueue(outbox, keys_on(applier, servers[0])[-1])
    worker.drain()

    assert set(pending(outbox)) == set(keys_on(applier, servers[1])[:6])
    assert min(waits(outbox, clock)) > 40


def test_a_row_that_failed_by_itself_keeps_its_backoff(
    outbox: MemoryOutbox,
    applier: MemcachedApplier,
    servers: list[FaultyMemcached],
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    enqueue(outbox, keys_on(applier, servers[0])[-2])
    rows = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)
    outbox.mark_failed(rows, "ApplyTransient: of its own", backoff=60, dead=False)
    worker = waiting_for_a_minute(outbox, applier, servers[0], clock, monkeypatch, 6)

    servers[0].mode = Mode.WORKING
    enqueue(outbox, keys_on(applier, servers[0])[-1])
    worker.drain()

    assert pending(outbox) == [keys_on(applier, servers[0])[-2]]


def test_what_another_worker_has_put_off_is_requeued_when_a_row_of_it_is_applied(
    outbox: MemoryOutbox,
    applier: MemcachedApplier,
    servers: list[FaultyMemcached],
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wait = waiting_for_a_minute
    wait(outbox, applier, servers[0], clock, monkeypatch, 12)
    servers[0].mode = Mode.REFUSE
    enqueue(outbox, keys_on(applier, servers[0])[-1])
    wait(outbox, applier, servers[0], clock, monkeypatch, 0, wait=2.0)
    servers[0].mode = Mode.WORKING
    # Those workers are gone. This one has never seen the node away.
    other = OutboxWorker(outbox, applier, batch_size=4, monotonic=clock)
    clock.advance(2.0)

    report = other.drain()

    assert report.published == 13 and pending(outbox) == []


def test_some_of_many_rows_come_back_soon(clock: FakeClock) -> None:
    outages = outages_of(clock)
    waited: list[float] = []

    # As many as make each other wait for a minute.
    for _ in range(3000):
        waited.append(outages.delay("node", 2560, alone=False))
        clock.advance(0.1)

    late = waited[1500:]
    assert max(late) > LONGEST_WAIT / 2
    assert any(wait < MAX_OUTAGE_BACKOFF for wait in late)
    assert min(late) >= MAX_OUTAGE_BACKOFF / 2


def test_other_rows_do_not_queue_behind_all_that_waited(
    outbox: MemoryOutbox,
    applier: MemcachedApplier,
    servers: list[FaultyMemcached],
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker = waiting_for_a_minute(outbox, applier, servers[0], clock, monkeypatch, 16)
    servers[0].mode = Mode.WORKING
    enqueue(outbox, keys_on(applier, servers[0])[-1])
    healthy = keys_on(applier, servers[1])

    while pending(outbox):
        # It takes its turn after those that are due already, a batch of them.
        enqueue(outbox, key := healthy.pop())
        for _ in range(2):
            clock.advance(0.001)
            worker.run_once()
        assert key not in pending(outbox)


def test_a_node_that_answers_by_turns_does_not_have_all_its_rows_looked_at_by_turns(
    clock: FakeClock,
) -> None:
    outages = outages_of(clock)
    requeued = 0

    for _ in range(100):
        outages.note({}, lambda: [["node"]])
        for requeue in outages.requeues.due():
            requeued += 1
            outages.requeues.ran(requeue, None)
        outages.note({"node": "away"}, lambda: [])
        clock.advance(0.1)

    assert requeued <= 10 / REQUEUE_EVERY + 1
    outages.note({}, lambda: [["node"]])
    clock.advance(REQUEUE_EVERY)
    assert len(outages.requeues.due()) == 1


def test_a_requeue_ends_when_the_node_is_away_again(clock: FakeClock) -> None:
    outages = outages_of(clock)
    outages.note({}, lambda: [["node"]])
    [requeue] = outages.requeues.due()

    outages.note({"node": "away"}, lambda: [])
    outages.requeues.ran(requeue, 1234)
    outages.note_delayed_success(["node"])

    assert outages.requeues.due() == []


def test_a_requeue_goes_on_where_the_database_failed(clock: FakeClock) -> None:
    class Failing(MemoryOutbox):
        failing = False

        def make_due(self, *args: Any, **options: Any) -> int | None:
            calls.append(options["from_ms"])
            if self.failing:
                raise OutboxError("away")
            return super().make_due(*args, **options)

    class Naming(InvalidationApplier):
        namespace = SHOP
        away = True

        def apply_invalidation(self, intent: InvalidationIntent) -> None:
            if self.away:
                raise ApplyUnavailable("away", node="one")

        def nodes(self) -> Sequence[str]:
            return ["one"]

        def nodes_of(self, intent: InvalidationIntent) -> Sequence[str]:
            return ["one"]

    calls: list[int] = []
    outbox, applier = Failing(clock=clock), Naming()
    worker = OutboxWorker(outbox, applier, batch_size=2)
    enqueue(outbox, *"abcdef")
    for _ in range(3):
        worker.run_once()
    clock.advance(MAX_OUTAGE_BACKOFF)
    applier.away = False
    outbox.failing = True
    with pytest.raises(OutboxError):
        worker.run_once()
    outbox.failing = False

    worker.drain()

    assert pending(outbox) == []
    assert calls[0] == calls[1] == 0


# A node that comes back with what it held


def test_yesterdays_memory_serves_nothing_that_was_published() -> None:
    with Memcached() as one, Memcached() as two, Memcached() as three:
        servers = [one, two, three]
        store = store_on(servers)
        applier = MemcachedApplier(store, SHOP)
        cache = TaggedCache(store, SHOP)
        outbox = MemoryOutbox()
        worker = OutboxWorker(outbox, applier, backoff=0.01, max_backoff=0.01)
        # The entry is on one node and its tag on another: each is away once.
        tag = next(
            f"tag:{number}"
            for number in range(1000)
            if applier.nodes_of(InvalidationIntent.tag(f"tag:{number}"))
            == [one.address]
        )
        key = keys_on(applier, two)[0]

        for away in servers:
            for batch in (
                InvalidationIntentBatch().invalidate_tag(tag),
                InvalidationIntentBatch().invalidate_key(key),
                InvalidationIntentBatch().flush(),
            ):
                cache.get_or_load(key, lambda: "old", tags=[tag])
                assert cache.get(key, tags=[tag]) == "old"
                away.pause()
                outbox.enqueue(SHOP, batch)
                worker.run_once()
                if not pending(outbox):
                    # The node was not needed, and what it holds rests on others.
                    away.resume()
                    assert cache.get(key, tags=[tag]) is None
                    continue
                away.resume()
                # It still has all it had, so the row must not have been published.
                deadline = time.monotonic() + 30
                while pending(outbox):
                    assert time.monotonic() < deadline
                    worker.run_once()
                assert cache.get(key, tags=[tag]) is None


# Another list of servers


def rings(servers: list[FaultyMemcached]) -> tuple[MemcachedStore, MemcachedStore]:
    one, two, three = (server.address for server in servers)
    return (
        MemcachedStore([one, two], ring="1", timeout=0.3, retry_after=0),
        MemcachedStore([two, three], ring="2", timeout=0.3, retry_after=0),
    )


def test_a_roll_out_of_another_list_with_readers_of_both(
    outbox: MemoryOutbox, servers: list[FaultyMemcached], clock: FakeClock
) -> None:
    old, new = rings(servers)
    readers = [TaggedCache(store, SHOP) for store in (old, new)]
    during = OutboxWorker(outbox, MemcachedApplier(new, SHOP, also=[old]))
    tags = [f"tag:{number}" for number in range(10)]

    def change(value: str, worker: OutboxWorker) -> PublishReport:
        outbox.enqueue(SHOP, InvalidationIntentBatch().invalidate_tag(tags[3]))
        report = worker.run_once()
        return report

    # 1. Appliers write to both while everybody reads the old one.
    readers[0].get_or_load("key", lambda: "1", tags=tags)
    assert change("2", during).published == 1
    assert readers[0].get("key", tags=tags) is None

    # 2. Readers go over one by one: both are kept right.
    for reader in readers:
        assert reader.get_or_load("key", lambda: "2", tags=tags) == "2"
        assert reader.get("key", tags=tags) == "2"
    assert change("3", during).published == 1
    assert [reader.get("key", tags=tags) for reader in readers] == [None, None]
    for reader in readers:
        reader.get_or_load("key", lambda: "3", tags=tags)

    # 3. A node of the old ring goes away, which some still read, and comes back.
    of_tag = old.nodes_of(readers[0]._keyspace.tag_token(tags[3]))
    [away] = [server for server in servers if [server.address] == of_tag]
    away.mode = Mode.REFUSE
    report = change("4", during)
    assert report == PublishReport(claimed=1, released=1)
    away.mode = Mode.WORKING
    assert readers[0].get("key", tags=tags) == "3"  # not published, and so allowed
    clock.advance(MAX_OUTAGE_BACKOFF)
    assert during.run_once().published == 1
    assert [reader.get("key", tags=tags) for reader in readers] == [None, None]

    # 4. Nobody reads the old ring any more; its id is never used again.
    after = OutboxWorker(outbox, MemcachedApplier(new, SHOP))
    readers[1].get_or_load("key", lambda: "4", tags=tags)
    assert change("5", after).published == 1
    assert readers[1].get("key", tags=tags) is None

    # Going back is a change like any other: the same servers, a new id.
    back = MemcachedStore([s.address for s in servers[:2]], ring="3", timeout=0.3)
    assert TaggedCache(back, SHOP).get("key", tags=tags) is None
    # With the old id they would serve what they hold.
    readers[0].get_or_load("key", lambda: "stale", tags=tags)
    assert readers[0].get("key", tags=tags) == "stale"


class Answering(MemoryStore):
    def __init__(self, ring: str, error: Exception | None) -> None:
        super().__init__(ring=ring)
        self.error = error

    def replace_many(
        self, copies: Sequence[Copy], placeholders: Sequence[bytes], make: Maker
    ) -> list[bool | ApplyError]:
        if self.error is None:
            return super().replace_many(copies, placeholders, make)
        return [self.error for _ in copies]  # type: ignore[misc]


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ((None, None), None),
        ((ApplyUnavailable("a"), None), ApplyUnavailable),
        ((None, ApplyUnavailable("a")), ApplyUnavailable),
        ((ApplyPermanent("p"), None), ApplyPermanent),
        ((ApplyPermanent("p"), ApplyUnavailable("a")), ApplyUnavailable),
        ((ApplyUnavailable("a"), ApplyPermanent("p")), ApplyUnavailable),
    ],
)
def test_it_is_done_when_every_ring_has_acknowledged(
    errors: tuple[Exception | None, ...], expected: type | None
) -> None:
    stores = [Answering(str(number), error) for number, error in enumerate(errors)]
    applier = MemcachedApplier(stores[0], SHOP, also=stores[1:])

    [failure] = applier.apply_batch([InvalidationIntent.key("user:42")])

    assert type(failure) is (expected or type(None))


def test_two_rings_never_get_the_same_token() -> None:
    stores = [MemoryStore(ring=ring) for ring in ("1", "2")]

    MemcachedApplier(stores[0], SHOP, also=stores[1:]).apply_invalidation(
        InvalidationIntent.key("user:42")
    )

    tokens = [value for store in stores for value, *_ in store._items.values()]
    assert len(tokens) == len(set(tokens)) == 2


@pytest.mark.parametrize("also", [[MemoryStore(ring="1")], MemoryStore(ring="2")])
def test_another_ring_needs_another_id(also: list[CacheStore]) -> None:
    with pytest.raises(ConfigurationError, match="also"):
        MemcachedApplier(MemoryStore(ring="1"), SHOP, also=also)


# What an applier says of its nodes


def test_appliers_name_the_nodes_of_an_intent(servers: list[FaultyMemcached]) -> None:
    old, new = rings(servers)
    names = [server.address for server in servers]
    applier = MemcachedApplier(new, SHOP, also=[old])
    plain = PlainKeyApplier(new, key=lambda intent: [intent.value or "", "other"])

    assert set(applier.nodes()) == set(names)
    assert len(applier.nodes_of(InvalidationIntent.key("user:42"))) == 2
    assert set(applier.nodes_of(InvalidationIntent.flush())) == set(names)
    assert set(plain.nodes()) == set(names[1:])
    assert len(plain.nodes_of(InvalidationIntent.key("user:42"))) == 2
    assert InvalidationApplier().nodes() == ()
    assert InvalidationApplier().nodes_of(InvalidationIntent.flush()) == ()


def test_a_mapping_that_raises_afterwards_does_no_harm(
    servers: list[FaultyMemcached],
) -> None:
    def key(intent: InvalidationIntent) -> str:
        raise RuntimeError

    plain = PlainKeyApplier(store_on(servers), key=key)

    assert plain.nodes_of(InvalidationIntent.key("user:42")) == ()
