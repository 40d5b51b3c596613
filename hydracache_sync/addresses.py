"""Which addresses a host's name has, within the time that a caller has for it.

The system's resolver takes what it takes, half a minute where no name server answers,
and nothing ends a call of it. So a thread of its own calls it, one for each name, and
callers wait for that thread until their time is over. Under gevent and eventlet the
thread is a greenlet, and the resolver theirs.

Each caller asks again, since a name may move. An answer that comes too late serves the
callers after it: otherwise a resolver slower than the limit would never serve any.
"""

from __future__ import annotations

import copy
import socket
import threading
import time
from typing import Any, Sequence, Tuple

from hydracache_sync.fork import PerProcess

#: Seconds for which an answer stands in for one that does not come. Also those after
#: which a thread that still waits for one counts as lost, and another asks.
KEPT = 60.0

#: The part of a caller's time for which it waits, where it has such an answer. The rest
#: is to connect.
PATIENCE = 0.5

Name = Tuple[str, int]

#: An address as ``socket.getaddrinfo`` gives it.
Address = Tuple[Any, ...]


class _Question:
    """One question to the resolver, and its answer, shared by concurrent callers.

    :ivar answered: set once ``found`` or ``failure`` is there.
    """

    def __init__(self, name: Name) -> None:
        self.name = name
        self.asked_at = time.monotonic()
        self.answered = threading.Event()
        self.answered_at = 0.0
        self.found: Sequence[Address] = ()
        self.failure: Exception | None = None

    def ask(self) -> None:
        try:
            host, port = self.name
            self.found = _resolved(host, port)
            self.answered_at = time.monotonic()
            _names.mine().answered[self.name] = self
        except Exception as exc:
            # The waiting callers raise it.
            self.failure = exc.with_traceback(None)
        finally:
            self.answered.set()


class _Names:
    """The last question of each name, and the last one that was answered."""

    def __init__(self) -> None:
        self.asked: dict[Name, _Question] = {}
        self.answered: dict[Name, _Question] = {}


#: In a forked child the threads that ask are gone.
_names: PerProcess[_Names] = PerProcess(_Names)


def addresses_of(host: str, port: int, by: float) -> Sequence[Address]:
    """Return the addresses of ``host``, as ``socket.getaddrinfo`` does for TCP.

    Safe for threads and forks.

    :param by: when to wait no more, of ``time.monotonic()``.
    :raises OSError: the resolver says that there are none; ``TimeoutError`` if it said
        nothing in time.
    """
    if _is_literal(host):
        return _resolved(host, port)
    name = host, port
    question = _question_of(name)
    now = time.monotonic()
    last = _names.mine().answered.get(name)
    if last is not None and now - last.answered_at >= KEPT:
        last = None
    question.answered.wait(max(0.0, by - now) * (1.0 if last is None else PATIENCE))
    if not question.answered.is_set():
        if last is None:
            raise TimeoutError(f"the resolver gave no address of {host} in time")
        return last.found
    if question.failure is not None:
        # Each its own: what is raised grows a traceback.
        raise copy.copy(question.failure)
    return question.found


def _question_of(name: Name) -> _Question:
    """Return the question that is being asked, or ask."""
    asked = _names.mine().asked
    question = asked.get(name)
    if question is not None and not question.answered.is_set():
        if time.monotonic() - question.asked_at < KEPT:
            return question
    # Two callers at once ask twice, which harms nothing.
    question = asked[name] = _Question(name)
    thread = threading.Thread(
        target=question.ask, name="hydracache-resolver", daemon=True
    )
    try:
        thread.start()
    except RuntimeError:
        # No more threads, at the interpreter's end for instance.
        question.ask()
    return question


def _resolved(host: str, port: int) -> Sequence[Address]:
    return socket.getaddrinfo(host, port, socket.AF_UNSPEC, socket.SOCK_STREAM)


def _is_literal(host: str) -> bool:
    """Whether ``host`` is an address itself, so that no resolver is asked."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except (OSError, ValueError):  # of a NUL, or of what is no ASCII
            continue
        return True
    return False
