"""The safety net: intents that no transaction of the app has written.

They are written on an own connection at the end of the request. If that fails they are
kept in this process and retried: at the end of later requests, and once when the
process ends. Knows no framework and no request.
"""

from __future__ import annotations

import logging
import os
import time
from typing import Any, Callable, ContextManager, NamedTuple, Sequence

from hydracache_sync.app import app_settings, build, settings
from hydracache_sync.app.config import AppConfig
from hydracache_sync.app.request_state import EnqueuedBatch
from hydracache_sync.errors import HydraCacheError
from hydracache_sync.fork import ProcessLock
from hydracache_sync.intents import InvalidationIntentBatch
from hydracache_sync.outbox.base import InvalidationOutbox
from hydracache_sync.pool.process_exit import at_exit, finished
from hydracache_sync.printable import printable, printable_logger
from hydracache_sync.receipts import CommitPosition

logger = printable_logger(__name__)

#: Intents that are kept; beyond that one flush stands for all of them.
MAX_KEPT = 10_000

#: Seconds between two tries to write what is kept.
RETRY_AFTER = 1.0

#: Connections for what views have forgotten to write, beside those of the outbox: it is
#: rare, and each is in use for milliseconds.
CONNECTIONS = 2

#: To connect, to send and to answer may each take ``HYDRACACHE_NET_TIMEOUT``; all that
#: one write does, a look at the tables included, no longer than that together.
STEPS = 3

#: What is said of rows that were not committed.
_NOT_OPEN = (
    "wrote %s where no transaction was open, after its commit perhaps, and did not"
    " commit it: call write() before the commit"
)
_OFFERED = (
    "collected %s and left it to its teardown, where the transaction that was open was"
    " not committed and is perhaps not the one of the data: call write() before the"
    " commit, or discard() where you roll back"
)
_UNDONE = (
    "wrote %s, and went back to a savepoint that was older than that, or called a"
    " procedure that rolled back, or went on after an error such as a deadlock. Call"
    " write() right before the commit, outside of savepoints"
)
_UNKNOWN = (
    "wrote %s and did not commit it, and it is not known whether that was in the"
    " transaction of the data"
)


class _Kept(NamedTuple):
    batch: InvalidationIntentBatch
    position: CommitPosition | None


class FallbackWriter:
    """Writes what an app's requests have left. Thread-safe, usable after a fork.

    :param outbox: the app's; what is set decides whether it is used itself, or one more
        that waits for no longer than ``HYDRACACHE_NET_TIMEOUT``.
    :param hold_off: returns a block to write a batch in, which holds it off in mode
        strict.
    :param look: tells whether a batch is published, and notes whether it is committed.
    :param wake: called after rows were written.
    """

    def __init__(
        self,
        config: AppConfig,
        outbox: InvalidationOutbox,
        *,
        hold_off: Callable[[InvalidationIntentBatch], ContextManager[Any]],
        look: Callable[[EnqueuedBatch], bool],
        wake: Callable[[], None],
    ) -> None:
        self._config = config
        self._namespace: str = config[settings.NAMESPACE]
        self._timeout: float = config[app_settings.NET_TIMEOUT]
        self._has_file = _is_file(config[settings.OUTBOX])
        self._app_outbox = outbox
        self._outbox: InvalidationOutbox | None = None
        self._hold_off = hold_off
        self._look = look
        self._wake = wake
        self._lock = ProcessLock()
        self._kept: list[_Kept] = []
        self._next_try = 0.0
        #: The process that tries once more when it ends.
        self._registered_in = 0

    def save(
        self,
        batch: InvalidationIntentBatch,
        where: str,
        why: str,
        position: CommitPosition | None = None,
    ) -> None:
        """Write what was collected and never written.

        Not atomic with the data any more, so it is said. Over-invalidates where the
        data was rolled back; that costs a cache miss. Ends in bounded time; never
        raises: what cannot be written is kept in this process and tried again.
        """
        saved = self._save_or_keep(batch, position)
        logger.warning(
            "%s collected %s and did not write it in its transaction: %s. %s",
            where,
            _listed(batch),
            why,
            saved,
        )

    def save_missing(self, written: Sequence[EnqueuedBatch], where: str) -> None:
        """Write what a transaction took and did not commit.

        Only what was written where perhaps no transaction was open, or another than
        that of the data, or before a rollback to a savepoint. The rest is rolled back
        with its data. Never raises. Once its time is over what remains is kept, without
        a look whether it is there.
        """
        deadline = time.monotonic() + self._timeout
        for each in written:
            batch = each.receipt.batch
            is_undone = each.is_undone()
            if each.committed or each.published or batch is None:
                continue
            if each.joined is True and not is_undone:
                continue
            # What is still open is tried later: by its position it is written once.
            is_open = each.is_open
            in_time = time.monotonic() < deadline and not is_open
            if in_time and self._is_there(each):
                continue
            # By the same position: a browser, or who was given the receipt, waits.
            position = each.receipt.commit_position
            saved = self._save_or_keep(batch, position, now=in_time)
            if each.joined is False:
                level, what = logging.WARNING, _NOT_OPEN
            elif each.offered_to is not None and not is_open:
                level, what = logging.WARNING, _OFFERED
            elif is_undone and not is_open:
                level, what = logging.WARNING, _UNDONE
            else:
                # Most likely rolled back with the data, which costs a miss then.
                level, what = logging.INFO, _UNKNOWN
            logger.log(level, f"%s {what}. %s", where, _listed(batch), saved)

    def save_kept(self) -> None:
        """Try again to write what an earlier request could not. Never raises.

        For as long as a request may take for it; the next one goes on.
        """
        if not self._kept or time.monotonic() < self._next_try:
            return
        with self._lock.mine():
            self._next_try = time.monotonic() + RETRY_AFTER
            kept, self._kept = self._kept, []
        deadline = time.monotonic() + self._timeout
        done = 0
        try:
            for each in kept:
                if time.monotonic() >= deadline or not self._try_to_save(*each):
                    break
                done += 1
        finally:
            # Also what was being written when a signal or a timeout came in between:
            # written twice is too much, and never is wrong.
            with self._lock.mine():
                self._kept = kept[done:] + self._kept
        if done:
            logger.info("kept batches written now: %d", done)

    def _is_there(self, written: EnqueuedBatch) -> bool:
        self._look(written)
        return written.committed

    def _save_or_keep(
        self,
        batch: InvalidationIntentBatch,
        position: CommitPosition | None,
        *,
        now: bool = True,
    ) -> str:
        """Write ``batch``, or later; return what was done."""
        saved = False
        try:
            saved = now and self._try_to_save(batch, position)
        finally:
            # Whatever ends it: this is the last that knows of the batch.
            if not saved:
                self._keep(_Kept(batch, position))
        if saved and not self._config[app_settings.ENABLED]:
            return f"It is dropped: {app_settings.ENABLED.variable} is off"
        if saved:
            return (
                "Written now on an own connection; a crash before that would have lost"
                " it"
            )
        return "It is kept in this process and tried again"

    def _try_to_save(
        self, batch: InvalidationIntentBatch, position: CommitPosition | None
    ) -> bool:
        try:
            with self._hold_off(batch):
                self._own_outbox().enqueue(
                    self._namespace,
                    _within(self._app_outbox.max_batch, batch),
                    commit_position=position,
                    timeout=self._timeout * (1 if self._has_file else STEPS),
                )
        except Exception as exc:
            # A teardown must not raise. The batch is kept by the caller.
            logger.error(
                "the outbox could not be written at the end of a request: %s",
                exc,
                # What the outbox does not raise is a mistake: show where.
                exc_info=None if isinstance(exc, HydraCacheError) else exc,
            )
            return False
        self._wake()
        return True

    def _keep(self, kept: _Kept) -> None:
        with self._lock.mine():
            self._next_try = time.monotonic() + RETRY_AFTER
            self._kept.append(kept)
            if sum(len(each.batch) for each in self._kept) > MAX_KEPT:
                flush = InvalidationIntentBatch("the outbox was away for long").flush()
                self._kept = [_Kept(flush, None)]
            if self._registered_in != os.getpid():
                self._registered_in = os.getpid()
                at_exit(self.save_at_exit)

    def save_at_exit(self) -> None:
        """The last try; what it does not manage is said to be lost."""
        finished(self._save_now)
        if self._kept:
            logger.error(
                "kept batches lost with process %d: %d, %s among them:"
                " flush the namespace %s, or wait for the TTL",
                os.getpid(),
                len(self._kept),
                _listed(self._kept[0].batch),
                self._namespace,
            )
            self._kept = []

    def _save_now(self) -> None:
        self._next_try = 0.0
        self.save_kept()

    def _own_outbox(self) -> InvalidationOutbox:
        """The outbox once more, with little patience: a visitor waits meanwhile."""
        with self._lock.mine():
            if self._outbox is None:
                limit = self._timeout
                more: dict[str, Any] = {}
                if not self._has_file:
                    more = dict.fromkeys(
                        ("connect_timeout", "read_timeout", "write_timeout"), limit
                    )
                    more["pool_size"] = CONNECTIONS
                self._outbox = build.outbox(self._config, busy_timeout=limit, **more)
            return self._outbox


def _is_file(outbox: InvalidationOutbox | str) -> bool:
    return isinstance(outbox, str) and outbox.startswith("sqlite:")


def _within(
    limit: int | None, batch: InvalidationIntentBatch
) -> InvalidationIntentBatch:
    """Return ``batch``, or one that covers it where no enqueue would take so many."""
    if limit is None or len(batch.distinct()) <= limit:
        return batch
    return InvalidationIntentBatch(batch.reason).flush()


def _listed(batch: InvalidationIntentBatch) -> str:
    shown = ", ".join(_shown(intent) for intent in batch.intents[:3])
    return f"{shown} and {len(batch) - 3} more" if len(batch) > 3 else shown


def _shown(intent: Any) -> str:
    kind, value, entity = intent
    # In the order of `hydracache invalidate entity user 42`.
    return printable(" ".join(filter(None, [kind, entity, value])), 80)
