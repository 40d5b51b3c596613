"""A value that the codec does not keep: an error at once, or a warning and no entry."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any, Callable

import pytest

from hydracache_sync import (
    ApplyUnavailable,
    ConfigurationError,
    MemoryStore,
    TaggedCache,
)
from hydracache_sync.cache import unstorable
from hydracache_sync.cache.loads.coalescer import LOADS_AT_ONCE

BAD = {"price": object()}
ABSENT = object()

#: Seconds for what must happen; only a failing test waits for them.
DEADLINE = 30.0
SAID = "cannot cache object at value['price']"


def cache_of(how: str = "log", **options: Any) -> TaggedCache:
    return TaggedCache(MemoryStore(), "shop", unstorable=how, **options)


def told(cache: TaggedCache) -> tuple[int, int]:
    found = cache.diagnostics()
    return found.refused_value, found.fills


def test_a_value_is_returned_not_stored_and_counted() -> None:
    cache = cache_of()

    for count in (1, 2, 3):
        assert cache.get_or_load("k", lambda: BAD, tags=["t"]) is BAD
        assert told(cache) == (count, 0)

    assert cache.get("k", tags=["t"], default=ABSENT) is ABSENT
    assert cache.get_or_load("k", lambda: "good", tags=["t"]) == "good"
    assert cache.get("k", tags=["t"]) == "good"


def test_it_is_told_where_nothing_may_be_stored_too() -> None:
    # An old snapshot: no fill.
    cache = cache_of(snapshot=lambda: 1.0)

    assert cache.get_or_load("k", lambda: BAD) is BAD
    assert told(cache) == (1, 0)
    with pytest.raises(TypeError, match="at value"):
        cache_of("raise", snapshot=lambda: 1.0).get_or_load("k", lambda: BAD)


def test_each_way_to_store_a_value_tells_of_it_once() -> None:
    cache = cache_of()

    assert cache.refresh("k", lambda: BAD) is BAD
    assert told(cache) == (1, 0)
    assert cache.reserve("k").fill(BAD) is False
    assert told(cache) == (2, 0)
    assert cache.set("k", BAD, since=1.0) is False
    assert told(cache) == (3, 0)
    found = cache.get_many_or_load(["a", "b"], lambda keys: {"a": 1, "b": BAD})
    assert found == {"a": 1, "b": BAD}
    assert told(cache) == (4, 1)
    assert cache.get_many(["a", "b"]) == {"a": 1}
    cache.check_value(BAD)
    assert told(cache) == (5, 1)


def test_each_way_to_store_a_value_raises_by_default() -> None:
    cache = TaggedCache(MemoryStore(), "shop")

    for call in (
        lambda: cache.get_or_load("k", lambda: BAD),
        lambda: cache.refresh("k", lambda: BAD),
        lambda: cache.reserve("k").fill(BAD),
        # Refused for its age, whatever it is.
        lambda: cache.set("k", BAD, since=1.0),
        lambda: cache.get_many_or_load(["k"], lambda keys: {"k": BAD}),
        lambda: cache.check_value(BAD),
    ):
        with pytest.raises(TypeError, match=r"object at value\['price'\]"):
            call()
    assert told(cache) == (0, 0)


def test_a_hit_past_its_soft_ttl_gives_what_was_loaded() -> None:
    now = time.time()
    cache = cache_of(clock=lambda: now)
    cache.get_or_load("k", lambda: 1, soft_ttl=10)
    now += 60

    assert cache.get_or_load("k", lambda: BAD, soft_ttl=10) is BAD
    assert told(cache) == (1, 1)
    assert cache.get("k") == 1


class Readers:
    """Threads that read one key, whose loads end one by one."""

    def __init__(self, cache: TaggedCache) -> None:
        self.cache = cache
        self.found: list[Any] = []
        self.gates: list[threading.Event] = []
        self.threads: list[threading.Thread] = []

    def begin(self, count: int) -> None:
        for _ in range(count):
            thread = threading.Thread(target=self._read)
            self.threads.append(thread)
            thread.start()

    def end(self) -> list[Any]:
        deadline = time.monotonic() + DEADLINE
        while any(thread.is_alive() for thread in self.threads):
            for gate in self.gates[:]:
                gate.set()
            assert time.monotonic() < deadline
            time.sleep(0.001)
        return self.found

    def _read(self) -> None:
        self.found.append(self.cache.get_or_load("k", self._load))

    def _load(self) -> Any:
        gate = threading.Event()
        self.gates.append(gate)
        assert gate.wait(DEADLINE)
        return BAD


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize("strict", [False, True], ids=["stored", "held off"])
def test_all_readers_of_a_herd_get_a_value(strict: bool) -> None:
    cache = cache_of(strict=strict, max_wait=DEADLINE)
    readers = Readers(cache)
    readers.begin(1)
    until(lambda: len(readers.gates) == 1)
    readers.begin(4)
    flights = cache._loads._flights._flights
    until(lambda: any(flight._joined for flight in list(flights.values())))

    assert readers.end() == [BAD] * 5
    assert told(cache) == (len(readers.gates), 0)


class Away(MemoryStore):
    """A store of which nothing can be read."""

    def get_many(self, addresses: Any) -> Any:
        raise ApplyUnavailable("away")


def test_readers_that_load_in_turn_get_a_value() -> None:
    cache = TaggedCache(Away(), "shop", unstorable="log", max_wait=DEADLINE)
    readers = Readers(cache)
    readers.begin(LOADS_AT_ONCE)
    until(lambda: len(readers.gates) == LOADS_AT_ONCE)
    readers.begin(2)
    limit = cache._loads._limit
    until(lambda: sum(len(each.waiting) for each in limit._keys.values()) == 2)

    # One of these gets its place, and the other waits for what it loads.
    readers.gates[0].set()
    until(lambda: len(readers.gates) == LOADS_AT_ONCE + 1)
    readers.gates[-1].set()

    assert readers.end() == [BAD] * (LOADS_AT_ONCE + 2)
    assert told(cache) == (LOADS_AT_ONCE + 2, 0)


def test_it_warns_once_a_minute_and_says_where(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(unstorable, "monotonic", lambda: now)
    cache = cache_of()

    with caplog.at_level(logging.WARNING, logger="hydracache_sync"):
        for now in (100.0, 101.0, 159.9, 160.0, 170.0):
            cache.get_or_load("k", lambda: BAD)

    assert len(caplog.records) == 2
    assert "namespace shop: a value is loaded at each read" in caplog.text
    assert SAID in caplog.text
    # The stack names the caller.
    assert "test_it_warns_once_a_minute" in (caplog.records[0].stack_info or "")


@pytest.mark.parametrize("how", ["", "RAISE", None, True])
def test_another_choice_is_refused(how: Any) -> None:
    with pytest.raises(ConfigurationError, match="unstorable must be"):
        cache_of(how)
