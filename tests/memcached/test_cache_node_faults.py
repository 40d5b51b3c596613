"""Each of three memcacheds in turn refused, hung, slow, flapping, emptied; and all.

On real servers, some behind a proxy that delays. What is served is right whatever
happens, and no read takes longer than its limits say.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import Any, Callable, Iterator

import pytest

from hydracache_sync import (
    InvalidationIntentBatch,
    MemcachedApplier,
    MemcachedStore,
    MemoryOutbox,
    OutboxWorker,
    TaggedCache,
)
from hydracache_sync.cache import Keyspace
from hydracache_sync.errors import ApplyUnavailable
from support.servers import Memcached

SHOP = "shop"
TIMEOUT = 0.2

#: Seconds that a read may take on a busy machine; without limits it would be minutes.
BUDGET = 15.0


class Proxy:
    """Passes bytes on to a server, and its answers back as ``pause`` says.

    :ivar pause: seconds before each byte of an answer; 0 for all at once.
    """

    def __init__(self, port: int) -> None:
        self.pause = 0.0
        self._port = port
        self._stopped = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._accept)]
        self._open: list[socket.socket] = [self._listener]
        self._threads[0].start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def stop(self) -> None:
        self._stopped.set()
        for each in list(self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for each in self._open:
            each.close()

    def _accept(self) -> None:
        while not self._stopped.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._port))
            except OSError:
                client.close()
                continue
            self._open += [client, server]
            for run, ends in (
                (self._up, (client, server)),
                (self._down, (server, client)),
            ):
                thread = threading.Thread(target=run, args=ends)
                self._threads.append(thread)
                thread.start()

    def _up(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)

    def _down(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                for start in range(0, len(data), 1 if self.pause else len(data)):
                    step = 1 if self.pause else len(data)
                    if self.pause and self._stopped.wait(self.pause):
                        return
                    client.sendall(data[start : start + step])
            client.shutdown(socket.SHUT_WR)


@pytest.fixture
def servers() -> Iterator[list[Memcached]]:
    with Memcached() as one, Memcached() as two, Memcached() as three:
        yield [one, two, three]


@pytest.fixture
def proxies(servers: list[Memcached]) -> Iterator[list[Proxy]]:
    proxies = [Proxy(server.port) for server in servers]
    yield proxies
    for proxy in proxies:
        proxy.stop()


def store_on(addresses: list[str], **settings: Any) -> MemcachedStore:
    settings = {"timeout": TIMEOUT, "connect_timeout": TIMEOUT, **settings}
    return MemcachedStore(addresses, **settings)


def refuse(server: Memcached, proxy: Proxy) -> Callable[[], object]:
    server.stop()
    return server.start


def hang(server: Memcached, proxy: Proxy) -> Callable[[], object]:
    server.pause()
    return server.resume


def drip(server: Memcached, proxy: Proxy) -> Callable[[], object]:
    proxy.pause = TIMEOUT / 4

    def end() -> None:
        proxy.pause = 0.0

    return end


def empty(server: Memcached, proxy: Proxy) -> Callable[[], object]:
    server.restart()
    return lambda: None


FAULTS = [refuse, hang, drip, empty]


class Shop:
    """A database of one number, and readers and a worker of its cache."""

    def __init__(self, store: MemcachedStore) -> None:
        self.number = 0
        self.cache = TaggedCache(store, SHOP)
        self.outbox = MemoryOutbox()
        applier = MemcachedApplier(store, SHOP)
        self.worker = OutboxWorker(
            self.outbox, applier, backoff=0.01, max_backoff=0.01, max_attempts=1
        )
        self.tags = [f"tag:{number}" for number in range(6)]

    def write(self) -> None:
        self.number += 1
        batch = InvalidationIntentBatch()
        for tag in self.tags:
            batch.invalidate_tag(tag)
        batch.invalidate_key("key:0").flush()
        self.outbox.enqueue(SHOP, batch)

    def read(self) -> list[int]:
        return [
            self.cache.get_or_load(f"key:{n}", lambda: self.number, tags=[tag])
            for n, tag in enumerate(self.tags)
        ]

    def settle(self) -> None:
        deadline = time.monotonic() + 60
        while self.outbox.status(SHOP).pending:
            assert time.monotonic() < deadline
            self.worker.run_once()


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("which", [[0], [1], [2], [0, 1, 2]])
def test_what_is_published_is_seen_and_what_is_read_comes_in_time(
    servers: list[Memcached],
    proxies: list[Proxy],
    fault: Callable[[Memcached, Proxy], Callable[[], object]],
    which: list[int],
) -> None:
    shop = Shop(store_on([proxy.address for proxy in proxies]))
    shop.read()
    assert shop.read() == [0] * 6

    ends = [fault(servers[n], proxies[n]) for n in which]
    shop.write()
    shop.worker.run_once()
    began = time.monotonic()
    during = shop.read()
    took = time.monotonic() - began
    if not shop.outbox.status(SHOP).pending:
        assert during == [1] * 6
    for end in ends:
        end()
    shop.settle()

    assert took < BUDGET
    assert shop.read() == [1] * 6
    assert shop.read() == [1] * 6
    assert {row.attempts for row in shop.outbox.rows(SHOP)} == {0}


def test_a_page_of_many_reads_waits_for_nodes_that_hang_a_few_times_only(
    servers: list[Memcached],
) -> None:
    store = store_on([server.address for server in servers], retry_after=600)
    cache = TaggedCache(store, SHOP)
    cache.get_or_load("key", lambda: "v", tags=["a", "b", "c", "d"])
    for server in servers:
        server.pause()

    began = time.monotonic()
    for number in range(500):
        cache.get(f"key:{number}", tags=[str(number)])
    took = time.monotonic() - began
    for server in servers:
        server.resume()

    # Once for each node; 500 times would be minutes.
    assert took < BUDGET


def test_a_flapping_node_loses_nothing_and_serves_nothing_old(
    servers: list[Memcached], proxies: list[Proxy]
) -> None:
    shop = Shop(store_on([proxy.address for proxy in proxies], retry_after=0.05))

    for round in range(12):
        server = servers[round % 3]
        server.pause() if round % 2 else server.stop()
        shop.write()
        shop.worker.run_once()
        shop.read()
        server.resume() if round % 2 else server.start()
        shop.worker.run_once()
        if not shop.outbox.status(SHOP).pending:
            assert shop.read() == [shop.number] * 6
    shop.settle()

    assert shop.read() == [shop.number] * 6
    assert {row.attempts for row in shop.outbox.rows(SHOP)} == {0}


# Names

SPACE = Keyspace("1", SHOP)


class Resolver:
    """Says of each name what the test has set, in place of the system's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.known: dict[str, list[tuple[str, int]]] = {}
        self._real = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self)

    def __call__(self, host: str, *more: Any) -> Any:
        if not host.endswith(".test"):
            return self._real(host, *more)
        if host not in self.known:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure")
        found = []
        for address, port in self.known[host]:
            found += self._real(address, port, socket.AF_UNSPEC, socket.SOCK_STREAM)
        return found


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Resolver:
    return Resolver(monkeypatch)


def test_a_name_that_resolves_late_is_away_until_then(
    servers: list[Memcached], resolver: Resolver
) -> None:
    resolver.known["one.test"] = [("127.0.0.1", servers[0].port)]
    store = store_on(["one.test:1", "two.test:1"], retry_after=0)
    flush = SPACE.namespace_token()

    [error] = store.set_many([(flush, b"v", None)]).values()
    resolver.known["two.test"] = [("127.0.0.1", servers[1].port)]

    assert isinstance(error, ApplyUnavailable) and error.node == "two.test:1"
    assert store.set_many([(flush, b"v", None)]) == {}
    assert all(isinstance(answer, str) for answer in store.ping().values())


def test_a_name_whose_address_changes_is_looked_up_again(
    servers: list[Memcached], resolver: Resolver
) -> None:
    resolver.known["one.test"] = [("127.0.0.1", servers[0].port)]
    store = store_on(["one.test:1", servers[2].address], retry_after=0)
    address = next(
        address
        for address in map(SPACE.entry, map(str, range(100)))
        if store.nodes_of(address) == ["one.test:1"]
    )
    store.set_many([(address, b"old", None)])

    resolver.known["one.test"] = [("127.0.0.1", servers[1].port)]
    servers[0].stop()

    # The other machine never had it; the first call just works.
    assert store.get_many([address]) == [None]
    assert store.set_many([(address, b"new", None)]) == {}
    assert store.get_many([address]) == [b"new"]


def test_every_address_of_a_name_is_tried(
    servers: list[Memcached], resolver: Resolver
) -> None:
    ports = [server.port for server in servers]
    resolver.known["one.test"] = [("::1", ports[0]), ("127.0.0.1", ports[0])]
    resolver.known["two.test"] = [("127.0.0.1", 1), ("127.0.0.1", ports[1])]

    store = store_on(["one.test:1", "two.test:1"])

    assert all(isinstance(answer, str) for answer in store.ping().values())


def test_nodes_speak_ipv6_ipv4_and_unix_sockets_side_by_side() -> None:
    if not socket.has_ipv6:
        pytest.skip("this Python has no IPv6")
    with Memcached(arguments=["-l", "::1"]) as six, Memcached() as four:
        with Memcached(unix_socket=True) as local:
            names = [f"[::1]:{six.port}", four.address, f"unix:{local.address}"]
            store = store_on(names)
            addresses = [SPACE.entry(str(number)) for number in range(30)]

            failures = store.set_many([(a, a[1], None) for a in addresses])

            assert failures == {}
            assert store.get_many(addresses) == [key for _, key in addresses]
            assert {name for a in addresses for name in store.nodes_of(a)} == set(names)
