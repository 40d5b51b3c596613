"""The breaker of a node: who waits, who does not, and that skipping is no answer."""

from __future__ import annotations

import os
import random
import signal
import threading
import warnings
from typing import Iterator

import pytest

from hydracache_sync import MemcachedStore, TaggedCache
from hydracache_sync.cache import Address, Keyspace
from hydracache_sync.errors import ApplyUnavailable
from hydracache_sync.memcached.circuit_breaker import (
    FIRST_PART,
    TIMES_LOST,
    CircuitBreaker,
)
from support.clock import FakeClock
from support.faulty_memcached import FaultyMemcached, Mode

LONGEST = 2.0
PATIENCE = 5.0
FIRST = LONGEST * FIRST_PART


@pytest.fixture
def breaker(clock: FakeClock) -> CircuitBreaker:
    random.seed(1)
    return CircuitBreaker(LONGEST, PATIENCE, clock=clock)


def fail(breaker: CircuitBreaker, clock: FakeClock, took: float = 0.0) -> float:
    """Fail once; return the seconds of the rest."""
    began = clock()
    clock.advance(took)
    breaker.failed(began, "away")
    assert breaker.state is not None
    return breaker.state.until - clock()


def test_a_node_that_works_is_asked(breaker: CircuitBreaker, clock: FakeClock) -> None:
    assert breaker.state is None
    assert breaker.try_acquire(clock()) is None


def test_after_a_failure_everybody_is_refused_until_the_rest_is_over(
    breaker: CircuitBreaker, clock: FakeClock
) -> None:
    length = fail(breaker, clock)

    state = breaker.try_acquire(clock())

    assert state is not None and state.reason == "away"
    clock.advance(length * 0.99)
    assert breaker.try_acquire(clock()) is state
    assert breaker.open_at(clock()) is state


def test_then_one_caller_tries_and_the_others_are_refused(
    breaker: CircuitBreaker, clock: FakeClock
) -> None:
    clock.advance(fail(breaker, clock) + 0.001)

    answers = [breaker.try_acquire(clock()) for _ in range(5)]

    assert [answer is None for answer in answers] == [True] + [False] * 4


def test_of_many_threads_one_tries(breaker: CircuitBreaker, clock: FakeClock) -> None:
    for _ in range(50):
        clock.advance(fail(breaker, clock) + 0.001)
        barrier = threading.Barrier(8)
        tried: list[int] = []

        def ask() -> None:
            barrier.wait()
            if breaker.try_acquire(clock()) is None:
                tried.append(1)

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert len(tried) == 1


def test_a_try_that_is_answered_ends_it(
    breaker: CircuitBreaker, clock: FakeClock
) -> None:
    clock.advance(fail(breaker, clock) + 0.001)
    assert breaker.try_acquire(clock()) is None

    breaker.succeeded(clock())

    assert breaker.state is None


def test_rests_grow_to_the_longest_and_are_jittered(
    breaker: CircuitBreaker, clock: FakeClock
) -> None:
    lengths = []
    for _ in range(12):
        length = fail(breaker, clock)
        lengths.append(length)
        clock.advance(length + 0.001)
        assert breaker.try_acquire(clock()) is None

    for number, length in enumerate(lengths):
        full = min(LONGEST, FIRST * 2**number)
        assert full / 2 <= length <= full
    assert len(set(lengths)) == len(lengths)


def test_a_node_that_costs_much_time_rests_longer(
    breaker: CircuitBreaker, clock: FakeClock
) -> None:
    length = fail(breaker, clock, took=0.5)

    assert length >= TIMES_LOST * 0.5 / 2


def test_all_who_waited_for_the_same_hang_count_as_one_failure(
    breaker: CircuitBreaker, clock: FakeClock
) -> None:
    began = clock()
    clock.advance(0.5)

    for _ in range(16):
        breaker.failed(began, "away")
        clock.advance(0.001)

    assert breaker.state is not None and breaker.state.failures == 1


def test_an_answer_to_what_was_asked_before_the_failure_ends_nothing(
    breaker: CircuitBreaker, clock: FakeClock
) -> None:
    began = clock()
    clock.advance(0.1)
    fail(breaker, clock)

    breaker.succeeded(began)

    assert breaker.state is not None


def test_a_failure_of_before_it_worked_again_begins_nothing(
    breaker: CircuitBreaker, clock: FakeClock
) -> None:
    began = clock()
    clock.advance(0.1)
    clock.advance(fail(breaker, clock) + 0.001)
    assert breaker.try_acquire(clock()) is None
    breaker.succeeded(clock())

    breaker.failed(began, "late")

    assert breaker.state is None


def test_one_that_comes_and_goes_rests_longer_each_time(
    breaker: CircuitBreaker, clock: FakeClock
) -> None:
    for failures in range(1, 6):
        clock.advance(fail(breaker, clock) + 0.001)
        assert breaker.state is not None and breaker.state.failures == failures
        assert breaker.try_acquire(clock()) is None
        breaker.succeeded(clock())
        clock.advance(0.001)


def test_one_that_worked_for_long_begins_anew(
    breaker: CircuitBreaker, clock: FakeClock
) -> None:
    for _ in range(4):
        clock.advance(fail(breaker, clock) + 0.001)
    assert breaker.try_acquire(clock()) is None
    breaker.succeeded(clock())

    clock.advance(LONGEST)
    fail(breaker, clock)

    assert breaker.state is not None and breaker.state.failures == 1


def test_a_try_that_nobody_reports_about_is_taken_over(
    breaker: CircuitBreaker, clock: FakeClock
) -> None:
    clock.advance(fail(breaker, clock) + 0.001)
    assert breaker.try_acquire(clock()) is None

    clock.advance(PATIENCE - 0.001)
    assert breaker.try_acquire(clock()) is not None
    clock.advance(0.002)
    assert breaker.try_acquire(clock()) is None


def test_a_turn_that_was_taken_and_lost_is_not_lost_for_ever(
    breaker: CircuitBreaker, clock: FakeClock
) -> None:
    clock.advance(fail(breaker, clock) + 0.001)
    assert breaker.state is not None
    # Interrupted between two lines, or another thread's at a fork.
    breaker.state.turn()

    assert breaker.try_acquire(clock()) is not None
    clock.advance(PATIENCE)
    assert breaker.try_acquire(clock()) is None


def test_a_try_that_was_given_up_is_the_next_callers(
    breaker: CircuitBreaker, clock: FakeClock
) -> None:
    clock.advance(fail(breaker, clock) + 0.001)
    assert breaker.try_acquire(clock()) is None

    breaker.cancel_probe()

    assert breaker.try_acquire(clock()) is None
    assert breaker.try_acquire(clock()) is not None


def test_giving_up_shortens_no_rest(breaker: CircuitBreaker, clock: FakeClock) -> None:
    fail(breaker, clock)

    breaker.cancel_probe()

    assert breaker.try_acquire(clock()) is not None


def test_it_can_be_switched_off(clock: FakeClock) -> None:
    breaker = CircuitBreaker(0.0, PATIENCE, clock=clock)

    breaker.failed(clock(), "away")

    assert breaker.state is None


# In a store

SPACE = Keyspace("1", "shop")

#: Rests that no test outlives, unless it ends them.
LONG = 3600.0


@pytest.fixture
def servers() -> Iterator[list[FaultyMemcached]]:
    with FaultyMemcached() as one, FaultyMemcached() as two:
        yield [one, two]


@pytest.fixture
def store(servers: list[FaultyMemcached]) -> MemcachedStore:
    return MemcachedStore(
        [server.address for server in servers],
        timeout=0.3,
        connect_timeout=10,
        retry_after=LONG,
    )


def addresses_on(store: MemcachedStore, server: FaultyMemcached) -> list[Address]:
    addresses = [SPACE.entry(str(number)) for number in range(100)]
    return [a for a in addresses if store.nodes_of(a) == [server.address]]


def let_try(store: MemcachedStore) -> None:
    """End all rests."""
    for node in store._nodes:
        state = node._breaker.state
        if state is not None:
            node._breaker.state = state._replace(until=0.0)


def test_a_hung_node_is_waited_for_once_and_then_fails_at_once(
    store: MemcachedStore, servers: list[FaultyMemcached]
) -> None:
    hung, healthy = servers
    of_hung, of_healthy = (addresses_on(store, server) for server in servers)
    hung.mode = Mode.HANG
    with pytest.raises(ApplyUnavailable, match="no answer in time"):
        store.get_many(of_hung[:1])
    hung.forget()
    healthy.forget()

    for _ in range(1000):
        with pytest.raises(ApplyUnavailable, match="left alone.*no answer") as caught:
            store.get_many([of_healthy[0], of_hung[0]])
        assert caught.value.node == hung.address
    failures = store.set_many([(a, b"v", None) for a in of_hung + of_healthy])

    assert set(failures) == set(of_hung)
    assert {
        error.node for error in failures.values() if isinstance(error, ApplyUnavailable)
    } == {hung.address}
    assert hung.requests == []
    # Nor is a healthy one asked for what could not be served.
    assert healthy.round_trips == 1
    assert store.get_many(of_healthy) == [b"v"] * len(of_healthy)


def test_a_read_that_needs_a_node_left_alone_is_a_miss_and_fills_nothing(
    store: MemcachedStore, servers: list[FaultyMemcached]
) -> None:
    cache = TaggedCache(store, "shop")
    tags = [str(number) for number in range(20)]
    cache.get_or_load("key", lambda: "old", tags=tags)
    assert cache.get("key", tags=tags) == "old"
    servers[0].mode = Mode.REFUSE
    cache.get("key", tags=tags)
    servers[0].mode = Mode.WORKING

    # It works again, and nobody knows yet.
    assert cache.get("key", tags=tags) is None
    assert cache.get_or_load("key", lambda: "new", tags=tags) == "new"
    assert cache.diagnostics().fills == 1

    let_try(store)
    assert cache.get("key", tags=tags) == "old"


def test_a_flush_fails_while_one_node_is_left_alone(
    store: MemcachedStore, servers: list[FaultyMemcached]
) -> None:
    flush = SPACE.namespace_token()
    servers[0].mode = Mode.REFUSE
    store.set_many([(flush, b"one", None)])
    servers[0].mode = Mode.WORKING

    [error] = store.set_many([(flush, b"two", None)]).values()

    assert isinstance(error, ApplyUnavailable) and error.node == servers[0].address
    let_try(store)
    assert store.set_many([(flush, b"three", None)]) == {}


@pytest.mark.parametrize("call", ["get", "add", "set", "delete"])
def test_one_call_tries_and_everything_works_again(
    store: MemcachedStore, servers: list[FaultyMemcached], call: str
) -> None:
    address = addresses_on(store, servers[0])[0]
    servers[0].mode = Mode.REFUSE
    assert store.set_many([(address, b"v", None)])
    servers[0].mode = Mode.WORKING
    let_try(store)

    if call == "get":
        assert store.get_many([address]) == [None]
    elif call == "add":
        assert store.add_many([(address, b"v", None)]) == [b"v"]
    elif call == "set":
        assert store.set_many([(address, b"v", None)]) == {}
    else:
        assert store.delete_many([address]) == {}

    assert all(node._breaker.state is None for node in store._nodes)


def test_ping_asks_also_a_node_left_alone_and_ends_its_rest(
    store: MemcachedStore, servers: list[FaultyMemcached]
) -> None:
    servers[0].mode = Mode.REFUSE
    assert isinstance(store.ping()[servers[0].address], ApplyUnavailable)
    servers[0].mode = Mode.WORKING

    assert isinstance(store.ping()[servers[0].address], str)
    assert store.get_many(addresses_on(store, servers[0])[:1]) == [None]


def test_an_error_of_the_callers_is_none_of_the_nodes(
    store: MemcachedStore, servers: list[FaultyMemcached]
) -> None:
    large = b"x" * (2 * 1024 * 1024)
    addresses = addresses_on(store, servers[0])
    busy = MemcachedStore([servers[0].address], call_timeout=0.1, pool_size=1)
    [node] = busy._nodes
    taken = node._pool.take(0.0, float("inf"))

    with pytest.raises(ApplyUnavailable, match="pool_size"):
        busy.get_many(addresses[:1])
    with pytest.raises(ValueError):
        store.get_many([(addresses[0][0], b"a b")])
    store.set_many([(addresses[0], large, None)])

    assert node._breaker.state is None
    assert store._nodes[0]._breaker.state is None
    node._pool.put(taken)


def test_a_read_that_tries_one_node_and_fails_on_another_leaves_the_try_to_others(
    store: MemcachedStore, servers: list[FaultyMemcached]
) -> None:
    one, two = (addresses_on(store, server)[0] for server in servers)
    for server in servers:
        server.mode = Mode.REFUSE
    store.set_many([(one, b"v", None), (two, b"v", None)])
    servers[0].mode = Mode.WORKING
    let_try(store)

    with pytest.raises(ApplyUnavailable) as caught:
        store.get_many([one, two])

    # The first was sent to, and not read from.
    assert caught.value.node == servers[1].address
    assert store.get_many([one]) == [None]


def test_a_forked_child_finds_out_for_itself(
    store: MemcachedStore, servers: list[FaultyMemcached]
) -> None:
    address = addresses_on(store, servers[0])[0]
    servers[0].mode = Mode.REFUSE
    store.set_many([(address, b"v", None)])
    servers[0].mode = Mode.WORKING
    let_try(store)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        signal.alarm(30)
        os._exit(0 if store.get_many([address]) == [None] else 1)
    _, status = os.waitpid(child, 0)

    assert os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0
    assert store.get_many([address]) == [None]
