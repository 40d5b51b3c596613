"""What a server that is not what it should be can make its readers take is bounded."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Iterator

import pytest

from hydracache_sync import (
    ApplyUnavailable,
    ConfigurationError,
    MemcachedStore,
    MemoryStore,
    TaggedCache,
)
from hydracache_sync.cache import Keyspace
from hydracache_sync.cache.tag_sets import MANY_TAGS, MAX_TAGS
from support.node_identity import take_off
from support.servers import Memcached

KEY = Keyspace("1", "bounds").entry("k")


class Hostile:
    """Answers each request with a beginning, and then with the same again and again."""

    def __init__(self, beginning: bytes, again: bytes) -> None:
        self._answer = beginning, again
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self._listener.getsockname()[1]
        #: Bytes that the client has taken.
        self.taken = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with connection, suppress(OSError):
                    answer, asked = take_off(connection.recv(4096))
                    connection.sendall(answer)
                    if not asked:
                        continue
                    beginning, again = self._answer
                    connection.sendall(beginning)
                    while again:
                        self.taken += connection.send(again)

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def endless_value() -> Iterator[Hostile]:
    head = b"VALUE %b 0 %d\r\n" % (KEY[1], 900_000_000)
    hostile = Hostile(head, bytes(65536))
    yield hostile
    hostile.close()


@pytest.fixture
def endless_stats() -> Iterator[Hostile]:
    hostile = Hostile(b"", b"".join(b"STAT a%d 1\r\n" % n for n in range(1000)))
    yield hostile
    hostile.close()


def test_a_value_over_the_limit_is_not_read(endless_value: Hostile) -> None:
    with MemcachedStore([endless_value.address], call_timeout=30) as store:
        with pytest.raises(
            ApplyUnavailable,
            match="value of 900000000 bytes, over the store's max_value",
        ):
            store.get_many([KEY])

    # What the two sockets hold, at most.
    assert endless_value.taken < 32 * 1024 * 1024


def test_the_limit_is_the_callers() -> None:
    head = b"VALUE %b 0 200\r\n" % KEY[1]
    hostile = Hostile(head + b"x" * 200 + b"\r\nEND\r\n", b"")
    with MemcachedStore([hostile.address], max_value=200) as store:
        assert store.get_many([KEY]) == [b"x" * 200]
    hostile.close()
    with pytest.raises(ConfigurationError, match="max_value must be 1 or more"):
        MemcachedStore(["127.0.0.1:1"], max_value=0)


def test_what_no_reader_would_take_is_not_stored(
    memcached: Memcached, unique: str
) -> None:
    with MemcachedStore([memcached.address], max_value=1000) as store:
        cache = TaggedCache(store, unique)
        large = "x" * 1000

        values = [cache.get_or_load("k", lambda: large) for _ in range(2)]

        assert values == [large] * 2
        assert cache.diagnostics().refused_size == 2
        assert cache.get_or_load("other", lambda: "small") == "small"
        assert cache.get("other") == "small"


def test_stats_without_an_end_are_not_read(endless_stats: Hostile) -> None:
    with MemcachedStore([endless_stats.address], call_timeout=30) as store:
        found = store.stats()[endless_stats.address]

    assert isinstance(found, ApplyUnavailable)
    assert "over 10000 lines of stats" in str(found)


def test_an_entry_with_too_many_tags_is_refused_before_anything_is_read() -> None:
    cache = TaggedCache(MemoryStore(), "shop")
    tags = [f"t{number}" for number in range(MAX_TAGS)]

    assert cache.get_or_load("k", lambda: 1, tags=tags * 2) == 1
    assert cache.get("k", tags=tags) == 1
    with pytest.raises(ValueError, match="tags are 1001, and an entry has 1000"):
        cache.get_or_load("k", lambda: 2, tags=[*tags, "one more"])


def test_an_entry_with_many_tags_is_warned_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cache = TaggedCache(MemoryStore(), "shop")
    some = [f"t{number}" for number in range(MANY_TAGS)]

    cache.get("k", tags=some)
    assert caplog.messages == []
    cache.get("k", tags=[*some, "one more"])
    cache.get("l", tags=[*some, "another", "and another"])

    [told] = caplog.messages
    assert "namespace shop has 101 tags" in told
    assert "more than 1000 are refused" in told
