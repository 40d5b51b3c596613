"""TaggedCache while memcached is away, slow or talking garbage: it loads, in time."""

from __future__ import annotations

import itertools
import logging
import os
import signal
import threading
import time
import warnings
from typing import Any, Iterator, Sequence

import pytest

from hydracache_sync import MemcachedStore, MemoryStore, TaggedCache
from hydracache_sync.cache import Address, Failures, Write
from hydracache_sync.errors import ApplyUnavailable
from hydracache_sync.outage import CALM, LoggedOutage
from support.faulty_memcached import FaultyMemcached, Mode
from support.servers import Memcached
from support.waiting import eventually

TAGS = ("users", "user:42")
FAULTS = [mode for mode in Mode if mode not in (Mode.WORKING, Mode.SLOW)]


#: Modes in which the client waits in vain, and so for its timeout.
SILENT = (Mode.HANG, Mode.GARBAGE, Mode.TRUNCATED_VALUE)


def patient_unless_silent(server: FaultyMemcached, mode: Mode) -> MemcachedStore:
    timeout = 0.3 if mode in SILENT else 10
    return MemcachedStore(
        [server.address], timeout=timeout, connect_timeout=10, retry_after=0
    )


def warm_up(cache: TaggedCache, value: str) -> None:
    """Load until the value is stored: what is long enough for a fault, which always
    takes all of its time, may be short for an answer on a busy machine."""

    def is_stored() -> bool:
        assert cache.get_or_load("user:42", lambda: value, tags=TAGS) == value
        return bool(cache.get("user:42", tags=TAGS) == value)

    eventually(is_stored)


@pytest.fixture
def faulty() -> Iterator[FaultyMemcached]:
    with FaultyMemcached() as server:
        yield server


class Failing(MemoryStore):
    """A store of which single operations fail."""

    def __init__(self) -> None:
        super().__init__()
        self.failing: set[str] = set()
        self.calls: list[str] = []

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if name in self.failing:
            raise ApplyUnavailable("away", node="failing:1")

    def get_many(self, addresses: Sequence[Address]) -> list[bytes | None]:
        self._call("get")
        return super().get_many(addresses)

    def add_many(self, writes: Sequence[Write]) -> list[bytes | None]:
        self._call("add")
        return super().add_many(writes)

    def set_many(self, writes: Sequence[Write]) -> Failures:
        self.calls.append("set")
        if "set" in self.failing:
            return {write[0]: ApplyUnavailable("away") for write in writes}
        return super().set_many(writes)

    def delete_many(self, addresses: Sequence[Address]) -> Failures:
        if "delete" in self.failing:
            return {address: ApplyUnavailable("away") for address in addresses}
        return super().delete_many(addresses)


@pytest.mark.parametrize("mode", FAULTS)
@pytest.mark.parametrize("warm", [False, True])
def test_whatever_memcached_does_the_value_comes_from_the_loader(
    faulty: FaultyMemcached, mode: Mode, warm: bool
) -> None:
    cache = TaggedCache(patient_unless_silent(faulty, mode), "shop")
    if warm:
        warm_up(cache, "old")
    before = cache.diagnostics()
    faulty.mode = mode

    assert cache.get("user:42", tags=TAGS, default="default") == "default"
    assert cache.get_or_load("user:42", lambda: "new", tags=TAGS) == "new"
    reservation = cache.reserve("user:42", tags=TAGS)
    assert not reservation.fillable
    assert not reservation.fill("new")
    cache.delete("user:43")

    # A reply without values has no value that could be wrong or cut off.
    assert cache.diagnostics().errors >= before.errors + 2
    assert cache.diagnostics().fills == before.fills


@pytest.mark.parametrize("mode", FAULTS)
def test_after_an_outage_the_cache_serves_again(
    faulty: FaultyMemcached, mode: Mode
) -> None:
    cache = TaggedCache(patient_unless_silent(faulty, mode), "shop")
    faulty.mode = mode
    cache.get_or_load("user:42", lambda: "during", tags=TAGS)
    faulty.mode = Mode.WORKING

    warm_up(cache, "after")


def test_a_hung_memcached_costs_a_read_its_timeout(memcached: Memcached) -> None:
    with Memcached() as server:
        cache = TaggedCache(MemcachedStore([server.address], timeout=1.0), "shop")
        cache.get_or_load("user:42", lambda: "old", tags=TAGS)
        server.pause()

        begin = time.monotonic()
        value = cache.get_or_load("user:42", lambda: "new", tags=TAGS)
        took = time.monotonic() - begin
        server.resume()

        assert value == "new"
        assert took < 5


def test_after_a_restart_nothing_old_is_served_and_nothing_fails() -> None:
    with Memcached() as server:
        cache = TaggedCache(
            MemcachedStore([server.address], timeout=10, connect_timeout=10), "shop"
        )
        cache.get_or_load("user:42", lambda: "old", tags=TAGS)
        reservation = cache.reserve("user:42", tags=TAGS)

        server.restart()

        assert cache.get_or_load("user:42", lambda: "new", tags=TAGS) == "new"
        assert cache.get("user:42", tags=TAGS) == "new"
        # Its tokens went with the restart.
        reservation.fill("old")
        assert cache.get("user:42", tags=TAGS) is None
        assert cache.diagnostics().errors == 0


def test_a_restart_while_loading_leaves_nothing_to_serve() -> None:
    with Memcached() as server:
        cache = TaggedCache(
            MemcachedStore([server.address], timeout=10, connect_timeout=10), "shop"
        )

        def load() -> str:
            server.restart()
            return "old"

        assert cache.get_or_load("user:42", load, tags=TAGS) == "old"
        cache.reserve("user:42", tags=TAGS)

        assert cache.get("user:42", tags=TAGS) is None


def test_who_cannot_read_the_tokens_does_not_fill() -> None:
    store = Failing()
    cache = TaggedCache(store, "shop")
    store.failing = {"get"}

    assert cache.get_or_load("user:42", lambda: "v", tags=TAGS) == "v"

    assert store.calls == ["get"]
    assert cache.diagnostics().refused_unknown == 1
    assert cache.diagnostics().errors == 1
    assert len(store) == 0


def test_who_cannot_create_the_tokens_does_not_fill() -> None:
    store = Failing()
    cache = TaggedCache(store, "shop")
    store.failing = {"add"}

    assert cache.get_or_load("user:42", lambda: "v", tags=TAGS) == "v"

    assert store.calls == ["get", "add"]
    assert cache.diagnostics().refused_unknown == 1
    assert cache.diagnostics().errors == 1


def test_a_created_token_that_is_gone_when_read_back_is_unknown() -> None:
    class Forgetful(MemoryStore):
        def add_many(self, writes: Sequence[Write]) -> list[bytes | None]:
            found = super().add_many(writes)
            return [None, *found[1:]]

    cache = TaggedCache(Forgetful(), "shop")

    assert cache.get_or_load("user:42", lambda: "v", tags=TAGS) == "v"

    assert cache.diagnostics().fills == 0
    assert cache.diagnostics().refused_unknown == 1


def test_a_fill_that_fails_is_counted_and_the_value_returned() -> None:
    store = Failing()
    cache = TaggedCache(store, "shop")
    store.failing = {"set"}

    assert cache.get_or_load("user:42", lambda: "v", tags=TAGS) == "v"
    assert not cache.reserve("user:42", tags=TAGS).fill("v")

    assert cache.diagnostics().errors == 2
    assert cache.diagnostics().fills == 0


def test_a_delete_that_fails_says_so() -> None:
    store = Failing()
    cache = TaggedCache(store, "shop")
    store.failing = {"delete"}

    assert not cache.delete("user:42")
    assert cache.diagnostics().errors == 1


@pytest.fixture
def no_calm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the first success end an outage."""
    readings = itertools.count(0.0, CALM)
    monkeypatch.setattr(time, "monotonic", lambda: next(readings))


def test_calls_that_need_the_failing_node_and_others_are_one_outage(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = 0.0
    logger = logging.getLogger("hydracache_sync")
    seen = LoggedOutage(logger, "it", clock=lambda: now)
    caplog.set_level(logging.INFO, logger="hydracache_sync")

    for _ in range(100):
        seen.begin(RuntimeError("away"))
        now += 0.5
        seen.end()
    said_meanwhile = len(caplog.records)
    for _ in range(3):
        seen.end()
        now += CALM

    assert said_meanwhile == 1
    assert [record.getMessage() for record in caplog.records] == [
        "it fails: away",
        "it works again",
    ]


def test_two_threads_log_one_beginning_and_one_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The second one comes in the middle of what the first one does."""
    now, second, threads = 0.0, [lambda: None], []

    def clock() -> float:
        act, second[0] = second[0], lambda: None
        thread = threading.Thread(target=act)
        threads.append(thread)
        thread.start()
        thread.join(0.2)  # in vain where it waits for the first
        return now

    logger = logging.getLogger("hydracache_sync")
    seen = LoggedOutage(logger, "it", clock=clock)
    caplog.set_level(logging.INFO, logger="hydracache_sync")

    second[0] = lambda: seen.begin(RuntimeError("away"))
    seen.begin(RuntimeError("away"))
    for thread in threads:
        thread.join()
    seen.end()
    now += CALM
    second[0] = seen.end
    seen.end()
    for thread in threads:
        thread.join()

    assert [record.getMessage() for record in caplog.records] == [
        "it fails: away",
        "it works again",
    ]


@pytest.mark.usefixtures("no_calm")
def test_an_outage_is_logged_when_it_begins_and_when_it_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = Failing()
    cache = TaggedCache(store, "shop")
    caplog.set_level(logging.INFO, logger="hydracache_sync")

    for failing in ({"get"}, {"get"}, set(), set(), {"get"}):
        store.failing = failing
        for _ in range(3):
            cache.get("user:42")

    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "reading the cache of namespace shop fails: away"),
        ("WARNING", "reading the cache of namespace shop works again"),
        ("WARNING", "reading the cache of namespace shop fails: away"),
    ]


@pytest.mark.usefixtures("no_calm")
@pytest.mark.parametrize("operation", ["add", "set"])
def test_a_cache_that_reads_but_does_not_write_is_logged_once(
    caplog: pytest.LogCaptureFixture, operation: str
) -> None:
    store = Failing()
    cache = TaggedCache(store, "shop")
    caplog.set_level(logging.INFO, logger="hydracache_sync")

    store.failing = {operation}
    for _ in range(3):
        cache.get_or_load("user:42", lambda: "v")
    store.failing = set()
    for _ in range(3):
        cache.get_or_load("user:42", lambda: "v")

    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "writing the cache of namespace shop fails: away"),
        ("WARNING", "writing the cache of namespace shop works again"),
    ]


def test_diagnostics_count_what_happened() -> None:
    cache = TaggedCache(MemoryStore(), "shop")
    cache.get("a")
    cache.get_or_load("a", lambda: 1)
    cache.get("a")
    cache.get_or_load("a", lambda: 2)
    cache.reserve("b").fill(1)

    diagnostics = cache.diagnostics()

    assert (diagnostics.hits, diagnostics.misses, diagnostics.fills) == (2, 2, 2)
    assert diagnostics.errors == diagnostics.refused_unknown == 0


def test_counts_are_exact_with_many_threads() -> None:
    cache = TaggedCache(MemoryStore(), "shop")
    cache.get_or_load("a", lambda: 1)
    barrier = threading.Barrier(8)

    def read() -> None:
        barrier.wait()
        for _ in range(1000):
            cache.get("a")

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert cache.diagnostics().hits == 8000


def test_a_cache_works_on_both_sides_of_a_fork(
    memcached: Memcached, unique: str
) -> None:
    cache = TaggedCache(
        MemcachedStore([memcached.address], timeout=10, connect_timeout=10), unique
    )
    cache.get_or_load("user:42", lambda: "v", tags=TAGS)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        signal.alarm(30)
        found: list[Any] = [cache.get("user:42", tags=TAGS) for _ in range(100)]
        os._exit(0 if found == ["v"] * 100 else 1)
    own = [cache.get("user:42", tags=TAGS) for _ in range(100)]
    _, status = os.waitpid(child, 0)

    assert own == ["v"] * 100
    assert os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0
