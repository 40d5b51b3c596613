"""What processes that carry rows say of themselves, and what is told of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hydracache_sync.errors import SchemaError
from hydracache_sync.outbox.workers import WorkerBeat, WorkerProcess, carriers
from outbox_contract.common import ODD_TEXTS, SHOP, OutboxHooks, batch_of, keys_of

POOL = WorkerBeat(
    owner="web1/7/a",
    kind="pool",
    host="web1",
    pid=7,
    version="0.1.0",
    namespaces=(SHOP, "blog"),
    age=60.0,
    every=10.0,
    carried=3,
)

#: One that ends at once; how often it comes is measured.
DRAIN = replace(POOL, owner="drain/1", kind="drain", namespaces=(SHOP,), every=0.0)

OUTBOX = "hydracache_outbox_workers"


class WorkerContract(OutboxHooks):
    """One row a process, by the outbox's clock, forgotten by itself."""

    def test_nobody_is_known_at_first(self, outbox):
        assert outbox.workers() == []

    def test_what_a_process_says_comes_back(self, outbox, clock):
        now = clock.now_ms
        beat = replace(
            POOL,
            batch_age=1.5,
            last_error="no answer",
            caches={SHOP: {"hits": 2**40, "misses": 1}},
            reads_elsewhere="replica:3306",
        )

        outbox.beat(beat)
        clock.advance(2)

        assert outbox.workers() == [
            WorkerProcess(
                owner="web1/7/a",
                kind="pool",
                host="web1",
                pid=7,
                version="0.1.0",
                namespaces=(SHOP, "blog"),
                started_ms=now - 60_000,
                seen_ms=now,
                unseen_ms=2000,
                every_ms=10_000,
                batch_ms=now - 1500,
                carried=3,
                last_error="no answer",
                caches={SHOP: {"hits": 2**40, "misses": 1}},
                reads_elsewhere="replica:3306",
            )
        ]

    def test_a_later_beat_takes_the_place_of_the_one_before(self, outbox, clock):
        outbox.beat(replace(POOL, last_error="away", batch_age=0.0))
        batch_ms = clock.now_ms
        clock.advance(10)

        outbox.beat(replace(POOL, carried=9, age=70.0))

        [found] = outbox.workers()
        assert (found.carried, found.last_error) == (9, None)
        assert found.seen_ms == clock.now_ms
        assert found.started_ms == clock.now_ms - 70_000
        assert found.batch_ms == batch_ms

    def test_the_last_seen_is_the_first_listed(self, outbox, clock):
        for name in ("a", "b", "c"):
            outbox.beat(replace(POOL, owner=name))
            clock.advance(1)
        outbox.beat(replace(POOL, owner="a"))

        owners = [each.owner for each in outbox.workers()]

        assert owners == ["a", "c", "b"]
        assert [each.owner for each in outbox.workers(limit=1)] == ["a"]
        assert outbox.workers(limit=0) == []

    def test_drains_add_up_and_have_their_distance_measured(self, outbox, clock):
        distances = []
        for pause in (0, 60, 60, 5, 60, 60, 7200, 60):
            clock.advance(pause)
            outbox.beat(DRAIN)
            [found] = outbox.workers()
            distances.append(found.every_ms / 1000)

        assert distances == [0, 60, 60, 60, 60, 60, 7200, 3600]
        assert found.carried == 8 * 3

    def test_drains_of_several_hosts_at_once_are_not_late_until_the_next(
        self, outbox, clock
    ):
        for pause in (0, 300, 1, 1, 1, 298):
            clock.advance(pause)
            [found] = outbox.workers() or [None]
            assert found is None or not found.is_late
            outbox.beat(DRAIN)

    def test_a_process_is_late_after_three_of_its_distances(self, outbox, clock):
        outbox.beat(replace(POOL, every=30.0))
        clock.advance(90)
        [in_time] = outbox.workers()
        clock.advance(0.001)
        [late] = outbox.workers()

        assert (in_time.is_late, late.is_late) == (False, True)

    def test_a_process_that_has_stopped_is_not_late_and_may_start_again(
        self, outbox, clock
    ):
        outbox.beat(POOL)
        outbox.beat(replace(POOL, stopped=True, carried=5))
        clock.advance(3600)
        [stopped] = outbox.workers()
        outbox.beat(POOL)
        [again] = outbox.workers()

        assert (stopped.stopped, stopped.carried) == (True, 5)
        assert (stopped.is_late, stopped.is_running, stopped.is_listed) == (False,) * 3
        assert carriers([stopped], SHOP) == ([], stopped)
        assert (again.stopped, again.is_running, again.every_ms) == (False, True, 10000)

    def test_a_late_process_is_listed_for_an_hour(self, outbox, clock):
        found = []
        outbox.beat(replace(POOL, every=30.0))
        for seconds in (90, 1, 3599, 1):
            clock.advance(seconds)
            [process] = outbox.workers()
            found.append((process.is_late, process.is_listed))

        assert found == [(False, True), (True, True), (True, True), (True, False)]

    def test_no_process_is_late_within_a_minute(self, outbox, clock):
        outbox.beat(replace(POOL, every=1.0))
        clock.advance(60)
        [in_time] = outbox.workers()
        clock.advance(0.001)
        [late] = outbox.workers()

        assert (in_time.is_late, late.is_late) == (False, True)

    def test_a_drain_that_has_run_once_is_late_after_a_quarter_of_an_hour(
        self, outbox, clock
    ):
        outbox.beat(DRAIN)
        clock.advance(900)
        [in_time] = outbox.workers()
        clock.advance(0.001)
        [late] = outbox.workers()

        assert (in_time.is_late, late.is_late) == (False, True)

    def test_a_clock_that_went_back_makes_nobody_late(self, outbox, clock):
        outbox.beat(DRAIN)
        clock.advance(-7200)
        [found] = outbox.workers()
        outbox.beat(DRAIN)
        [after] = outbox.workers()

        assert (found.unseen_ms, found.is_late) == (0, False)
        assert (after.unseen_ms, after.every_ms) == (0, 0)

    def test_who_carries_a_namespace_is_told_from_who_did(self, outbox, clock):
        outbox.beat(replace(POOL, owner="old", namespaces=(SHOP,)))
        clock.advance(100)
        outbox.beat(replace(POOL, owner="new", namespaces=("blog",)))
        found = outbox.workers()
        new, old = found

        assert carriers(found, "blog") == ([new], new)
        assert carriers(found, SHOP) == ([], old)
        assert carriers(found, "news") == ([], None)

    def test_who_was_not_seen_for_long_is_forgotten(self, outbox, clock):
        for n in range(3):
            outbox.beat(replace(POOL, owner=f"gone {n}"))
        clock.advance(1)
        outbox.beat(POOL)
        clock.advance(86400)

        assert outbox.purge_workers() == 3
        assert outbox.purge_workers() == 0
        assert [each.owner for each in outbox.workers()] == [POOL.owner]

    @pytest.mark.parametrize("text", ODD_TEXTS.values(), ids=ODD_TEXTS)
    def test_texts_come_back_whole(self, outbox, text):
        beat = replace(
            POOL,
            owner=text,
            host=text,
            namespaces=(text,),
            last_error=text,
            caches={text: {"hits": 1}},
            reads_elsewhere=text,
        )

        outbox.beat(beat)
        outbox.beat(beat)

        [found] = outbox.workers()
        assert (found.owner, found.host, found.last_error) == (text, text, text)
        assert found.namespaces == (text,)
        assert found.caches == {text: {"hits": 1}}
        assert found.reads_elsewhere == text

    def test_long_errors_and_names_of_hosts_are_cut(self, outbox):
        outbox.beat(replace(POOL, host="h" * 300, last_error="e" * 1100))

        [found] = outbox.workers()
        assert found.host == "h" * 255
        assert found.last_error == f"{'e' * 1000} ... (100 more characters)"

    def test_sixty_long_namespaces_fit(self, outbox):
        names = tuple(f"{n:02}".ljust(64, "\1") for n in range(60))

        outbox.beat(replace(POOL, namespaces=names))

        assert outbox.workers()[0].namespaces == names

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"owner": ""}, "owner is 0 bytes"),
            ({"owner": "o" * 256}, "owner is 256 bytes"),
            ({"kind": "cron"}, "kind must be one of"),
        ],
    )
    def test_bad_names_are_refused_at_once(self, outbox, changed, message):
        with pytest.raises(ValueError, match=message):
            replace(POOL, **changed)

    @pytest.mark.parametrize("name", ["age", "every", "batch_age", "carried", "pid"])
    def test_numbers_below_zero_are_refused(self, outbox, name):
        with pytest.raises(ValueError, match=name):
            outbox.beat(replace(POOL, **{name: -1}))

        assert outbox.workers() == []

    @pytest.mark.parametrize("written", ["", "[", "7", "null", "[" * 5000, '{"a": 1}'])
    def test_what_a_foreign_hand_wrote_harms_nobody(self, outbox, written):
        outbox.beat(POOL)
        self.sql(outbox, f"update {OUTBOX} set namespaces = ?", (written,))
        self.sql(outbox, f"update {OUTBOX} set caches = ?", (written,))

        [found] = outbox.workers()

        assert (found.namespaces, found.caches) == ((), {})

    def test_rows_of_invalidations_are_left_alone(self, outbox, clock):
        outbox.enqueue(SHOP, batch_of("a"))
        outbox.beat(POOL)
        clock.advance(90_000)
        outbox.purge_workers()

        assert keys_of(outbox.rows(SHOP)) == ["a"]

    def test_without_its_table_the_outbox_is_refused_and_can_be_installed(
        self, outbox, storage: Any
    ):
        self.sql(outbox, f"drop table {OUTBOX}")

        for call in (
            outbox.check_schema,
            outbox.workers,
            outbox.purge_workers,
            lambda: outbox.beat(POOL),
        ):
            with pytest.raises(SchemaError, match="workers.*schema install"):
                call()
        outbox.install_schema()

        outbox.beat(POOL)
        assert len(outbox.workers()) == 1
