"""Tokens are replaced, never overwritten: what a write does that others get between."""

from __future__ import annotations

import threading
import time
from typing import Callable, Iterator, Sequence

import pytest

from hydracache_sync import MemcachedStore, MemoryStore, TaggedCache
from hydracache_sync.cache import Address, Copy, Keyspace
from hydracache_sync.cache.tokens.replacing import replace
from hydracache_sync.cache.tokens.token import LIVE, fresh_tokens
from hydracache_sync.errors import ApplyUnavailable
from support.faulty_memcached import Command, FaultyMemcached, Mode
from support.servers import Memcached

SPACE = Keyspace("1", "replacing")
ONE, TWO = SPACE.tag_token("one"), SPACE.tag_token("two")
FLUSH = SPACE.namespace_token()


class Maker:
    """Makes tokens, and has something happen before each of the first of them."""

    def __init__(self, *happenings: Callable[[], object]) -> None:
        self.happenings = list(happenings)
        self.calls: list[list[Address]] = []
        self.stored: list[bytes] = []

    def __call__(self, copies: Sequence[Copy], found: Sequence[bytes]) -> list[bytes]:
        self.calls.append([address for address, _ in copies])
        if self.happenings:
            self.happenings.pop(0)()
        self.stored = fresh_tokens(len(found), 1000 + len(self.calls))
        return self.stored


@pytest.fixture
def own() -> Iterator[Memcached]:
    with Memcached() as server:
        yield server


@pytest.fixture
def faulty() -> Iterator[FaultyMemcached]:
    with FaultyMemcached() as server:
        yield server


def test_who_was_overtaken_begins_again_with_a_new_stamp_and_with_that_alone() -> None:
    store = MemoryStore()
    make = Maker(lambda: store.set_many([(ONE, b"another's", None)]))

    failures = replace(store, [ONE, TWO], make, LIVE)

    assert failures == {}
    assert make.calls == [[ONE, TWO], [ONE]]
    [one, two] = store.get_many([ONE, TWO])
    assert [one] == make.stored
    assert one is not None and int.from_bytes(one[9:], "big") == 1002
    assert two is not None and int.from_bytes(two[9:], "big") == 1001


def test_what_is_gone_since_it_was_read_is_replaced_all_the_same() -> None:
    store = MemoryStore()
    make = Maker(store.clear)

    assert replace(store, [ONE], make, LIVE) == {}
    assert store.get_many([ONE]) == make.stored
    assert len(make.calls) == 2


def test_who_is_overtaken_for_ever_gives_up_and_says_so() -> None:
    store = MemoryStore()
    store.patience = 0.05
    turns = iter(range(10**9))

    def overtake() -> None:
        store.set_many([(ONE, b"%d" % next(turns), None)])

    def make(copies: Sequence[Copy], found: Sequence[bytes]) -> list[bytes]:
        overtake()
        return fresh_tokens(len(found), 1000)

    failures = replace(store, [ONE, TWO], make, LIVE)

    assert list(failures) == [ONE]
    assert isinstance(failures[ONE], ApplyUnavailable)
    assert "replaced" in str(failures[ONE])
    assert next(turns) > 2


def test_of_a_flush_only_the_copy_that_was_overtaken_is_written_again() -> None:
    with FaultyMemcached() as first, FaultyMemcached() as second:
        store = MemcachedStore([first.address, second.address], timeout=10)
        rival = MemcachedStore([second.address], timeout=10)
        make = Maker(lambda: rival.set_many([(FLUSH, b"another's", None)]))

        assert replace(store, [FLUSH], make, LIVE) == {}

        assert make.calls == [[FLUSH, FLUSH], [FLUSH]]
        assert [request.split()[0] for request in first.requests] == [
            "add",
            "gets",
            "cas",
        ]


def test_twelve_threads_that_replace_the_same_tokens_all_succeed(
    own: Memcached,
) -> None:
    barrier = threading.Barrier(12)
    outcomes: list[object] = []

    def run() -> None:
        store = MemcachedStore([own.address], timeout=10)
        barrier.wait()
        for _ in range(20):
            outcomes.append(replace(store, [ONE, TWO, FLUSH], Maker(), LIVE))

    threads = [threading.Thread(target=run) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert outcomes == [{}] * 240


def test_a_condition_is_not_carried_over_to_a_server_that_was_restarted(
    own: Memcached,
) -> None:
    # The new process counts its versions from 1 again: the number means another token.
    store = MemcachedStore([own.address], timeout=10, retry_after=0)

    def restarted_and_replaced_by_another() -> None:
        own.restart()
        with MemcachedStore([own.address], timeout=10) as rival:
            assert rival.set_many([(ONE, b"newer", None)]) == {}

    make = Maker(restarted_and_replaced_by_another)

    failures = replace(store, [ONE], make, LIVE)

    assert isinstance(failures[ONE], ApplyUnavailable)
    assert len(make.calls) == 1
    assert store.get_many([ONE]) == [b"newer"]


def test_a_server_that_keeps_no_versions_is_refused() -> None:
    with Memcached(arguments=["-C"]) as server:
        store = MemcachedStore([server.address], timeout=10)

        failures = replace(store, [ONE], Maker(), LIVE)

        assert isinstance(failures[ONE], ApplyUnavailable)
        assert "option -C" in str(failures[ONE])
        assert server.address in str(failures[ONE])


class WithoutVersions(FaultyMemcached):
    """A proxy that knows neither ``gets`` nor ``cas``."""

    def _carry_out(self, command: Command, mode: Mode) -> bytes:
        if command.words[0] in ("gets", "cas"):
            return b"ERROR\r\n"
        return super()._carry_out(command, mode)


def test_a_proxy_that_does_not_know_the_commands_is_refused() -> None:
    with WithoutVersions() as server:
        store = MemcachedStore([server.address], timeout=10)

        failures = replace(store, [ONE], Maker(), LIVE)

        assert isinstance(failures[ONE], ApplyUnavailable)
        assert "'gets'" in str(failures[ONE])
        assert server.address in str(failures[ONE])


@pytest.mark.parametrize(
    "mode", [Mode.HANG, Mode.GARBAGE, Mode.SERVER_ERROR, Mode.CLOSE_MID_REPLY]
)
def test_a_node_that_fails_in_the_second_round_trip_has_acknowledged_nothing(
    faulty: FaultyMemcached, mode: Mode
) -> None:
    store = MemcachedStore([faulty.address], timeout=0.2, retry_after=0)

    failures = replace(store, [ONE, TWO], Maker(lambda: faulty.once(mode)), LIVE)

    assert set(failures) >= {TWO}
    assert all(isinstance(each, ApplyUnavailable) for each in failures.values())
    assert replace(store, [ONE, TWO], Maker(), LIVE) == {}


@pytest.mark.parametrize(
    "mode", [Mode.HANG, Mode.GARBAGE, Mode.SERVER_ERROR, Mode.CLOSE_MID_REPLY]
)
def test_a_node_that_fails_in_the_first_round_trip_is_stored_nothing(
    faulty: FaultyMemcached, mode: Mode
) -> None:
    store = MemcachedStore([faulty.address], timeout=0.2, retry_after=0)
    make = Maker()
    faulty.once(mode)

    failures = replace(store, [ONE, TWO], make, LIVE)

    assert set(failures) == {ONE, TWO}
    assert all(isinstance(each, ApplyUnavailable) for each in failures.values())
    assert make.stored == []
    assert all(len(item.value) == 17 for item in faulty.items.values())
    assert replace(store, [ONE, TWO], make, LIVE) == {}


def test_one_node_that_is_away_does_not_hide_what_became_of_the_other() -> None:
    with FaultyMemcached() as one, FaultyMemcached() as two:
        store = MemcachedStore([one.address, two.address], timeout=0.2, retry_after=0)
        spread = [SPACE.tag_token(str(number)) for number in range(200)]
        make = Maker(lambda: setattr(two, "mode", Mode.HANG))

        failures = replace(store, spread, make, LIVE)

        of_two = {each for each in spread if store.nodes_of(each) == [two.address]}
        assert set(failures) == of_two
        assert 0 < len(of_two) < 200


class Dripping(FaultyMemcached):
    """Answers rightly, a byte now and then, once ``drips`` is set."""

    drips = False

    def _answer(self, connection, commands, closing):  # type: ignore[no-untyped-def]
        if not self.drips:
            return super()._answer(connection, commands, closing)
        reply = b"".join(self._reply(command, Mode.WORKING) for command in commands)
        for at in range(len(reply)):
            if closing.wait(0.05):
                return False
            connection.sendall(reply[at : at + 1])
        return True


@pytest.mark.parametrize("step", ["reading", "storing"])
def test_a_node_that_drips_is_not_the_fault_of_the_others(step: str) -> None:
    with Dripping() as slow, FaultyMemcached() as one, FaultyMemcached() as two:
        names = [slow.address, one.address, two.address]
        store = MemcachedStore(names, timeout=0.3, call_timeout=0.5)
        spread = [SPACE.tag_token(str(number)) for number in range(60)]
        slow.drips = step == "reading"

        failures = replace(
            store, spread, Maker(lambda: setattr(slow, "drips", True)), LIVE
        )

        of_slow = {each for each in spread if store.nodes_of(each) == [slow.address]}
        assert failures and set(failures) <= of_slow
        healthy = [each for each in spread if each not in of_slow]
        assert None not in store.get_many(healthy)


def test_who_is_overtaken_at_a_slow_node_ends_within_one_more_try() -> None:
    store = MemoryStore()
    store.patience = 0.1
    tries = []

    def make(copies: Sequence[Copy], found: Sequence[bytes]) -> list[bytes]:
        tries.append(len(found))
        time.sleep(0.15)
        store.set_many([(ONE, b"%d" % len(tries), None)])
        return fresh_tokens(len(found), 1000)

    failures = replace(store, [ONE], make, LIVE)

    assert list(failures) == [ONE]
    assert tries == [1]


def test_a_token_that_a_full_server_does_not_replace_is_gone() -> None:
    with Memcached(arguments=("-M", "-m", "2")) as full:
        store = MemcachedStore([full.address], timeout=10)
        cache = TaggedCache(store, "replacing")
        assert cache.get_or_load("key", lambda: "old", tags=["one"]) == "old"
        number = 0
        while store.set_many([((b"x", b"fill%d" % number), b"x" * 9, None)]) == {}:
            number += 1

        failures = replace(store, [ONE], Maker(), LIVE)

        assert isinstance(failures[ONE], ApplyUnavailable)
        assert "memory" in str(failures[ONE])
        assert cache.get("key", tags=["one"]) is None


def test_a_token_that_a_full_server_does_not_take_is_told_at_once() -> None:
    with Memcached(arguments=("-M", "-m", "2")) as full:
        store = MemcachedStore([full.address], timeout=10)
        number = 0
        while store.set_many([((b"x", b"fill%d" % number), b"x" * 9, None)]) == {}:
            number += 1
        make = Maker()

        failures = replace(store, [ONE, TWO], make, LIVE)

        for address in (ONE, TWO):
            failure = failures[address]
            assert isinstance(failure, ApplyUnavailable) and failure.answered
            assert failure.node == full.address and "out of memory" in str(failure)
        assert store.get_many([ONE, TWO]) == [None, None]
        # The connection is still in step.
        assert store.delete_many([(b"x", b"fill0"), (b"x", b"fill1")]) == {}
        assert replace(store, [ONE], make, LIVE) == {}
