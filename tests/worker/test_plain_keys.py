"""``PlainKeyApplier`` deletes an app's own keys, and believes nothing unconfirmed."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Any, Iterator, Union

import pytest
from pymemcache.client.base import Client, PooledClient
from pymemcache.client.hash import HashClient

from hydracache_sync import (
    ApplyPermanent,
    ApplyUnavailable,
    ConfigurationError,
    InvalidationIntent,
    InvalidationIntentBatch,
    MemcachedStore,
    MemoryOutbox,
    MemoryStore,
    OutboxState,
    OutboxWorker,
    PlainKeyApplier,
    PublishReport,
    SQLiteOutbox,
)
from hydracache_sync.cache import app_address
from support.clock import FakeClock
from support.faulty_memcached import FaultyMemcached, Mode
from support.servers import Memcached, free_port

SHOP = "shop"

#: Seconds that a client waits for a server that answers: a busy machine is no outage.
PATIENCE = 30.0

#: Seconds that a client waits for a server that never answers.
QUICK = 1.0

LONGEST_OUTAGE_WAIT = 5.0

Outbox = Union[MemoryOutbox, SQLiteOutbox]

USER = InvalidationIntent.entity("user", "42")
FLUSH = InvalidationIntent.flush()


class FailingClient:
    """Acknowledges no delete of some keys; keeps what it was asked."""

    def __init__(self, **failing: Exception) -> None:
        self.failing = {key.encode(): failure for key, failure in failing.items()}
        self.asked: list[bytes] = []

    def delete(self, key: bytes, noreply: bool | None = None) -> bool:
        self.asked.append(key)
        if key in self.failing:
            raise self.failing[key]
        return True


@pytest.fixture(params=[MemcachedStore, PooledClient, Client])
def client(request: pytest.FixtureRequest, memcached: Memcached) -> Iterator[Any]:
    """Each client that may be given to the applier, on a real server."""
    address: Any = memcached.address
    if request.param is MemcachedStore:
        address = [address]
    with contextlib.closing(
        request.param(address, connect_timeout=PATIENCE, timeout=PATIENCE)
    ) as client:
        yield client


@pytest.fixture(params=[MemcachedStore, PooledClient, Client])
def faulty_client(
    request: pytest.FixtureRequest, faulty: FaultyMemcached
) -> Iterator[Any]:
    address: Any = faulty.address
    more: dict[str, Any] = {}
    if request.param is MemcachedStore:
        address, more = [address], {"retry_after": 0}
    with contextlib.closing(
        request.param(address, connect_timeout=QUICK, timeout=QUICK, **more)
    ) as client:
        yield client


@pytest.fixture
def faulty() -> Iterator[FaultyMemcached]:
    with FaultyMemcached() as server:
        yield server


@pytest.fixture
def app(memcached: Memcached) -> Iterator[Client]:
    """The app's own way to memcached."""
    with contextlib.closing(Client(memcached.address)) as client:
        yield client


@pytest.fixture
def mistaken_server() -> Iterator[str]:
    """Address of a server of another kind, which answers each line in its own words."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection, contextlib.suppress(OSError):
                        while connection.recv(4096):
                            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        host, port = listener.getsockname()
        yield f"{host}:{port}"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(10)


def batch_of(*intents: InvalidationIntent) -> InvalidationIntentBatch:
    batch = InvalidationIntentBatch("test")
    for intent in intents:
        batch.intent(intent)
    return batch


def key(name: str) -> InvalidationIntent:
    return InvalidationIntent.key(name)


def by_value(intent: InvalidationIntent) -> str:
    return str(intent.value)


class TestDelete:
    def test_the_apps_key_is_gone_when_the_row_is_published(
        self, outbox: Outbox, client: Any, app: Client, unique: str
    ) -> None:
        app.set(f"{unique}:42", "old", noreply=False)
        app.set(f"{unique}:43", "other", noreply=False)
        applier = PlainKeyApplier(client, key=lambda i: f"{unique}:{i.value}")
        outbox.enqueue(SHOP, batch_of(USER))

        report = OutboxWorker(outbox, applier, SHOP).drain()

        assert report == PublishReport(claimed=1, published=1)
        assert app.get(f"{unique}:42") is None
        assert app.get(f"{unique}:43") == b"other"

    def test_a_key_that_is_not_there_is_deleted_too(
        self, outbox: Outbox, client: Any, unique: str
    ) -> None:
        applier = PlainKeyApplier(client, key=lambda i: unique)
        outbox.enqueue(SHOP, batch_of(USER))

        report = OutboxWorker(outbox, applier, SHOP).drain()

        assert report == PublishReport(claimed=1, published=1)

    def test_a_store_in_memory_will_do(self, outbox: Outbox) -> None:
        store = MemoryStore()
        store.set_many([(app_address("user:42"), b"old", None)])
        applier = PlainKeyApplier(store, key=lambda i: f"user:{i.value}")
        outbox.enqueue(SHOP, batch_of(USER))

        OutboxWorker(outbox, applier, SHOP).drain()

        assert store.get_many([app_address("user:42")]) == [None]

    def test_a_client_that_expects_no_replies_is_made_to(
        self, outbox: Outbox, faulty: FaultyMemcached
    ) -> None:
        with contextlib.closing(
            PooledClient(faulty.address, default_noreply=True, timeout=PATIENCE)
        ) as client:
            applier = PlainKeyApplier(client, key=by_value)
            outbox.enqueue(SHOP, batch_of(key("a")))

            OutboxWorker(outbox, applier, SHOP).drain()

        assert faulty.requests[0] == "delete a"

    def test_a_batch_through_a_store_is_one_round_trip(
        self, outbox: Outbox, faulty: FaultyMemcached
    ) -> None:
        outbox.enqueue(SHOP, batch_of(*(key(f"key:{n}") for n in range(50))))

        limits = {"connect_timeout": PATIENCE, "timeout": PATIENCE}
        with MemcachedStore([faulty.address], **limits) as store:
            applier = PlainKeyApplier(store, key=by_value)
            report = OutboxWorker(outbox, applier, SHOP).run_once()

        assert report == PublishReport(claimed=50, published=50)
        assert faulty.round_trips == 1

    def test_a_key_that_several_intents_share_is_deleted_once(
        self, outbox: Outbox
    ) -> None:
        client = FailingClient()
        outbox.enqueue(SHOP, batch_of(key("a"), key("b"), USER))

        OutboxWorker(
            outbox, PlainKeyApplier(client, key=lambda i: "page"), SHOP
        ).run_once()

        assert client.asked == [b"page"]


class TestMapping:
    @pytest.mark.parametrize(
        "mapped, deleted",
        [
            ("user:42", [b"user:42"]),
            (b"user:42", [b"user:42"]),
            ("nutzer:größe", ["nutzer:größe".encode()]),
            (["a", b"b"], [b"a", b"b"]),
            (("a", "b"), [b"a", b"b"]),
            ({"a"}, [b"a"]),
            ((name for name in "ab"), [b"a", b"b"]),
            (["a", "a"], [b"a"]),
            ([], []),
            (None, []),
        ],
        ids="str bytes wide list tuple set generator twice empty none".split(),
    )
    def test_it_may_name_one_key_several_or_none(
        self, mapped: Any, deleted: list[bytes]
    ) -> None:
        client = FailingClient()
        applier = PlainKeyApplier(client, key=lambda intent: mapped)

        applier.apply_invalidation(USER)

        assert sorted(client.asked) == deleted

    def test_it_gets_the_intent(self) -> None:
        seen: list[InvalidationIntent] = []
        applier = PlainKeyApplier(FailingClient(), key=seen.append)

        applier.apply_batch([USER, key("a")])

        assert seen == [USER, key("a")]

    def test_one_that_raises_fails_its_own_row_only(self, outbox: Outbox) -> None:
        outbox.enqueue(SHOP, batch_of(key("a"), key("b")))
        client = FailingClient()
        table = {"a": "user:a"}
        applier = PlainKeyApplier(client, key=lambda i: table[str(i.value)])

        report = OutboxWorker(outbox, applier, SHOP).run_once()

        assert report == PublishReport(claimed=2, published=1, retried=1)
        [left] = outbox.rows(SHOP, state=OutboxState.PENDING)
        assert left.last_error == "KeyError: 'b'"
        assert client.asked == [b"user:a"]

    def test_a_generator_that_raises_counts_an_attempt_like_a_function(
        self, outbox: Outbox
    ) -> None:
        outbox.enqueue(SHOP, batch_of(key("not a number")))

        def pages(intent: InvalidationIntent) -> Iterator[str]:
            yield f"page:{int(str(intent.value))}"

        applier = PlainKeyApplier(FailingClient(), key=pages)

        report = OutboxWorker(outbox, applier, SHOP).run_once()

        assert report == PublishReport(claimed=1, retried=1)

    def test_one_that_asks_a_database_which_is_away_counts_no_attempt(
        self, outbox: Outbox
    ) -> None:
        outbox.enqueue(SHOP, batch_of(key("a")))

        def look_up(intent: InvalidationIntent) -> str:
            raise ConnectionRefusedError("the database")

        applier = PlainKeyApplier(FailingClient(), key=look_up)

        report = OutboxWorker(outbox, applier, SHOP).run_once()

        assert report == PublishReport(claimed=1, released=1)

    @pytest.mark.parametrize(
        "bad", ["", "two words", "line\r\nflush_all", "nul\0", "k" * 251, "\ud800"]
    )
    def test_a_key_that_cannot_be_stored_has_nothing_to_delete(
        self,
        outbox: Outbox,
        client: Any,
        app: Client,
        bad: str,
        unique: str,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        app.set(unique, "old", noreply=False)
        outbox.enqueue(SHOP, batch_of(key("both"), key("bad")))
        table: dict[str, Any] = {"both": [bad, unique], "bad": bad}
        applier = PlainKeyApplier(client, key=lambda i: table[str(i.value)])

        with caplog.at_level("DEBUG", logger="hydracache_sync.worker.plain_keys"):
            report = OutboxWorker(outbox, applier, SHOP).run_once()

        assert report == PublishReport(claimed=2, published=2)
        assert app.get(unique) is None
        logged = [each for each in caplog.records if "cannot be stored" in each.msg]
        assert [each.levelname for each in logged] == ["DEBUG"] * 2

    def test_a_key_that_some_client_may_have_stored_is_dead_with_its_reason(
        self, outbox: Outbox
    ) -> None:
        outbox.enqueue(SHOP, batch_of(key("fine"), key("bad\x01")))
        client = FailingClient()
        applier = PlainKeyApplier(client, key=by_value)

        report = OutboxWorker(outbox, applier, SHOP).run_once()

        assert report == PublishReport(claimed=2, published=1, dead_lettered=1)
        [dead] = outbox.dead_letters(SHOP)
        assert dead.intent == key("bad\x01")
        assert "ApplyPermanent" in (dead.last_error or "")
        assert "is no memcached key" in (dead.last_error or "")
        assert client.asked == [b"fine"]

    @pytest.mark.parametrize(
        "odd",
        [42, [42], [None], [bytearray(b"k")], object()],
        ids=["number", "numbers", "nones", "bytearrays", "object"],
    )
    def test_an_answer_of_the_wrong_type_fails_its_own_row_only(
        self, outbox: Outbox, odd: Any
    ) -> None:
        outbox.enqueue(SHOP, batch_of(key("fine"), key("odd")))
        table = {"fine": "fine", "odd": odd}
        applier = PlainKeyApplier(FailingClient(), key=lambda i: table[str(i.value)])

        report = OutboxWorker(outbox, applier, SHOP).run_once()

        assert report.published == 1
        assert report.retried + report.dead_lettered == 1

    def test_a_row_of_several_keys_waits_until_all_are_acknowledged(
        self, outbox: Outbox, clock: FakeClock
    ) -> None:
        outbox.enqueue(SHOP, batch_of(key("page"), key("other")))
        client = FailingClient(b=ConnectionResetError("gone"))
        table = {"page": ["a", "b", "c"], "other": ["c"]}
        applier = PlainKeyApplier(client, key=lambda i: table[str(i.value)])
        worker = OutboxWorker(outbox, applier, SHOP)

        first = worker.run_once()
        waiting = outbox.rows(SHOP, state=OutboxState.PENDING)
        client.failing.clear()
        clock.advance(LONGEST_OUTAGE_WAIT)
        second = worker.run_once()

        assert key("page") in [row.intent for row in waiting]
        assert first.published + first.released == 2
        assert second.published == first.released


class TestClients:
    def test_a_hash_client_is_refused_with_what_to_use(self) -> None:
        client = HashClient(["127.0.0.1:11211"])

        with pytest.raises(ConfigurationError, match="MemcachedStore or a PooledC"):
            PlainKeyApplier(client, key=by_value)

    def test_a_hash_client_of_ones_own_is_refused_too(self) -> None:
        class OurClient(HashClient):  # type: ignore[misc]
            pass

        with pytest.raises(ConfigurationError, match="HashClient"):
            PlainKeyApplier(OurClient(["127.0.0.1:11211"]), key=by_value)

    def test_making_one_connects_to_nothing(self, faulty: FaultyMemcached) -> None:
        with contextlib.closing(PooledClient(faulty.address)) as client:
            PlainKeyApplier(client, key=by_value)

        assert faulty.connections == 0

    def test_it_may_have_a_namespace(self) -> None:
        applier = PlainKeyApplier(FailingClient(), key=by_value, namespace="blog")

        assert OutboxWorker(MemoryOutbox(), applier).namespace == "blog"


class TestFlush:
    def test_the_function_given_for_it_is_called(self, outbox: Outbox) -> None:
        flushes: list[str] = []
        applier = PlainKeyApplier(
            FailingClient(), key=by_value, flush=lambda: flushes.append("flush")
        )
        outbox.enqueue(SHOP, batch_of(FLUSH))

        report = OutboxWorker(outbox, applier, SHOP).drain()

        assert report == PublishReport(claimed=1, published=1)
        assert flushes == ["flush"]

    def test_the_mapping_is_not_asked_about_it(self) -> None:
        seen: list[InvalidationIntent] = []
        applier = PlainKeyApplier(FailingClient(), key=seen.append, flush=lambda: None)

        applier.apply_invalidation(FLUSH)

        assert seen == []

    def test_without_it_a_flush_is_dead_with_its_reason(self, outbox: Outbox) -> None:
        outbox.enqueue(SHOP, batch_of(FLUSH, key("a")))
        applier = PlainKeyApplier(FailingClient(), key=by_value)

        report = OutboxWorker(outbox, applier, SHOP).drain()

        assert report == PublishReport(claimed=2, published=1, dead_lettered=1)
        [dead] = outbox.dead_letters(SHOP)
        assert "flush=" in (dead.last_error or "")

    def test_without_it_a_dead_letter_asks_for_none(self, outbox: Outbox) -> None:
        outbox.enqueue(SHOP, batch_of(key("two\x01words")))
        applier = PlainKeyApplier(FailingClient(), key=by_value)

        report = OutboxWorker(outbox, applier, SHOP).drain()

        assert not applier.can_flush
        assert report == PublishReport(claimed=1, dead_lettered=1)

    def test_with_it_a_dead_letter_asks_for_one(self, outbox: Outbox) -> None:
        flushes: list[str] = []
        outbox.enqueue(SHOP, batch_of(key("two\x01words")))
        applier = PlainKeyApplier(
            FailingClient(), key=by_value, flush=lambda: flushes.append("flush")
        )

        report = OutboxWorker(outbox, applier, SHOP).drain()

        assert applier.can_flush
        assert report == PublishReport(claimed=2, published=1, dead_lettered=1)
        assert flushes == ["flush"]

    def test_one_that_raises_leaves_its_row_and_no_other(self, outbox: Outbox) -> None:
        def fail() -> None:
            raise ApplyUnavailable("away")

        outbox.enqueue(SHOP, batch_of(FLUSH, key("a")))
        applier = PlainKeyApplier(FailingClient(), key=by_value, flush=fail)

        report = OutboxWorker(outbox, applier, SHOP).run_once()

        assert report == PublishReport(claimed=2, published=1, released=1)


class TestFaults:
    @pytest.mark.parametrize(
        "mode",
        [
            Mode.REFUSE,
            Mode.HANG,
            Mode.GARBAGE,
            Mode.SERVER_ERROR,
            Mode.CLOSE_MID_REPLY,
        ],
        ids=lambda mode: mode.value,
    )
    def test_an_unacknowledged_delete_leaves_the_row_unharmed(
        self,
        outbox: Outbox,
        faulty: FaultyMemcached,
        faulty_client: Any,
        clock: FakeClock,
        mode: Mode,
    ) -> None:
        outbox.enqueue(SHOP, batch_of(key("a")))
        applier = PlainKeyApplier(faulty_client, key=by_value)
        worker = OutboxWorker(outbox, applier, SHOP, max_attempts=1)
        faulty.mode = mode

        during = worker.run_once()
        faulty.mode = Mode.WORKING
        clock.advance(LONGEST_OUTAGE_WAIT)
        after = worker.run_once()

        assert during == PublishReport(claimed=1, released=1)
        assert after == PublishReport(claimed=1, published=1)
        [row] = outbox.rows(SHOP)
        assert row.attempts == 0

    @pytest.mark.parametrize("made", [MemcachedStore, PooledClient, Client])
    def test_an_answer_that_is_none_of_memcacheds_is_no_acknowledgement(
        self, outbox: Outbox, mistaken_server: str, made: Any
    ) -> None:
        outbox.enqueue(SHOP, batch_of(key("a")))
        address: Any = [mistaken_server] if made is MemcachedStore else mistaken_server

        with contextlib.closing(made(address, timeout=1.0)) as client:
            applier = PlainKeyApplier(client, key=by_value)
            report = OutboxWorker(outbox, applier, SHOP).run_once()

        assert report == PublishReport(claimed=1, released=1)

    def test_a_pool_without_a_free_connection_counts_no_attempt(
        self, outbox: Outbox, faulty: FaultyMemcached
    ) -> None:
        outbox.enqueue(SHOP, batch_of(key("a")))
        with contextlib.closing(
            PooledClient(faulty.address, max_pool_size=1)
        ) as client:
            applier = PlainKeyApplier(client, key=by_value)
            with client.client_pool.get_and_release():
                report = OutboxWorker(outbox, applier, SHOP).run_once()

        assert report == PublishReport(claimed=1, released=1)

    def test_an_outage_is_met_once_a_batch_and_not_once_a_key(
        self, outbox: Outbox
    ) -> None:
        # Each delete may wait for its whole timeout: 256 of them outlast the claim.
        away = {f"k{n}": socket.timeout("timed out") for n in range(100)}
        outbox.enqueue(SHOP, batch_of(*map(key, away)))
        client = FailingClient(**away)

        report = OutboxWorker(
            outbox, PlainKeyApplier(client, key=by_value), SHOP
        ).run_once()

        assert report == PublishReport(claimed=100, released=100)
        assert len(client.asked) == 1

    def test_a_key_that_the_server_refuses_is_dead(self, outbox: Outbox) -> None:
        class MemcacheClientError(Exception):
            """As pymemcache raises for CLIENT_ERROR."""

        outbox.enqueue(SHOP, batch_of(key("a")))
        client = FailingClient(a=MemcacheClientError("bad command line format"))
        applier = PlainKeyApplier(client, key=by_value)

        report = OutboxWorker(outbox, applier, SHOP).run_once()

        assert report == PublishReport(claimed=1, dead_lettered=1)
        [dead] = outbox.dead_letters(SHOP)
        assert "memcached refused the key" in (dead.last_error or "")

    def test_a_prefix_that_makes_a_key_too_long_leaves_nothing_to_delete(
        self, outbox: Outbox, faulty: FaultyMemcached
    ) -> None:
        outbox.enqueue(SHOP, batch_of(key("k" * 250), key("short")))
        with contextlib.closing(
            PooledClient(faulty.address, key_prefix=b"app:")
        ) as client:
            applier = PlainKeyApplier(client, key=by_value)
            report = OutboxWorker(outbox, applier, SHOP).run_once()

        assert report == PublishReport(claimed=2, published=2)
        assert faulty.requests == ["delete app:short", "get app:short"]

    def test_a_single_intent_raises_its_failure(self) -> None:
        applier = PlainKeyApplier(FailingClient(), key=lambda i: "one\x01")

        with pytest.raises(ApplyPermanent, match="one"):
            applier.apply_invalidation(USER)


def test_the_mapping_is_not_called_before_a_row_is_noted_as_tried() -> None:
    # A row at which it kills the process would be tried for ever.
    called: list[InvalidationIntent] = []

    def key(intent: InvalidationIntent) -> str:
        called.append(intent)
        return "a"

    PlainKeyApplier(MemoryStore(), key=key).probe(InvalidationIntent.key("a"))

    assert called == []


def test_a_probe_for_a_flush_asks_every_node() -> None:
    with MemcachedStore([f"127.0.0.1:{free_port()}"], timeout=0.5) as store:
        applier = PlainKeyApplier(store, key=lambda i: None, flush=lambda: None)

        with pytest.raises(ApplyUnavailable):
            applier.probe(InvalidationIntent.flush())
