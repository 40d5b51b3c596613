"""Which namespaces have rows due: the question of an idle worker."""

from __future__ import annotations

from typing import Any, Callable, Mapping, NamedTuple, Protocol, Sequence

from hydracache_sync.keys import checked_namespace
from hydracache_sync.outbox.database import Database, parts_of
from hydracache_sync.outbox.row import Pause

#: Namespaces in one statement: their answers are the bits of a 64-bit number.
NAMESPACES_PER_STATEMENT = 60


class QuietLook(NamedTuple):
    """How to see for little that nothing has become due.

    :ivar is_quiet: takes the present moment; whether it is known that nothing is due.
        Never raises.
    :ivar until: when to ask in the usual way again, of ``time.monotonic()``.
    """

    is_quiet: Callable[[float], bool]
    until: float


class Poll(Protocol):
    """Answers the question again and again."""

    def due(self, namespaces: Sequence[str]) -> list[str]:
        """Return those of ``namespaces`` that a claim would find rows in now."""

    def quiet_look(self, namespaces: Sequence[str]) -> QuietLook | None:
        """Return a look for little; None if there is none now.

        For the thread that has just asked :meth:`due`, which found nothing.
        """


class DuePoll:
    """Asks with one query, whatever the number of namespaces. Thread-safe.

    :param paused: returns the paused namespaces.
    """

    def __init__(
        self, database: Database, paused: Callable[[], Mapping[str, Pause]]
    ) -> None:
        self._database = database
        self._paused = paused
        #: What was asked last, split into statements.
        self._parts: dict[tuple[str, ...], list[Sequence[str]]] = {}

    def quiet_look(self, namespaces: Sequence[str]) -> QuietLook | None:
        return None

    def due(self, namespaces: Sequence[str]) -> list[str]:
        asked = tuple(namespaces)
        parts = self._parts.get(asked)
        if parts is None:
            for namespace in asked:
                checked_namespace(namespace)
            distinct = list(dict.fromkeys(asked))
            parts = list(parts_of(distinct, NAMESPACES_PER_STATEMENT))
            # A pool asks for the same ones, fifty times a second.
            self._parts = {asked: parts}
        due: list[str] = []
        any_paused = False
        for part in parts:
            bits = self._bits(part)
            due += [name for n, name in enumerate(part) if bits >> n & 1]
            any_paused |= bool(bits >> len(part))
        if due and any_paused:
            paused = self._paused()
            due = [namespace for namespace in due if namespace not in paused]
        return due

    def _bits(self, namespaces: Sequence[str]) -> int:
        """Ask for ``namespaces`` with one statement."""
        database = self._database
        now_ms = database.host_now_ms()
        moments = (now_ms, now_ms) if database.dialect.binds_clock else ()
        values: list[Any] = []
        for namespace in namespaces:
            values += (database.dialect.encode(namespace), *moments)
        text = database.statements.due(len(namespaces))

        def ask(cursor: Any) -> int:
            cursor.execute(text, values)
            [(bits,)] = cursor.fetchall()
            return int(bits)

        return database.run(ask)
