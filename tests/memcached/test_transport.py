"""Connections and their pool, against servers that answer exactly as told."""

from __future__ import annotations

import errno
import gc
import socket
import threading
import time
import warnings
from pathlib import Path
from typing import Iterator

import pytest

from hydracache_sync.cache import Keyspace
from hydracache_sync.errors import ApplyPermanent, ApplyUnavailable
from hydracache_sync.lending import MAX_IDLE
from hydracache_sync.memcached import MemcachedStore
from hydracache_sync.memcached.commands import EXPIRED, WINDOW_SIZE
from support.node_identity import take_off
from support.servers import Memcached, free_port

ONE, TWO, THREE = [Keyspace("1", "n").entry(name) for name in ("one", "two", "three")]
FOUND = b"VALUE %b 0 5\r\nvalue\r\nEND\r\n" % ONE[1]


class Script:
    """A server that gives each burst of requests the next answer, whatever it asked.

    All connections share ``answers``: None closes the connection, a list is sent piece
    by piece with ``pause`` seconds between.
    """

    def __init__(self, listener: socket.socket, *, pause: float = 0.05) -> None:
        self.answers: list[bytes | list[bytes | None] | None] = []
        self.received: list[bytes] = []
        self.connections = 0
        self._pause = pause
        self._listener = listener
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._accept)]
        self._open: list[socket.socket] = []
        listener.listen()
        self._threads[0].start()

    def __enter__(self) -> Script:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stopped.set()
        for each in [self._listener, *self._open]:
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        for thread in self._threads:
            thread.join(10)
        self._listener.close()

    def _accept(self) -> None:
        while not self._stopped.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            while not self._stopped.is_set():
                try:
                    data = connection.recv(1 << 20)
                except OSError:
                    return
                if not data:
                    return
                identity, data = take_off(data)
                connection.sendall(identity)
                if not data:
                    continue
                self.received.append(data)
                answer = self.answers.pop(0) if self.answers else None
                if answer is None:
                    return
                for piece in [answer] if isinstance(answer, bytes) else answer:
                    if piece is None:
                        return
                    try:
                        connection.sendall(piece)
                    except OSError:
                        return
                    if isinstance(answer, list):
                        self._stopped.wait(self._pause)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "socket")


@pytest.fixture
def script(path: str) -> Iterator[Script]:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    with Script(listener) as server:
        yield server


@pytest.fixture
def store(path: str) -> Iterator[MemcachedStore]:
    store = MemcachedStore([path], timeout=10, connect_timeout=10)
    yield store
    # Not left to the collector, which may come in the middle of another test.
    store.close()


def test_each_call_is_one_send(script: Script, store: MemcachedStore) -> None:
    script.answers = [
        FOUND,
        b"STORED\r\nNOT_STORED\r\n" + FOUND,
        b"STORED\r\nSTORED\r\n",
        b"DELETED\r\nNOT_FOUND\r\n",
    ]

    store.get_many([ONE, TWO, THREE])
    store.add_many([(ONE, b"v", None), (TWO, b"v", None)])
    store.set_many([(ONE, b"v", None), (TWO, b"v", None)])
    store.delete_many([ONE, TWO])

    assert len(script.received) == 4
    assert script.connections == 1


def test_nothing_is_sent_without_asking_for_an_acknowledgement(
    script: Script, store: MemcachedStore
) -> None:
    script.answers = [b"STORED\r\n", b"STORED\r\n" + FOUND, b"DELETED\r\n"]

    store.set_many([(ONE, b"v", None)])
    store.add_many([(ONE, b"v", None)])
    store.delete_many([ONE])

    assert not any(b"noreply" in data for data in script.received)


def test_a_placeholder_alone_is_not_answered_and_is_read_back_at_once(
    script: Script, store: MemcachedStore
) -> None:
    found = b"VALUE %b 0 1 7\r\np\r\nEND\r\n" % ONE[1]
    script.answers = [found, b"STORED\r\n"]

    copies = store.copies([ONE])
    assert store.replace_many(copies, [b"p"], lambda *_: [b"n"]) == [True]

    added, compared = script.received
    assert added == b"add %b 0 0 1 noreply\r\np\r\ngets %b\r\n" % (ONE[1], ONE[1])
    assert compared == b"cas %b 0 0 1 7\r\nn\r\n" % ONE[1]


@pytest.mark.parametrize(
    ("answer", "said"),
    [(b"STORED", False), (b"NOT_STORED", False), (b"SERVER_ERROR full", "full")],
)
def test_why_a_placeholder_is_missing_is_asked_by_one_that_nobody_sees(
    script: Script, store: MemcachedStore, answer: bytes, said: object
) -> None:
    found = b"VALUE %b 0 1 7\r\np\r\nEND\r\n" % ONE[1]
    script.answers = [found, answer + b"\r\n", b"STORED\r\n"]

    copies = store.copies([ONE, TWO])
    first, second = store.replace_many(copies, [b"p", b"q"], lambda *_: [b"n"])

    assert first is True
    assert second is said or str(said) in str(second)
    _, tried, compared = script.received
    assert tried == b"add %b 0 %d 1\r\n\0\r\n" % (TWO[1], EXPIRED)
    assert compared.startswith(b"cas " + ONE[1]) and TWO[1] not in compared
    assert script.connections == 1


def test_one_acknowledgement_too_many_acknowledges_nothing(
    script: Script, store: MemcachedStore
) -> None:
    script.answers = [b"STORED\r\nSTORED\r\nSTORED\r\n"]

    failures = store.set_many([(ONE, b"v", None), (TWO, b"v", None)])

    assert list(failures) == [ONE, TWO]


def test_what_was_acknowledged_before_the_end_counts_and_the_rest_does_not(
    script: Script, store: MemcachedStore
) -> None:
    script.answers = [[b"STORED\r\nSTO", None]]

    failures = store.set_many([(ONE, b"v", None), (TWO, b"v", None)])

    assert list(failures) == [TWO]
    assert isinstance(failures[TWO], ApplyUnavailable)


@pytest.mark.parametrize("answer", [b"NOT_STORED", b"SERVER_ERROR out of memory"])
def test_a_set_that_is_answered_otherwise_is_a_failure_of_its_own(
    script: Script, store: MemcachedStore, answer: bytes
) -> None:
    script.answers = [b"STORED\r\n" + answer + b"\r\nSTORED\r\n", FOUND]

    failures = store.set_many([(a, b"v", None) for a in (ONE, TWO, THREE)])

    assert list(failures) == [TWO]
    assert isinstance(failures[TWO], ApplyUnavailable)
    assert answer.decode() in str(failures[TWO])
    # The conversation is in step, so the connection lives on.
    assert store.get_many([ONE]) == [b"value"]
    assert script.connections == 1


@pytest.mark.parametrize("answer", [b"ERROR", b"END", b"DELETED", b"OK", b"", b"VALUE"])
def test_an_acknowledgement_of_something_else_is_none(
    script: Script, store: MemcachedStore, answer: bytes
) -> None:
    script.answers = [b"STORED\r\n" + answer + b"\r\nSTORED\r\n"]

    failures = store.set_many([(a, b"v", None) for a in (ONE, TWO, THREE)])

    assert list(failures) == [TWO, THREE]


def test_what_follows_a_refused_command_is_unknown(
    script: Script, store: MemcachedStore
) -> None:
    # The second may be the answer to the refused command's value.
    script.answers = [b"CLIENT_ERROR bad command line format\r\nSTORED\r\n"]

    failures = store.set_many([(ONE, b"v", None), (TWO, b"v", None)])

    assert isinstance(failures[ONE], ApplyPermanent)
    assert isinstance(failures[TWO], ApplyUnavailable)


@pytest.mark.parametrize("key", [b"a b", b"a\r\nflush_all", b"a\nflush_all", b"a "])
def test_a_read_of_a_key_that_is_none_is_refused_and_not_sent(
    script: Script, store: MemcachedStore, key: bytes
) -> None:
    with pytest.raises(ValueError, match="no memcached key"):
        store.get_many([ONE, (key, key)])

    assert script.connections == 0


def test_a_server_that_wants_a_login_is_unavailable_not_a_dead_letter(
    script: Script, store: MemcachedStore
) -> None:
    script.answers = [b"CLIENT_ERROR unauthenticated\r\n"]

    failures = store.set_many([(ONE, b"v", None)])

    assert isinstance(failures[ONE], ApplyUnavailable)


def test_a_read_is_asked_again_when_an_idle_connection_has_died(
    script: Script, store: MemcachedStore
) -> None:
    script.answers = [FOUND, None, FOUND]
    store.get_many([ONE])

    found = store.get_many([ONE])

    assert found == [b"value"]
    assert script.connections == 2


def test_a_read_is_asked_again_once_only(script: Script, store: MemcachedStore) -> None:
    script.answers = [FOUND, None, None, FOUND]
    store.get_many([ONE])

    with pytest.raises(ApplyUnavailable, match="a restart"):
        store.get_many([ONE])


def test_a_read_on_a_new_connection_is_not_asked_again(
    script: Script, store: MemcachedStore
) -> None:
    script.answers = [None, FOUND]

    with pytest.raises(ApplyUnavailable):
        store.get_many([ONE])

    assert len(script.received) == 1


def test_a_late_answer_on_an_idle_connection_is_nobodys(
    script: Script, store: MemcachedStore
) -> None:
    # The second line comes when the conversation is over.
    script.answers = [[b"STORED\r\n", b"STORED\r\n"], b"DELETED\r\n"]
    store.set_many([(ONE, b"v", None)])
    deadline = time.monotonic() + 10
    [connection] = store._nodes[0]._pool._lendings.idle
    while not connection.is_stale():
        assert time.monotonic() < deadline

    failures = store.delete_many([ONE])

    assert failures == {}
    assert script.connections == 2


def test_a_server_that_drips_bytes_holds_the_caller_for_a_bounded_time(
    script: Script, path: str
) -> None:
    store = MemcachedStore([path], timeout=0.3, call_timeout=0.4, connect_timeout=10)
    script.answers = [[b"x"] * 1000, [b"STORED\r\n"] * 1000, [b"STORED\r\n"] * 1000]
    many = [(ONE, b"v", None)] * 100

    begin = time.monotonic()
    with pytest.raises(ApplyUnavailable, match="in time"):
        store.get_many([ONE])
    with pytest.raises(ApplyUnavailable, match="in time"):
        store.add_many(many)
    failures = store.set_many([*many, (TWO, b"v", None)])

    # Half a second for each; the answers come in the course of a minute.
    assert time.monotonic() - begin < 15
    assert TWO in failures


def test_no_more_is_under_way_than_socket_buffers_hold(
    script: Script, store: MemcachedStore
) -> None:
    script.answers = [b"STORED\r\n" * 500] * 100

    store.set_many([(ONE, b"x" * 1000, None)] * 100 + [(TWO, b"y" * 100_000, None)])

    # A large value may come in pieces, but with nothing else in front of it.
    assert len(script.received[0]) <= WINDOW_SIZE
    assert script.received[0].count(b"set ") == script.received[0].count(b"x\r\n")


def test_a_connection_that_was_idle_for_long_is_not_used(
    script: Script, store: MemcachedStore
) -> None:
    script.answers = [FOUND]
    store.get_many([ONE])
    pool = store._nodes[0]._pool
    used = pool.take(time.monotonic(), time.monotonic() + 5)
    pool.put(used)

    now = time.monotonic() + MAX_IDLE
    taken = pool.take(now, now + 5)
    pool.put(taken)

    assert taken is not used
    assert script.connections == 2


def test_the_connection_used_last_is_taken_first(
    script: Script, store: MemcachedStore
) -> None:
    script.answers = [FOUND] * 10
    pool = store._nodes[0]._pool
    store.get_many([ONE])
    first = pool.take(time.monotonic(), time.monotonic() + 5)
    second = pool.take(time.monotonic(), time.monotonic() + 5)

    pool.put(first)
    pool.put(second)

    assert pool.take(time.monotonic(), time.monotonic() + 5) is second
    pool.put(second)


def test_a_connection_in_use_at_close_is_not_used_again(
    script: Script, store: MemcachedStore
) -> None:
    script.answers = [FOUND]
    store.get_many([ONE])
    pool = store._nodes[0]._pool
    taken = pool.take(time.monotonic(), time.monotonic() + 5)

    store.close()
    pool.put(taken)

    assert taken.is_stale()
    assert pool.take(time.monotonic(), time.monotonic() + 5) is not taken


def test_a_store_that_is_collected_closes_its_sockets_without_a_warning(
    memcached: Memcached, monkeypatch: pytest.MonkeyPatch
) -> None:
    def store_on(early: list[socket.socket]) -> MemcachedStore:
        made = socket.socket
        monkeypatch.setattr(
            socket, "socket", lambda *of: early.pop() if early else made(*of)
        )
        store = MemcachedStore([memcached.address])
        store.get_many([ONE])
        return store

    gc.collect()
    gc.disable()
    try:
        # Older than what holds it: the collector comes to the socket first.
        store_on([socket.socket()])
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            gc.collect()
    finally:
        gc.enable()

    assert told == []


def test_a_connection_that_was_lost_gives_its_place_back(
    script: Script, path: str
) -> None:
    store = MemcachedStore([path], timeout=10, connect_timeout=10, pool_size=1)
    script.answers = [FOUND, FOUND]
    store.get_many([ONE])
    # As an exception between two lines of ours would: taken and never given back.
    taken = store._nodes[0]._pool.take(time.monotonic(), time.monotonic() + 5)
    del taken
    gc.collect()

    assert store.get_many([ONE]) == [b"value"]


def test_a_name_with_several_addresses_is_tried_at_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    # As "localhost" where ::1 comes first and memcached listens on 127.0.0.1.
    tcp = (socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
    addresses = [
        (socket.AF_INET6, *tcp, ("::1", port, 0, 0)),
        (socket.AF_INET, *tcp, ("127.0.0.1", free_port())),
        (socket.AF_INET, *tcp, ("127.0.0.1", port)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments: addresses)

    with Script(listener) as server:
        server.answers = [FOUND]
        found = MemcachedStore(
            [f"cache.example:{port}"], timeout=10, connect_timeout=10
        ).get_many([ONE])

    assert found == [b"value"]


def test_a_name_that_does_not_resolve_is_unavailable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*arguments: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    store = MemcachedStore(["no-such-host:11211"])

    with pytest.raises(ApplyUnavailable, match="no-such-host:11211: cannot connect"):
        store.get_many([ONE])


def test_a_path_without_a_server_is_unavailable(path: str) -> None:
    store = MemcachedStore([path])

    failures = store.set_many([(ONE, b"v", None)])

    assert isinstance(failures[ONE], ApplyUnavailable)
    assert path in str(failures[ONE])
    assert isinstance(failures[ONE].__cause__, ConnectionError)
    assert isinstance(failures[ONE].__cause__.__cause__, OSError)
    assert failures[ONE].__cause__.__cause__.errno == errno.ENOENT


def test_only_classic_commands_are_spoken(
    script: Script, store: MemcachedStore
) -> None:
    script.answers = [
        FOUND,
        b"STORED\r\n" + FOUND,
        b"STORED\r\n",
        b"DELETED\r\n",
        b"VERSION 1.4.0\r\n",
    ]

    store.get_many([ONE])
    store.add_many([(ONE, b"v", None)])
    store.set_many([(ONE, b"v", None)])
    store.delete_many([ONE])
    assert list(store.ping().values()) == ["1.4.0"]

    spoken = {data.split()[0] for data in script.received}
    assert spoken == {b"get", b"add", b"set", b"delete", b"version"}
