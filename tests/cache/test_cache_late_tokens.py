"""A write of the cache that arrives late, after its sender gave up, undoes nothing.

Two hosts, each with stores of its own; host A reaches memcached over a link that holds
what it sends. The clock is one that the test moves, so a message is late by seconds in
no time. Each test ends with what a reader gets: the value from before a commit must not
come back.
"""

from __future__ import annotations

import itertools
import mmap
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, Callable, Iterator

import pytest

from hydracache_sync import (
    InvalidationIntent,
    InvalidationIntentBatch,
    MemcachedApplier,
    MemcachedStore,
    QuarantineError,
    TaggedCache,
)
from hydracache_sync.cache import Keyspace
from hydracache_sync.cache.tokens.seen import EarlierHits
from hydracache_sync.errors import ApplyUnavailable
from hydracache_sync.snapshots import LocalMoment
from support.clock import FakeClock
from support.late_link import PATIENCE, REPLIES, Link
from support.servers import Memcached
from support.waiting import eventually

TAGS = ("users",)
SKEW = 0.5
HOLD_OFF = 2.0

#: More than a token of a strict namespace is cold.
LONG = 10.0

#: How the link of host A fails: at once, or between the two trips of a token's write.
CUTS: dict[str, Callable[[Link], None]] = {
    "cut at once": Link.hold,
    "cut after the first reply": Link.hold_after_reply,
}


class SharedClock(FakeClock):
    """One that processes which were forked look at, too."""

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, 8)
        super().__init__()

    @property
    def now_ms(self) -> int:
        return int.from_bytes(self._shared[:8], "big")

    @now_ms.setter
    def now_ms(self, now_ms: int) -> None:
        self._shared[:8] = now_ms.to_bytes(8, "big")


class World:
    """A database of one value, and two hosts that cache it.

    :ivar direct: the store of host B, and of whoever is not on host A.
    """

    def __init__(self, servers: list[Memcached], links: list[Link], name: str) -> None:
        self.clock: FakeClock = SharedClock()
        self.servers, self.links = servers, links
        self.namespace = name
        self.nodes = [server.address for server in servers]
        self.direct = self.store()
        self.value = "old"

    @property
    def link(self) -> Link:
        [link] = self.links
        return link

    def store(self, *, linked: bool = False, timeout: float = 10.0) -> MemcachedStore:
        """One that waits for long, or the one of host A.

        All of them place keys by the names of the servers.
        """
        store = MemcachedStore(
            self.nodes, timeout=timeout, connect_timeout=10, retry_after=0
        )
        if linked:
            for node, link in zip(store._nodes, self.links):
                server = node._pool.server
                node._pool.server = server._replace(port=link.port)
        return store

    def impatient(self) -> MemcachedStore:
        """The store of host A, which gives up soon."""
        return self.store(linked=True, timeout=0.4)

    def cache(self, store: MemcachedStore | None = None, **options: Any) -> TaggedCache:
        return TaggedCache(
            store or self.direct,
            self.namespace,
            clock=self.clock,
            clock_skew=SKEW,
            hold_off=HOLD_OFF,
            **options,
        )

    def applier(
        self, store: MemcachedStore | None = None, **options: Any
    ) -> MemcachedApplier:
        options.setdefault("clock", self.clock)
        return MemcachedApplier(
            store or self.direct, self.namespace, hold_off=HOLD_OFF, **options
        )

    def read(self, cache: TaggedCache | None = None, **options: Any) -> Any:
        return (cache or self.cache()).get_or_load(
            "k", lambda: self.value, tags=TAGS, **options
        )

    def warm(self, cache: TaggedCache | None = None) -> None:
        """Have the value cached under tokens with stamps, which are old by now.

        Under one without a stamp no old snapshot is stored, whatever is late.
        """
        self.read(cache, since=self.clock())
        self.clock.advance(LONG)
        self.read(cache)
        assert (cache or self.cache()).get("k", tags=TAGS) == self.value

    def read_in_old_snapshot(self, since: float, **options: Any) -> Any:
        """As a transaction does that began at ``since``, when the value was "old"."""
        return self.cache(**options).get_or_load(
            "k", lambda: "old", tags=TAGS, since=since
        )

    def apply(self, applier: MemcachedApplier | None = None) -> None:
        for intent in batch():
            (applier or self.applier()).apply_invalidation(intent)

    def evict(self, address: Any = None) -> None:
        if address is None:
            address = Keyspace("1", self.namespace).tag_token("users")
        assert not self.direct.delete_many([address])

    def old_snapshot(self, seconds: float = 2.0) -> float:
        """When a transaction began which sees the old value, ``seconds`` from now."""
        self.clock.advance(seconds)
        since = self.clock()
        self.clock.advance(1.0)
        return since

    def deliver(self) -> None:
        """Have what host A sent, and gave up, arrive now."""
        for link in self.links:
            assert link.wait_until_given_up()
            link.release()
            assert link.wait_until_delivered()


@pytest.fixture
def world(unique: str) -> Iterator[World]:
    yield from worlds(1, unique)


@pytest.fixture
def three_nodes(unique: str) -> Iterator[World]:
    yield from worlds(3, unique)


def worlds(nodes: int, name: str) -> Iterator[World]:
    with ExitStack() as stack:
        servers = [stack.enter_context(Memcached()) for _ in range(nodes)]
        links = [
            stack.enter_context(Link(server.address, seed=name)) for server in servers
        ]
        yield World(servers, links, name)


@pytest.fixture
def thread() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as executor:
        yield executor


def batch() -> InvalidationIntentBatch:
    return InvalidationIntentBatch().invalidate_tag("users")


def cannot_apply(world: World, applier: MemcachedApplier) -> None:
    with pytest.raises(ApplyUnavailable):
        world.apply(applier)


# An apply that arrives late


@pytest.mark.parametrize("cut", CUTS)
def test_a_late_apply_lets_no_old_snapshot_in(world: World, cut: str) -> None:
    world.warm()
    host_a = world.applier(world.impatient())
    CUTS[cut](world.link)
    cannot_apply(world, host_a)
    since = world.old_snapshot()
    world.value = "new"
    world.apply()

    world.deliver()
    assert world.read_in_old_snapshot(since) == "old"

    assert world.read() == "new"


@pytest.mark.parametrize("cut", CUTS)
def test_a_late_apply_does_not_undo_a_quarantine(world: World, cut: str) -> None:
    strict = world.cache(strict=True)
    world.warm(strict)
    host_a = world.applier(world.impatient(), strict=True)
    CUTS[cut](world.link)
    cannot_apply(world, host_a)
    world.clock.advance(LONG)

    with strict.quarantine(batch()):
        world.deliver()
        assert world.read(strict) == "old"
        world.value = "new"

    assert world.read(strict) == "new"


@pytest.mark.parametrize("cut", CUTS)
def test_a_late_quarantine_does_not_undo_another(world: World, cut: str) -> None:
    strict = world.cache(strict=True)
    world.warm(strict)
    host_a = world.cache(world.impatient(), strict=True)
    CUTS[cut](world.link)
    with pytest.raises(QuarantineError), host_a.quarantine(batch()):
        raise AssertionError("never entered")
    world.clock.advance(LONG)

    with strict.quarantine(batch()):
        world.deliver()
        assert world.read(strict) == "old"
        world.value = "new"

    assert world.read(strict) == "new"


@pytest.mark.parametrize("cut", CUTS)
def test_a_late_apply_after_an_eviction_lets_no_old_snapshot_in(
    world: World, cut: str
) -> None:
    """Where the token is evicted, and made again by a reader, before it arrives."""
    world.warm()
    host_a = world.applier(world.impatient())
    CUTS[cut](world.link)
    cannot_apply(world, host_a)
    since = world.old_snapshot()
    world.value = "new"
    world.apply()
    world.evict()

    world.deliver()
    assert world.read_in_old_snapshot(since) == "old"

    assert world.read() == "new"


# A reader that puts a token where one is missing


#: Which reader of host A puts the token, and after which answer to it its link fails.
READERS = {
    "fresh, before its token": (b"get ", {}),
    "in a snapshot, before its token": (b"get ", {"since": True}),
    "in a snapshot, between its trips": (b"gets ", {"since": True}),
    "strict, before its token": (b"get ", {"strict": True}),
    "strict, between its trips": (b"gets ", {"strict": True}),
}


@pytest.mark.parametrize("reader", READERS)
def test_a_late_token_of_a_reader_lets_no_old_snapshot_in(
    world: World, reader: str
) -> None:
    answer, how = READERS[reader]
    strict = "strict" in how
    host_a = world.cache(world.impatient(), strict=strict)
    world.link.hold_after_reply(answer)
    since = world.clock() if "since" in how else None
    assert world.read(host_a, since=since) == "old"
    since = world.old_snapshot(LONG)
    world.value = "new"
    world.apply(world.applier(strict=strict))
    world.evict()

    world.deliver()
    assert world.read_in_old_snapshot(since, strict=strict) == "old"

    assert world.read(world.cache(strict=strict)) == "new"


@pytest.mark.parametrize("reader", [each for each in READERS if "strict" in each])
def test_a_late_token_of_a_reader_does_not_undo_a_quarantine(
    world: World, reader: str
) -> None:
    answer, _ = READERS[reader]
    strict = world.cache(strict=True)
    host_a = world.cache(world.impatient(), strict=True)
    world.link.hold_after_reply(answer)
    assert world.read(host_a) == "old"
    world.clock.advance(LONG)

    with strict.quarantine(batch()):
        world.evict()
        world.deliver()
        assert world.read(strict) == "old"
        world.value = "new"

    assert world.read(strict) == "new"


# A process that is stopped


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_writer_that_was_stopped_does_not_undo_the_quarantine_of_another(
    world: World, step: int
) -> None:
    strict = world.cache(strict=True)
    world.warm(strict)

    def write(clock: Callable[[], float]) -> None:
        cache = TaggedCache(
            world.store(), world.namespace, strict=True, hold_off=HOLD_OFF, clock=clock
        )
        # It notices that it was stopped for too long, and rolls back as well.
        with pytest.raises((LookupError, QuarantineError)), cache.quarantine(batch()):
            raise LookupError("rolled back")

    with StoppedProcess(world.clock, step, write) as process:
        world.clock.advance(LONG)
        with strict.quarantine(batch()):
            process.go_on()
            assert world.read(strict) == "old"
            world.value = "new"

    assert world.read(strict) == "new"


def test_an_apply_of_a_process_that_was_stopped_lets_no_old_snapshot_in(
    world: World,
) -> None:
    world.warm()

    def apply(clock: Callable[[], float]) -> None:
        world.apply(world.applier(world.store(), clock=clock))

    with StoppedProcess(world.clock, 1, apply) as process:
        since = world.old_snapshot()
        world.value = "new"
        world.apply()
        process.go_on()
    assert world.read_in_old_snapshot(since) == "old"

    assert world.read() == "new"


def test_an_apply_that_was_stopped_between_its_trips_takes_its_stamp_after_it(
    world: World,
) -> None:
    """It has waited for the first reply meanwhile, and is not late at all."""
    world.warm()
    store = world.store(linked=True, timeout=60.0)
    world.link.hold(REPLIES)

    with StoppedProcess(
        world.clock, 0, lambda clock: world.apply(world.applier(store))
    ) as process:
        assert world.link.wait_until_held(b"END")
        process.stop()
        since = world.old_snapshot()
        world.value = "new"
        world.apply()
        world.link.release()
        process.go_on()
    assert world.read_in_old_snapshot(since) == "old"

    assert world.read() == "new"


class StoppedProcess:
    """A process that stops itself right after it has looked at the clock.

    :param step: at which look, from 1; 0 never.
    :param work: what it does; gets the clock to look at.
    """

    def __init__(
        self, clock: FakeClock, step: int, work: Callable[[Callable[[], float]], None]
    ) -> None:
        looks = 0

        def look() -> float:
            nonlocal looks
            looks += 1
            now = clock()
            if looks == step:
                os.kill(os.getpid(), signal.SIGSTOP)
            return now

        self.pid = os.fork()
        if not self.pid:
            code = 1
            try:
                work(look)
                code = 0
            finally:
                os._exit(code)
        self._status: int | None = None
        if step:
            self._wait_until_stopped()

    def stop(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)
        self._wait_until_stopped()

    def go_on(self) -> None:
        """Let it do the rest, and see that nothing failed."""
        os.kill(self.pid, signal.SIGCONT)
        _, status = os.waitpid(self.pid, 0)
        self._status = status
        assert status == 0

    def _wait_until_stopped(self) -> None:
        _, status = os.waitpid(self.pid, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            self._status = status
        assert os.WIFSTOPPED(status), "it has ended before"

    def __enter__(self) -> StoppedProcess:
        return self

    def __exit__(self, *failure: object) -> None:
        if self._status is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


# Between the two trips of a write, whose sender still waits


def test_an_apply_that_another_was_faster_than_takes_a_new_stamp(
    world: World, thread: ThreadPoolExecutor
) -> None:
    world.warm()
    host_a = world.applier(world.store(linked=True))
    world.link.hold_after_reply()
    applied = thread.submit(world.apply, host_a)
    assert world.link.wait_until_held(b"cas ")
    since = world.old_snapshot()
    world.value = "new"
    world.apply()

    world.link.release()
    applied.result(PATIENCE)
    assert world.read_in_old_snapshot(since) == "old"

    assert world.read() == "new"


def test_an_apply_whose_reading_is_late_takes_its_stamp_after_it(
    world: World, thread: ThreadPoolExecutor
) -> None:
    """It finds the token of another, and replaces it by one that is no older."""
    world.warm()
    host_a = world.applier(world.store(linked=True))
    world.link.hold()
    applied = thread.submit(world.apply, host_a)
    assert world.link.wait_until_held(b"gets ")
    since = world.old_snapshot()
    world.value = "new"
    world.apply()

    world.link.release()
    applied.result(PATIENCE)
    assert world.read_in_old_snapshot(since) == "old"

    assert world.read() == "new"


def test_a_token_that_another_has_stored_is_not_taken_for_the_own_one(
    world: World, thread: ThreadPoolExecutor, unique: str
) -> None:
    """The other one has stamped its token before this writer's commit."""
    world.warm()
    [server] = world.servers
    with Link(server.address) as other_link:
        other = World(world.servers, [other_link], world.namespace)
        other.clock = world.clock
        other_link.hold_after_reply()
        other_applied = thread.submit(
            world.apply, world.applier(other.store(linked=True))
        )
        assert other_link.wait_until_held(b"cas ")
        since = world.old_snapshot()
        world.value = "new"
        world.link.hold_after_reply()
        applied = thread.submit(world.apply, world.applier(world.store(linked=True)))
        assert world.link.wait_until_held(b"cas ")

        other_link.release()
        other_applied.result(PATIENCE)
        world.link.release()
        applied.result(PATIENCE)
    assert world.read_in_old_snapshot(since) == "old"

    assert world.read() == "new"


def test_a_quarantine_that_another_was_faster_than_takes_a_new_stamp(
    world: World, thread: ThreadPoolExecutor
) -> None:
    """It is too late for its own commit, and must not undo the other one."""
    strict = world.cache(strict=True)
    world.warm(strict)

    def write() -> None:
        cache = world.cache(world.store(linked=True), strict=True)
        with pytest.raises(QuarantineError), cache.quarantine(batch()):
            raise AssertionError("never entered")

    world.link.hold_after_reply()
    written = thread.submit(write)
    assert world.link.wait_until_held(b"cas ")
    world.clock.advance(LONG)

    with strict.quarantine(batch()):
        world.link.release()
        written.result(PATIENCE)
        assert world.read(strict) == "old"
        world.value = "new"

    assert world.read(strict) == "new"


@pytest.mark.parametrize("strict", [False, True], ids=["default", "strict"])
def test_a_token_that_is_evicted_between_the_trips_is_made_anew(
    world: World, thread: ThreadPoolExecutor, strict: bool
) -> None:
    cache = world.cache(strict=strict)
    world.warm(cache)
    world.link.hold_after_reply()
    applied = thread.submit(
        world.apply, world.applier(world.store(linked=True), strict=strict)
    )
    assert world.link.wait_until_held(b"cas ")
    world.evict()
    since = world.old_snapshot(LONG)
    world.value = "new"

    world.link.release()
    applied.result(PATIENCE)
    [token] = world.direct.get_many([Keyspace("1", world.namespace).tag_token("users")])
    assert token is not None
    assert world.read_in_old_snapshot(since, strict=strict) == "old"

    assert world.read(cache) == "new"


def test_an_apply_whose_node_restarts_between_the_trips_fails_and_can_be_repeated(
    world: World, thread: ThreadPoolExecutor
) -> None:
    world.warm()
    host_a = world.applier(world.store(linked=True))
    world.link.hold_after_reply()
    applied = thread.submit(world.apply, host_a)
    assert world.link.wait_until_held(b"cas ")
    since = world.old_snapshot()
    world.value = "new"
    world.servers[0].restart()

    world.link.release()
    with pytest.raises(ApplyUnavailable):
        applied.result(PATIENCE)
    assert world.read_in_old_snapshot(since) == "old"
    world.apply(host_a)

    assert world.read() == "new"


def test_a_flush_that_one_node_of_three_gets_late_lets_no_old_snapshot_in(
    three_nodes: World,
) -> None:
    world = three_nodes
    late = 2
    keys = [
        key
        for key in map("key:{}".format, range(100))
        if world.direct.nodes_of(Keyspace("1", world.namespace).entry(key))
        == [world.nodes[late]]
    ][:3]
    cache = world.cache()

    def read_all(**options: Any) -> list[Any]:
        return [cache.get_or_load(key, lambda: world.value, **options) for key in keys]

    read_all(since=world.clock())
    world.clock.advance(LONG)
    read_all()
    flush = InvalidationIntent.flush()
    host_a = world.applier(world.impatient())
    world.links[late].hold_after_reply()
    with pytest.raises(ApplyUnavailable) as failed:
        host_a.apply_invalidation(flush)
    since = world.old_snapshot()
    world.applier().apply_invalidation(flush)

    assert failed.value.node == world.nodes[late]
    assert world.links[late].wait_until_given_up()
    world.links[late].release()
    assert world.links[late].wait_until_delivered()
    assert read_all(since=since) == ["old"] * 3
    world.value = "new"

    assert read_all() == ["new"] * 3


# What else arrives late, and harms nobody


def test_a_late_fill_is_never_served(world: World) -> None:
    world.warm()
    world.evict()
    host_a = world.cache(world.impatient())

    def load() -> str:
        world.link.hold()
        return world.value

    assert host_a.get_or_load("k", load, tags=TAGS) == "old"
    assert world.link.wait_until_held(b"old")
    world.value = "new"
    world.apply()

    world.deliver()
    assert world.read() == "new"
    assert world.read() == "new"


def test_a_late_fill_does_not_replace_what_was_loaded_since(world: World) -> None:
    """It does replace it, and then it is a miss: its tokens are not there any more."""
    host_a = world.cache(world.impatient())

    def load() -> str:
        world.link.hold()
        return world.value

    assert host_a.get_or_load("k", load, tags=TAGS) == "old"
    world.value = "new"
    world.apply()
    assert world.read() == "new"

    world.deliver()

    assert world.read() == "new"


def test_a_late_delete_costs_a_load(world: World) -> None:
    world.warm()
    host_a = world.cache(world.impatient())
    world.link.hold()
    assert host_a.delete("k") is False
    world.value = "new"
    world.apply()
    world.read()

    world.deliver()
    assert world.cache().get("k", tags=TAGS) is None
    assert world.read() == "new"

    assert world.cache().get("k", tags=TAGS) == "new"


def test_a_late_lock_of_a_load_is_waited_for_and_no_longer(world: World) -> None:
    """Nobody loads under it; who misses waits for as long as it would for a load."""
    world.warm()
    world.evict(Keyspace("1", world.namespace).entry("k"))
    host_a = world.cache(world.impatient())
    world.link.hold_after_reply(b"get ")
    assert world.read(host_a) == "old"
    world.value = "new"
    world.apply()

    world.deliver()
    patient = world.cache(max_wait=0.3)

    assert world.read(patient) == "new"
    assert world.read(patient) == "new"


# A flush that is late at one of several nodes


class Request:
    """What an app gives to its cache: loads count as old as the request."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._began = LocalMoment(clock())
        self._began.steady = LocalMoment.now().steady
        self.earlier_hits = EarlierHits(self)

    def __call__(self) -> float:
        return self._began


class HalfFlushed:
    """A flush has come to the node of ``page``, and is on its way to that of ``first``.

    Both entries are in the cache, as old. :meth:`end` lets the flush go on to its end.
    """

    def __init__(self, world: World, thread: ThreadPoolExecutor) -> None:
        self._world = world
        keyspace = Keyspace("1", world.namespace)
        self.first, self.page = (
            next(
                key
                for key in map(str, itertools.count())
                if world.direct.nodes_of(keyspace.entry(key)) == [node]
            )
            for node in world.nodes[:2]
        )
        copy = keyspace.of_key(self.page)[1]
        self.visitor = world.cache()
        for key in (self.first, self.page):
            self.visitor.get_or_load(key, lambda: "old", since=world.clock())
        world.clock.advance(LONG)
        self.visitor.get_or_load(self.first, lambda: "old")
        before = world.direct.get_many([copy])
        applier = world.applier(world.store(linked=True))
        world.links[0].hold_after_reply()
        self._flush = thread.submit(
            applier.apply_invalidation, InvalidationIntent.flush()
        )
        assert world.links[0].wait_until_held(b"cas ")
        eventually(lambda: world.direct.get_many([copy]) != before)

    def end(self) -> None:
        self._world.links[0].release()
        self._flush.result()


@pytest.fixture
def half_flushed(three_nodes: World, thread: ThreadPoolExecutor) -> HalfFlushed:
    return HalfFlushed(three_nodes, thread)


def test_a_hit_that_a_flush_has_not_reached_does_not_outlive_it_where_it_has(
    three_nodes: World, half_flushed: HalfFlushed
) -> None:
    first, page = half_flushed.first, half_flushed.page
    three_nodes.clock.advance(2 * SKEW)
    cache = three_nodes.cache(snapshot=Request(three_nodes.clock))
    given = cache.get(first)
    loaded = cache.get_or_load(page, lambda: given)
    half_flushed.end()

    assert (given, loaded) == ("old", "old")
    assert half_flushed.visitor.get(page) is None


def test_nor_does_what_a_loader_has_made_of_it(half_flushed: HalfFlushed) -> None:
    first, page, visitor = half_flushed.first, half_flushed.page, half_flushed.visitor
    loaded = visitor.get_or_load(page, lambda: visitor.get(first))
    stored = visitor.get(page)
    half_flushed.end()

    assert (loaded, stored) == ("old", "old")
    assert visitor.get(page) is None


def test_a_hit_before_a_flush_is_not_stored_after_it(
    three_nodes: World, half_flushed: HalfFlushed
) -> None:
    first, page = half_flushed.first, half_flushed.page
    three_nodes.clock.advance(2 * SKEW)
    cache = three_nodes.cache(snapshot=Request(three_nodes.clock))
    given = cache.get(first)
    half_flushed.end()
    loaded = cache.get_or_load(page, lambda: given)

    assert (given, loaded) == ("old", "old")
    assert half_flushed.visitor.get(page) is None
