"""What a cached function reads of ``flask.request`` and ``flask.g`` themselves.

The path and the body of a request were parsed before, and are not read of the WSGI
environment any more. A user, a tenant or a language that ``before_request`` has left in
``g`` tells requests apart as well. A connection there does not, nor what a load keeps
there for itself. So both objects note reads, by their classes.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import sys
import uuid
from collections.abc import Sequence
from itertools import islice
from typing import Any, Iterable, Iterator

from flask import g, request

from hydracache_sync.fork import ProcessLocal

#: Attributes that tell requests apart, and what they are in a warning. Not the endpoint
#: and the method, which Flask itself reads, for a template and a URL.
_NAMES = {
    **dict.fromkeys(("path", "full_path"), "the path"),
    "view_args": "the arguments of the route",
    **dict.fromkeys(("remote_addr", "access_route"), "the client's address"),
    **dict.fromkeys(
        ("form", "files", "json", "get_json", "data", "get_data", "stream"), "the body"
    ),
}

#: Values in ``g`` that are data by themselves. No moments: they are there to measure
#: times.
_DATA = (str, bytes, int, uuid.UUID, enum.Enum)

#: How deep, and at how many items of each, a container in ``g`` is looked at.
_LEVELS = 3
_ITEMS = 100

#: Modules whose reads are on behalf of their callers: the callers are looked at.
_BETWEEN = ("werkzeug", __name__)
_OURS = "hydracache_sync"

#: Calls between a log record and what a formatter or a filter of it reads.
_DEPTH = 16

_local = ProcessLocal()


class _Block:
    """A block of code, and what it has read."""

    def __init__(self) -> None:
        self._request: Any = request._get_current_object()  # type: ignore[attr-defined]
        self._g: Any = g._get_current_object()
        self._before = dict(vars(self._g))
        self._attributes: set[str] = set()
        self._names: set[str] = set()
        #: By name, whether it was data at the first read: the block may add to it.
        self._known: dict[str, bool] = {}
        for each in (self._request, self._g):
            kind: Any = type(each)
            # Until the request ends: its threads may share the object. The setter of
            # ``g`` would make it one more of its names.
            with contextlib.suppress(TypeError):  # an app's own, of another layout
                object.__setattr__(each, "__class__", _watched(kind))

    def note(self, read: Any, name: str, value: Any) -> None:
        """Note that ``name`` was read of an object, unless it tells nothing."""
        if read is self._request and name in _NAMES:
            found, word = self._attributes, _NAMES[name]
        elif read is self._g and self._before.get(name) is value:
            if name not in self._known:
                self._known[name] = _is_data(value)
            if not self._known[name]:
                return
            found, word = self._names, name
        else:
            return
        if word not in found and _is_of_the_app():
            found.add(word)

    def words(self) -> list[str]:
        """What was read; not what the block itself has set or changed in ``g``."""
        now, before = vars(self._g), self._before
        names = (name for name in self._names if now.get(name) is before[name])
        return sorted(self._attributes) + [f"g.{name}" for name in sorted(names)]


@contextlib.contextmanager
def noted_attributes() -> Iterator[list[str]]:
    """Note what the block reads of the request and of ``g`` that tells requests apart;
    yields a list that has the words for it at the end."""
    found: list[str] = []
    block, blocks = _Block(), _blocks()
    blocks.append(block)
    try:
        yield found
    finally:
        blocks.remove(block)
        found += block.words()


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


def _is_of_the_app() -> bool:
    """Whether neither a log nor this library reads, which names the request, say."""
    frame: Any = sys._getframe(1)
    while str(frame.f_globals.get("__name__")).startswith(_BETWEEN):
        frame = frame.f_back
    module = str(frame.f_globals.get("__name__"))
    return not module.startswith(_OURS) and not is_for_a_log()


def _is_data(value: Any, levels: int = _LEVELS) -> bool:
    if isinstance(value, _DATA) or hasattr(type(value), "is_authenticated"):
        return True
    items: Iterable[Any] = ()
    if levels and isinstance(value, dict):
        items = list(dict.values(value))  # another thread may add to it meanwhile
    elif levels and isinstance(value, (set, frozenset, Sequence)):  # a row is one, too
        items = tuple(value)
    return any(_is_data(each, levels - 1) for each in islice(items, _ITEMS))


def _blocks() -> list[_Block]:
    """The blocks that this thread is in."""
    found: list[_Block] = vars(_local.mine()).setdefault("blocks", [])
    return found


@functools.lru_cache(maxsize=None)
def _watched(kind: Any) -> Any:
    """Return a class as ``kind`` that notes what is read of its objects."""
    if hasattr(kind, "_notes_reads"):
        return kind

    class Watched(kind):  # type: ignore[misc]
        __slots__ = ()
        _notes_reads = True

        def __getattribute__(self, name: str) -> Any:
            value = super().__getattribute__(name)
            for block in _blocks():
                block.note(self, name, value)
            return value

        if hasattr(kind, "get"):

            def get(self, name: str, default: Any = None) -> Any:
                value = super().get(name, default)
                for block in _blocks():
                    block.note(self, name, value)
                return value

    Watched.__name__, Watched.__qualname__ = kind.__name__, kind.__qualname__
    return Watched
