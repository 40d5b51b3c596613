"""Handing the rows of one claim to an applier, and noting the outcome of each."""

from __future__ import annotations

import threading
import time
from typing import Callable, Iterator, Sequence

from hydracache_sync.errors import ApplyTransient
from hydracache_sync.intents import EntityIntents, InvalidationIntent
from hydracache_sync.outbox.claimed_row import ClaimedRows
from hydracache_sync.outbox.row import OutboxRow
from hydracache_sync.printable import printable_logger
from hydracache_sync.worker.appliers import InvalidationApplier

logger = printable_logger(__name__)


class Batch:
    """The rows of one claim by what they invalidate, and the outcome of each.

    :ivar size: how many rows were claimed.
    :ivar intents: those to apply, each once.
    :ivar malformed: rows that hold no intent.
    :ivar exhausted: rows whose workers died ``max_attempts`` times. Deaths in a batch,
        which another row may have caused, and in outages were not counted.
    :ivar waited: rows that were put off because a node was away.
    :ivar failures: the outcome of the first intents; the others were not applied.
    """

    def __init__(self, rows: Sequence[OutboxRow], max_attempts: int) -> None:
        self.size = len(rows)
        self.intents: Sequence[InvalidationIntent]
        self.malformed: list[OutboxRow] = []
        self.exhausted: list[OutboxRow] = []
        self.waited: list[OutboxRow] = []
        self.failures: list[Exception | None] = []
        #: One of each intent, if no two rows have the same and all can be applied.
        self._each: Sequence[OutboxRow] | None = None
        self._groups: dict[InvalidationIntent, list[OutboxRow]] = {}
        if isinstance(rows, ClaimedRows):
            # Mostly like this: nothing has happened to any of them, and all differ.
            intents = rows.intents()
            if isinstance(intents, EntityIntents):
                is_plain = intents.are_distinct()
            else:
                distinct = set(intents)
                is_plain = len(distinct) == len(intents) and None not in distinct
            if is_plain:
                self.intents = intents  # type: ignore[assignment]
                self._each = rows
                return
        for row in rows:
            intent = row.intent
            if intent is None:
                self.malformed.append(row)
                continue
            if row.was_abandoned and row.attempts >= max_attempts:
                self.exhausted.append(row)
                continue
            if row.waits_for is not None:
                self.waited.append(row)
            self._groups.setdefault(intent, []).append(row)
        self.intents = list(self._groups)

    def groups(self) -> Iterator[Sequence[OutboxRow]]:
        """The rows of each of :attr:`intents`, one or several with the same target."""
        if self._each is not None:
            return zip(self._each)
        return iter(self._groups.values())

    def applicable(self) -> Sequence[OutboxRow]:
        """The rows of all groups."""
        if self._each is not None:
            return self._each
        return [row for group in self._groups.values() for row in group]


def apply_batch(
    batch: Batch,
    applier: InvalidationApplier,
    *,
    ends: float,
    claim_ttl: float,
    stop: threading.Event | None,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Apply the intents of ``batch`` in order and note each outcome.

    What it does not reach, it leaves without an outcome.

    :param ends: moment of ``clock`` after which no further intent is begun.
    :param claim_ttl: seconds, for the log.
    :param stop: when set, no further intent is begun.
    """
    intents = batch.intents
    # An applier that takes intents one by one is interrupted between them; one that
    # takes them together gets them together.
    together = type(applier).apply_batch is not InvalidationApplier.apply_batch
    size = max(1, len(intents)) if together else 1
    for start in range(0, len(intents), size):
        if stop is not None and stop.is_set():
            return
        if clock() >= ends:
            logger.warning(
                "half of the claim's %s s are over: %d of %d invalidations are released"
                "; %s",
                claim_ttl,
                len(intents) - start,
                len(intents),
                (
                    "a smaller batch_size suits this applier"
                    if start
                    else "the claim took so long: does the database hang?"
                ),
            )
            return
        part = intents if together else intents[start : start + size]
        batch.failures += apply_intents(applier, part)


def apply_intents(
    applier: InvalidationApplier, intents: Sequence[InvalidationIntent]
) -> Sequence[Exception | None]:
    """Apply ``intents``; return the failure of each, or None.

    Raises only what is no Exception: the process or a greenlet is ended.
    """
    try:
        failures = applier.apply_batch(intents)
        if len(failures) != len(intents):
            raise TypeError(
                f"{type(applier).__name__}.apply_batch returned"
                f" {len(failures)} results for {len(intents)} intents"
            )
    except Exception as exc:
        # Which were applied is not known: each row is settled as failed, by the class
        # of the error. To apply a row twice does no harm.
        return [exc] * len(intents)
    except SystemExit as exc:
        if threading.current_thread() is threading.main_thread():
            raise  # a signal's handler ends the process
        # In another thread it comes from the applier. It would end the thread without a
        # log line, again and again at the same row.
        name = type(applier).__name__
        failure = ApplyTransient(f"{name} raised SystemExit: {exc}")
        return [failure] * len(intents)
    return failures
