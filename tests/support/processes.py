"""Threads and forked processes that start together, and report what came of it."""

from __future__ import annotations

import ctypes
import os
import pickle
import select
import signal
import sys
import threading
import time
import traceback
import warnings
from typing import Any, Callable, TypeVar

import pytest

T = TypeVar("T")

#: Seconds until a thread or process of a test counts as stuck.
DEADLINE = 60.0


def in_threads(count: int, function: Callable[[int], T]) -> list[T]:
    """Run ``function(0)`` ... in threads that start together; return their results."""
    barrier = threading.Barrier(count)
    results: dict[int, T] = {}
    failures: list[BaseException] = []

    def run(index: int) -> None:
        try:
            barrier.wait(DEADLINE)
            results[index] = function(index)
        except BaseException as exc:
            failures.append(exc)

    threads = [
        threading.Thread(target=run, args=(index,), daemon=True)
        for index in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
        assert not thread.is_alive(), f"stuck: {thread.name}"
    if failures:
        raise failures[0]
    return [results[index] for index in range(count)]


def in_processes(count: int, function: Callable[[int], T]) -> list[T]:
    """Run ``function(0)`` ... in forked processes that start together."""
    waits, go = os.pipe()

    def run(index: int) -> T:
        os.close(go)
        os.read(waits, 1)
        return function(index)

    children = [Child(lambda index=index: run(index)) for index in range(count)]
    os.close(waits)
    os.close(go)
    return [child.result() for child in children]


def killed(function: Callable[[], object]) -> None:
    """Run ``function`` in a forked process that then ends by SIGKILL."""

    def run() -> None:
        function()
        os.kill(os.getpid(), signal.SIGKILL)

    child = Child(run)
    assert child.ended() == -signal.SIGKILL, child.report()


class Child:
    """A forked process that runs a function and reports what came of it."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._pipe, report = os.pipe()
        with warnings.catch_warnings():
            # A thread that an earlier test left behind is no concern of this one.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if self.pid == 0:
            # Whatever happens, a child must never run on into the test suite.
            try:
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.alarm(int(DEADLINE))
                try:
                    answer = (True, function())
                except BaseException:
                    answer = (False, traceback.format_exc())
                with os.fdopen(report, "wb") as pipe:
                    pickle.dump(answer, pipe)
            finally:
                os._exit(0)
        os.close(report)
        self._report: bytes | None = None

    def report(self) -> bytes:
        """What the child wrote until it ended."""
        if self._report is None:
            with os.fdopen(self._pipe, "rb") as pipe:
                ready, _, _ = select.select([pipe], [], [], DEADLINE)
                assert ready, f"process {self.pid} is stuck"
                self._report = pipe.read()
        return self._report

    def ended(self) -> int:
        """Wait for the end; the exit code, or the negative of the signal."""
        self.report()
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status)

    def result(self) -> Any:
        report = self.report()
        assert self.ended() == 0, "a child process was killed"
        done, value = pickle.loads(report)
        assert done, f"in a child process:\n{value}"
        return value


def fork_unseen() -> int:
    """Fork as uWSGI does: in C, without a word to the interpreter."""
    interval = sys.getswitchinterval()
    # A thread that has asked for the interpreter is not there in the child, where the
    # next step would wait for it to take its turn. Nobody may ask now.
    sys.setswitchinterval(DEADLINE)
    try:
        time.sleep(4 * interval)
        return int(ctypes.PyDLL(None).fork())
    finally:
        sys.setswitchinterval(interval)


class UnseenChild(Child):
    """A child that Python does not know to be one."""

    def __init__(self, function: Callable[[], Any]) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fork", fork_unseen)
            super().__init__(function)
