"""MemcachedStore among threads and processes: each gets its own answers."""

from __future__ import annotations

import os
import signal
import socket
import threading
import warnings
from typing import Callable, Iterator

import pytest

from hydracache_sync.cache import Keyspace
from hydracache_sync.errors import ApplyUnavailable
from hydracache_sync.memcached import MemcachedStore
from support.faulty_memcached import FaultyMemcached, Mode
from support.processes import UnseenChild
from support.servers import Memcached

ONE = Keyspace("1", "store").entry("one")


@pytest.fixture
def faulty() -> Iterator[FaultyMemcached]:
    with FaultyMemcached() as server:
        yield server


def statistic(server: Memcached, name: str) -> int:
    with socket.create_connection(("127.0.0.1", server.port), 5) as connection:
        connection.sendall(b"stats\r\n")
        text = b""
        while not text.endswith(b"END\r\n"):
            text += connection.recv(65536)
    return int(text.partition(f"STAT {name} ".encode())[2].split()[0])


def test_threads_wait_for_each_other_when_connections_are_few(
    memcached: Memcached, unique: str
) -> None:
    store = MemcachedStore(
        [memcached.address], timeout=10, connect_timeout=10, pool_size=2
    )
    barrier = threading.Barrier(8)
    wrong: list[object] = []

    def work(number: int) -> None:
        address = Keyspace("1", unique).entry(str(number))
        barrier.wait()
        for turn in range(300):
            value = b"%d:%d" % (number, turn)
            failures = store.set_many([(address, value, None)])
            found = store.get_many([address])
            if failures or found != [value]:
                wrong.append((failures, found))

    before = statistic(memcached, "total_connections")
    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert wrong == []
    # One of them is that of the first look at the statistic.
    assert statistic(memcached, "total_connections") - before <= 4


def test_who_waits_for_a_connection_in_vain_is_told_what_to_raise(
    faulty: FaultyMemcached,
) -> None:
    store = MemcachedStore(
        [faulty.address], timeout=10, connect_timeout=10, call_timeout=0.2, pool_size=1
    )
    faulty.delay = 5
    faulty.once(Mode.SLOW)
    holder = threading.Thread(target=lambda: store.ping())
    holder.start()
    assert faulty.wait_for_requests(1)

    with pytest.raises(ApplyUnavailable, match="1 connections.*pool_size") as caught:
        store.get_many([ONE])
    failures = store.set_many([(ONE, b"v", None)])
    faulty.restart()
    holder.join()

    assert caught.value.node == faulty.address
    assert isinstance(failures[ONE], ApplyUnavailable)


def test_who_is_woken_and_interrupted_wakes_the_next_in_his_place(
    memcached: Memcached,
) -> None:
    store = MemcachedStore([memcached.address])
    lendings = store._nodes[0]._pool._lendings
    interrupted, next_one = lendings.add_waiter(), lendings.add_waiter()
    lendings.wake_one()

    lendings.remove_waiter(interrupted, unused=True)

    assert next_one.acquire(blocking=False)


def test_closing_while_in_use_harms_no_caller(
    memcached: Memcached, unique: str
) -> None:
    store = MemcachedStore(
        [memcached.address], timeout=10, connect_timeout=10, pool_size=2
    )
    address = Keyspace("1", unique).entry("a")
    wrong: list[object] = []

    def work() -> None:
        for _ in range(50):
            failures = store.set_many([(address, b"v", None)])
            if failures or store.get_many([address]) != [b"v"]:
                wrong.append(failures)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        store.close()

    assert wrong == []


def forked(work: Callable[[], bool]) -> int:
    """Run ``work`` in a child; its process id. It ends with 0 if ``work`` is true."""
    with warnings.catch_warnings():
        # Threads of other tests' servers may still be there.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        # A child that is stuck must end all the same.
        signal.alarm(30)
        status = 2
        try:
            status = 0 if work() else 1
        finally:
            os._exit(status)
    return child


def ended_well(child: int) -> bool:
    _, status = os.waitpid(child, 0)
    return os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0


def test_after_a_fork_parent_and_children_get_their_own_answers(
    memcached: Memcached, unique: str
) -> None:
    store = MemcachedStore(
        [memcached.address], timeout=10, connect_timeout=10, pool_size=1
    )

    def answers_are_right(name: str) -> bool:
        address = Keyspace("1", unique).entry(name)
        for turn in range(500):
            value = f"{name} {turn}".encode()
            if store.set_many([(address, value, None)]):
                return False
            if store.get_many([address]) != [value]:
                return False
        return True

    store.ping()
    children = [
        forked(lambda name=name: answers_are_right(name)) for name in ("a", "b", "c")
    ]
    right = answers_are_right("parent")

    assert right
    assert all([ended_well(child) for child in children])


def test_a_fork_neither_shares_nor_ends_the_parents_connection() -> None:
    with Memcached() as server:
        store = MemcachedStore(
            [server.address], timeout=10, connect_timeout=10, pool_size=1
        )
        store.set_many([(ONE, b"value", None)])
        before = statistic(server, "total_connections")

        child_used_it = ended_well(forked(lambda: store.get_many([ONE]) == [b"value"]))
        child_closed_it = ended_well(forked(lambda: store.close() is None))
        parent_has = store.get_many([ONE])

        assert child_used_it and child_closed_it
        assert parent_has == [b"value"]
        # The first child's, and that of this look at the statistic.
        assert statistic(server, "total_connections") - before == 2


def test_a_child_gives_up_its_copies_at_once(memcached: Memcached) -> None:
    store = MemcachedStore(
        [memcached.address], timeout=10, connect_timeout=10, pool_size=1
    )
    store.ping()
    [connection] = store._nodes[0]._pool._lendings.idle
    inode = os.fstat(connection._socket.fileno()).st_ino  # type: ignore[union-attr]

    def copies() -> int:
        count = 0
        for number in os.listdir("/proc/self/fd"):
            try:
                count += os.stat(f"/proc/self/fd/{number}").st_ino == inode
            except OSError:
                pass
        return count

    child = forked(lambda: copies() == 0)

    assert ended_well(child)
    assert copies() == 1


def test_a_fork_that_python_was_not_told_of_is_noticed(memcached: Memcached) -> None:
    store = MemcachedStore(
        [memcached.address], timeout=10, connect_timeout=10, pool_size=1
    )
    store.set_many([(ONE, b"value", None)])
    before = statistic(memcached, "total_connections")

    child = UnseenChild(lambda: store.get_many([ONE]))

    assert child.result() == [b"value"]
    assert store.get_many([ONE]) == [b"value"]
    assert statistic(memcached, "total_connections") - before == 2


def test_a_child_forked_while_another_thread_waits_is_not_stuck(
    faulty: FaultyMemcached, memcached: Memcached
) -> None:
    store = MemcachedStore(
        [memcached.address], timeout=10, connect_timeout=10, pool_size=1
    )
    store.ping()
    pool = store._nodes[0]._pool

    # As if another thread were just changing the pool.
    with pool._lendings.lock:
        child = forked(lambda: store.get_many([ONE]) is not None)

    assert ended_well(child)
