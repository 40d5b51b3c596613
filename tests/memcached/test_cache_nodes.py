"""MemcachedStore on several nodes: one round trip time, and nothing half done."""

from __future__ import annotations

import itertools
import threading
from time import monotonic
from typing import Callable, Iterator, Sequence

import pytest

from hydracache_sync import MemcachedStore, TaggedCache
from hydracache_sync.cache import Address, Copy, Keyspace
from hydracache_sync.cache.tokens.replacing import replace
from hydracache_sync.cache.tokens.token import LIVE, fresh_tokens
from hydracache_sync.errors import ApplyPermanent, ApplyUnavailable
from hydracache_sync.memcached.commands import KEYS_PER_GET, STORED, VERSION
from hydracache_sync.memcached.node import Node
from hydracache_sync.memcached.replies import Replies
from hydracache_sync.memcached.server_list import parse_servers
from hydracache_sync.memcached.transport import Connection, Limits
from support.faulty_memcached import Command, FaultyMemcached, Mode

SPACE = Keyspace("1", "shop")


class Waiting(FaultyMemcached):
    """Answers a burst when as many servers as share the barrier have got one."""

    barrier: threading.Barrier | None = None

    def _answer(self, *arguments: object) -> bool:
        if self.barrier is not None:
            self.barrier.wait(10)
        return super()._answer(*arguments)  # type: ignore[arg-type]


@pytest.fixture
def servers() -> Iterator[list[Waiting]]:
    with Waiting() as one, Waiting() as two, Waiting() as three:
        yield [one, two, three]


@pytest.fixture
def store(servers: list[Waiting]) -> MemcachedStore:
    return MemcachedStore(
        [server.address for server in servers],
        timeout=10,
        connect_timeout=10,
        retry_after=0,
    )


def on_each(
    store: MemcachedStore, servers: list[Waiting], count: int = 1
) -> list[list[Address]]:
    """For each server ``count`` addresses that are on it."""
    found: dict[str, list[Address]] = {server.address: [] for server in servers}
    for number in range(1000 * count):
        address = SPACE.entry(str(number))
        [name] = store.nodes_of(address)
        found[name].append(address)
    return [found[server.address][:count] for server in servers]


def forget(servers: list[Waiting]) -> None:
    for server in servers:
        server.forget()


def test_what_is_written_is_on_its_node_and_on_no_other(
    store: MemcachedStore, servers: list[Waiting]
) -> None:
    addresses = sum(on_each(store, servers, 20), [])

    failures = store.set_many([(address, address[1], None) for address in addresses])

    assert failures == {}
    for own, server in zip(on_each(store, servers, 20), servers):
        assert set(server.items) == {key.decode() for _, key in own}
    assert store.get_many(addresses[::-1]) == [key for _, key in addresses[::-1]]


CALLS: dict[str, Callable[[MemcachedStore, list[Address]], object]] = {
    "get": lambda store, some: store.get_many(some),
    "add": lambda store, some: store.add_many([(a, b"v", None) for a in some]),
    "set": lambda store, some: store.set_many([(a, b"v", None) for a in some]),
    "delete": lambda store, some: store.delete_many(some),
    "flush": lambda store, some: store.set_many(
        [(SPACE.namespace_token(), b"v", None)]
    ),
    "replace": lambda store, some: replace(store, some, some_tokens, LIVE),
    "replace flush": lambda store, some: replace(
        store, [SPACE.namespace_token()], some_tokens, LIVE
    ),
    "ping": lambda store, some: store.ping(),
}
#: Round trips of a call; the others take one.
ROUND_TRIPS = {"replace": 2, "replace flush": 2}


def some_tokens(copies: Sequence[Copy], found: Sequence[bytes]) -> list[bytes]:
    return fresh_tokens(len(copies), 1000)


@pytest.mark.parametrize("call", CALLS)
def test_every_node_is_sent_to_once_and_before_any_is_read_from(
    store: MemcachedStore, servers: list[Waiting], call: str
) -> None:
    store.ping()
    addresses = sum(on_each(store, servers, 5), [])
    forget(servers)
    barrier = threading.Barrier(len(servers))
    for server in servers:
        server.barrier = barrier

    CALLS[call](store, addresses)

    expected = ROUND_TRIPS.get(call, 1)
    assert [server.round_trips for server in servers] == [expected] * 3
    assert [server.connections for server in servers] == [0, 0, 0]


def test_a_cached_read_is_one_send_to_each_node_that_it_needs(
    store: MemcachedStore, servers: list[Waiting]
) -> None:
    cache = TaggedCache(store, "shop")
    tags = [str(number) for number in range(20)]
    cache.get_or_load("few", lambda: "v")
    cache.get_or_load("many", lambda: "v", tags=tags)
    forget(servers)

    assert cache.get("few") == "v"
    assert sum(server.round_trips for server in servers) == 1

    forget(servers)
    assert cache.get("many", tags=tags) == "v"
    assert [server.round_trips for server in servers] == [1, 1, 1]
    assert [len(server.requests) for server in servers] == [1, 1, 1]


@pytest.mark.parametrize("call", ["get", "add"])
def test_no_line_has_more_keys_than_a_node_takes_well(
    store: MemcachedStore, servers: list[Waiting], call: str
) -> None:
    addresses = sum(on_each(store, servers, 2 * KEYS_PER_GET + 1), [])

    CALLS[call](store, addresses)

    for server in servers:
        lines = [line for line in server.requests if line.startswith("get ")]
        counts = [len(line.split()) - 1 for line in lines]
        assert counts == [KEYS_PER_GET, KEYS_PER_GET, 1]


def test_windows_are_each_nodes_own(
    store: MemcachedStore, servers: list[Waiting]
) -> None:
    few, some, many = on_each(store, servers, 20)
    large = b"x" * 30_000

    failures = store.set_many(
        [(address, b"small", None) for address in few]
        + [(address, large, None) for address in some[:3]]
        + [(address, large, None) for address in many]
    )

    assert failures == {}
    assert [server.round_trips for server in servers] == [1, 2, 10]


FAULTS = [Mode.REFUSE, Mode.HANG, Mode.GARBAGE, Mode.CLOSE_MID_REPLY]


@pytest.mark.parametrize("mode", FAULTS)
@pytest.mark.parametrize("faulty", [0, 1, 2])
def test_a_read_that_misses_one_node_knows_nothing(
    servers: list[Waiting], faulty: int, mode: Mode
) -> None:
    store = MemcachedStore(
        [server.address for server in servers],
        timeout=0.3,
        connect_timeout=10,
        retry_after=0,
    )
    addresses = sum(on_each(store, servers, 2), [])
    store.set_many([(address, b"v", None) for address in addresses])
    servers[faulty].mode = mode

    with pytest.raises(ApplyUnavailable) as caught:
        store.get_many(addresses)

    assert caught.value.node == servers[faulty].address
    # No answer of the failed read is left on a connection for the next one.
    healthy = [
        address
        for number, some in enumerate(on_each(store, servers, 2))
        for address in some
        if number != faulty
    ]
    assert store.get_many(healthy) == [b"v"] * 4
    assert store.get_many(healthy[:2]) == [b"v"] * 2


@pytest.mark.parametrize("mode", FAULTS)
@pytest.mark.parametrize("faulty", [0, 1, 2])
def test_writes_to_the_other_nodes_are_acknowledged(
    servers: list[Waiting], faulty: int, mode: Mode
) -> None:
    store = MemcachedStore(
        [server.address for server in servers],
        timeout=0.3,
        connect_timeout=10,
        retry_after=0,
    )
    of_each = on_each(store, servers, 2)
    addresses = sum(of_each, [])
    if mode is Mode.CLOSE_MID_REPLY:
        # Half of "STORED" twice is one, and the first was acknowledged.
        of_each[faulty] = of_each[faulty][1:]
    servers[faulty].mode = mode

    failures = store.set_many([(address, b"v", None) for address in addresses])

    assert set(failures) == set(of_each[faulty])
    for error in failures.values():
        assert isinstance(error, ApplyUnavailable)
        assert error.node == servers[faulty].address


@pytest.mark.parametrize("mode", FAULTS)
@pytest.mark.parametrize("faulty", [0, 1, 2])
def test_a_flush_is_done_when_every_node_has_acknowledged_it(
    servers: list[Waiting], faulty: int, mode: Mode
) -> None:
    store = MemcachedStore(
        [server.address for server in servers],
        timeout=0.3,
        connect_timeout=10,
        retry_after=0,
    )
    flush = SPACE.namespace_token()
    servers[faulty].mode = mode

    failures = store.set_many([(flush, b"one", None)])
    servers[faulty].mode = Mode.WORKING

    [error] = failures.values()
    assert isinstance(error, ApplyUnavailable)
    assert error.node == servers[faulty].address
    assert store.set_many([(flush, b"two", None)]) == {}
    for server in servers:
        assert server.items[flush[1].decode()].value == b"two"


def test_while_a_node_is_away_nothing_about_a_flush_is_final(
    store: MemcachedStore, servers: list[Waiting], monkeypatch: pytest.MonkeyPatch
) -> None:
    # One refuses for ever, one is away: the row must wait, whatever the order.
    def refuse(self: Waiting, command: Command, mode: Mode) -> bytes:
        return b"CLIENT_ERROR no\r\n"

    for refusing, away in ((0, 2), (2, 0)):
        monkeypatch.setattr(servers[refusing], "_reply", refuse.__get__(servers[0]))
        servers[away].mode = Mode.REFUSE

        [error] = store.set_many([(SPACE.namespace_token(), b"v", None)]).values()

        assert isinstance(error, ApplyUnavailable)
        servers[away].mode = Mode.WORKING
        [error] = store.set_many([(SPACE.namespace_token(), b"v", None)]).values()
        assert isinstance(error, ApplyPermanent)
        monkeypatch.undo()


def test_an_address_on_every_node_cannot_be_read(store: MemcachedStore) -> None:
    with pytest.raises(ValueError, match="every node"):
        store.get_many([SPACE.namespace_token()])


def test_ping_tells_of_every_node(
    store: MemcachedStore, servers: list[Waiting]
) -> None:
    servers[1].mode = Mode.REFUSE

    answers = store.ping()

    assert list(answers) == [server.address for server in servers]
    assert answers[servers[0].address] == answers[servers[2].address]
    assert isinstance(answers[servers[1].address], ApplyUnavailable)


class Interrupt(BaseException):
    """As KeyboardInterrupt, and the timeouts of gevent and eventlet."""


#: Where a call can be interrupted: before it sends, and before it reads an answer.
POINTS = {
    "get": [(Connection, "send"), (Replies, "values")],
    "add": [(Connection, "send"), (Replies, "lines"), (Replies, "values")],
    "set": [(Connection, "send"), (Replies, "skip")],
    "delete": [(Connection, "send"), (Replies, "skip")],
    "replace": [(Connection, "send"), (Replies, "versions"), (Replies, "skip")],
    "replace what is refused": [(Connection, "send"), (Replies, "lines")],
    "ping": [(Connection, "send"), (Replies, "line")],
}


@pytest.mark.parametrize(
    ("call", "where", "name"),
    [(call, *point) for call, points in POINTS.items() for point in points],
)
@pytest.mark.parametrize("nth", [1, 2, 3])
def test_an_interrupted_call_leaves_no_answer_for_the_next_one(
    store: MemcachedStore,
    servers: list[Waiting],
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    where: type,
    name: str,
    nth: int,
) -> None:
    addresses = sum(on_each(store, servers, 2), [])
    others = [address for some in on_each(store, servers, 4) for address in some[2:]]
    store.set_many([(address, b"old", None) for address in others])
    if call == "replace what is refused":
        call = "replace"
        for server in servers:
            monkeypatch.setattr(server, "_store", lambda *_: b"SERVER_ERROR full\r\n")
    real = getattr(where, name)
    calls = itertools.count(1)

    def interrupting(self: object, *arguments: object) -> object:
        if next(calls) == nth:
            raise Interrupt
        return real(self, *arguments)

    monkeypatch.setattr(where, name, interrupting)
    with pytest.raises(Interrupt):
        CALLS[call](store, addresses)
    monkeypatch.undo()
    kept = [len(node._pool._lendings.idle) for node in store._nodes]

    # One was closed at least; and none stays that was sent on and not read from.
    assert sum(kept) < len(servers)
    assert [len(node._pool._lendings.all) for node in store._nodes] == kept
    assert store.get_many(others) == [b"old"] * len(others)
    assert store.set_many([(address, b"new", None) for address in others]) == {}
    assert store.delete_many(others) == {}
    assert store.add_many([(a, b"v", None) for a in others]) == [b"v"] * len(others)


def test_threads_with_one_connection_to_each_node_do_not_wait_for_each_other(
    servers: list[Waiting],
) -> None:
    store = MemcachedStore(
        [server.address for server in servers],
        timeout=10,
        connect_timeout=10,
        call_timeout=60,
        pool_size=1,
    )
    of_each = on_each(store, servers, 1)
    # Each thread asks in another order.
    orders = [sum(of_each[n:] + of_each[:n], []) for n in range(3)] * 2
    store.set_many([(address, b"v", None) for address in orders[0]])
    barrier = threading.Barrier(len(orders))
    done: list[int] = []

    def read(order: list[Address]) -> None:
        barrier.wait()
        for _ in range(100):
            assert store.get_many(order) == [b"v"] * 3
        done.append(1)

    threads = [threading.Thread(target=read, args=(order,)) for order in orders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(done) == len(orders)


# What should have come while others were waited for


@pytest.fixture
def patient(servers: list[Waiting]) -> Node:
    """A node that would wait for a minute for its answers."""
    [server] = parse_servers([servers[0].address])
    return Node(server, Limits(10, 60, 60), pool_size=1)


#: How each question is asked, and its answer read by when it is due.
STEPS: dict[str, Callable[[Node, float], object]] = {
    "get": lambda node, due: node.read_values(
        node.send_get([b"k"], monotonic()), [b"k"], due
    ),
    "set": lambda node, due: node.read_statuses(
        node.send_writes(b"set k 0 0 1\r\n1\r\n", monotonic()),
        [(b"k", b"k")],
        STORED,
        {},
        due,
    ),
    "add": lambda node, due: node.read_added(
        node.send_writes(b"add k 0 0 1\r\n1\r\nget k\r\n", monotonic()), [b"k"], due
    ),
    "version": lambda node, due: node.read_version(
        node.send_writes(VERSION, monotonic()), due
    ),
}


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_an_answer_that_is_due_and_not_there_is_not_waited_for(
    servers: list[Waiting], patient: Node, step: Callable[[Node, float], object]
) -> None:
    servers[0].mode = Mode.HANG
    started = monotonic()

    try:
        answered = step(patient, started)
    except ApplyUnavailable as exc:
        assert "no answer in time" in str(exc)
    else:
        assert answered is False  # writes tell of each, and whether to go on

    assert monotonic() - started < 30


def test_an_answer_that_is_there_is_taken_however_late_it_is(patient: Node) -> None:
    began = monotonic()
    connection = patient.send_get([b"k"], began)
    while not connection.is_stale():
        assert monotonic() < began + 60

    assert patient.read_values(connection, [b"k"], began) == [None]
