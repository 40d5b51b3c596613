"""MemcachedStore: the contract on a real memcached, and its settings."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
import time
from typing import Iterator

import pytest

from hydracache_sync.cache import Address, CacheStore, Keyspace
from hydracache_sync.errors import ApplyUnavailable, ConfigurationError
from hydracache_sync.memcached import MemcachedStore
from hydracache_sync.memcached.commands import expiry_of
from support.faulty_memcached import FaultyMemcached
from support.servers import Memcached, free_port
from support.store_contract import StoreContract

SPACE = Keyspace("1", "store")
ONE, TWO, THREE = [SPACE.entry(name) for name in ("one", "two", "three")]


@pytest.fixture(scope="module")
def local_memcached() -> Iterator[Memcached]:
    with Memcached(unix_socket=True) as server:
        yield server


@pytest.fixture
def faulty() -> Iterator[FaultyMemcached]:
    with FaultyMemcached() as server:
        yield server


@pytest.fixture(scope="module")
def three() -> Iterator[list[str]]:
    """Addresses of three servers, one of them on a unix socket."""
    with Memcached() as one, Memcached() as two, Memcached(unix_socket=True) as local:
        yield [one.address, two.address, f"unix:{local.address}"]


class ContractOnMemcached(StoreContract):
    def rival(self, store: CacheStore) -> CacheStore:
        assert isinstance(store, MemcachedStore)
        return MemcachedStore([node.name for node in store._nodes], timeout=10)

    def seconds_left(self, store: CacheStore, address: Address) -> int | None:
        assert isinstance(store, MemcachedStore)
        [name] = store.nodes_of(address)
        with connected(name) as connection:
            # The classic commands do not tell; the meta command does.
            connection.sendall(b"mg %b t\r\n" % address[1])
            answer = connection.recv(100)
        assert answer.startswith(b"HD t")
        left = int(answer[4:])
        return None if left == -1 else left

    def clock_error(self, store: CacheStore) -> float:
        assert isinstance(store, MemcachedStore)
        clocks = [float(stats["time"]) for stats in store.stats().values()]
        return max(abs(clock - time.time()) for clock in clocks)


class TestMemcachedStore(ContractOnMemcached):
    @pytest.fixture
    def store(self, memcached: Memcached) -> CacheStore:
        return MemcachedStore([memcached.address], timeout=10, connect_timeout=10)


class TestMemcachedStoreWithOneConnection(ContractOnMemcached):
    @pytest.fixture
    def store(self, memcached: Memcached) -> CacheStore:
        return MemcachedStore(
            [memcached.address], timeout=10, connect_timeout=10, pool_size=1
        )


class TestMemcachedStoreOnAUnixSocket(ContractOnMemcached):
    @pytest.fixture
    def store(self, local_memcached: Memcached) -> CacheStore:
        return MemcachedStore([f"unix:{local_memcached.address}"], timeout=10)


class TestMemcachedStoreOnThreeNodes(ContractOnMemcached):
    @pytest.fixture
    def store(self, three: list[str]) -> CacheStore:
        return MemcachedStore(three, timeout=10, connect_timeout=10)


class TestMemcachedStoreOnThreeNodesWithOneConnectionEach(ContractOnMemcached):
    @pytest.fixture
    def store(self, three: list[str]) -> CacheStore:
        return MemcachedStore(three, timeout=10, connect_timeout=10, pool_size=1)


def connected(name: str) -> socket.socket:
    if name.startswith("unix:"):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(name[5:])
        return connection
    host, _, port = name.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=5)


# Settings


def test_nothing_connects_before_it_is_used(faulty: FaultyMemcached) -> None:
    store = MemcachedStore([faulty.address], timeout=10, connect_timeout=10)
    repr(store)

    assert faulty.connections == 0


def test_importing_loads_no_client_and_constructing_does() -> None:
    program = (
        "import sys; from hydracache_sync import MemcachedStore;"
        "print('pymemcache' in sys.modules);"
        "MemcachedStore(['127.0.0.1:1']);"
        "print('pymemcache.client.base' in sys.modules)"
    )

    ended = subprocess.run([sys.executable, "-c", program], capture_output=True)

    assert (ended.stdout.split(), ended.stderr) == ([b"False", b"True"], b"")


def test_a_read_without_a_free_descriptor_is_a_miss(memcached: Memcached) -> None:
    program = f"""
import os, resource
from hydracache_sync import MemcachedStore, TaggedCache

cache = TaggedCache(MemcachedStore([{memcached.address!r}], retry_after=0), "shop")
held = [os.open(os.devnull, os.O_RDONLY)]
resource.setrlimit(resource.RLIMIT_NOFILE, (held[0] + 1, 4096))
print(cache.get_or_load("k", lambda: "loaded"))
os.close(held.pop())
cache.get_or_load("k", lambda: "stored")
print(cache.get("k"))
"""

    ended = subprocess.run([sys.executable, "-c", program], capture_output=True)

    assert ended.stdout.split() == [b"loaded", b"stored"], ended.stderr.decode()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"timeout": 0}, "timeout"),
        ({"timeout": -1.0}, "timeout"),
        ({"timeout": None}, "timeout"),
        ({"connect_timeout": float("nan")}, "connect_timeout"),
        ({"connect_timeout": float("inf")}, "connect_timeout"),
        ({"call_timeout": 0}, "call_timeout"),
        ({"call_timeout": "2"}, "call_timeout"),
        ({"pool_size": 0}, "pool_size"),
        ({"pool_size": 1.5}, "pool_size"),
        ({"ring": "a:b"}, "ring"),
        ({"weights": [2]}, "weights"),
        ({"weights": {"10.0.0.1:11211": 2}}, "weights names 10.0.0.1:11211"),
        ({"weights": {"127.0.0.1:11211": 0}}, "weight of 127.0.0.1:11211"),
        ({"weights": {"127.0.0.1:11211": float("nan")}}, "weight of 127.0.0.1:11211"),
        ({"weights": {"127.0.0.1:11211": "2"}}, "weight of 127.0.0.1:11211"),
    ],
)
def test_a_setting_out_of_its_range_is_refused_by_name(
    settings: dict[str, object], named: str
) -> None:
    with pytest.raises(ConfigurationError, match=named):
        MemcachedStore(["127.0.0.1:11211"], **settings)  # type: ignore[arg-type]


def test_a_weight_given_twice_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="weights names cache1:11211 twice"):
        MemcachedStore(["cache1:11211"], weights={"cache1:11211": 1, "Cache1:11211": 2})


@pytest.mark.parametrize("servers", [["/m.sock"], ["10.0.0.7:11211", "/m.sock"]])
def test_tls_on_a_unix_socket_is_refused_rather_than_left_out(
    servers: list[str],
) -> None:
    with pytest.raises(ConfigurationError, match="unix:/m.sock.*unix socket"):
        MemcachedStore(servers, tls_context=ssl.create_default_context())


def test_its_repr_names_the_nodes_and_the_ring() -> None:
    store = MemcachedStore(["Cache.Example:11211", "/m.sock"], ring="7")

    assert repr(store) == (
        "MemcachedStore(['cache.example:11211', 'unix:/m.sock'], ring='7')"
    )


@pytest.mark.parametrize(
    ("ttl", "sent"),
    [
        (0, 0),
        (0.2, 1),
        (2_592_000, 2_592_000),
        (2_592_000.5, 1_000 + 2_592_001),
        (2_592_001, 1_000 + 2_592_001),
        (10**10, 0),
    ],
)
def test_a_ttl_over_thirty_days_is_sent_as_a_date(ttl: float, sent: int) -> None:
    assert expiry_of(ttl, 1000.9) == sent


def test_every_node_tells_about_itself(three: list[str]):
    with MemcachedStore(three, timeout=10) as store:
        stats, settings = store.stats(), store.stats("settings")

    assert list(stats) == list(settings) == three
    for name in three:
        assert int(stats[name]["uptime"]) >= 0
        assert settings[name]["item_size_max"] == "1048576"


def test_node_that_cannot_tell_about_itself_has_its_error(
    memcached: Memcached, faulty: FaultyMemcached
):
    away = f"127.0.0.1:{free_port()}"
    with MemcachedStore([memcached.address, away, faulty.address], timeout=10) as store:
        stats = store.stats()

    assert "uptime" in stats[memcached.address]
    assert isinstance(stats[away], ApplyUnavailable)
    # It knows no stats and says ERROR.
    assert isinstance(stats[faulty.address], ApplyUnavailable)


def test_group_of_stats_is_one_word(memcached: Memcached):
    with MemcachedStore([memcached.address]) as store:
        with pytest.raises(ValueError, match="group of stats"):
            store.stats("settings\r\nflush_all")
