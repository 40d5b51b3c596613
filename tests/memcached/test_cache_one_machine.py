"""A node's name stands for one machine, and where it does not that is noticed."""

from __future__ import annotations

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
from hydracache_sync.cli.cache_checks import examine_nodes
from hydracache_sync.cli.findings import Level
from hydracache_sync.memcached import connection_pool
from support.memcached_forwarder import Forwarder
from support.servers import Memcached

NAME = "cache.test:11211"


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
    monkeypatch.setattr(connection_pool, "MAX_AGE", 100.0)
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
            now[0] += 10
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
    assert "do not reach one memcached" in problems[0].text


def test_doctor_is_content_with_one_machine(memcached: Memcached, unique: str) -> None:
    with Forwarder([memcached.port]) as proxy:
        with MemcachedStore([proxy.address]) as store:
            findings = list(examine_nodes(store, [unique], []))

    assert all(each.level is not Level.PROBLEM for each in findings)
