"""MemoryStore: the contract, and what only it promises."""

from __future__ import annotations

import os
import signal
import warnings

import pytest

from hydracache_sync.cache import Address, CacheStore, Keyspace, MemoryStore
from hydracache_sync.errors import ConfigurationError
from support.clock import FakeClock
from support.store_contract import StoreContract

SPACE = Keyspace("1", "memory")


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def store(self) -> CacheStore:
        return MemoryStore(clock=FakeClock())

    def seconds_left(self, store: CacheStore, address: Address) -> int | None:
        assert isinstance(store, MemoryStore)
        clock = store._clock
        assert isinstance(clock, FakeClock)
        begin = clock.now_ms
        for seconds in (100, 2_592_000, 2_592_001, 31_536_000):
            clock.now_ms = begin + (seconds - 1) * 1000
            if store.get_many([address]) == [None]:
                return None
            clock.now_ms = begin + seconds * 1000
            if store.get_many([address]) == [None]:
                clock.now_ms = begin
                return seconds
        clock.now_ms = begin
        return None


def test_the_least_recently_used_goes_first() -> None:
    store = MemoryStore(max_items=3)
    first, second, third, fourth = [SPACE.entry(name) for name in "abcd"]
    store.set_many([(address, b"v", None) for address in (first, second, third)])

    store.get_many([first])
    store.set_many([(fourth, b"v", None)])

    assert store.get_many([first, second, third, fourth]) == [b"v", None, b"v", b"v"]
    assert len(store) == 3


def test_it_never_holds_more_than_its_limit() -> None:
    store = MemoryStore(max_items=10)

    for number in range(100):
        store.add_many([(SPACE.entry(str(number)), b"v", None)])

    assert len(store) == 10


def test_clear_forgets_everything() -> None:
    store = MemoryStore()
    store.set_many([(SPACE.entry("a"), b"v", None)])

    store.clear()

    assert store.get_many([SPACE.entry("a")]) == [None]


@pytest.mark.parametrize("max_items", [0, -1])
def test_a_store_that_could_hold_nothing_is_refused(max_items: int) -> None:
    with pytest.raises(ConfigurationError, match="max_items"):
        MemoryStore(max_items=max_items)


def test_a_forked_child_has_a_copy_of_its_own_and_no_lock_held_by_another() -> None:
    store = MemoryStore()
    store.set_many([(SPACE.entry("a"), b"before", None)])

    # As if another thread of ours were just using the store.
    with store._lock.mine(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
        if child == 0:
            signal.alarm(30)
            seen = store.get_many([SPACE.entry("a")])
            store.set_many([(SPACE.entry("a"), b"of the child", None)])
            os._exit(0 if seen == [b"before"] else 1)
    _, status = os.waitpid(child, 0)

    assert os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0
    assert store.get_many([SPACE.entry("a")]) == [b"before"]
