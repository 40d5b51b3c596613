"""What is read of a request's attributes that the server has made before.

They are not read of the WSGI environment any more, and Werkzeug keeps what it parses.
So the object itself notes reads, by its class.
"""

from __future__ import annotations

import contextlib
import sys
from typing import Any, Iterator

from hydracache_sync.fork import ProcessLocal
from hydracache_sync.integrations.flask.g_reads import is_for_a_log

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

#: Modules whose reads are on behalf of their callers: the callers are looked at.
_BETWEEN = ("werkzeug", __name__)
_OURS = "hydracache_sync"

_local = ProcessLocal()

#: The classes that note reads, by those of apps.
_kinds: dict[type[Any], Any] = {}


@contextlib.contextmanager
def noted_attributes(served: Any) -> Iterator[set[str]]:
    """Note what the block reads of ``served``, a request; yields a set that is filled
    with the words for it."""
    found: set[str] = set()
    kind = type(served)
    if kind not in _kinds.values():
        if kind not in _kinds:
            _kinds[kind] = _made(kind)
        # Until the request ends: its threads may share it.
        served.__class__ = _kinds[kind]
    blocks = _blocks()
    blocks.append(found)
    try:
        yield found
    finally:
        # By identity: two sets that are empty are equal.
        blocks[:] = [each for each in blocks if each is not found]


def _blocks() -> list[set[str]]:
    mine = _local.mine()
    try:
        found: list[set[str]] = mine.blocks
    except AttributeError:
        found = mine.blocks = []
    return found


def _is_ours() -> bool:
    """Whether this library reads, to name the request for instance."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        module = str(frame.f_globals.get("__name__"))
        if not module.startswith(_BETWEEN):
            return module.startswith(_OURS)
        frame = frame.f_back
    return False


def _made(kind: Any) -> Any:
    class Watched(kind):  # type: ignore[misc]
        def __getattribute__(self, name: str) -> Any:
            if name in _NAMES:
                blocks = _blocks()
                if blocks and not _is_ours() and not is_for_a_log():
                    for each in blocks:
                        each.add(_NAMES[name])
            return super().__getattribute__(name)

    Watched.__name__, Watched.__qualname__ = kind.__name__, kind.__qualname__
    return Watched
