"""A conditional write to several memcached nodes, step by step, with its connections.

Knows nothing of tokens. It keeps one rule: a condition is sent on the connection on
which the version was read. A server that is restarted counts its versions from 1 again,
and the same number then stands for another value.
"""

from __future__ import annotations

from itertools import chain
from time import monotonic
from typing import Callable, Sequence

from hydracache_sync.cache.store import Copy, Maker
from hydracache_sync.errors import ApplyError, ApplyUnavailable
from hydracache_sync.memcached import commands
from hydracache_sync.memcached.node import Node
from hydracache_sync.memcached.transport import Connection


class _Use:
    """A connection in use, and the copies that are replaced on it.

    :ivar places: of the copies in the call, from the storing on of those that are
        stored.
    :ivar keys: of each, as are:
    :ivar values: what was read, and
    :ivar uniques: the versions of that.
    :ivar data: what stores them.
    """

    __slots__ = ("node", "connection", "places", "keys", "values", "uniques", "data")

    def __init__(
        self,
        node: Node,
        connection: Connection,
        places: Sequence[int],
        keys: Sequence[bytes],
    ) -> None:
        self.node = node
        self.connection = connection
        self.places = places
        self.keys = keys
        self.values: Sequence[bytes | None] = ()
        self.uniques: Sequence[bytes] = ()
        self.data = b""

    def keep(self, kept: Sequence[int]) -> None:
        """Forget all but these, by their index."""
        self.places = [self.places[at] for at in kept]
        self.keys = [self.keys[at] for at in kept]
        self.values = [self.values[at] for at in kept]
        self.uniques = [self.uniques[at] for at in kept]


class Replacement:
    """One window of copies on each node. Not for several threads.

    Every step goes to all nodes before it waits for one. A node that fails drops out.

    :param copies: all that are to be replaced, of which windows have the places.
    :param keys: of each, on its node.
    :param size: bytes of a placeholder.
    :param timeout: seconds for the answers to a step once all of it was sent.
    :ivar outcomes: of each copy; see ``CacheStore.replace_many``.
    """

    def __init__(
        self, copies: Sequence[Copy], keys: Sequence[bytes], size: int, timeout: float
    ) -> None:
        self.outcomes: list[bool | ApplyError] = [False] * len(copies)
        self._copies = copies
        self._keys = keys
        self._size = size
        self._timeout = timeout
        # Connections by what is next on them, in the order of their nodes.
        self._asked: list[_Use] = []
        self._lacking: list[_Use] = []
        self._trying: list[_Use] = []
        self._answered: list[_Use] = []
        self._sent: list[_Use] = []

    def asked(self, node: Node, connection: Connection, places: Sequence[int]) -> None:
        """State that a window of ``commands.versions`` was sent to ``node``."""
        keys = list(map(self._keys.__getitem__, places))
        self._asked.append(_Use(node, connection, places, keys))

    def run(self, make: Maker, gave_up: Callable[[Node], None]) -> None:
        """Read, have the values made, store them, and read what became of it.

        Call :meth:`abandon` afterwards, whatever happens.

        :param gave_up: told of each node that does not answer any more.
        """
        if self._asked:
            self._each(self._asked, self._read, gave_up)
            self._each(self._lacking, self._try, gave_up)
            self._each(self._trying, self._note_refusals, gave_up)
            self._make(make)
            self._each(self._answered, self._store, gave_up)
            self._each(self._sent, self._settle, gave_up)

    def abandon(self) -> None:
        """Close the connections on which an answer was not read: after an exception."""
        for use in chain(
            self._asked, self._lacking, self._trying, self._answered, self._sent
        ):
            use.node.abandon(use.connection)

    def fail(self, places: Sequence[int], error: ApplyError) -> None:
        """State that ``error`` is what became of these."""
        for place in places:
            self.outcomes[place] = error

    def _each(
        self,
        uses: list[_Use],
        step: Callable[[_Use, "float | None"], bool],
        gave_up: Callable[[Node], None],
    ) -> None:
        due = None
        until = monotonic() + self._timeout
        uses.reverse()
        while uses:
            # First off the list: what was given back must not be closed.
            use = uses.pop()
            try:
                goes_on = step(use, due)
            except ApplyUnavailable as exc:
                self.fail(use.places, exc)
                goes_on = False
            if not goes_on:
                gave_up(use.node)
            due = until

    def _read(self, use: _Use, due: float | None) -> bool:
        use.values, use.uniques = use.node.read_versions(use.connection, use.keys, due)
        # Not "None in", which compares each; a token is never empty.
        (self._answered if all(use.values) else self._lacking).append(use)
        return True

    def _try(self, use: _Use, _: float | None) -> bool:
        """Ask why some placeholders are not there: refused, or gone at once."""
        keys = [use.keys[at] for at in _nothing_at(use.values)]
        data = commands.tries(keys, self._size)
        use.node.send_more(use.connection, data, monotonic())
        self._trying.append(use)
        return True

    def _note_refusals(self, use: _Use, due: float | None) -> bool:
        lacking = _nothing_at(use.values)
        keys = [use.keys[at] for at in lacking]
        refused = use.node.read_refusals(use.connection, keys, due)
        for index, error in refused.items():
            self.outcomes[use.places[lacking[index]]] = error
        use.keep([at for at, value in enumerate(use.values) if value is not None])
        self._answered.append(use)
        return True

    def _make(self, make: Maker) -> None:
        copies: list[Copy] = []
        found: list[bytes] = []
        for use in self._answered:
            copies += map(self._copies.__getitem__, use.places)
            found += use.values  # type: ignore[arg-type]
        if not copies:
            return
        values = make(copies, found)
        start = 0
        for use in self._answered:
            stop = start + len(use.places)
            use.values = values[start:stop]
            start = stop
            if not all(use.values):
                for place, value in zip(use.places, use.values):
                    if value is None:
                        self.outcomes[place] = True
                use.keep([at for at, new in enumerate(use.values) if new is not None])
            use.data = commands.compare_and_set(
                use.keys, use.uniques, use.values  # type: ignore[arg-type]
            )

    def _store(self, use: _Use, _: float | None) -> bool:
        if use.data:
            use.node.send_more(use.connection, use.data, monotonic())
            self._sent.append(use)
        else:
            use.node.put_back(use.connection)
        return True

    def _settle(self, use: _Use, due: float | None) -> bool:
        failed: dict[int, ApplyError] = {}
        overtaken: dict[int, bytes] = {}
        goes_on = use.node.read_statuses(
            use.connection, use.places, commands.COMPARED, failed, due, overtaken
        )
        if len(use.places) == len(self.outcomes):
            self.outcomes = [True] * len(self.outcomes)
        else:
            for place in use.places:
                self.outcomes[place] = True
        for place in overtaken:
            self.outcomes[place] = False
        for place, error in failed.items():
            self.outcomes[place] = error
        return goes_on


def _nothing_at(values: Sequence[bytes | None]) -> list[int]:
    return [at for at, value in enumerate(values) if value is None]
