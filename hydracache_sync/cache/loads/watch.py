"""The seam for tests that look at each load of a cache; nothing is here otherwise."""

from __future__ import annotations

from typing import Any, Callable, Sequence, TypeVar

T = TypeVar("T")

#: Takes the key and the tags of a load and its loader; returns a loader in its place.
Watcher = Callable[[str, Sequence[str], Callable[[], Any]], Callable[[], Any]]

#: Those of this process.
watchers: list[Watcher] = []


def watched(key: Any, tags: Sequence[str], loader: Callable[[], T]) -> Callable[[], T]:
    """Return ``loader`` as the watchers want it to be called."""
    for watch in watchers:
        loader = watch(str(key), tags, loader)
    return loader
