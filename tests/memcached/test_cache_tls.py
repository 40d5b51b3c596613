"""MemcachedStore over TLS, on a memcached with a certificate of its own."""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import Iterator

import pytest

from hydracache_sync.cache import Keyspace
from hydracache_sync.errors import ApplyUnavailable
from hydracache_sync.memcached import MemcachedStore
from support.tls_memcached import TLSMemcached, self_signed

SPACE = Keyspace("1", "store")
ONE, TWO, THREE = [SPACE.entry(name) for name in ("one", "two", "three")]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return self_signed(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def server(certificate: Path) -> Iterator[TLSMemcached]:
    with TLSMemcached(certificate) as server:
        yield server


@pytest.fixture
def store(server: TLSMemcached, certificate: Path) -> MemcachedStore:
    context = ssl.create_default_context(cafile=str(certificate))
    return MemcachedStore(
        [server.address], tls_context=context, connect_timeout=10, retry_after=0
    )


def test_values_large_and_small_go_over_tls(store: MemcachedStore) -> None:
    large = os.urandom(500_000)

    assert store.set_many([(ONE, large, None), (TWO, b"two", None)]) == {}
    assert store.get_many([ONE, TWO, THREE]) == [large, b"two", None]
    assert store.delete_many([ONE]) == {}


def test_several_nodes_speak_tls(server: TLSMemcached, certificate: Path) -> None:
    context = ssl.create_default_context(cafile=str(certificate))
    addresses = [SPACE.entry(str(number)) for number in range(30)]
    with TLSMemcached(certificate) as other:
        store = MemcachedStore(
            [server.address, other.address], tls_context=context, connect_timeout=10
        )

        failures = store.set_many([(a, a[1] * 1000, None) for a in addresses])

        assert failures == {}
        assert store.get_many(addresses) == [key * 1000 for _, key in addresses]
        assert {name for a in addresses for name in store.nodes_of(a)} == {
            server.address,
            other.address,
        }


def test_a_server_with_an_unknown_certificate_is_unavailable(
    server: TLSMemcached,
) -> None:
    store = MemcachedStore(
        [server.address], tls_context=ssl.create_default_context(), connect_timeout=10
    )

    with pytest.raises(ApplyUnavailable, match="certificate"):
        store.get_many([ONE])


def test_plain_text_is_not_understood(server: TLSMemcached) -> None:
    with pytest.raises(ApplyUnavailable, match=server.address):
        MemcachedStore([server.address]).get_many([ONE])


def test_after_a_restart_the_first_calls_just_work(
    server: TLSMemcached, store: MemcachedStore
) -> None:
    store.set_many([(ONE, b"old", None)])

    server.restart()
    assert store.get_many([ONE]) == [None]
    server.restart()
    assert store.set_many([(ONE, b"new", None)]) == {}


def test_a_server_that_hangs_holds_the_caller_for_its_timeout_only(
    server: TLSMemcached, store: MemcachedStore
) -> None:
    store.ping()
    server.pause()

    try:
        with pytest.raises(ApplyUnavailable, match="no answer in time"):
            store.get_many([ONE])
    finally:
        server.resume()

    assert store.get_many([THREE]) == [None]
