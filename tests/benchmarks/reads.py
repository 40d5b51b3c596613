"""What a cached read costs, against the bare client, and beside other cache libraries.

    python tests/benchmarks/reads.py [--rounds 101] [--slice-ms 2] [--seed 1]

Client and server run on one CPU, so that the figures are of work and not of how fast a
machine wakes another CPU. Each slice of a contender follows a slice of its base in the
same process, and the medians are those of the ratios: quote these, not microseconds.
Peers that are not installed (extra ``bench``) are named and left out.

Goals: with namespace, key and 2 tags 1.00 of ``PooledClient.get`` at most and 1.15 of
``Client.get`` for bytes, 1.15 of ``Client.get`` and the same decoder for JSON; each
further tag at most 0.06, a bound of staleness 0.03; a hit in process at most 5 us; a
miss at most three round trips beside its load.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import random
import sqlite3
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _results import Results, add_save, tell, versions  # noqa: E402
from pymemcache.client.base import Client, PooledClient  # noqa: E402

from hydracache_sync import (  # noqa: E402
    InvalidationIntentBatch,
    MemcachedApplier,
    MemcachedStore,
    MemoryOutbox,
    MemoryStore,
    OutboxWorker,
    SQLiteOutbox,
    TaggedCache,
)
from support.faulty_memcached import FaultyMemcached  # noqa: E402
from support.servers import Memcached  # noqa: E402

Call = Callable[[], Any]

TAGS = tuple(f"tag:{number}" for number in range(30))
SIZES = (100, 1000)

#: Columns of a table of contenders.
RATIOS = "what / base", "time", "ratio", "goal"


def value_of(size: int) -> dict[str, Any]:
    """A page's data that is about ``size`` bytes of JSON."""
    rows = [
        {"id": number, "name": f"user {number}", "ok": True, "score": number / 7}
        for number in range(max(1, size // 62))
    ]
    return {"rows": rows, "pad": "x" * max(0, size - len(json.dumps(rows)) - 22)}


class Meter:
    """Runs contenders in turn with their bases; keeps the ratios and the times."""

    def __init__(self, rounds: int, slice_seconds: float) -> None:
        self._rounds = rounds
        self._slice = slice_seconds

    def compare(
        self,
        pairs: list[tuple[str, Call, Call, float | None]],
        saved: list[list[str]],
    ) -> None:
        """Print each contender's time and its ratio to its base, with its goal.

        :param saved: takes them as well, as rows of a table of :data:`RATIOS`.
        """
        counts = [self._count(call) for _, call, _, _ in pairs]
        bases = [self._count(base) for _, _, base, _ in pairs]
        times: list[list[float]] = [[] for _ in pairs]
        ratios: list[list[float]] = [[] for _ in pairs]
        for _ in range(self._rounds):
            for at, (_, call, base, _) in enumerate(pairs):
                before = seconds_each(base, bases[at])
                taken = seconds_each(call, counts[at])
                times[at].append(taken)
                ratios[at].append(taken / before)
        for at, (name, _, _, goal) in enumerate(pairs):
            ratio = statistics.median(ratios[at])
            micros = statistics.median(times[at]) * 1e6
            verdict = "" if goal is None else f"<= {goal:.2f}"
            tell(saved, name, f"{micros:.1f} us", f"{ratio:.2f}", verdict)

    def _count(self, call: Call) -> int:
        seconds_each(call, 20)
        return max(1, int(self._slice / seconds_each(call, 50)))


def seconds_each(call: Call, count: int) -> float:
    started = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - started) / count


def decoder() -> tuple[str, Callable[[bytes], Any]]:
    """The one that the library uses for JSON here."""
    try:
        import orjson
    except ImportError:
        return "json", json.loads
    return "orjson", orjson.loads


def hits(meter: Meter, server: Memcached, size: int, results: Results) -> None:
    value = value_of(size)
    text = json.dumps(value).encode()
    client = Client(server.address, no_delay=True, timeout=5, connect_timeout=5)
    pooled = PooledClient(server.address, no_delay=True, timeout=5, connect_timeout=5)
    name, loads = decoder()
    for key in (f"bare{size}", f"json{size}"):
        client.set(key, text, noreply=False)
    store = MemcachedStore([server.address], timeout=5, connect_timeout=5)
    cache = TaggedCache(store, f"s{size}")
    for count in (0, 1, 2, 5, 10):
        cache.get_or_load(f"b{count}", lambda: text, tags=TAGS[:count])
        cache.get_or_load(f"j{count}", lambda: value, tags=TAGS[:count])

    def bare() -> Any:
        return client.get(f"bare{size}")

    def bare_pooled() -> Any:
        return pooled.get(f"bare{size}")

    def bare_json() -> Any:
        return loads(client.get(f"json{size}"))

    def tagged(kind: str, count: int) -> Call:
        key, tags = f"{kind}{count}", TAGS[:count]
        return lambda: cache.get(key, tags=tags)

    def loading() -> Any:
        return cache.get_or_load("b2", bare, tags=TAGS[:2])

    assert bare() == bare_pooled() == tagged("b", 2)() == loading() == text
    assert bare_json() == tagged("j", 10)() == value
    title = f"{size} bytes, a hit ({len(text)} bytes of JSON, decoder {name}):"
    saved = results.table(title, RATIOS)
    print(f"\n{title}")
    meter.compare(
        [
            ("Client.get against itself", bare, bare, None),
            ("2 tags, bytes / PooledClient.get", tagged("b", 2), bare_pooled, 1.0),
            ("2 tags, bytes / Client.get", tagged("b", 2), bare, 1.15),
            ("2 tags, get_or_load, bytes / Client.get", loading, bare, None),
            (f"2 tags, JSON / Client.get + {name}", tagged("j", 2), bare_json, 1.15),
            ("no tag, bytes / Client.get", tagged("b", 0), bare, None),
            ("10 tags, bytes / Client.get", tagged("b", 10), bare, None),
        ],
        saved,
    )
    further(meter, tagged("b", 2), tagged("b", 10), bare, saved)
    bounded(meter, store, f"s{size}", tagged("b", 2), bare, saved)
    peers(meter, server, size, value, text, bare, bare_json, saved)
    store.close()
    client.close()
    pooled.close()


def further(
    meter: Meter, two: Call, ten: Call, bare: Call, saved: list[list[str]]
) -> None:
    """What each tag beyond the second adds, as part of a bare get."""
    added = []
    for _ in range(meter._rounds):
        base = seconds_each(bare, 200)
        added.append((seconds_each(ten, 200) - seconds_each(two, 200)) / 8 / base)
    each = statistics.median(added)
    tell(saved, "each further tag adds / Client.get", "", f"{each:.3f}", "<= 0.06")


def bounded(
    meter: Meter,
    store: MemcachedStore,
    namespace: str,
    without: Call,
    bare: Call,
    saved: list[list[str]],
) -> None:
    """What a bound of staleness adds, as part of a bare get."""
    worker = OutboxWorker(MemoryOutbox(), MemcachedApplier(store, namespace))
    assert worker.store_watermark()
    cache = TaggedCache(store, namespace, max_staleness=86400)

    def read() -> Any:
        return cache.get("b2", tags=TAGS[:2])

    assert read() == without()
    added = []
    for number in range(meter._rounds):
        base = seconds_each(bare, 200)
        # In turn first: what comes second may find a warmer machine.
        pair = (read, without) if number % 2 else (without, read)
        taken = {each: seconds_each(each, 200) for each in pair}
        added.append((taken[read] - taken[without]) / base)
    each = statistics.median(added)
    name = "a bound of staleness (P8) adds / Client.get"
    tell(saved, name, "", f"{each:.3f}", "<= 0.03")


def peers(
    meter: Meter,
    server: Memcached,
    size: int,
    value: Any,
    text: bytes,
    bare: Call,
    bare_json: Call,
    saved: list[list[str]],
) -> None:
    """Others as they come: their decoders, no tags, nothing that is proven."""
    pairs: list[tuple[str, Call, Call, float | None]] = []
    missing = []
    for name, make, base in [
        ("pylibmc get, bytes / Client.get", make_pylibmc, bare),
        ("meta-memcache get, bytes / Client.get", make_meta, bare),
        ("dogpile.cache (pymemcache) / Client.get + json", make_dogpile, bare_json),
        ("dogpile.cache (pylibmc) / Client.get + json", make_dogpile_c, bare_json),
        ("Flask-Caching get (pylibmc) / Client.get + json", make_flask, bare_json),
        ("Flask-Caching memoize / Client.get + json", make_memoize, bare_json),
    ]:
        try:
            pairs.append((name, make(server, size, value, text), base, None))
        except ImportError as exc:
            missing.append(f"{name.split(' /')[0]} ({exc.name})")
    if pairs:
        meter.compare(pairs, saved)
    if missing:
        print(f"  not installed: {', '.join(missing)}")


def make_pylibmc(server: Memcached, size: int, value: Any, text: bytes) -> Call:
    import pylibmc

    client = pylibmc.Client([server.address], behaviors={"tcp_nodelay": True})
    return lambda: client.get(f"bare{size}")


def make_meta(server: Memcached, size: int, value: Any, text: bytes) -> Call:
    from meta_memcache import CacheClient, Key, connection_pool_factory_builder
    from meta_memcache.configuration import ServerAddress

    host, port = server.address.split(":")
    client = CacheClient.cache_client_from_servers(
        servers=[ServerAddress(host, int(port))],
        connection_pool_factory_fn=connection_pool_factory_builder(),
    )
    key = Key(f"meta{size}")
    client.set(key, text, ttl=600)
    assert client.get(key) == text
    return lambda: client.get(key)


def dogpile_region(server: Memcached, backend: str) -> Any:
    from dogpile.cache import make_region

    return make_region().configure(
        f"dogpile.cache.{backend}", arguments={"url": [server.address]}
    )


def make_dogpile(
    server: Memcached, size: int, value: Any, text: bytes, backend: str = "pymemcache"
) -> Call:
    region = dogpile_region(server, backend)
    key = f"dogpile-{backend}-{size}"
    region.get_or_create(key, lambda: value)
    return lambda: region.get_or_create(key, lambda: value)


def make_dogpile_c(server: Memcached, size: int, value: Any, text: bytes) -> Call:
    import pylibmc  # noqa: F401

    return make_dogpile(server, size, value, text, "pylibmc")


@functools.lru_cache(maxsize=None)
def flask_cache(address: str) -> Any:
    """One for all: it finds itself by the application of the moment."""
    import pylibmc  # noqa: F401
    from flask import Flask
    from flask_caching import Cache

    app = Flask("bench")
    config = {
        "CACHE_TYPE": "MemcachedCache",
        "CACHE_MEMCACHED_SERVERS": [address],
        "CACHE_DEFAULT_TIMEOUT": 600,
    }
    app.app_context().push()
    return Cache(app, config=config)


def make_flask(server: Memcached, size: int, value: Any, text: bytes) -> Call:
    cache = flask_cache(server.address)
    cache.set(f"flask{size}", value)
    assert cache.get(f"flask{size}") == value
    return lambda: cache.get(f"flask{size}")


def make_memoize(server: Memcached, size: int, value: Any, text: bytes) -> Call:
    cache = flask_cache(server.address)

    @cache.memoize(600)
    def load(number: int) -> Any:
        return value

    load(size)
    return lambda: load(size)


def one(user_id: int) -> bytes:
    return b"x" * 100


def three(user_id: int, lang: str = "en", *, full: bool = False) -> bytes:
    return b"x" * 100


# A function of a program has no default key.
one.__module__ = three.__module__ = "reads"


def in_process(results: Results) -> None:
    cache = TaggedCache(MemoryStore(), "shop")
    tags = TAGS[:2]
    cache.get_or_load("k", lambda: one(1), tags=tags)
    hits: dict[str, tuple[Callable[[], object], float | None]] = {
        "get": (lambda: cache.get("k", tags=tags), 5),
        "get_or_load": (lambda: cache.get_or_load("k", str, tags=tags), None),
    }
    cached_one, cached_three = (cache.cached(tags=tags)(each) for each in (one, three))
    hits["@cached, 1 argument"] = (lambda: cached_one(1), 8)
    hits["@cached, 1 argument of 3"] = (lambda: cached_three(1), None)
    title = "In process (`MemoryStore`), 100 bytes, 2 tags, a hit:"
    saved = results.table(title, ["call", "time", "goal"])
    print(f"\n{title}")
    for name, (hit, goal) in hits.items():
        hit()
        taken = statistics.median(seconds_each(hit, 2000) for _ in range(9)) * 1e6
        tell(saved, name, f"{taken:.1f} us", f"<= {goal:g} us" if goal else "")


def round_trips(results: Results) -> None:
    title = "Round trips of `get_or_load`, 2 tags:"
    saved = results.table(title, ["what", "round trips"])
    print(f"\n{title}")
    with FaultyMemcached() as server:
        store = MemcachedStore([server.address], timeout=10, connect_timeout=10)
        cache = TaggedCache(store, "shop")
        for name in ("first miss, tokens missing", "hit", "deleted, miss"):
            if name.startswith("deleted"):
                cache.delete("k")
            server.forget()
            cache.get_or_load("k", lambda: "v", tags=TAGS[:2])
            tell(saved, name, str(server.round_trips))
        store.close()


def strict_writes(server: Memcached, rounds: int, results: Results) -> None:
    """A transaction of SQLite, synchronous FULL, with a quarantine and without."""
    title = (
        "A transaction of one UPDATE and one intent on SQLite, `synchronous = full`:"
    )
    saved = results.table(title, ["its end", "time", "ratio"])
    print(f"\n{title}")
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "shop.db")
        outbox = SQLiteOutbox(path)
        outbox.install_schema()
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("pragma journal_mode = wal")
        connection.execute("pragma synchronous = full")
        connection.execute("create table users (id integer primary key, n integer)")
        connection.execute("insert into users values (1, 0)")
        store = MemcachedStore([server.address], timeout=5, connect_timeout=5)
        cache = TaggedCache(store, "shop", strict=True)
        worker = OutboxWorker(outbox, MemcachedApplier(store, "shop", strict=True))

        def write(finish: Callable[[Any], None]) -> float:
            batch = InvalidationIntentBatch().invalidate_tag("users")
            started = time.perf_counter()
            connection.execute("begin immediate")
            connection.execute("update users set n = n + 1")
            receipt = outbox.enqueue_in(connection, "shop", batch)
            finish(receipt)
            return time.perf_counter() - started

        def plain(receipt: Any) -> None:
            connection.execute("commit")

        def quarantined(receipt: Any) -> None:
            with cache.quarantine(receipt.batch):
                connection.execute("commit")

        def published(receipt: Any) -> None:
            connection.execute("commit")
            assert worker.publish(receipt).complete

        times: dict[Any, list[float]] = {plain: [], quarantined: [], published: []}
        for _ in range(rounds * 3):
            for finish in times:
                times[finish].append(write(finish))
        base = statistics.median(times[plain])
        for finish, name in [
            (plain, "commit"),
            (quarantined, "quarantine and commit"),
            (published, "commit and publish inline, not strict"),
        ]:
            taken = statistics.median(times[finish])
            tell(saved, name, f"{taken * 1e6:.0f} us", f"{taken / base:.2f}")
        connection.close()
        outbox.close()
        store.close()


def strict_hits(seed: int, results: Results) -> None:
    """Hit rates in simulated time: 100 reads a second of one key for 10 minutes."""
    title = (
        "Hit rate of 100 reads a second of one key while its tag is written at random"
        " times, each write applied 10 ms later; simulated time, 10 minutes:"
    )
    columns = ["writes to the tag", "default"]
    columns += [f"strict, `hold_off={seconds}`" for seconds in ("2", "0.5")]
    saved = results.table(title, columns)
    print(f"\n{title} {columns}")
    for label, rate in [
        ("1 a minute", 1 / 60),
        ("1 in 10 s", 0.1),
        ("1 a second", 1.0),
        ("10 a second", 10.0),
        ("100 a second", 100.0),
    ]:
        rates = [
            hit_rate(rate, seed, None),
            hit_rate(rate, seed, 2.0),
            hit_rate(rate, seed, 0.5),
        ]
        tell(saved, label, *(f"{rate * 100:.1f} %" for rate in rates))


def hit_rate(writes: float, seed: int, hold_off: float | None) -> float:
    chance = random.Random(seed)
    now = [1.7e9]

    def clock() -> float:
        return now[0]

    settings: dict[str, Any] = {"clock": clock}
    if hold_off is not None:
        settings.update(strict=True, hold_off=hold_off)
    store = MemoryStore(clock=clock)
    cache = TaggedCache(store, "shop", ttl=0, max_wait=0, **settings)
    applier = MemcachedApplier(store, "shop", **settings)
    batch = InvalidationIntentBatch().invalidate_tag("users")
    [intent] = batch.intents
    end = now[0] + 600
    next_write = now[0] + chance.expovariate(writes)
    applies: list[float] = []
    while now[0] < end:
        now[0] += 0.01
        while next_write <= now[0]:
            if hold_off is not None:
                with cache.quarantine(batch):
                    pass
            applies.append(next_write + 0.01)
            next_write += chance.expovariate(writes)
        while applies and applies[0] <= now[0]:
            applies.pop(0)
            applier.apply_invalidation(intent)
        cache.get_or_load("k", lambda: 1, tags=("users",))
    counts = cache.diagnostics()
    return counts.hits / (counts.hits + counts.misses)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=101)
    parser.add_argument("--slice-ms", type=float, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only-hits", action="store_true")
    add_save(parser)
    options = parser.parse_args()
    results = Results()
    if hasattr(os, "sched_setaffinity"):
        # What is started from here on, memcached included, stays there too.
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    meter = Meter(options.rounds, options.slice_ms / 1000)
    with Memcached() as server:
        print(f"Python {sys.version.split()[0]}, seed {options.seed}")
        for size in SIZES:
            hits(meter, server, size, results)
        in_process(results)
        if not options.only_hits:
            round_trips(results)
            strict_writes(server, options.rounds, results)
            strict_hits(options.seed, results)
    if options.save:
        names = "orjson", "pymemcache", "pylibmc", "meta-memcache", "dogpile.cache"
        results.save(options.save, **versions(*names, "Flask-Caching"))


if __name__ == "__main__":
    main()
