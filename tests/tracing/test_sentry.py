"""The cached reads of an app on Sentry's page of caches, by its real SDK."""

from __future__ import annotations

import contextlib
from typing import Any, Iterator

import pytest
import sentry_sdk
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport

from hydracache_sync import MemcachedStore, MemoryOutbox, MemoryStore, TaggedCache
from hydracache_sync.tracing import instrument
from support.servers import Memcached

#: Where nothing listens.
NOWHERE = "127.0.0.1:1"


class Recording(Transport):
    """Keeps what would have been sent."""

    def __init__(self) -> None:
        super().__init__()
        self.envelopes: list[Envelope] = []

    def capture_envelope(self, envelope: Envelope) -> None:
        self.envelopes.append(envelope)

    def spans(self) -> list[dict[str, Any]]:
        [transaction] = [
            event
            for each in self.envelopes
            if (event := each.get_transaction_event()) is not None
        ]
        found: list[dict[str, Any]] = transaction["spans"]
        return found


@pytest.fixture
def sentry() -> Iterator[Recording]:
    transport = Recording()
    with sentry_sdk.isolation_scope() as scope:
        client = sentry_sdk.Client(
            dsn="http://key@127.0.0.1:1/1",
            transport=transport,
            traces_sample_rate=1.0,
            default_integrations=False,
            auto_enabling_integrations=False,
        )
        scope.set_client(client)
        yield transport
        client.close(timeout=0)


def test_reads_and_fills_are_what_sentry_calls_them(
    sentry: Recording, memcached: Memcached, unique: str
) -> None:
    with contextlib.closing(MemcachedStore([memcached.address], ring="1")) as store:
        cache = TaggedCache(store, unique)
        instrument(cache, backend="sentry")

        with sentry_sdk.start_transaction(op="http.server", name="page"):
            cache.get_or_load("item:1", lambda: "value")
            cache.get_or_load("item:1", lambda: "value")
            cache.delete("item:1")

    miss, put, hit, remove = sentry.spans()
    operations = [span["op"] for span in (miss, put, hit, remove)]
    assert operations == ["cache.get", "cache.put", "cache.get", "cache.remove"]
    assert {span["description"] for span in sentry.spans()} == {"item:1"}
    assert {span["origin"] for span in sentry.spans()} == {"auto.cache.hydracache_sync"}
    host, _, port = memcached.address.rpartition(":")
    for span in (miss, put, hit):
        assert span["data"]["cache.key"] == ["item:1"]
        assert span["data"]["network.peer.address"] == host
        assert span["data"]["network.peer.port"] == int(port)
    assert miss["data"]["cache.hit"] is False
    assert "cache.item_size" not in miss["data"]
    assert hit["data"]["cache.hit"] is True
    assert hit["data"]["cache.item_size"] == put["data"]["cache.item_size"] > 0
    assert put["data"]["cache.success"] is True


def test_several_keys_are_one_span(sentry: Recording) -> None:
    cache = TaggedCache(MemoryStore(), "shop")
    instrument(cache, backend="sentry")

    with sentry_sdk.start_transaction(name="page"):
        cache.get_many_or_load(["a", "b"], lambda keys: dict.fromkeys(keys, "x"))

    get, put = sentry.spans()
    assert get["data"]["cache.key"] == put["data"]["cache.key"] == ["a", "b"]
    assert "network.peer.address" not in get["data"]


def test_a_memcached_that_is_away_is_no_success(sentry: Recording) -> None:
    with contextlib.closing(MemcachedStore([NOWHERE], ring="1")) as store:
        cache = TaggedCache(store, "shop")
        instrument(cache, backend="sentry")

        with sentry_sdk.start_transaction(name="page"):
            assert cache.get_or_load("a", lambda: "value") == "value"

    [get] = sentry.spans()
    assert get["status"] == "unavailable"


def test_what_a_loader_raises_goes_on(sentry: Recording) -> None:
    cache = TaggedCache(MemoryStore(), "shop")
    instrument(cache, backend="sentry")

    def load() -> str:
        raise LookupError("no such item")

    with sentry_sdk.start_transaction(name="page"):
        with pytest.raises(LookupError):
            cache.get_or_load("a", load)

    assert [span["op"] for span in sentry.spans()] == ["cache.get"]


def test_without_a_transaction_there_is_nothing(sentry: Recording) -> None:
    cache = TaggedCache(MemoryStore(), "shop")
    instrument(cache, backend="sentry")

    assert cache.get_or_load("a", lambda: "value") == "value"

    assert sentry.envelopes == []


def test_an_outbox_is_left_as_it_is() -> None:
    outbox = MemoryOutbox()

    instrument(outbox, backend="sentry")

    assert outbox._tracer is None
