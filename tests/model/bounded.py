"""Bounded staleness: a watermark of what is published, and readers that ask for it.

The tokens have models of their own. Here a token stands for all: a value that is stored
under it may lack every commit that ended after the token was last replaced, since a
reader may have loaded just after that and filled at any later moment.

A watermark is a sentence about the database: *every commit that ended before it is
published*. Once true it stays true, so it matters to no reader which node it came from,
how late, or how often. The greater one allows all that a lesser one does, and one that
was evicted allows nothing. So the greatest that was ever stored is kept, and a reader
knows it at the last moment at which it may learn it.

Moments are whole numbers up to ``last``, of the database's clock. A host's clock
differs from it by one at most. Workers may stop between any two steps, for ever.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Iterator, NamedTuple, Optional

#: By how much the clocks of hosts differ at most, and what readers ask for.
SKEW, BOUND = 1, 1

BEFORE, OPEN, PENDING, CLAIMED, APPLIED = "before", "open", "pending", "claimed", "done"
PUBLISHED, DEAD = "published", "dead"


class Row(NamedTuple):
    """A writer and its row, or the row of a flush, which has no writer.

    :ivar created: by the database's clock, when the row was inserted.
    :ivar ended: when its COMMIT did; -1 for a flush, of which no value lacks anything.
    :ivar claimed: when it was claimed last.
    :ivar finished: when it was published, or became a dead letter.
    :ivar lacking: whether a value that may be served can lack this commit.
    """

    at: str = BEFORE
    created: int = 0
    ended: int = -1
    claimed: int = -1
    finished: int = -1
    lacking: bool = False


class Moment(NamedTuple):
    """Everything, at one moment.

    :ivar read_at: the present moment as a worker has read it for a watermark.
    :ivar read_rows: the least of the rows, where those were read first.
    :ivar stored: the greatest watermark that was ever stored.
    :ivar began: when the reader's read did, -1 for none.
    :ivar lacks: when the earliest commit ended that the value of this read lacks.
    """

    now: int
    rows: tuple[Row, ...]
    flush: Row
    read_at: Optional[int] = None
    read_rows: Optional[int] = None
    stored: int = -1
    began: int = -1
    lacks: Optional[int] = None


@dataclass(frozen=True)
class Bounded:
    """Readers that serve nothing older than a bound, with one switch for each rule.

    :ivar pending_rows: rows that are pending hold the watermark back.
    :ivar dead_rows: and so do dead letters, until a flush makes up for them.
    :ivar flush_claimed_later: it does if it was claimed later than the dead letter was,
        not if it was published later.
    :ivar by_creation: they hold it at their creation, not at their last try.
    :ivar moment_before_rows: the present moment is of before the rows are read, so that
        a transaction which is open then ends after it.
    :ivar database_clock: that moment is of the clock that the rows have.
    :ivar rows_by_database: the rows are stamped by one clock, not by their writers'.
    :ivar reader_skew: readers allow for their clock's being behind.
    :ivar learned_before_look_up: a read goes by what it knew when it asked for tokens.
    """

    pending_rows: bool = True
    dead_rows: bool = True
    flush_claimed_later: bool = True
    by_creation: bool = True
    moment_before_rows: bool = True
    database_clock: bool = True
    rows_by_database: bool = True
    reader_skew: bool = True
    learned_before_look_up: bool = True
    writers: int = 1
    flushes: bool = True
    last: int = 2

    def without(self, rule: str) -> Bounded:
        return replace(self, **{rule: False})  # type: ignore[arg-type]

    def initial(self) -> Moment:
        return Moment(0, (Row(),) * self.writers, Row())

    def steps(self, state: Moment) -> Iterator[tuple[str, Moment, str | None]]:
        if state.now < self.last:
            yield "time passes", state._replace(now=state.now + 1), None
        for number, row in enumerate(state.rows):
            for what, after, replaced in self._write(state.now, row):
                rows = state.rows[:number] + (after,) + state.rows[number + 1 :]
                yield what, _replaced(state, rows, replaced), None
        flush = state.flush
        if flush.at == BEFORE and self.flushes:
            flush = flush._replace(at=PENDING, created=state.now)
            yield "flush: enqueue", state._replace(flush=flush), None
        elif flush.at in (PENDING, CLAIMED, APPLIED):
            yield from self._carry_flush(state)
        for what, after_ in self._compute(state):
            yield what, after_, None
        yield from self._read(state)

    def _carry_flush(self, state: Moment) -> Iterator[tuple[str, Moment, str | None]]:
        for what, after, replaced in self._write(state.now, state.flush):
            if after.at == DEAD:
                continue
            changed = _replaced(state, state.rows, replaced)
            yield f"flush: {what}", changed._replace(flush=after), None

    def _write(self, now: int, row: Row) -> Iterator[tuple[str, Row, bool]]:
        if row.at == BEFORE:
            created = now if self.rows_by_database else now + SKEW
            yield "insert its row", row._replace(at=OPEN, created=created), False
        elif row.at == OPEN:
            ended = row._replace(at=PENDING, ended=now, lacking=True)
            yield "COMMIT", ended, False
        elif row.at == PENDING:
            claimed = row._replace(at=CLAIMED, claimed=now)
            yield "a worker claims its row", claimed, False
        elif row.at == CLAIMED:
            yield "its claim ends", row._replace(at=PENDING), False
            yield "apply, acknowledged", row._replace(at=APPLIED), True
            dead = row._replace(at=DEAD, finished=now)
            yield "its row becomes a dead letter", dead, False
        elif row.at == APPLIED:
            published = row._replace(at=PUBLISHED, finished=now)
            yield "mark published", published, False

    # The watermark

    def _compute(self, state: Moment) -> Iterator[tuple[str, Moment]]:
        now = state.now if self.database_clock else state.now + SKEW
        if self.moment_before_rows:
            if state.read_at is None:
                yield "watermark: read the clock", state._replace(read_at=now)
                return
            found = min(state.read_at, self._least(state))
            name = "watermark: read the rows"
        else:
            if state.read_rows is None:
                rows = state._replace(read_rows=self._least(state))
                yield "watermark: read the rows", rows
                return
            found = min(now, state.read_rows)
            name = "watermark: read the clock"
        stored = max(state.stored, found)
        yield f"{name}, store {found}", state._replace(
            read_at=None, read_rows=None, stored=stored
        )

    def _least(self, state: Moment) -> int:
        least = self.last + SKEW
        for row in (*state.rows, state.flush):
            waits = row.at in (PENDING, CLAIMED, APPLIED) and self.pending_rows
            if row.at == DEAD and self.dead_rows:
                waits = not self._made_up(row, state.flush)
            if waits:
                moment = row.created if self.by_creation else row.claimed
                least = min(least, moment)
        return least

    def _made_up(self, dead: Row, flush: Row) -> bool:
        if flush.at != PUBLISHED:
            return False
        if not self.flush_claimed_later:
            return flush.finished > dead.finished
        return flush.claimed > dead.claimed

    # Reading

    def _read(self, state: Moment) -> Iterator[tuple[str, Moment, str | None]]:
        if state.began < 0:
            yield "reader: begin", state._replace(began=state.now), None
            return
        idle = state._replace(began=-1, lacks=None)
        lacks = state.lacks
        if lacks is None:
            yield "reader: give up", idle, None
            lacks = min(
                (row.ended for row in state.rows if row.lacking), default=self.last
            )
            if not self.learned_before_look_up:
                yield "reader: look up", state._replace(lacks=lacks), None
                return
        # As far behind as a clock may be: it allows all that any other allows.
        clock = state.began - SKEW + (SKEW if self.reader_skew else 0)
        if clock <= state.stored + BOUND:
            age = state.began - lacks
            said = f"P8: given what was changed {age} before the read began"
            yield "reader: serve", idle, said if age > BOUND else None

    def broken(self, state: Moment) -> str | None:
        return None

    def canonical(self, state: Moment) -> Any:
        rows = tuple(sorted(map(self._without_what_is_over, state.rows)))
        return state._replace(rows=rows)

    def _without_what_is_over(self, row: Row) -> Row:
        """A row without the moments that no rule asks for any more."""
        if row.at == PUBLISHED:
            return Row(PUBLISHED)
        if not row.lacking:
            row = row._replace(ended=-1)
        if row.at in (PENDING, APPLIED) and self.by_creation:
            row = row._replace(claimed=-1)
        return row

    def describe(self, state: Moment) -> str:
        rows = ", ".join(row.at for row in state.rows)
        return f"clock {state.now}  rows {rows}  watermark {state.stored}"


def _replaced(state: Moment, rows: tuple[Row, ...], replaced: bool) -> Moment:
    """After a step; ``replaced`` if it was the acknowledgement of a fresh token."""
    if replaced:
        rows = tuple(row._replace(lacking=False) for row in rows)
    return state._replace(rows=rows)


#: What is left out, by its name in the tables: each must be found to break P8.
LEFT_OUT = {
    "pending rows left out": "pending_rows",
    "dead rows left out": "dead_rows",
    "a flush published later makes up": "flush_claimed_later",
    "uncommitted rows left out": "moment_before_rows",
    "rows count from their last try": "by_creation",
    "the worker's clock": "database_clock",
    "the writers' clocks": "rows_by_database",
    "no skew of readers": "reader_skew",
    "learned after the tokens": "learned_before_look_up",
}
