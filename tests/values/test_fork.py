"""What a fork leaves to a child, and what the child makes again."""

from __future__ import annotations

import os
import threading

import pytest

from hydracache_sync import fork
from hydracache_sync.fork import PerProcess, ProcessLocal, ProcessLock

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


def in_child(check: object) -> bool:
    """Whether ``check()`` is true in a forked child, within a few seconds."""
    assert callable(check)
    pid = os.fork()
    if not pid:
        code = 1
        try:
            import signal

            signal.alarm(10)
            code = 0 if check() else 1
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1] == 0


def test_a_value_of_each_process_is_made_once_in_each() -> None:
    made: list[int] = []
    value = PerProcess(lambda: made.append(1) or object())
    first = value.mine()

    assert value.mine() is first and made == [1]
    assert in_child(lambda: value.mine() is not first)
    assert value.mine() is first


def test_a_lock_that_is_held_at_a_fork_is_free_in_the_child() -> None:
    lock = ProcessLock()

    def enter() -> bool:
        with lock.mine():
            return True

    with lock.mine():
        assert in_child(enter)


def test_what_a_thread_keeps_is_not_there_in_the_child() -> None:
    local = ProcessLocal()
    local.mine().number = 1

    assert in_child(lambda: not hasattr(local.mine(), "number"))
    assert local.mine().number == 1


def test_a_holder_is_told_in_the_child_only_and_while_it_lives() -> None:
    class Holder:
        def __init__(self) -> None:
            self.told_in: list[int] = []

        def abandon_inherited(self) -> None:
            self.told_in.append(os.getpid())

    holder, gone = Holder(), Holder()
    told_of_gone = gone.told_in
    for each in (holder, gone):
        fork.abandon_in_children(each)
    del each, gone

    assert in_child(lambda: holder.told_in == [os.getpid()] and not told_of_gone)
    assert holder.told_in == []


def test_a_fork_waits_for_the_threads_inside() -> None:
    lock = fork.ForkLock(longest_wait=10)
    inside, go = threading.Event(), threading.Event()

    def work() -> None:
        with lock:
            inside.set()
            go.wait(10)

    thread = threading.Thread(target=work)
    thread.start()
    assert inside.wait(10)
    threading.Timer(0.05, go.set).start()
    lock.close()
    out = not thread.is_alive() or go.is_set()
    lock.open()
    thread.join()

    assert out


def test_a_lock_is_not_itself_for_with() -> None:
    """Methods in Python can be interrupted by a signal after they have the lock."""
    lock = ProcessLock()

    assert not hasattr(lock, "__enter__")
    with lock.mine():
        assert lock.mine().locked()
    assert not lock.mine().locked()
