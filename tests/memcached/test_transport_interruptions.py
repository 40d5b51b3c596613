"""An answer belongs to the caller that asked, whatever interrupts it in the middle.

Interruptions that are no ``Exception`` are the usual ones: gevent's ``Timeout``, a
signal handler that raises, ``KeyboardInterrupt``. Each program runs in an interpreter
of its own, because gevent patches a whole process and a signal goes to a main thread.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from hydracache_sync import MemcachedStore
from support import TESTS
from support.servers import Memcached


def run(program: str, *arguments: str) -> str:
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        cwd=TESTS.parent,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


#: A server on a socket of gevent's that answers when it is told to, and a caller that
#: gives up before. Prints what the second caller gets.
GEVENT = """if True:
    from gevent import monkey
    monkey.patch_all()
    import socket, sys
    import gevent
    from gevent.event import Event
    from hydracache_sync import ApplyUnavailable, MemcachedStore
    from hydracache_sync.cache import Keyspace

    one, two = (Keyspace("1", "n").entry(name) for name in ("one", "two"))
    asked, go_on = Event(), Event()
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()

    def value(request):
        key = request.split()[1]
        return b"VALUE %b 0 %d\\r\\n%b\\r\\nEND\\r\\n" % (key, len(key), key)

    def stored(request):
        return b"STORED\\r\\n"

    def added(request):
        return b"NOT_STORED\\r\\n" + value(request)

    def deleted(request):
        return b"DELETED\\r\\n"

    def version(request):
        return b"VERSION 1.6\\r\\n"

    ANSWERS = {
        b"get": value, b"set": stored, b"add": added, b"delete": deleted,
        b"version": version,
    }

    def serve(connection):
        first = True
        while True:
            request = connection.recv(65536)
            if not request:
                return
            # The question which server it is, in front of the first request.
            while request.startswith(b"add hc1::node "):
                proposed, request = request.split(b"\\r\\n", 3)[1::2]
                identity = b"VALUE hc1::node 0 %d\\r\\n%b\\r\\nEND\\r\\n"
                connection.sendall(b"STORED\\r\\n" + identity % (1, b"i"))
                request = request or connection.recv(65536)
                if not request:
                    return
            answer = ANSWERS[request.split()[0]](request)
            if not asked.is_set():
                # A part of it, then nothing until the caller has given up.
                connection.sendall(answer[:HELD])
                asked.set()
                go_on.wait()
                try:
                    connection.sendall(answer[HELD:])
                except OSError:
                    return
            else:
                connection.sendall(answer)

    def accept():
        while True:
            gevent.spawn(serve, listener.accept()[0])

    HELD = int(sys.argv[2])
    gevent.spawn(accept)
    store = MemcachedStore(
        ["127.0.0.1:%d" % listener.getsockname()[1]], timeout=30, pool_size=1
    )
    call = {
        "get": lambda: store.get_many([one]),
        "set": lambda: store.set_many([(one, b"x", None)]),
        "add": lambda: store.add_many([(one, b"x", None)]),
        "delete": lambda: store.delete_many([one]),
        "ping": lambda: store.ping(),
    }[sys.argv[1]]

    def give_up():
        asked.wait()
        with gevent.Timeout(0.01, False):
            gevent.sleep(60)
        raise_in.throw(gevent.Timeout)

    def first():
        try:
            return call()
        except gevent.Timeout:
            return "timed out"

    assert not issubclass(gevent.Timeout, Exception)
    raise_in = gevent.spawn(first)
    gevent.spawn(give_up)
    print(raise_in.get())
    go_on.set()
    gevent.sleep(0.05)
    print(store.get_many([two]) == [two[1]], store.get_many([one]) == [one[1]])
    print(store.set_many([(two, b"y", None)]), store.delete_many([two]))
"""


@pytest.mark.parametrize("held", [0, 3])
@pytest.mark.parametrize("call", ["get", "set", "add", "delete", "ping"])
def test_a_gevent_timeout_does_not_hand_its_answer_to_the_next_caller(
    call: str, held: int
) -> None:
    said = run(GEVENT, call, str(held))

    assert said.splitlines() == ["timed out", "True True", "{} {}"]


#: Greenlets with timeouts that strike at any point of a call, on a real server.
GEVENT_STORM = """if True:
    from gevent import monkey
    monkey.patch_all()
    import random, sys
    import gevent
    from hydracache_sync import ApplyUnavailable, MemcachedStore
    from hydracache_sync.cache import Keyspace

    seed = int(sys.argv[2])
    store = MemcachedStore([sys.argv[1]], timeout=30, pool_size=3)
    where = [Keyspace("1", "gevent").entry(str(n)) for n in range(50)]
    assert store.set_many([(each, each[1], None) for each in where]) == {}
    right = wrong = late = 0

    def caller(number):
        global right, wrong, late
        dice = random.Random(seed * 1000 + number)
        for _ in range(150):
            some = dice.sample(where, 3)
            try:
                with gevent.Timeout(dice.choice([0.0005, 0.002, 0.01, 30])):
                    if dice.random() < 0.3:
                        # An acknowledgement of another's is one line too many.
                        writes = [(each, each[1], 60) for each in some]
                        assert store.set_many(writes) == {}
                    elif store.get_many(some) == [each[1] for each in some]:
                        right += 1
                    else:
                        wrong += 1
            except gevent.Timeout:
                late += 1

    gevent.joinall([gevent.spawn(caller, n) for n in range(20)], raise_error=True)
    assert store.get_many(where) == [each[1] for each in where]
    print(right, wrong, late)
"""


def test_greenlets_that_time_out_anywhere_never_get_anothers_answer(
    memcached: Memcached,
) -> None:
    said = run(GEVENT_STORM, memcached.address, "1")

    right, wrong, late = map(int, said.split())
    assert wrong == 0
    assert right and late


#: A signal handler that raises at random points of a call, without gevent.
SIGNALS = """if True:
    import random, signal, sys
    from hydracache_sync import ApplyUnavailable, MemcachedStore
    from hydracache_sync.cache import Keyspace

    class Struck(BaseException):
        pass

    armed = False

    def strike(number, frame):
        if armed:
            raise Struck

    # What is raised in a weak reference's callback or in __del__ cannot come out.
    sys.unraisablehook = lambda unraisable: None
    signal.signal(signal.SIGALRM, strike)
    dice = random.Random(int(sys.argv[2]))
    store = MemcachedStore([sys.argv[1]], timeout=5, pool_size=2)
    where = [Keyspace("1", "signals").entry(str(n)) for n in range(50)]
    assert store.set_many([(each, each[1], None) for each in where]) == {}
    right = wrong = struck = 0
    while struck < 1500:
        some = dice.sample(where, 3)
        try:
            signal.setitimer(signal.ITIMER_REAL, dice.uniform(0.00001, 0.0004))
            armed = True
            if dice.random() < 0.3:
                assert store.set_many([(each, each[1], 60) for each in some]) == {}
            elif store.get_many(some) == [each[1] for each in some]:
                right += 1
            else:
                wrong += 1
            armed = False
        except Struck:
            armed = False
            struck += 1
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert store.get_many(where) == [each[1] for each in where]
    print(right, wrong, struck)
"""


def test_a_signal_handler_that_raises_anywhere_leaves_no_answer_behind(
    memcached: Memcached,
) -> None:
    said = run(SIGNALS, memcached.address, "1")

    right, wrong, struck = map(int, said.split())
    assert wrong == 0
    assert right and struck == 1500


def test_a_lock_that_was_never_released_is_not_waited_for_for_ever(
    memcached: Memcached,
) -> None:
    """As a signal handler leaves it that raises right at the end of a block."""
    with MemcachedStore([memcached.address], timeout=5, connect_timeout=5) as store:
        lendings = store._nodes[0]._pool._lendings
        lock = lendings.lock
        holder = threading.Thread(target=lock.acquire)
        holder.start()
        holder.join()

        assert store.ping()

        assert lendings.lock is not lock
