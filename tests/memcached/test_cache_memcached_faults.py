"""MemcachedStore when memcached refuses, hangs, answers wrongly, ends or restarts.

What was not acknowledged is never taken for done, the error names the node, and the
first call after it works.
"""

from __future__ import annotations

import signal
import threading
import time
from typing import Iterator

import pytest

from hydracache_sync.cache import Keyspace
from hydracache_sync.errors import ApplyPermanent, ApplyUnavailable
from hydracache_sync.memcached import MemcachedStore
from support.faulty_memcached import FaultyMemcached, Mode
from support.servers import Memcached

SPACE = Keyspace("1", "store")
ONE, TWO, THREE = [SPACE.entry(name) for name in ("one", "two", "three")]


@pytest.fixture
def faulty() -> Iterator[FaultyMemcached]:
    with FaultyMemcached() as server:
        yield server


#: Modes in which the client waits in vain, and so for its timeout.
SILENT = (Mode.HANG, Mode.GARBAGE, Mode.TRUNCATED_VALUE)


def patient_unless_silent(server: FaultyMemcached, mode: Mode) -> MemcachedStore:
    timeout = 0.3 if mode in SILENT else 10
    return MemcachedStore(
        [server.address], timeout=timeout, connect_timeout=10, retry_after=0
    )


FAULTS = [
    mode for mode in Mode if mode not in (Mode.WORKING, Mode.SLOW, Mode.WRONG_KEY)
]
READING_FAULTS = FAULTS + [Mode.WRONG_KEY]
WRITING_FAULTS = [mode for mode in FAULTS if mode is not Mode.TRUNCATED_VALUE]


@pytest.mark.parametrize("mode", READING_FAULTS)
@pytest.mark.parametrize("warm", [False, True])
def test_a_read_that_fails_says_which_node_and_the_next_one_works(
    faulty: FaultyMemcached, mode: Mode, warm: bool
) -> None:
    store = patient_unless_silent(faulty, mode)
    faulty.items.clear()
    if warm:
        store.set_many([(ONE, b"value", None)])
    else:
        MemcachedStore([faulty.address], timeout=10).set_many([(ONE, b"value", None)])
    faulty.mode = mode

    with pytest.raises(ApplyUnavailable, match=faulty.address) as caught:
        store.get_many([ONE, TWO])
    faulty.mode = Mode.WORKING

    assert caught.value.node == faulty.address
    assert store.get_many([ONE, TWO]) == [b"value", None]


@pytest.mark.parametrize("mode", WRITING_FAULTS)
@pytest.mark.parametrize("warm", [False, True])
def test_writes_that_fail_are_each_returned_and_the_next_ones_work(
    faulty: FaultyMemcached, mode: Mode, warm: bool
) -> None:
    store = patient_unless_silent(faulty, mode)
    if warm:
        store.get_many([ONE])
    faulty.mode = mode

    set_failures = store.set_many([(ONE, b"v", None), (TWO, b"v", None)])
    delete_failures = store.delete_many([ONE, TWO])
    faulty.mode = Mode.WORKING

    # Closed in mid-reply, the first may have been acknowledged.
    for failures in (set_failures, delete_failures):
        assert TWO in failures
        for error in failures.values():
            assert isinstance(error, ApplyUnavailable)
            assert error.node == faulty.address and faulty.address in str(error)
    assert store.set_many([(ONE, b"w", None), (TWO, b"w", None)]) == {}
    assert store.get_many([ONE, TWO]) == [b"w", b"w"]


@pytest.mark.parametrize("mode", READING_FAULTS)
def test_adding_that_fails_raises_and_the_next_one_works(
    faulty: FaultyMemcached, mode: Mode
) -> None:
    store = patient_unless_silent(faulty, mode)
    faulty.mode = mode

    with pytest.raises(ApplyUnavailable, match=faulty.address):
        store.add_many([(ONE, b"first", None)])
    faulty.mode = Mode.WORKING

    assert store.add_many([(TWO, b"second", None)]) == [b"second"]


@pytest.mark.parametrize("mode", WRITING_FAULTS)
def test_ping_has_the_error_in_place_of_the_version(
    faulty: FaultyMemcached, mode: Mode
) -> None:
    store = patient_unless_silent(faulty, mode)
    faulty.mode = mode
    answers = store.ping()
    faulty.mode = Mode.WORKING

    assert isinstance(answers[faulty.address], ApplyUnavailable)
    assert store.ping() == {faulty.address: "1.6.18-faulty"}


def test_values_never_appear_in_an_error(
    faulty: FaultyMemcached,
) -> None:
    store = MemcachedStore([faulty.address], timeout=0.3, connect_timeout=10)
    store.set_many([(ONE, b"a secret value", None)])
    faulty.mode = Mode.TRUNCATED_VALUE

    with pytest.raises(ApplyUnavailable) as caught:
        store.get_many([ONE])

    assert "secret" not in str(caught.value) + str(caught.value.__cause__)


def test_a_server_that_hangs_holds_the_caller_for_its_timeout_only(
    memcached: Memcached,
) -> None:
    with Memcached() as server:
        store = MemcachedStore(
            [server.address],
            timeout=0.3,
            call_timeout=60,
            connect_timeout=10,
            retry_after=0,
            pool_size=1,
        )
        store.set_many([(ONE, b"value", None)])
        server.pause()

        begin = time.monotonic()
        with pytest.raises(ApplyUnavailable, match="no answer in time"):
            store.get_many([ONE])
        failures = store.set_many([(ONE, b"value", None)])
        took = time.monotonic() - begin
        server.resume()

        assert isinstance(failures[ONE], ApplyUnavailable)
        assert took < 30
        assert store.get_many([ONE]) is not None


def test_a_dead_node_is_waited_for_once_in_a_call_not_once_in_a_window(
    faulty: FaultyMemcached,
) -> None:
    store = MemcachedStore([faulty.address], timeout=0.2, call_timeout=60)
    faulty.mode = Mode.HANG
    addresses = [SPACE.entry(str(number)) for number in range(200)]

    begin = time.monotonic()
    failures = store.set_many([(address, b"x" * 10_000, 60) for address in addresses])

    assert time.monotonic() - begin < 5
    assert set(failures) == set(addresses)


@pytest.mark.parametrize("operation", ["get", "add", "set", "delete", "ping"])
def test_after_a_restart_the_first_call_just_works(operation: str) -> None:
    with Memcached() as server:
        store = MemcachedStore([server.address], timeout=10, connect_timeout=10)
        barrier = threading.Barrier(4)

        def use_a_connection() -> None:
            barrier.wait()
            store.set_many([(ONE, b"x" * 100_000, None)] * 20)

        threads = [threading.Thread(target=use_a_connection) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        server.restart()

        if operation == "get":
            assert store.get_many([ONE]) == [None]
        elif operation == "add":
            assert store.add_many([(ONE, b"v", None)]) == [b"v"]
        elif operation == "set":
            assert store.set_many([(ONE, b"v", None)]) == {}
        elif operation == "delete":
            assert store.delete_many([ONE]) == {}
        else:
            assert isinstance(store.ping()[server.address], str)


def test_a_write_is_never_sent_twice(faulty: FaultyMemcached) -> None:
    store = MemcachedStore([faulty.address], timeout=10, connect_timeout=10)
    store.get_many([ONE])
    faulty.forget()
    # The connection is alive when it is looked at, and ends without an answer.
    faulty.once(Mode.CLOSE_MID_REPLY)

    failures = store.delete_many([ONE])

    assert isinstance(failures[ONE], ApplyUnavailable)
    assert len(faulty.requests) == 1


def test_an_interrupted_caller_leaves_its_answer_to_nobody(
    faulty: FaultyMemcached,
) -> None:
    class Interrupted(BaseException):
        pass

    def interrupt(number: int, frame: object) -> None:
        raise Interrupted

    store = MemcachedStore(
        [faulty.address], timeout=10, connect_timeout=10, pool_size=1
    )
    store.set_many([(ONE, b"of one", None), (TWO, b"of two", None)])
    faulty.delay = 0.3
    faulty.once(Mode.SLOW)
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(Interrupted):
            store.get_many([ONE])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

    # The late answer was for another key, then for the same key with an older value.
    assert store.get_many([TWO]) == [b"of two"]
    assert store.set_many([(ONE, b"newer", None)]) == {}
    assert store.get_many([ONE]) == [b"newer"]


def test_a_refused_command_in_a_batch_is_permanent_and_what_follows_is_unknown() -> (
    None
):
    class Refusing(FaultyMemcached):
        def _reply(self, command: object, mode: Mode) -> bytes:
            reply = super()._reply(command, mode)  # type: ignore[arg-type]
            if "etwo" in str(command):
                # As memcached does: one line for the command, one for its value.
                return b"CLIENT_ERROR bad command line format\r\nERROR\r\n"
            return reply

    with Refusing() as server:
        store = MemcachedStore([server.address], timeout=10, connect_timeout=10)
        failures = store.set_many(
            [(ONE, b"v", None), (TWO, b"v", None), (THREE, b"v", None)]
        )

    assert list(failures) == [TWO, THREE]
    assert isinstance(failures[TWO], ApplyPermanent)
    assert isinstance(failures[THREE], ApplyUnavailable)
