"""What one transaction invalidates, savepoint by savepoint, until it is committed.

Two sources: intents that were given to the transaction, which know their savepoint,
and what the request has collected, which may also belong to another transaction. The
former are written if and only if their savepoint is kept. Of the latter none is ever
lost: in doubt it is written once more. Knows no SQLAlchemy.
"""

from __future__ import annotations

import contextlib
from typing import Any, Callable, ContextManager, Iterable, Protocol, Sequence

from hydracache_sync.app import open_transactions
from hydracache_sync.app.open_transactions import OpenTransaction
from hydracache_sync.app.request_state import EnqueuedBatch, RequestState
from hydracache_sync.cache.entity_kinds import EntityKinds
from hydracache_sync.errors import NotInTransactionError
from hydracache_sync.intents import InvalidationIntent, InvalidationIntentBatch
from hydracache_sync.printable import printable_logger
from hydracache_sync.receipts import CommitPosition, InvalidationReceipt
from hydracache_sync.snapshots import NEVER, LocalMoment

logger = printable_logger(__name__)


class Writer(Protocol):
    """What an app's runtime does, and what stands for it where there is no app."""

    def write(
        self,
        connection: Any,
        batch: InvalidationIntentBatch,
        position: CommitPosition | None = None,
    ) -> InvalidationReceipt:
        """Enqueue in the open transaction of a driver's connection."""

    def quarantine(self, written: Iterable[EnqueuedBatch]) -> ContextManager[None]:
        """Hold off what was written, in a block around its commit; in mode strict."""

    def committed(self, written: EnqueuedBatch) -> None:
        """Do what comes after a commit."""

    def settle(self, written: Sequence[EnqueuedBatch]) -> None:
        """Do what comes after what was probably a commit."""


class Home(Protocol):
    """Where a transaction's intents go, and where else there may be some.

    :ivar transactions_are_followed: something of it is attached.
    """

    transactions_are_followed: bool

    @property
    def kinds(self) -> EntityKinds:
        """Of whose entities the reads have the tag of the kind as well."""

    @property
    def runtime(self) -> Writer:
        """Asked only when there is something to write."""

    def collected(self) -> RequestState | None:
        """The collector of the request, made if there is none yet."""

    def collected_if_any(self) -> RequestState | None:
        """The same, or None."""


class RolledBackError(Exception):
    """Tells a quarantine that there was no commit in it."""


class _Savepoint:
    """What came since a savepoint, or since the transaction's begin."""

    def __init__(self, collected: RequestState | None) -> None:
        self.intents: list[InvalidationIntent] = []
        self.changed = False
        self.collected = collected
        self.mark = 0 if collected is None else collected.mark()


class TransactionIntents(OpenTransaction):
    """The intents of one transaction; belongs to the thread that uses it.

    :param home: of the app.
    :param since: a moment at which it had not begun yet, in Unix seconds; now, unless
        said otherwise.
    :param pending: tells of changes that are not sent to the database yet.
    :ivar written: what was written in it.
    :ivar was_open: the driver has said so after a statement that has changed something.
    """

    def __init__(
        self,
        home: Home,
        *,
        since: float | None = None,
        pending: Callable[[], bool] = lambda: False,
    ) -> None:
        self.home = home
        self.written: list[EnqueuedBatch] = []
        self.was_open = False
        self._since = LocalMoment.now() if since is None else since
        self._pending = pending
        self._savepoints = [_Savepoint(home.collected_if_any())]
        self._writer: Writer | None = None
        self._durable = False
        self._quarantines: list[ContextManager[None]] = []
        self._held = 0
        # How many of its own intents, and of the request's, are written.
        self._own_done = 0
        self._theirs: RequestState | None = None
        self._theirs_done = 0

    def has_connection(self, *, fresh: bool = True) -> None:
        """State that a connection has joined it.

        :param fresh: the connection's transaction began after this object was made.
        """
        if self.began is None:
            self.began = self._since
        if not fresh:
            self.began = NEVER
        open_transactions.opened(self)

    def has_changes(self) -> bool:
        return self._pending() or any(
            each.changed or each.intents for each in self._savepoints
        )

    # While it runs

    def add(self, *intents: InvalidationIntent) -> None:
        self._savepoints[-1].intents += intents

    def changed(self) -> None:
        """State that a statement has changed something."""
        self._savepoints[-1].changed = True

    @property
    def has_changed(self) -> bool:
        """Whether a statement of it has changed something."""
        return any(each.changed for each in self._savepoints)

    def is_durable(self) -> None:
        """State that what it has changed is committed, whatever becomes of it.

        In autocommit; after a COMMIT that was sent as text; after a statement of MySQL
        that commits by itself. Nobody rolls that back.
        """
        self._durable = True

    def begin_savepoint(self) -> None:
        self._savepoints.append(_Savepoint(self.home.collected_if_any()))

    def end_savepoint(self, *, kept: bool) -> None:
        """The innermost savepoint is released or rolled back."""
        if len(self._savepoints) < 2:
            return  # it was begun before this object was made
        ended = self._savepoints.pop()
        if kept or self._durable:
            self._savepoints[-1].intents += ended.intents
            self._savepoints[-1].changed |= ended.changed
        else:
            self._drop(ended)

    # At its end

    def write(self, connection: Callable[[], Any]) -> None:
        """Write what is not written yet, if anything, in the open transaction.

        :param connection: returns the driver's connection; not called for nothing.
        """
        # A commit keeps the savepoints that are still open.
        own = [intent for each in self._savepoints for intent in each.intents]
        own = own[self._own_done :]
        collected = self.home.collected_if_any()
        done = 0 if collected is None else self._first_of(collected)
        theirs = () if collected is None else collected.intents[done:]
        if not own and not theirs:
            return
        target = connection()
        if collected is None:
            collected = self.home.collected()
        batch = InvalidationIntentBatch("" if collected is None else collected.reason)
        for intent in (*own, *theirs):
            batch.intent(intent)
        position = None if collected is None else collected.promised
        self._writer = self.home.runtime
        try:
            receipt = self._writer.write(target, batch, position)
        except Exception as exc:
            # In autocommit the reason is not the outbox's, and is said at the end.
            if collected is not None and not isinstance(exc, NotInTransactionError):
                collected.doubt = f"the outbox could not, {type(exc).__name__}: {exc}"
            raise
        self.written.append(EnqueuedBatch(receipt, again=False))
        self._own_done += len(own)
        self._theirs, self._theirs_done = collected, done + len(theirs)

    def hold_off(self) -> None:
        """Right before the commit, in mode strict: what was written is quarantined.

        Until :meth:`after_commit`, or an end without a commit.

        :raises QuarantineError: roll back.
        """
        new = self.written[self._held :]
        if self._writer is not None and new:
            quarantine = self._writer.quarantine(new)
            quarantine.__enter__()
            self._quarantines.append(quarantine)
            self._held += len(new)

    def end(self, *, committed: bool) -> None:
        """It is over; without a commit what was collected in it goes with the data.

        :meth:`after_commit` is still to be called where it was committed.
        """
        if not committed:
            self._end_quarantines(committed=False)
        open_transactions.ended(self)
        root = self._savepoints[0]
        root.changed = self.has_changed
        own = [intent for each in self._savepoints for intent in each.intents]
        self._savepoints = [_Savepoint(None)]
        others = self._others_are_open()
        if not committed and self._durable:
            self._keep(own)
        elif not committed:
            self._drop(root)
        elif self._theirs is not None:
            self._theirs.written += self.written
            self._theirs.wrote(self._theirs_done, keep=others)
        self._theirs = None
        collected = self.home.collected_if_any()
        if collected is not None and not others:
            collected.forget_kept()

    def after_commit(self, *, certain: bool = True) -> None:
        """Publish or have published what was written.

        :param certain: the commit is known to have been done.
        """
        self._end_quarantines(committed=True)
        if self._writer is None:
            return
        writer, self._writer = self._writer, None
        if not certain:
            writer.settle(self.written)
            return
        for each in self.written:
            writer.committed(each)

    def _end_quarantines(self, *, committed: bool) -> None:
        while self._quarantines:
            quarantine = self._quarantines.pop()
            if committed:
                quarantine.__exit__(None, None, None)
            else:
                with contextlib.suppress(RolledBackError):
                    quarantine.__exit__(RolledBackError, RolledBackError(), None)

    def abandon(self) -> None:
        """Another object stands for the transaction."""
        open_transactions.ended(self)

    def _first_of(self, collected: RequestState) -> int:
        """The first of the request's intents that this transaction is to write."""
        if collected is self._theirs:
            return self._theirs_done
        root = self._savepoints[0]
        # What was collected before it began, and was written by another's commit, was
        # not meant for this one.
        mark = root.mark if root.collected is collected else 0
        return min(mark, collected.kept)

    def _keep(self, own: Sequence[InvalidationIntent]) -> None:
        """Leave all to the end of the request: it was not written, and is durable."""
        collected = self.home.collected_if_any()
        if collected is None and own:
            with contextlib.suppress(Exception):
                collected = self.home.collected()
        if collected is not None:
            collected.add(*own)
            collected.doubt = collected.doubt or "statements were committed one by one"
        elif own:
            logger.error(
                "%d invalidations are lost: statements were committed one by one, and"
                " no request is served that would write them",
                len(own),
            )

    def _drop(self, savepoint: _Savepoint) -> None:
        collected = self.home.collected_if_any()
        if not collected or savepoint.collected not in (None, collected):
            return
        if savepoint.changed and not self._others_are_open():
            collected.drop_from(savepoint.mark)
        else:
            # It may be for something else that was committed.
            collected.doubt = collected.doubt or "a transaction ended without a commit"

    def _others_are_open(self) -> bool:
        return any(
            each is not self
            and isinstance(each, TransactionIntents)
            and each.home is self.home
            for each in open_transactions.all_open()
        )
