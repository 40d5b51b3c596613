"""The store on memcached. What it promises is in ``CacheStore``.

One node for now. What several need is in the addresses (each says what chooses its
node) and in ``Node``, which sends and reads in separate steps.
"""

from __future__ import annotations

from math import isfinite
from operator import itemgetter
from typing import TYPE_CHECKING, Sequence

from hydracache_sync.cache.keyspace import Address
from hydracache_sync.cache.node import KEYS_PER_GET, Node
from hydracache_sync.cache.server_list import parse_servers
from hydracache_sync.cache.store import CacheStore, Failures, Write
from hydracache_sync.cache.transport import Limits
from hydracache_sync.errors import ApplyUnavailable, ConfigurationError

if TYPE_CHECKING:
    from ssl import SSLContext

_physical_key = itemgetter(1)

#: A call may take as many of its timeouts in all, unless told otherwise.
CALL_TIMEOUTS = 4


class MemcachedStore(CacheStore):
    """Keep bytes in memcached. Safe for threads, and across forks.

    Connects when first used; a process that was forked connects anew. Never fails over
    to another node: the node that was left would come back with what it held.

    :param servers: ``"host:port"``, ``"[v6]:port"``, ``"unix:/path"`` or ``"/path"``;
        one of them, several come with a later version.
    :param ring: new at every change of ``servers`` that means other machines; see
        ``CacheStore``.
    :param connect_timeout: seconds to connect, TLS included. Over 0. Does not limit the
        system's resolver.
    :param timeout: seconds without a byte after which the node counts as away. Over 0.
    :param call_timeout: seconds for one round trip in all, waiting for a free
        connection and connecting included, even where bytes keep dripping in; what is
        under way then may take two more ``timeout``. A call makes one round trip for
        each 64 KiB that it writes and each 100 addresses that it reads. Default: four
        times ``timeout``.
    :param pool_size: connections in each process, 1 or more. With fewer than there are
        threads, threads wait for each other.
    :param tls_context: speak TLS, verified as this context says; for TCP only.
    :raises ConfigurationError: one of these is not as said. Nothing was connected.
    """

    def __init__(
        self,
        servers: Sequence[str],
        *,
        ring: str = "1",
        connect_timeout: float = 0.5,
        timeout: float = 0.5,
        call_timeout: float | None = None,
        pool_size: int = 16,
        tls_context: SSLContext | None = None,
    ) -> None:
        super().__init__(ring)
        parsed = parse_servers(servers)
        if len(parsed) > 1:
            names = ", ".join(server.name for server in parsed)
            raise ConfigurationError(
                f"servers names {len(parsed)} ({names}): several nodes come with a"
                " later version, name one"
            )
        if tls_context is not None and parsed[0].path is not None:
            raise ConfigurationError(
                f"tls_context cannot be used with {parsed[0].name}: a unix socket is"
                " not encrypted"
            )
        if isinstance(pool_size, bool) or not isinstance(pool_size, int):
            raise ConfigurationError(f"pool_size must be int, not {pool_size!r}")
        if pool_size < 1:
            raise ConfigurationError(f"pool_size must be 1 or more, not {pool_size}")
        limits = Limits(
            _seconds("connect_timeout", connect_timeout),
            _seconds("timeout", timeout),
            _seconds(
                "call_timeout",
                CALL_TIMEOUTS * timeout if call_timeout is None else call_timeout,
            ),
        )
        self._node = Node(
            parsed[0], limits, pool_size=pool_size, tls_context=tls_context
        )

    def get_many(self, addresses: Sequence[Address]) -> list[bytes | None]:
        node = self._node
        keys = list(map(_physical_key, addresses))
        if 0 < len(keys) <= KEYS_PER_GET:
            return node.answers(node.ask(keys), keys)
        found: list[bytes | None] = []
        for start in range(0, len(keys), KEYS_PER_GET):
            part = keys[start : start + KEYS_PER_GET]
            found += node.answers(node.ask(part), part)
        return found

    def add_many(self, writes: Sequence[Write]) -> list[bytes | None]:
        found: list[bytes | None] = []
        for start in range(0, len(writes), KEYS_PER_GET):
            found += self._node.add_many(writes[start : start + KEYS_PER_GET])
        return found

    def set_many(self, writes: Sequence[Write]) -> Failures:
        return self._node.set_many(writes)

    def delete_many(self, addresses: Sequence[Address]) -> Failures:
        return self._node.delete_many(addresses)

    def ping(self) -> dict[str, str | ApplyUnavailable]:
        try:
            return {self._node.name: self._node.version()}
        except ApplyUnavailable as exc:
            return {self._node.name: exc}

    def close(self) -> None:
        self._node.close()

    def __repr__(self) -> str:
        return f"MemcachedStore([{self._node.name!r}], ring={self.ring!r})"


def _seconds(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigurationError(f"{name} must be seconds, not {value!r}")
    if not isfinite(value) or value <= 0:
        raise ConfigurationError(f"{name} must be over 0 and finite, not {value!r}")
    return float(value)
