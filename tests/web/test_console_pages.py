"""What the console shows."""

from __future__ import annotations

import re
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Iterator

import pytest
from console_site import SHOP, Page, Site
from flask import Flask
from shop import Shop

from hydracache_sync import (
    ConfigurationError,
    InvalidationIntentBatch,
    MemcachedApplier,
    MemcachedStore,
    MemoryOutbox,
    MemoryStore,
    OutboxError,
    OutboxWorker,
    SQLiteOutbox,
    TaggedCache,
    WorkerBeat,
)
from hydracache_sync.console import console_blueprint
from hydracache_sync.console.views import COUNTED
from hydracache_sync.outbox.database import Database
from support.clock import FakeClock
from support.servers import Memcached


@pytest.fixture
def free_address() -> Iterator[str]:
    """An address where nothing listens, and nothing else will."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


def test_the_overview_says_what_waits() -> None:
    site = Site()
    site.kill("a", "b")
    site.enqueue("c", "d", "e")
    site.outbox.claim(SHOP, "w", limit=1, claim_ttl=30)
    site.outbox.pause("empty", "a migration")

    page = site.get()

    counts = {
        each["aria-label"].partition(" of ")[0]
        for each in page.all("a")
        if each.get("aria-label", "").endswith(f" of {SHOP}")
    }
    assert counts >= {
        *("3 pending", "2 due", "1 claimed", "0 backoff", "2 dead", "Last hour")
    }
    assert "empty paused" in page.said
    assert "a migration" in page.said


def test_an_empty_outbox_says_so() -> None:
    page = Site(MemoryOutbox(), workers=[]).get()

    assert "It has no rows" in page.said
    assert "no worker of this process" in page.said


def test_the_last_hour_is_a_picture_with_its_numbers() -> None:
    site = Site()
    site.enqueue("a", "b", "c")
    site.outbox.mark_published(site.outbox.claim(SHOP, "w", limit=3, claim_ttl=30))

    page = site.get()

    bars = page.all("rect")
    assert len(bars) == 30
    assert [bar["height"] for bar in bars[:-1]] == ["0.0"] * 29
    assert bars[-1]["height"] == "120.0"
    assert len(page.all("polyline")) == 1
    assert "3 rows published" in page.said


def test_the_line_of_the_lag_has_a_gap_where_nothing_was_published() -> None:
    clock = FakeClock()
    outbox = MemoryOutbox(clock=clock)
    site = Site(outbox)
    for key, minutes in (("a", 2), ("b", 2), ("c", 20)):
        outbox.enqueue(SHOP, InvalidationIntentBatch().invalidate_key(key))
        clock.advance(minutes * 60)
        outbox.mark_published(outbox.claim(SHOP, "w", limit=1, claim_ttl=30))

    lines = [line["points"].split() for line in site.get().all("polyline")]

    assert [len(line) for line in lines] == [2, 2]
    # One point alone is a dot.
    assert lines[1][0] == lines[1][1]


def test_the_hit_rate_and_why_values_were_not_stored() -> None:
    cache = TaggedCache(MemoryStore(), "pages", unstorable="log")
    cache.get_or_load("a", lambda: b"a")
    cache.get_or_load("a", lambda: b"a")
    cache.get_or_load("b", lambda: object())

    page = Site(caches=[cache]).get()

    assert (
        "pages, in this process: 33.3 % hits, 1 of 3 reads; 1 value stored."
        in page.said
    )
    assert "1: the codec does not keep such a value" in page.said


def test_the_nodes_of_the_workers_and_their_outages(free_address: str) -> None:
    store = MemcachedStore([free_address])
    outbox = MemoryOutbox()
    worker = OutboxWorker(outbox, MemcachedApplier(store, SHOP))
    site = Site(outbox, workers=[worker])
    outbox.enqueue(SHOP, InvalidationIntentBatch().invalidate_key("a"))

    before = site.get()
    worker.run_once()
    after = site.get()

    store.close()
    assert f"{free_address}: not asked by this process yet" in before.said
    assert "circuit breaker" not in before.said
    assert f"{free_address}: circuit breaker open , away : " in after.said


def test_a_node_is_known_once_any_store_has_asked_it(memcached: Memcached) -> None:
    stores = [MemcachedStore([memcached.address]) for _ in range(3)]
    outbox = MemoryOutbox()
    workers = [
        OutboxWorker(outbox, MemcachedApplier(store, f"{SHOP}{place}"))
        for place, store in enumerate(stores)
    ]
    stores[1].ping()

    page = Site(outbox, workers=workers).get()

    for store in stores:
        store.close()
    assert f"{memcached.address}: circuit breaker closed" in page.said
    assert "not asked" not in page.said


def test_the_processes_that_carry_rows_and_those_that_are_late() -> None:
    moment = 1_800_000_000.0
    outbox = MemoryOutbox(clock=lambda: moment)
    site = Site(outbox, workers=[])
    outbox.enqueue(SHOP, InvalidationIntentBatch().invalidate_key("a"))
    for pid in (1, 2):
        outbox.beat(
            WorkerBeat(
                owner=f"w{pid}",
                kind="worker",
                host="host-7",
                pid=pid,
                version="1.2.3",
                namespaces=(SHOP, "other"),
                age=60.0,
                every=10.0,
                carried=41 + pid,
                batch_age=5.0,
                last_error="node 3 is away" if pid == 1 else None,
                caches={SHOP: {"hits": 3, "misses": 1, "refused_size": 1}},
            )
        )
        moment += 3600

    late = site.get()
    moment -= 3600

    page = site.get()

    said = page.said
    assert "worker host-7, pid 1" in said and "worker host-7, pid 2" in said
    assert "shop, other" in said and "1.2.3" in said and "node 3 is away" in said
    assert " 42 " in said and " 43 " in said
    assert said.count("late ,") == 1
    assert "1 h 0 min ago" in said
    assert "shop, by the workers above: 75.0 % hits, 3 of 4 reads" in said
    assert "1: too large for the store" in said
    assert "no worker has been seen" not in said
    assert late.said.count("late ,") == 1
    assert "no worker has been seen for 1 h 0 min; the last was" in late.said


def test_processes_that_stopped_or_are_late_for_long_are_not_listed() -> None:
    moment = 1_800_000_000.0
    outbox = MemoryOutbox(clock=lambda: moment)
    beat = WorkerBeat("w", "pool", "web", 0, "1", (SHOP,), 60.0, 10.0, 0)
    for pid, age in ((1, 3661), (2, 3600), (3, 0)):
        moment = 1_800_000_000.0 - age
        outbox.beat(replace(beat, owner=f"w{pid}", pid=pid))
    outbox.beat(replace(beat, owner="w4", pid=4, stopped=True))

    said = Site(outbox, workers=[]).get().said

    shown = [pid for pid in range(1, 5) if f"pool web, pid {pid}" in said]
    assert shown == [2, 3]


def test_rows_of_a_state_page_by_page() -> None:
    site = Site()
    site.enqueue(*(f"k{number}" for number in range(120)))

    shown: list[str] = []
    page = site.of("rows", state="due")
    for _ in range(5):
        shown += [each["href"] for each in page.all("a") if "/row?" in each["href"]]
        further = [each["href"] for each in page.all("a") if each.get("rel") == "next"]
        if not further:
            break
        page = Page(site.client.get(further[0]))

    assert [link.rpartition("id=")[2] for link in shown] == [
        str(number) for number in range(1, 121)
    ]


@pytest.mark.parametrize(
    ("search", "found"),
    [
        ({"by": "key", "q": "a"}, ["a"]),
        ({"by": "tag", "q": "a"}, ["tag"]),
        ({"by": "collection", "q": "a"}, ["collection"]),
        ({"by": "entity", "entity": "user", "q": "42"}, ["user"]),
        ({"by": "reason", "q": "sal"}, ["sale"]),
        ({"by": "position", "q": "tx:7"}, ["position"]),
        ({"by": "key", "q": "A"}, []),
    ],
)
def test_rows_are_searched_for(search: dict[str, str], found: list[str]) -> None:
    site = Site()
    wanted = {
        "a": InvalidationIntentBatch().invalidate_key("a"),
        "tag": InvalidationIntentBatch().invalidate_tag("a"),
        "collection": InvalidationIntentBatch().invalidate_collection("a"),
        "user": InvalidationIntentBatch().invalidate_entity("user", 42),
        "sale": InvalidationIntentBatch("sale of May").invalidate_key("s"),
        "position": InvalidationIntentBatch().invalidate_key("p"),
    }
    for name, batch in wanted.items():
        site.outbox.enqueue(
            SHOP, batch, commit_position="tx:7" if name == "position" else None
        )
    names = dict(zip(range(1, 7), wanted))

    page = site.of("rows", **search)

    ids = [
        int(each["href"].rpartition("id=")[2])
        for each in page.all("a")
        if "/row?" in each["href"]
    ]
    assert [names[id] for id in ids] == found
    assert ("No rows." in page.said) == (not found)


def test_rows_of_a_large_commit_page_by_page() -> None:
    site = Site()
    site.enqueue(*(f"k{number}" for number in range(60)))
    position = str(site.outbox.rows(SHOP, limit=1)[0].commit_position)

    row = site.of("row", id=1)
    [every] = [link for link in row.links() if "by=position" in link]
    first = Page(site.client.get(every))
    [further] = [link for link in first.links() if "after=" in link]
    second = Page(site.client.get(further))

    links = [link for page in (first, second) for link in page.links()]
    rows = {link.rpartition("id=")[2] for link in links if "/row?" in link}
    assert position in row.said
    assert rows == {str(number) for number in range(1, 61)}


def test_namespaces_of_one_overview_share_what_is_counted() -> None:
    each = COUNTED // 4
    many = InvalidationIntentBatch()
    for number in range(each + 1):
        many.invalidate_key(str(number))
    outboxes = {name: MemoryOutbox() for name in ("a", "b")}
    site = Site(outboxes, namespaces=[])
    for outbox in outboxes.values():
        outbox.enqueue(SHOP, many)

    labels = [link.get("aria-label") for link in site.get().all("a")]

    assert labels.count(f"{each}+ pending of {SHOP}") == 2
    assert f"Counts are exact up to {each};" in site.get().said


def test_no_page_asks_for_each_of_many_namespaces(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site = Site()
    site.enqueue("k")
    for number in range(100):
        site.enqueue("k", namespace=f"n{number:02}")
    statements: list[str] = []
    read = Database.read

    def watched(database: Any, statement: str, *args: Any, **more: Any) -> Any:
        statements.append(statement)
        return read(database, statement, *args, **more)

    monkeypatch.setattr(Database, "read", watched)

    assert site.of("rows").status == 200
    assert len(statements) < 10
    assert site.get().status == 200
    assert len(statements) < 100


def history_on(page: Page) -> list[str]:
    """What each line of the history says behind its moment."""
    said = page.said.partition("By Error ")[2].partition(" Its commit")[0]
    return re.split(r" ?\d{4}-[0-9: -]+Z, [0-9a-z. ]+ ago ", f" {said}")[1:]


def test_one_row_with_its_whole_history() -> None:
    site = Site()
    outbox = site.outbox
    [id] = site.kill("a", error="node said no")
    site.answer(site.of("confirm", action="retry", id=id))
    held = outbox.claim(SHOP, "web1/7", limit=1, claim_ttl=0.001)
    time.sleep(0.01)
    assert outbox.claim(SHOP, "web2/8", limit=1, claim_ttl=30)
    assert outbox.mark_published(held) == 0

    claimed = history_on(site.of("row", id=id))
    [row] = outbox.rows(SHOP)
    outbox.release([row], error="refused", waits_for="10.0.0.1:11211")
    outbox.mark_published(outbox.claim(SHOP, "web3/9", limit=1, claim_ttl=30))
    published = site.of("row", id=id)

    assert claimed == [
        "enqueued - -",
        "attempt failed, given up as a dead letter w node said no",
        "retried by an operator console: ada -",
        "claim ran out, the worker crashed or hung web1/7 -",
        "claimed web2/8 -",
    ]
    assert history_on(published) == claimed[:-1] + [
        "put off, waits for node 10.0.0.1:11211 web2/8 refused",
        "published - -",
    ]
    assert "Older entries were dropped" not in published.said


def test_a_history_that_was_cut_says_so() -> None:
    site = Site()
    [id] = site.kill("a")
    for _ in range(40):
        site.outbox.reset_dead_letters(SHOP, by="x" * 100)
        rows = site.outbox.claim(SHOP, "w", limit=1, claim_ttl=30)
        site.outbox.mark_failed(rows, "no", backoff=0, dead=True)

    page = site.of("row", id=id)

    assert "Older entries were dropped" in page.said
    assert 20 < len(history_on(page)) < 80


def test_one_row_with_its_moments_and_ids() -> None:
    site = Site()
    site.outbox.enqueue(
        SHOP,
        InvalidationIntentBatch("rename").invalidate_entity("user", 42).flush(),
        commit_position="tx:7",
    )
    rows = site.outbox.claim(SHOP, "host-1:42", limit=2, claim_ttl=30)
    site.outbox.mark_failed(rows[:1], "node said no", backoff=0, dead=True)

    failed = site.of("row", id=rows[0].id)
    held = site.of("row", id=rows[1].id)

    assert failed.status == held.status == 200
    for words in (
        "entity user 42",
        "Moments and ids",
        "Attempts 1",
        "node said no",
        "tx:7",
        "rename",
    ):
        assert words in failed.said
    assert "by host-1:42" in held.said
    # The commit's other row is beside it.
    assert site.of("row", id=rows[0].id).said.count("flush") == 1


def test_several_outboxes_are_on_one_page(tmp_path: Path) -> None:
    orders, users = MemoryOutbox(), MemoryOutbox()
    orders.enqueue("shop", InvalidationIntentBatch().invalidate_key("o"))
    users.enqueue("people", InvalidationIntentBatch().invalidate_key("u"))
    away = SQLiteOutbox(tmp_path / "missing.db")
    site = Site({"orders": orders, "users": users, "away": away}, namespaces=["later"])

    page = site.get()
    row = site.get("row", outbox="users", namespace="people", id=1)
    other = site.get("row", outbox="orders", namespace="people", id=1)

    assert "Outbox orders" in page.said and "Outbox users" in page.said
    assert "It does not answer: OutboxError" in page.said
    assert page.said.count("later") >= 2
    assert "key u" in row.said
    assert other.status == 404
    assert site.get("rows", outbox="away", namespace="later").status == 503


def test_many_namespaces_take_several_pages() -> None:
    site = Site()
    for number in range(25):
        site.enqueue("k", namespace=f"n{number:02}")

    pages = [site.get()]
    while True:
        further = [link for link in pages[-1].links() if "from=" in link]
        if not further:
            break
        pages.append(Page(site.client.get(further[0])))

    shown = [
        f"n{number:02}"
        for page in pages
        for number in range(25)
        if f" n{number:02} " in page.said.partition("Last hour of")[0]
    ]
    assert shown == [f"n{number:02}" for number in range(25)]
    assert len(pages) == 3


def test_an_app_with_the_extension_gives_its_own_parts(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "shop.db")
    shop.app.register_blueprint(
        console_blueprint(authenticate=lambda: "ada"), url_prefix="/ops"
    )

    page = Page(shop.client.get("/ops/"))

    assert page.status == 200
    assert SHOP in page.said
    assert f"{SHOP}, in this process: not read yet." in page.said


def test_health_is_for_everybody_and_tells_no_names(tmp_path: Path) -> None:
    site = Site(who=None)
    away = Site({"gone": SQLiteOutbox(tmp_path / "missing.db")}, who=None)

    fine, bad = site.client.get("/ops/healthz"), away.client.get("/ops/healthz")

    assert fine.status_code == 200
    assert fine.get_json() == {
        "status": "ok",
        "outboxes": [{"answers": True, "pool": None}],
    }
    assert bad.status_code == 503
    assert bad.get_json()["status"] == "away"
    assert b"gone" not in bad.data and b"missing" not in bad.data


def test_an_outage_is_an_answer_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site()
    site.enqueue("a")

    def away(*args: object, **options: object) -> Any:
        raise OutboxError("mysql://app:s3cr3t@db/shop is away <b>")

    monkeypatch.setattr(site.outbox, "find_rows", away)
    page = site.of("rows")

    assert page.status == 503
    assert "mysql://app:***@db/shop is away <b>" in page.said


# What cannot be set up


def test_without_a_login_there_is_no_console() -> None:
    app = Flask("site")

    with pytest.raises(ConfigurationError, match="authenticate="):
        app.register_blueprint(console_blueprint(MemoryOutbox()))


def test_a_writable_console_needs_a_key_for_its_forms() -> None:
    app = Flask("site")
    console = console_blueprint(
        MemoryOutbox(), authenticate=lambda: "ada", writable=True
    )

    with pytest.raises(ConfigurationError, match="SECRET_KEY"):
        app.register_blueprint(console)


def test_without_outboxes_the_app_needs_the_extension() -> None:
    app = Flask("site")

    with pytest.raises(ConfigurationError, match="has no HydraCache"):
        app.register_blueprint(console_blueprint(authenticate=lambda: "ada"))


@pytest.mark.parametrize("outboxes", [{}, "sqlite:///x.db", 7])
def test_what_is_no_outbox_is_refused(outboxes: Any) -> None:
    with pytest.raises(ConfigurationError, match="outboxes must be"):
        console_blueprint(outboxes, authenticate=lambda: "ada")


def test_a_worker_of_another_outbox_is_refused() -> None:
    site = Site()

    with pytest.raises(ConfigurationError, match="works on none"):
        console_blueprint(
            MemoryOutbox(), authenticate=lambda: "ada", workers=[site.worker]
        )
