"""The tags that a cached function takes over from the cached functions that it calls.

What it shows of their values is out of date when theirs is. Which of them it calls is
known only when it has run, but a value may be stored only under tokens that were read
before its load (see ``entries``). So the tags that a load has met are remembered, by
key, and asked for by the next read; a value is stored only if its load has met just
those. The first load of a key in a process stores nothing therefore, unless the
function's own tags hold all that it meets.

A function that runs in another thread than its caller hands nothing over.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, Callable, Collection, TypeVar

from hydracache_sync.cache.tag_sets import MAX_TAGS
from hydracache_sync.cache.unstorable import NotToBeStored
from hydracache_sync.printable import printable_logger

logger = printable_logger(__name__)

T = TypeVar("T")

#: Tags remembered for all keys of one function. When full all are forgotten: each key
#: is loaded once more then.
MAX_REMEMBERED = 100_000


_NONE: frozenset[str] = frozenset()


class _Load:
    """A load of a cached function in this thread, within the one that calls it."""

    def __init__(self, of: InheritedTags, key: str, outer: _Load | None) -> None:
        self.of = of
        self.key = key
        self.outer = outer
        self.met: set[str] = set()
        self.ended = False

    def is_in(self, of: InheritedTags, key: str) -> bool:
        """Whether this is a load of ``key``, or is part of one."""
        load: _Load | None = self
        while load is not None:
            if load.of is of and load.key == key:
                return True
            load = load.outer
        return False


_current: ContextVar[_Load | None] = ContextVar("hydracache_load", default=None)


def _under_way() -> _Load | None:
    """The load that what runs here is part of.

    A task or thread that was started in a load has a copy of its context, and may go on
    after its end.
    """
    load = _current.get()
    while load is not None and load.ended:
        load = load.outer
    return load


class InheritedTags:
    """Those of one function. Safe for threads.

    :param name: of the function, for log lines and errors.
    :param inherits: whether it takes tags over; its own are handed on in any case.
    :ivar name: as given.
    """

    def __init__(self, name: str, *, inherits: bool) -> None:
        self.name = name
        self._inherits = inherits
        self._known: dict[str, frozenset[str]] = {}
        self._remembered = 0
        self._said = False
        #: The last function seen to show a value of this one.
        self._shown_by = ""
        self._key_said = False

    def known(self, key: str) -> frozenset[str]:
        """Tags that the last load of ``key`` in this process has met."""
        return self._known.get(key, _NONE)

    def read(
        self,
        key: str,
        tags: tuple[str, ...],
        load: Callable[[], T],
        read: Callable[..., T],
    ) -> T:
        """Read by ``read(key, loader, tags=)``, with the tags that ``key`` inherits.

        :raises RecursionError: its own load has come back here: it needs the value that
            it is about to make.
        """
        outer = _under_way()
        if outer is not None and outer.is_in(self, key):
            raise RecursionError(
                f"the load of {key!r} calls {self.name} with the same arguments: it"
                " needs the value that it is about to make"
            )
        if outer is not None:
            self._shown_by = outer.of.name
        known = self._known.get(key, _NONE)
        asked = tags + tuple(sorted(known)) if known else tags
        shown: Collection[str] = asked

        def loader() -> T:
            nonlocal shown
            this = _Load(self, key, outer)
            token = _current.set(this)
            try:
                value = load()
            finally:
                _current.reset(token)
                this.ended = True
                if not self._inherits:
                    this.met.clear()
                # Where it has raised, what it would have shown, or what is cached.
                shown = this.met.union(asked)
            met = this.met.difference(tags)
            shown = met.union(tags)
            if met != known:
                self._remember(key, len(tags), frozenset(met))
                raise NotToBeStored(value)
            return value

        try:
            return read(key, loader, tags=asked)
        finally:
            if outer is not None:
                outer.met.update(shown)

    def _remember(self, key: str, own: int, met: frozenset[str]) -> None:
        if own + len(met) > MAX_TAGS:
            self._say(
                "%s is not stored: with those of the functions it calls it has %d tags,"
                " and an entry has %d at most",
                key,
                own + len(met),
                MAX_TAGS,
            )
            met = frozenset()
        elif met:
            self._say(
                "%s shows what has other tags than its own, so that its first load in"
                " each process is not stored: give its tags= those, too",
                self.name,
            )
        if self._remembered > MAX_REMEMBERED:
            self._known = {}
            self._remembered = 0
        self._remembered += len(met)
        known = self._known
        if met:
            known[key] = met
        else:
            known.pop(key, None)

    def key_is_invalidated(self) -> None:
        """Warn, once, if what shows this function's values is known not to end by that.

        Tags are handed on, and keys are not.
        """
        if self._shown_by and not self._key_said:
            self._key_said = True
            logger.warning(
                "%s is invalidated by its key, which does not end the values of %s that"
                " show it: invalidate these as well, or a tag that both have",
                self.name,
                self._shown_by,
            )

    def _say(self, message: str, *facts: Any) -> None:
        """Log once; it is the same at every load."""
        if not self._said:
            self._said = True
            logger.info(message, *facts)
