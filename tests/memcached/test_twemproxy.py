"""A real proxy before one server: what a store can do through it, what it hides."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Iterator

import pytest

from hydracache_sync.cache import Address, CacheStore
from hydracache_sync.memcached import MemcachedStore
from support.commands import run
from support.servers import Memcached, Twemproxy
from support.store_contract import StoreContract

#: Left out where no suite of Debian has it.
pytestmark = [pytest.mark.needs_server("twemproxy")] if Twemproxy.missing() else []


@pytest.fixture(scope="module")
def server() -> Iterator[Memcached]:
    with Memcached() as server:
        yield server


@pytest.fixture(scope="module")
def proxy(server: Memcached) -> Iterator[Twemproxy]:
    with Twemproxy(server) as proxy:
        yield proxy


def store_through(proxy: Twemproxy) -> MemcachedStore:
    return MemcachedStore([f"unix:{proxy.address}"], timeout=10, connect_timeout=10)


class TestMemcachedStoreThroughTwemproxy(StoreContract):
    @pytest.fixture
    def store(self, server: Memcached, proxy: Twemproxy) -> CacheStore:
        self.server, self.proxy = server, proxy
        return store_through(proxy)

    def rival(self, store: CacheStore) -> CacheStore:
        return store_through(self.proxy)

    def seconds_left(self, store: CacheStore, address: Address) -> int | None:
        # The proxy does not know the meta commands.
        with socket.create_connection(("127.0.0.1", self.server.port)) as connection:
            connection.sendall(b"mg %b t\r\n" % address[1])
            answer = connection.recv(100)
        assert answer.startswith(b"HD t")
        left = int(answer[4:])
        return None if left == -1 else left


def test_proxy_hides_that_the_server_was_restarted() -> None:
    """Why the assumptions exclude it: versions of items begin at 1 again."""
    with Memcached() as server, Twemproxy(server) as proxy:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(proxy.address)
            connection.settimeout(30)

            def ask(command: bytes) -> bytes:
                connection.sendall(command)
                return connection.recv(1000)

            assert ask(b"set token 0 0 3\r\nold\r\n") == b"STORED\r\n"
            seen = ask(b"gets token\r\n").split()
            server.restart()
            answer = b"SERVER_ERROR"
            while answer.startswith(b"SERVER_ERROR"):  # it connects again
                answer = ask(b"set token 0 0 5\r\nother\r\n")
            assert answer == b"STORED\r\n"

            # Of what the other server had: it should be an error, or EXISTS.
            assert ask(b"cas token 0 0 4 %b\r\nmine\r\n" % seen[4]) == b"STORED\r\n"


def test_doctor_says_that_a_proxy_may_be_in_between(
    proxy: Twemproxy, tmp_path: Path
) -> None:
    outbox = f"sqlite:///{tmp_path}/shop.db"

    said = run("doctor", outbox=outbox, memcached=f"unix:{proxy.address}", ring="1").out

    assert "which does not report its stats" in said
    assert "a proxy may be in between" in said
