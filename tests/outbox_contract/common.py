"""What the topics of the contract share: the outbox under test, rows, odd texts."""

from __future__ import annotations

import enum
from typing import Any, Callable, Iterator, Sequence

import pytest
from hypothesis import HealthCheck

from hydracache_sync.intents import InvalidationIntentBatch
from hydracache_sync.outbox import (
    InvalidationOutbox,
    OutboxRow,
)
from support.clock import FakeClock
from support.processes import DEADLINE

SHOP = "shop"

#: What Hypothesis should not mind: one outbox for all examples of a test, and a test
#: that several classes inherit.
EVERY_OUTBOX = [
    HealthCheck.function_scoped_fixture,
    HealthCheck.differing_executors,
    HealthCheck.too_slow,
]

#: Text that some layer or other has cut, folded, unescaped or taken for syntax.
ODD_TEXTS = {
    "nul": "\0",
    "nul inside": "a\0b",
    "emoji": "\N{GRINNING FACE}\N{WOMAN}\N{ZERO WIDTH JOINER}\N{PERSONAL COMPUTER}",
    "combining": "e\N{COMBINING ACUTE ACCENT}",
    "right to left": "\N{HEBREW LETTER ALEF}\N{RIGHT-TO-LEFT OVERRIDE}x",
    "quotes": "'\"`''\"\"",
    "line ends": "a\r\nb\nc\r\u2028\u0085",
    "wildcards": "%_*?[a]",
    "backslashes": "\\ \\\\ \\' \\0 \\n",
    "parameters": ":now ? %s %(now)s $1 {ids} {table} {0}",
    "statement": "'); drop table hydracache_outbox; --",
    "blanks": " \t a \t ",
    "null": "NULL",
    "number": "007",
    "noncharacter": "\uffff\U0010ffff",
}

#: Texts that a collation may hold equal and an identifier must not.
LOOKALIKES = [
    "tx:A",
    "tx:a",
    "tx:a ",
    "tx:a\t",
    "tx:a\0",
    "tx:\xe4",
    "tx:a\N{COMBINING DIAERESIS}",
    "tx:\N{FULLWIDTH LATIN SMALL LETTER A}",
]


class Name(str, enum.Enum):
    """What apps like to name namespaces and keys with; ``str(Name.SHOP)`` differs."""

    SHOP = "shop"
    KEY = "user:42"
    POSITION = "tx:7"
    OWNER = "worker"


def batch_of(*keys: str, reason: str = "") -> InvalidationIntentBatch:
    batch = InvalidationIntentBatch(reason)
    for key in keys:
        batch.invalidate_key(key)
    return batch


def keys_of(rows: Sequence[OutboxRow]) -> list[str | None]:
    return [row.intent.value if row.intent else None for row in rows]


def claim_of(row: OutboxRow) -> tuple[Any, ...] | None:
    """All that a row says of its claim; None if nobody holds it."""
    claim = (row.claimed_at_ms, row.claim_until_ms, row.claim_owner, row.claim_token)
    return None if claim == (None,) * 4 else claim


def numbered(count: int) -> list[str]:
    return [f"key:{n}" for n in range(count)]


def claims(outbox: InvalidationOutbox, *, limit: int) -> Iterator[list[OutboxRow]]:
    """Claim until nothing is due, or far more often than there can be rows.

    All under one owner's name: only their tokens tell these claims apart.
    """
    for _ in range(500):
        rows = outbox.claim(SHOP, "same name", limit=limit, claim_ttl=30)
        if not rows:
            return
        yield rows


class App:
    """A table of the app's own, beside the outbox."""

    def __init__(self, sql: Callable[[str], list[tuple[Any, ...]]]) -> None:
        self._sql = sql
        self._written = 0

    def write(self, connection: Any, note: str = "data") -> None:
        self._written += 1
        connection.cursor().execute(
            f"insert into app (id, note) values ({self._written}, '{note}')"
        )

    def notes(self) -> list[str]:
        """What is committed."""
        rows = self._sql("select note from app order by id")
        return [note.decode() if isinstance(note, bytes) else note for (note,) in rows]


class OutboxHooks:
    """What a subclass supplies, and the fixtures built out of it."""

    @pytest.fixture
    def storage(self) -> Any:
        """Where the outboxes of one test keep their rows; no tables are there yet."""
        raise NotImplementedError

    def make_outbox(self, storage: Any, **options: Any) -> InvalidationOutbox:
        """Return a new outbox over ``storage``, made with ``options``."""
        raise NotImplementedError

    def sql(
        self, outbox: InvalidationOutbox, statement: str, parameters: Sequence[Any] = ()
    ) -> list[tuple[Any, ...]]:
        """Run one statement with ``?`` markers where the rows are, commit, return rows.

        Past the outbox, to look at rows and to plant what it would never write.
        """
        raise NotImplementedError

    def spy(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """Return a list that grows by each statement of the outboxes made from now on.

        BEGIN and COMMIT are among them if the database sees them as statements.
        """
        raise NotImplementedError

    @pytest.fixture
    def clock(self) -> FakeClock:
        return FakeClock()

    @pytest.fixture
    def outbox(self, storage: Any, clock: FakeClock) -> Iterator[InvalidationOutbox]:
        """An outbox with its tables, patient enough for any machine."""
        outbox = self.make_outbox(storage, clock=clock, busy_timeout=DEADLINE)
        outbox.install_schema()
        yield outbox
        outbox.close()

    def spied_outbox(
        self, storage: Any, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
    ) -> tuple[InvalidationOutbox, list[str]]:
        """An outbox with its tables and checks behind it, and its next statements."""
        statements = self.spy(monkeypatch)
        outbox = self.make_outbox(storage, clock=clock)
        outbox.install_schema()
        outbox.claim(SHOP, "w", limit=1, claim_ttl=1)
        statements.clear()
        return outbox, statements
