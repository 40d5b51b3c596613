"""What a verifier of the cache is given and what it comes to: values."""

from __future__ import annotations

from dataclasses import dataclass
from math import log10
from typing import Any, Callable, Iterable, Sequence

from hydracache_sync.intents import InvalidationIntent
from hydracache_sync.keys import Identity
from hydracache_sync.outbox.row import OutboxRow

#: What a check may come to.
EQUAL = "equal"
MISS = "miss"
STALE = "stale"
CHANGING = "changing"
UNSETTLED = "unsettled"
FAILED = "failed"
VERDICTS = (EQUAL, MISS, STALE, CHANGING, UNSETTLED, FAILED)

#: What a stale read may come of, as :class:`StaleRead` says.
PASSED_BY = "passed_by"
NO_EFFECT = "no_effect"
NOT_TAGGED = "not_tagged"
UNKNOWN = "unknown"

_CAUSES = {
    PASSED_BY: "a change was made that no row names, by another program or by a"
    " statement that invalidates nothing",
    NO_EFFECT: "has had no effect here: its worker writes to another ring, store or"
    " namespace",
    NOT_TAGGED: "the read has no tag that it invalidates",
    UNKNOWN: "an invalidation has had no effect, or a change was made that no row"
    " names",
}

#: The rule of three: if none of n checks was stale, the true share of stale reads is
#: below this number divided by n, with a confidence of 95 %.
RULE_OF_THREE = 3


@dataclass(frozen=True)
class CachedRead:
    """One read that the app caches: what is served under ``key``, and its source.

    :ivar load: reads the database as the app's own loader does, in a fresh snapshot.
    :ivar tags: as the app gives them to the cache.
    """

    key: Identity
    load: Callable[[], Any]
    tags: Sequence[Identity] = ()


#: Names the reads that an intent invalidates; none where the app caches nothing of it.
ReadsOf = Callable[[InvalidationIntent], Iterable[CachedRead]]


@dataclass(frozen=True)
class StaleRead:
    """A value that went on being served although the database had another one.

    No row was pending.

    :ivar row: the published row that is to blame; None where none is.
    :ivar delay: seconds after the publish that led to the check, at which it was meant
        to be made.
    :ivar cause: ``passed_by``: the entry rests on a token that was made since the row
        was enqueued, so that row was carried, and a later change wrote none.
        ``no_effect``: the token is older than the row, which was carried to another
        ring, store or namespace. ``not_tagged``: the read does not rest on what the
        row invalidates; its tags lack one. ``unknown``: the token does not say.
    """

    row: OutboxRow | None
    key: str
    delay: float
    cause: str

    def __str__(self) -> str:
        seen = f"stale: key {self.key!r} is not what the database has: "
        if self.row is None:
            return f"{seen}{_CAUSES[self.cause]}"
        return (
            f"{seen}row {self.row.id} ({self.row.intent}) was published"
            f" {self.delay:g} s before, and {_CAUSES[self.cause]}"
        )


@dataclass(frozen=True)
class Within:
    """How consistent reads were, so many seconds after a publish.

    :ivar delay: seconds.
    :ivar checks: reads that were equal, missing or stale.
    :ivar stale: of these, stale ones.
    """

    delay: float
    checks: int
    stale: int

    @property
    def nines(self) -> float | None:
        """Of the share of reads that were not stale, how many nines it begins with.

        3.0 is 99.9 %. Where none was stale, what so many checks show at least, with a
        confidence of 95 %; None where there are too few to show anything.
        """
        stale = self.stale or RULE_OF_THREE
        return log10(self.checks / stale) if self.checks > stale else None

    def __str__(self) -> str:
        if self.stale:
            nines = self.nines or 0.0
            shown = f"{nines:.1f} nines"
        else:
            shown = "too few to tell" if self.nines is None else ""
            shown = shown or f"at least {self.nines:.1f} nines"
        return f"within {self.delay:g} s: {shown}, {self.stale} stale of {self.checks}"


@dataclass(frozen=True)
class VerifyReport:
    """Counts since the verifier was made.

    :ivar published: published rows that were seen.
    :ivar sampled: of these, rows that were taken.
    :ivar checks: comparisons of one read at one moment, by what they came to.
        ``equal``: the cache served what the database has. ``miss``: it served nothing.
        ``stale``: it went on serving something else, with every change published that
        the database showed. ``changing``: both changed too quickly to be compared.
        ``unsettled``: rows stayed pending for too long to decide. ``failed``: the app's
        function raised.
    :ivar unmapped: sampled rows that no read was found for.
    :ivar waiting: checks that are still to come.
    :ivar findings: the first stale reads.
    :ivar within: how consistent the reads were at each delay.
    """

    published: int
    sampled: int
    checks: dict[str, int]
    unmapped: int
    waiting: int
    findings: tuple[StaleRead, ...]
    within: tuple[Within, ...]

    @property
    def stale(self) -> int:
        return self.checks[STALE]
