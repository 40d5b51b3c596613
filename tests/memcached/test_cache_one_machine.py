"""A node's name stands for one machine, and where it does not that is noticed."""

from __future__ import annotations

import random
import socket
from typing import Any, Iterator

import pytest

from hydracache_sync import (
    ApplyUnavailable,
    InvalidationIntent,
    MemcachedApplier,
    MemcachedStore,
    TaggedCache,
)
from hydracache_sync.cache import Keyspace
from hydracache_sync.cli.cache_checks import examine_nodes
from hydracache_sync.cli.findings import Level
from hydracache_sync.memcached import connection_pool
from hydracache_sync.memcached.machine import Machine, Met
from hydracache_sync.memcached.transport import SeveralMachines
from support.faulty_memcached import FaultyMemcached
from support.memcached_forwarder import Forwarder
from support.servers import Memcached

NAME = "cache.test:11211"


def command(server: Memcached, line: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
        connection.sendall(line)
        connection.recv(100)


class Names:
    """Stands in for the resolver: the name's addresses are what a test says."""

    def __init__(self) -> None:
        self._really = socket.getaddrinfo
        self.found: list[tuple[Any, tuple[Any, ...]]] = []

    def v4(self, *hosts: str, port: int) -> None:
        self.found = [(socket.AF_INET, (host, port)) for host in hosts]

    def getaddrinfo(self, host: str, *arguments: Any) -> Any:
        if host != "cache.test":
            return self._really(host, *arguments)
        return [
            (family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", address)
            for family, address in self.found
        ]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    names = Names()
    monkeypatch.setattr(socket, "getaddrinfo", names.getaddrinfo)
    return names


@pytest.fixture
def two() -> Iterator[tuple[Memcached, Memcached]]:
    with Memcached() as one, Memcached() as other:
        yield one, other


def test_a_name_of_several_machines_is_refused(
    names: Names, memcached: Memcached, unique: str
) -> None:
    names.v4("127.0.0.1", "127.0.0.2", port=memcached.port)
    with MemcachedStore([NAME]) as store:
        cache = TaggedCache(store, unique)
        applier = MemcachedApplier(store, unique)

        value = cache.get_or_load("k", lambda: "loaded")
        with pytest.raises(ApplyUnavailable, match="cache.test has 2 addresses"):
            applier.apply_invalidation(InvalidationIntent.key("k"))

    # Reads load, rows wait, and the words fit.
    assert value == "loaded" and cache.diagnostics().fills == 0
    error = store.ping()[NAME]
    assert "127.0.0.1, 127.0.0.2" in str(error) and "running there" not in str(error)


def test_the_v4_and_the_v6_of_one_host_are_tried(
    names: Names, memcached: Memcached
) -> None:
    # Also where the system gives an address twice.
    names.found = [(socket.AF_INET6, ("::1", 1, 0, 0))] * 2 + [
        (socket.AF_INET, ("127.0.0.1", memcached.port))
    ] * 2

    with MemcachedStore([NAME]) as store:
        assert isinstance(store.ping()[NAME], str)


def test_a_busy_reader_follows_a_name_that_moves(
    names: Names,
    two: tuple[Memcached, Memcached],
    unique: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As in two processes, which do not share what they know of a name.
    monkeypatch.setattr(connection_pool, "machine_of", Machine)
    now = [1000.0]
    monkeypatch.setattr("hydracache_sync.memcached.store.monotonic", lambda: now[0])
    monkeypatch.setattr("hydracache_sync.memcached.transport.monotonic", lambda: now[0])
    monkeypatch.setattr("hydracache_sync.memcached.replies.monotonic", lambda: now[0])
    one, other = two
    names.v4("127.0.0.1", port=one.port)
    with MemcachedStore([NAME]) as reader, MemcachedStore([NAME]) as worker:
        cache = TaggedCache(reader, unique)
        cache.get_or_load("k", lambda: "old", tags=["t"])
        names.v4("127.0.0.1", port=other.port)
        applier = MemcachedApplier(worker, unique)
        applier.apply_invalidation(InvalidationIntent.tag("t"))

        seen = []
        for _ in range(12):
            # Never idle, so that nothing but its age ends the connection.
            now[0] += connection_pool.MAX_AGE / 10
            seen.append(cache.get_or_load("k", lambda: "new", tags=["t"]))

    assert seen[0] == "old" and seen[-3:] == ["new"] * 3


def test_doctor_notices_a_balanced_address(
    two: tuple[Memcached, Memcached], unique: str
) -> None:
    with Forwarder([server.port for server in two]) as balancer:
        with MemcachedStore([balancer.address]) as store:
            findings = list(examine_nodes(store, [unique], []))

    problems = [each for each in findings if each.level is Level.PROBLEM]
    assert len(problems) == 1
    assert "reach several memcacheds" in problems[0].text


def test_doctor_is_content_with_one_machine(memcached: Memcached, unique: str) -> None:
    with Forwarder([memcached.port]) as proxy:
        with MemcachedStore([proxy.address]) as store:
            findings = list(examine_nodes(store, [unique], []))

    assert all(each.level is not Level.PROBLEM for each in findings)


def reads_after_published(
    reader: MemcachedStore, worker: MemcachedStore, unique: str
) -> list[str]:
    """Forty reads, each after a change whose invalidation was acknowledged.

    The unpublished ones are left out: their rows wait, and nothing was promised.
    """
    cache = TaggedCache(reader, unique)
    applier = MemcachedApplier(worker, unique)
    seen = []
    for number in range(40):
        cache.get_or_load("k", lambda: f"old {number}", tags=["t"])
        try:
            applier.apply_invalidation(InvalidationIntent.tag("t"))
        except ApplyUnavailable:
            continue
        seen.append(cache.get_or_load("k", lambda: "new", tags=["t"]))
        applier.apply_invalidation(InvalidationIntent.tag("t"))
    return seen


def test_a_balanced_address_serves_nothing_stale_after_published(
    two: tuple[Memcached, Memcached], unique: str
) -> None:
    with Forwarder([server.port for server in two]) as balancer:
        with MemcachedStore([balancer.address]) as reader:
            with MemcachedStore([balancer.address]) as worker:
                seen = reads_after_published(reader, worker, unique)
                with pytest.raises(ApplyUnavailable, match="several memcacheds"):
                    # Rows wait, and it is said why.
                    MemcachedApplier(worker, unique).apply_invalidation(
                        InvalidationIntent.tag("t")
                    )

    assert set(seen) <= {"new"}


def test_each_process_notices_a_balanced_address_by_itself(
    two: tuple[Memcached, Memcached], unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_pool, "machine_of", Machine)
    with Forwarder([server.port for server in two]) as balancer:
        with MemcachedStore([balancer.address]) as reader:
            with MemcachedStore([balancer.address]) as worker:
                seen = reads_after_published(reader, worker, unique)
                assert "several memcacheds" in str(reader.ping()[balancer.address])

    assert set(seen) <= {"new"}


def test_an_emptied_machine_is_taken_again(
    two: tuple[Memcached, Memcached], unique: str
) -> None:
    one, other = two
    with Forwarder([one.port, other.port]) as balancer:
        with MemcachedStore([balancer.address], retry_after=0) as store:
            assert not isinstance(store.ping()[balancer.address], str)
            balancer.forward_to([one.port])
            refused = store.ping()[balancer.address]
            command(one, b"flush_all\r\n")
            taken = store.ping()[balancer.address]

    assert "flush_all" in str(refused) and isinstance(taken, str)


def test_a_flushed_or_restarted_machine_is_the_same_node(
    memcached: Memcached, unique: str
) -> None:
    key = Keyspace("1", unique).entry("k")
    with MemcachedStore([memcached.address], retry_after=0) as store:
        for ending in range(4):
            assert store.set_many([(key, b"v", None)]) == {}
            command(memcached, b"flush_all\r\n")
            # On the old connection, on a new one, and on several at once.
            assert store.get_many([key]) == [None]
            if ending % 2:
                store.close()
            found = store.stats_of_each(4)[memcached.address]
            assert not isinstance(found, ApplyUnavailable)


def test_an_evicted_identity_is_given_anew(memcached: Memcached) -> None:
    with MemcachedStore([memcached.address], retry_after=0) as store:
        assert isinstance(store.ping()[memcached.address], str)
        command(memcached, b"delete hc1::node\r\n")
        store.close()

        found = store.stats_of_each(3)[memcached.address]

        assert not isinstance(found, ApplyUnavailable)


def test_two_processes_that_come_first_see_one_identity(
    two: tuple[Memcached, Memcached],
) -> None:
    one, _ = two
    address = [one.address]
    first, second = MemcachedStore(address), MemcachedStore(address)
    machines = [Machine("a"), Machine("a")]
    for store, machine in zip((first, second), machines):
        store._nodes[0]._pool._machine = machine
        store.ping()

    assert machines[0].current == machines[1].current is not None


def test_a_hit_asks_for_no_identity(unique: str) -> None:
    with FaultyMemcached() as faulty, MemcachedStore([faulty.address]) as store:
        cache = TaggedCache(store, unique)
        cache.get_or_load("k", lambda: "v", tags=["t"])
        faulty.forget()
        for _ in range(10):
            assert cache.get("k", tags=["t"]) == "v"

        assert faulty.round_trips == 10
        # The question goes with the first request of a connection.
        store.close()
        faulty.forget()
        assert cache.get("k", tags=["t"]) == "v"
        assert faulty.round_trips == 1 and faulty.questions == 1


class TestMachine:
    def test_what_comes_back_after_another_is_refused(self) -> None:
        machine = Machine("a")
        assert machine.met(b"x", machine.changes) is Met.NEW
        assert machine.met(b"x", machine.changes) is Met.KNOWN
        assert machine.met(b"y", machine.changes) is Met.NEW

        with pytest.raises(SeveralMachines):
            machine.met(b"x", machine.changes)
        with pytest.raises(SeveralMachines):
            machine.met(b"y", machine.changes)
        assert machine.met(b"z", machine.changes) is Met.NEW

    def test_an_answer_that_was_under_way_at_a_change_says_nothing(self) -> None:
        machine = Machine("a")
        before = machine.changes
        machine.met(b"x", before)
        machine.met(b"y", machine.changes)

        # It was asked before y was there; and one that nobody else has ever met.
        assert machine.met(b"x", before) is Met.OUTDATED
        assert machine.met(b"w", before) is Met.OUTDATED
        assert machine.current == b"y"

    def test_a_machine_that_holds_none_is_known(self) -> None:
        machine = Machine("a")

        assert machine.met(None, 0) is Met.KNOWN
        assert machine.current is None


def test_one_machine_is_never_refused_however_late_answers_come() -> None:
    """It has a new identity now and then, also before the first answer of all."""
    for seed in range(2000):
        rng = random.Random(seed)
        machine = Machine("one:11211")
        identity = 0
        # Changes when the connection was begun, and the answer that is on its way.
        begun: list[int] = []
        answered: list[tuple[bytes, int]] = []

        for _ in range(30):
            step = rng.random()
            if step < 0.1:
                identity += 1
            elif step < 0.4:
                begun.append(machine.changes)
            elif step < 0.7 and begun:
                changes = begun.pop(rng.randrange(len(begun)))
                answered.append((b"%d" % identity, changes))
            elif answered:
                machine.met(*answered.pop(rng.randrange(len(answered))))

        met = machine.met(b"%d" % identity, machine.changes)
        assert met in (Met.KNOWN, Met.NEW), f"seed {seed}"
