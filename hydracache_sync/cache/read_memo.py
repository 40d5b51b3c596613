"""What one request has found in the cache, so that it fetches an entry once.

What the last two requests of the same place have both read is fetched together, at the
first read. A page reads mostly the same entries each time, one after the other. Kept
are hits as they were fetched. A value that a reader could change is unpacked again for
each, so that no reader has what another has changed. Knows no request: what makes a
memo also says when it ends.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, Iterable, Tuple

from hydracache_sync.cache.codecs.codec import MISS
from hydracache_sync.cache.entries import Entries, Found, Lookup
from hydracache_sync.cache.entry_format import soft_ms_of
from hydracache_sync.keys import Identity, identity_text

#: Hits of one request that are kept, and bytes of their entries; others are fetched
#: each time. As much memory has each request that is under way.
MAX_KEPT = 1000
MAX_BYTES = 4 * 1024 * 1024

#: Entries that are fetched together at most.
MAX_FORESEEN = 100

_NOT_LOOKED: Any = None

#: A key, and the digest of tags.
_At = Tuple[str, bytes]

#: Values that no reader can change.
_SHARED = frozenset((bytes, str, int, float, bool, type(None)))


_Reads = Dict[_At, Tuple[Identity, Tuple[Identity, ...]]]


class ReadMemo:
    """Of one request.

    :param place: names what requests of its kind have in common, the view: few in all.
        None for requests that have nothing.
    :ivar hits: as they were found, by key and digest of the tags.
    :ivar due: hits that were fetched before they were asked for, and may have to be
        loaded again; None until the first read.
    :ivar reads: key and tags of what was read, for the next requests of this place.
    :ivar reader: set by an app, from its first read on that the rules for its own
        writes allow: returns what was kept of a key and tags, or ``MISS``.
    """

    __slots__ = ("place", "hits", "due", "reads", "reader", "_bytes")

    def __init__(self, place: str | None = None) -> None:
        self.place = place
        self.hits: dict[_At, Found] = {}
        self.due: dict[_At, Found] | None = None
        self.reads: _Reads = {}
        self.reader: Callable[[Identity, Iterable[Identity]], Any] | None = None
        self._bytes = 0

    def begin(self, reader: Callable[[Identity, Iterable[Identity]], Any]) -> None:
        """Have an app read by ``reader``; what was kept before is not its own."""
        self.hits = {}
        self.due = None
        self.reader = reader

    def keep(self, at: _At, found: Found) -> None:
        self._bytes += len(found[2] or b"")
        if len(self.hits) < MAX_KEPT and self._bytes <= MAX_BYTES:
            self.hits[at] = found

    def end(self) -> None:
        """Keep nothing of what was read, and nothing of what is read from now on."""
        self.hits = {}
        self.due = {}
        self._bytes = MAX_BYTES + 1


class MemoizedReads:
    """Reads of one cache by way of the memo of the moment.

    :param memo_of: returns that of the request that is served; None where there is none
        or it may not be used.
    :param audited: each first read may have to be audited.
    """

    def __init__(
        self,
        entries: Entries,
        memo_of: Callable[[], ReadMemo | None],
        *,
        audited: bool,
    ) -> None:
        self._entries = entries
        self._tag_sets = entries.tag_sets
        self._memo_of = memo_of
        self._audited = audited
        #: What the last request of a place has read, and the one before it.
        self._last: dict[str, tuple[_Reads, _Reads]] = {}

    def again(self, memo: ReadMemo, key: Identity, tags: Iterable[Identity]) -> Any:
        """Return the value that ``memo`` has, or ``MISS``. No round trip."""
        if type(key) is not str:
            key = identity_text("key", key)
        at = key, self._tag_sets.of(tags)[1]
        found = memo.hits.get(at)
        if found is None:
            return MISS
        if at not in memo.reads:
            memo.reads[at] = key, tuple(tags)
        if type(found[1]) in _SHARED:
            return found[1]
        lookup = Lookup._make(found)
        assert lookup.entry is not None
        return self._entries.unpack(lookup, lookup.entry)

    def find(self, key: Identity, tags: tuple[Identity, ...]) -> tuple[Any, Found]:
        """Return the value that the memo has, or ``MISS`` and what is found now."""
        memo = self._memo_of()
        if memo is None:
            return MISS, self._entries.find(key, tags)
        if memo.due is None:
            self._foresee(memo)
        value = self.again(memo, key, tags)
        if value is not MISS:
            return value, _NOT_LOOKED
        at = identity_text("key", key), self._tag_sets.of(tags)[1]
        found = (memo.due or {}).pop(at, None) or self._entries.find(key, tags)
        if found[1] is not MISS:
            memo.keep(at, found)
            memo.reads[at] = at[0], tags
        return MISS, found

    def _foresee(self, memo: ReadMemo) -> None:
        """Fetch together what the last two requests of its place have both read."""
        memo.due = {}
        if memo.place is None:
            return
        last, before = self._last.get(memo.place, ({}, {}))
        if last is not memo.reads:
            self._last[memo.place] = memo.reads, last
        # A list: the last one may be under way, in another thread.
        wanted = [each for at, each in list(last.items()) if at in before]
        if len(wanted) < 2:
            return
        for found in self._entries.look_up_many(wanted[:MAX_FORESEEN]):
            if found.value is MISS or found.entry is None or found.tokens is None:
                continue
            at = found.key, found.tag_set.digest
            if self._audited or soft_ms_of(found.entry, len(found.tokens)):
                memo.due[at] = found
            else:
                memo.keep(at, found)

    def end(self) -> None:
        """End the memo of the moment: something is stored, or about to be changed."""
        memo = self._memo_of()
        if memo is not None:
            memo.end()
