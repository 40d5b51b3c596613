"""What one request has collected to invalidate, and receipts of what it has written.

One object a request, seen by one thread. Knows no framework and no database.
"""

from __future__ import annotations

import contextlib
import os
import threading
from dataclasses import dataclass, field
from functools import cached_property
from typing import Callable, Deque, Iterable, Iterator, Sequence

from hydracache_sync.app import savepoints
from hydracache_sync.cache.pending_writes import Targets
from hydracache_sync.intents import (
    MAX_REASON,
    InvalidationIntent,
    InvalidationIntentBatch,
)
from hydracache_sync.printable import printable
from hydracache_sync.receipts import CommitPosition, InvalidationReceipt

#: Characters of what names a request: a path may have any number.
LONGEST_PLACE = 200


@dataclass(eq=False)
class EnqueuedBatch:
    """One batch that the request has enqueued, and what is known of it.

    :ivar again: the batch was collected: where its transaction turns out to have been
        rolled back, what is written next takes its intents along.
    :ivar committed: seen committed; False says that it is not known.
    :ivar published: seen published.
    :ivar joined: a transaction of the caller's was open when it was written, which is
        sure to be the one of the data; None if that is not known.
    :ivar offered_to: it was left to a transaction that the end of the request has found
        open; tells whether one still is.
    :ivar collected_at: the number of savepoints when its first intent was collected.
    :ivar is_undone: tells whether it may have been rolled back and the data committed:
        with a savepoint that was set after that.
    """

    receipt: InvalidationReceipt
    again: bool = True
    committed: bool = False
    published: bool = False
    joined: bool | None = True
    offered_to: Callable[[], bool | None] | None = None
    collected_at: int = field(default_factory=savepoints.number)
    is_undone: Callable[[], bool] = field(init=False)

    def __post_init__(self) -> None:
        self.is_undone = savepoints.undone_after(self.collected_at)

    @property
    def readable(self) -> bool:
        """Whether every cached read shows it, as far as is known without asking."""
        return self.published or bool(self.receipt.strict)

    @property
    def is_open(self) -> bool:
        """Whether the transaction that it was left to may still be committed."""
        try:
            return self.offered_to is not None and bool(self.offered_to())
        except Exception:
            return False  # its connection is closed, or another thread's now

    @cached_property
    def targets(self) -> Targets:
        """What it invalidates, as far as the receipt has its batch."""
        return Targets(self.receipt.batch or ())


class RequestState:
    """Intents in order, until they are written, and what was written.

    :param abandoned: is given a state that was let go of before its request ended it.
    :ivar where: names the view, for log lines and as the reason of the rows.
    :ivar ended: the end of the request has seen to it.
    :ivar thread: where it was made, by its ident, and :attr:`pid`.
    """

    where: str

    def __init__(
        self, where: str, abandoned: Deque[RequestState] | None = None
    ) -> None:
        self.serve(where)
        self.ended = False
        self.thread, self.pid = threading.get_ident(), os.getpid()
        self._abandoned = abandoned
        self.written: list[EnqueuedBatch] = []
        #: Position that a cookie has promised for what is not written yet.
        self.promised: CommitPosition | None = None
        #: Why it was not written in the app's transaction.
        self.why = ""
        #: Why nobody may have written it, where that is not known.
        self.doubt = ""
        #: A cached value was found to be behind this request's own writes.
        self.past_cache = False
        self._intents: list[InvalidationIntent] = []
        #: What the first ones of them invalidate, so many as are known.
        self._targets: Targets | None = None
        self._known = 0
        #: How many of the intents a commit has written that are kept for the commit of
        #: another session, which was open at the time.
        self.kept = 0
        #: How many blocks of ``transaction()`` have committed.
        self.committed_blocks = 0
        #: How many of them are open.
        self.open_blocks = 0
        #: The number of savepoints when the first of the intents was collected.
        self.collected_at = 0

    def __del__(self) -> None:
        # A response that no server has closed, or a thread that collects in a copy of
        # its request's context after that has ended. What was collected is only handed
        # on: this may run within any other code of this thread, in the middle of our
        # own, with its locks held.
        if self._abandoned is not None and not self.ended:
            if self._intents or self.written:
                self._abandoned.append(self)

    @cached_property
    def holding(self) -> contextlib.ExitStack:
        """Ends with the request: the quarantine of what its end has written."""
        return contextlib.ExitStack()

    def end_holding(self) -> None:
        if "holding" in self.__dict__:
            self.holding.close()

    def serve(self, where: str) -> None:
        """From now on collect for ``where``, which a client may have a say in."""
        self.where = printable(where, LONGEST_PLACE)

    def __len__(self) -> int:
        return len(self._intents)

    def add(self, *intents: InvalidationIntent) -> None:
        if not self._intents:
            self.collected_at = savepoints.number()
        self._intents += intents

    @contextlib.contextmanager
    def in_block(self) -> Iterator[None]:
        """Note that a block of ``transaction()`` is open."""
        self.open_blocks += 1
        try:
            yield
        finally:
            self.open_blocks -= 1

    @property
    def unwritten(self) -> int:
        """How many of the intents no commit has written."""
        return len(self._intents) - self.kept

    @property
    def may_be_uncommitted(self) -> bool:
        """Whether this request may see rows of its own that nobody else does."""
        return bool(self.unwritten) or not all(each.committed for each in self.written)

    def mark(self) -> int:
        """A place in the intents to go back to with :meth:`drop_from`."""
        return len(self._intents)

    def drop_from(self, mark: int) -> None:
        """Forget what was collected since ``mark``: its transaction is rolled back."""
        self._take_out(slice(mark, None))
        self.kept = min(self.kept, len(self._intents))

    def batch(self, more: Iterable[InvalidationIntent] = ()) -> InvalidationIntentBatch:
        """What is to be written, as a batch; nothing is taken out."""
        batch = InvalidationIntentBatch(self.reason)
        for intent in (*self._intents, *more):
            batch.intent(intent)
        return batch

    def clear(self) -> None:
        """Forget the intents: they are written, or not wanted."""
        self._take_out(slice(None))
        self.kept = 0

    def wrote(self, count: int, *, keep: bool) -> None:
        """Note that a commit has written the first ``count`` intents.

        :param keep: another transaction is open that they may be for as well.
        """
        if keep:
            self.kept = max(self.kept, count)
        else:
            self._take_out(slice(count))
            self.kept = max(0, self.kept - count)

    def forget_kept(self) -> None:
        """No other transaction is open any more that they could be for."""
        self._take_out(slice(self.kept))
        self.kept = 0

    @property
    def reason(self) -> str:
        return _cut(self.where)

    def pop_unwritten(self) -> InvalidationIntentBatch | None:
        """Take out what no commit has written; None if that is nothing."""
        if not self._intents:
            return None  # mostly; each page that writes ends here
        rest = self._intents[self.kept :]
        self.clear()
        if not rest:
            return None
        batch = InvalidationIntentBatch(self.reason)
        for intent in rest:
            batch.intent(intent)
        return batch

    def restore(
        self,
        intents: tuple[InvalidationIntent, ...],
        written: Sequence[EnqueuedBatch],
    ) -> None:
        """Go back to what was collected, and written, before a failed transaction."""
        self._take_out(slice(None))
        self._intents += intents
        self.collected_at = 0  # whenever it was
        self.kept = min(self.kept, len(intents))
        self.written[:] = written

    @property
    def intents(self) -> tuple[InvalidationIntent, ...]:
        return tuple(self._intents)

    @property
    def targets(self) -> Targets:
        """What the intents invalidate."""
        targets = self._targets
        if targets is None:
            targets = self._targets = Targets()
        if self._known < len(self._intents):
            targets.add(self._intents[self._known :])
            self._known = len(self._intents)
        return targets

    def _take_out(self, some: slice) -> None:
        del self._intents[some]
        self._targets, self._known = None, 0

    @property
    def receipts(self) -> list[InvalidationReceipt]:
        return [each.receipt for each in self.written]


def _cut(text: str) -> str:
    """Make a reason of any text: storable, and within its limit."""
    data = text.encode("utf-8", "replace")[:MAX_REASON]
    return data.decode("utf-8", "ignore")
