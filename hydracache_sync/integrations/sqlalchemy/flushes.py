"""What sessions and mappers tell of themselves, whichever is attached.

Whether a flush is sending statements in this thread: the mappers tell of each object of
a flush, and of none of a bulk operation (``bulk_save_objects``), whose statements look
the same. And when mappers were configured, so that relationships can be examined again.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from typing import Any, Protocol

from sqlalchemy import event
from sqlalchemy.orm import Mapper, Session


class BeforeFlush(Protocol):
    """What wants to be told of the begin of each flush."""

    def before_flush(self) -> None: ...


#: Sessions in their flush, by thread, or greenlet.
_flushing: dict[int, weakref.WeakSet[Session]] = {}
_told: weakref.WeakSet[BeforeFlush] = weakref.WeakSet()
_count = itertools.count(1)
_generation = 0


def listen(told: BeforeFlush) -> None:
    """Look at the flushes of all sessions from now on, and tell of their begins."""
    _told.add(told)
    if not event.contains(Session, "before_flush", _begins):
        event.listen(Session, "before_flush", _begins)
        event.listen(Session, "after_flush", _ends)
        event.listen(Session, "after_soft_rollback", _ends)
        event.listen(Mapper, "after_configured", _configured)


def flushing() -> bool:
    """Whether a session is in its flush in this thread."""
    # Without an end was a flush that another listener has refused.
    sessions = _flushing.get(threading.get_ident(), ())
    return any(getattr(each, "_flushing", True) for each in sessions)


def generation() -> int:
    """Another number whenever mappers were configured."""
    return _generation


def _begins(session: Session, context: Any, instances: Any) -> None:
    _flushing.setdefault(threading.get_ident(), weakref.WeakSet()).add(session)
    for each in list(_told):
        each.before_flush()


def _ends(session: Session, context: Any) -> None:
    sessions = _flushing.pop(threading.get_ident(), None)
    if sessions is not None and sessions - {session}:
        sessions.discard(session)
        _flushing[threading.get_ident()] = sessions


def _configured() -> None:
    global _generation
    _generation = next(_count)
