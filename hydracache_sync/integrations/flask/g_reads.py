"""What a cached function reads of ``flask.g`` that was there before its load.

A user, a tenant or a language that ``before_request`` has left there tells requests
apart as the request itself does. A connection there does not, nor what a load keeps
there for itself.
"""

from __future__ import annotations

import contextlib
import enum
import sys
import uuid
from typing import Any, Iterator

from flask import g

from hydracache_sync.fork import ProcessLocal

#: Values that are data by themselves. No moments: they are there to measure times.
_DATA = (str, bytes, int, uuid.UUID, enum.Enum)

#: Python's names, and those of the extension.
_OTHERS = ("__", "_hydracache")

#: Calls between a log record and what a formatter or a filter of it reads.
_DEPTH = 16

_local = ProcessLocal()


class _Watch:
    """What one block has read.

    :ivar before: what was there when it began, by names.
    """

    def __init__(self, before: dict[str, Any]) -> None:
        self.before = before
        self.names: set[str] = set()


def is_for_a_log() -> bool:
    """Whether what is being read now goes into a log record, and into nothing else."""
    frame: Any = sys._getframe(1)
    for _ in range(_DEPTH):
        frame = frame.f_back
        if frame is None:
            return False
        if frame.f_globals.get("__name__") == "logging":
            return True
    return False


@contextlib.contextmanager
def noted_names() -> Iterator[list[str]]:
    """Note the names that the block reads and that tell requests apart; sorted at the
    end. What the block has set or changed itself is not among them."""
    found: list[str] = []
    served: Any = g._get_current_object()
    watches = _watches()
    watch = _Watch(dict(vars(served)))
    try:
        # Until the request ends: its threads may share the object. Its own setter
        # would make it one more of its names.
        object.__setattr__(served, "__class__", _watched(type(served)))
    except TypeError:  # an app's own class, of another layout
        yield found
        return
    watches.append(watch)
    try:
        yield found
    finally:
        watches.remove(watch)
        now = vars(served)
        found += sorted(
            name for name in watch.names if now.get(name) is watch.before[name]
        )


def _watches() -> list[_Watch]:
    mine = _local.mine()
    try:
        found: list[_Watch] = mine.watches
    except AttributeError:
        found = mine.watches = []
    return found


def _note(name: str, value: Any) -> None:
    if not isinstance(value, _DATA) and not hasattr(type(value), "is_authenticated"):
        return
    watching = [each for each in _watches() if each.before.get(name) is value]
    if watching and not is_for_a_log():
        for each in watching:
            each.names.add(name)


#: The classes that note reads, by those of apps.
_kinds: dict[type[Any], Any] = {}


def _watched(kind: Any) -> Any:
    """Return a class as ``kind`` that notes what is read of its objects."""
    if hasattr(kind, "tells_of_reads"):
        return kind
    found = _kinds.get(kind)
    if found is None:
        found = _kinds[kind] = _made(kind)
    return found


def _made(kind: Any) -> Any:
    class Watched(kind):  # type: ignore[misc]
        __slots__ = ()
        tells_of_reads = True

        def __getattribute__(self, name: str) -> Any:
            value = super().__getattribute__(name)
            if not name.startswith(_OTHERS):
                _note(name, value)
            return value

        def get(self, name: str, default: Any = None) -> Any:
            value = super().get(name, default)
            _note(name, value)
            return value

    Watched.__name__, Watched.__qualname__ = kind.__name__, kind.__qualname__
    return Watched
