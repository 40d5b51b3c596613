"""A resolver that hangs costs a call what connecting may cost, and not its own time."""

from __future__ import annotations

import threading
from typing import Any, Iterator

import pytest

from hydracache_sync import ApplyUnavailable, MemcachedStore, addresses
from hydracache_sync.cache import Keyspace
from support.clock import Later
from support.processes import DEADLINE, Child
from support.resolver import Resolver
from support.servers import Memcached
from support.waiting import eventually

ONE = Keyspace("1", "shop").entry("one")

#: Seconds to look up a name, for tests in which that does not hang in the end. Half of
#: them pass where what was said before has to do.
LONG = 4.0


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    with Resolver(monkeypatch) as resolver:
        yield resolver


@pytest.fixture
def server(memcached: Memcached, unique: str) -> str:
    return f"{unique}.test:{memcached.port}"


@pytest.fixture
def hasty(server: str) -> Iterator[MemcachedStore]:
    with MemcachedStore(
        [server], connect_timeout=0.3, timeout=DEADLINE, retry_after=0
    ) as store:
        yield store


@pytest.fixture
def store(server: str) -> Iterator[MemcachedStore]:
    with MemcachedStore(
        [server], connect_timeout=LONG, timeout=DEADLINE, retry_after=0
    ) as store:
        yield store


def fails(store: MemcachedStore) -> None:
    with pytest.raises(ApplyUnavailable, match="gave no address of .*test in time"):
        store.get_many([ONE])


def connect_anew(store: MemcachedStore) -> Any:
    store.close()
    return store.get_many([ONE])


def test_the_call_ends_before_the_resolver_does(
    hasty: MemcachedStore, resolver: Resolver
) -> None:
    resolver.hang()

    fails(hasty)

    assert resolver.hangs()


def test_all_who_need_a_name_wait_for_one_answer(
    hasty: MemcachedStore, resolver: Resolver
) -> None:
    resolver.hang()

    for _ in range(3):
        fails(hasty)

    assert len(resolver.asked) == 1


def test_an_answer_that_came_too_late_is_there_for_the_next_caller(
    hasty: MemcachedStore, store: MemcachedStore, server: str, resolver: Resolver
) -> None:
    resolver.hang()
    fails(hasty)
    resolver.answer()
    host, _, port = server.partition(":")
    eventually(lambda: (host, int(port)) in addresses._names.mine().answered)
    resolver.hang()

    # It asks again, gets no answer, and has the one from before.
    assert store.get_many([ONE]) == [None]
    assert len(resolver.asked) == 2


def test_what_was_said_long_ago_does_not_hold(
    hasty: MemcachedStore,
    store: MemcachedStore,
    resolver: Resolver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert store.get_many([ONE]) == [None]
    Later(monkeypatch).advance(addresses.KEPT)
    resolver.hang()

    fails(hasty)


def test_each_connection_asks_anew_while_the_resolver_answers(
    store: MemcachedStore, resolver: Resolver
) -> None:
    assert store.get_many([ONE]) == [None]
    before = len(resolver.asked)

    assert connect_anew(store) == [None]

    assert len(resolver.asked) > before


def test_a_child_does_not_wait_for_a_thread_of_its_parent(
    hasty: MemcachedStore, store: MemcachedStore, resolver: Resolver
) -> None:
    resolver.hang()
    fails(hasty)

    def in_child() -> Any:
        resolver.answer()
        return store.get_many([ONE])

    assert Child(in_child).result() == [None]


def test_without_a_thread_to_be_had_the_caller_asks(
    store: MemcachedStore, resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", start)

    assert store.get_many([ONE]) == [None]


def test_an_address_is_not_looked_up(
    memcached: Memcached, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(thread: threading.Thread) -> None:
        raise AssertionError("a thread")

    monkeypatch.setattr(threading.Thread, "start", start)

    with MemcachedStore([memcached.address]) as store:
        assert store.get_many([ONE]) == [None]
