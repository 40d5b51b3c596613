"""The calls that an app's own code makes, the same under every framework.

A framework's integration says where a request's collector is kept; the rest is here.
Atomic with the data are ``write``, ``enqueue`` and ``transaction`` only. A long file,
because these are the public calls, each with what its user must know.
"""

from __future__ import annotations

import abc
import contextlib
import functools
import time
from typing import (
    Any,
    Callable,
    ContextManager,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
    TypeVar,
    Union,
)

from hydracache_sync.app import app_settings, own_reads, savepoints
from hydracache_sync.app.request_state import EnqueuedBatch, RequestState
from hydracache_sync.app.request_writes import RequestWrites
from hydracache_sync.app.runtime import Runtime
from hydracache_sync.app.snapshot_guard import see_statements
from hydracache_sync.cache.entity_kinds import EntityKinds
from hydracache_sync.cache.functions.decorator import CachedFunction, KeyOf, TagsOf
from hydracache_sync.cache.read_memo import ReadMemo
from hydracache_sync.cache.tagged import Stale, TaggedCache, TagsOfKeys
from hydracache_sync.drivers import driver_of
from hydracache_sync.drivers.connection import CallersConnection
from hydracache_sync.drivers.wrappers import own_connection
from hydracache_sync.durations import duration_ms
from hydracache_sync.intents import InvalidationIntent, InvalidationIntentBatch
from hydracache_sync.keys import Identity
from hydracache_sync.outbox.base import InvalidationOutbox
from hydracache_sync.pool import WorkerPool
from hydracache_sync.printable import printable_logger
from hydracache_sync.receipts import InvalidationReceipt
from hydracache_sync.worker.reports import PublishReport
from hydracache_sync.worker.wait import ConsistencyMode, InvalidationWait, WaitOutcome

logger = printable_logger(__name__)

T = TypeVar("T")
K = TypeVar("K", bound=Identity)

#: What ``enqueue`` takes: intents, and batches of them.
Invalidations = Union[InvalidationIntent, InvalidationIntentBatch]


class Extension(abc.ABC):
    """What a view or a script can do. Keeps no state: the app and the request do.

    Everything here is for the request that is being served, in its thread.
    """

    # What an integration supplies

    @property
    @abc.abstractmethod
    def runtime(self) -> Runtime:
        """The parts of the app that is being served."""

    @abc.abstractmethod
    def collected(self) -> RequestState:
        """The collector of the request that is being served."""

    @abc.abstractmethod
    def collected_if_any(self) -> RequestState | None:
        """The same, or None if the request has not needed one yet."""

    @abc.abstractmethod
    def request_writes(self) -> RequestWrites | None:
        """What is known of the connections of the request that is being served; None
        where none is."""

    @abc.abstractmethod
    def request_memo(self) -> ReadMemo | None:
        """What the request that is being served has read, if that may be read again:
        not once it has collected or written anything."""

    @abc.abstractmethod
    def intents_of(self, instance: object) -> Sequence[InvalidationIntent]:
        """What a change of an object of a model invalidates.

        :raises TypeError, ValueError: as :meth:`invalidate`.
        """

    #: In a block: notes what it reads of the request that is served; None where the
    #: framework has no request that a function finds by itself.
    noted_reads: Callable[[], ContextManager[Sequence[str]]] | None = None

    #: Whether views are cached whole, whose requests are to be watched.
    caches_pages = False

    #: Whether what makes its transactions is attached, so that they are followed.
    transactions_are_followed = False

    # Parts

    @property
    def cache(self) -> TaggedCache:
        """The app's cache. Its reads may lack this request's own writes, which those of
        :meth:`get_or_load` do not; what a request loads before its commit it does not
        store either."""
        return self.runtime.cache

    @functools.cached_property
    def kinds(self) -> EntityKinds:
        """The kinds of entities whose reads rest on a token of the kind as well: those
        of watched models. An app that reads what others watch adds the names here."""
        return EntityKinds()

    @property
    def outbox(self) -> InvalidationOutbox:
        return self.runtime.outbox

    @property
    def pool(self) -> WorkerPool | None:
        """The pool of this process; None where it has none, or not yet."""
        return self.runtime.placement.pool

    @property
    def pool_problem(self) -> str | None:
        """Why this process has not the pool that ``HYDRACACHE_POOL`` says; for a health
        check. None where all is well, also if another process has the one pool."""
        return self.runtime.placement.problem

    @property
    def namespace(self) -> str:
        return self.runtime.namespace

    def start_pool(self) -> WorkerPool | None:
        """Start the pool of this process now and not at its first request.

        For a server's hook after its fork. Does what ``HYDRACACHE_POOL`` says, and
        nothing the second time.
        """
        return self.runtime.placement.start()

    def stop_pool(self, timeout: float = 5.0) -> bool:
        """Stop the pool of this process for good; tell whether it has ended in time.

        At the end of the process this is done anyway.
        """
        return self.runtime.placement.stop(timeout)

    # Collecting

    def invalidate(self, *what: InvalidationIntent | object) -> None:
        """Collect intents, to be written by the next :meth:`write`.

        :param what: intents; of an object of a model that is known, of Django's or one
            that is watched in SQLAlchemy, all that its change invalidates.
        :raises TypeError: nothing is known of one of them.
        :raises ValueError: an object has no primary key yet. Nothing was collected.
        """
        batch = InvalidationIntentBatch()
        for each in what:
            if isinstance(each, InvalidationIntent):
                batch.intent(each)
                continue
            for intent in self.intents_of(each):
                batch.intent(intent)
        self.collected().add(*batch.intents)

    def invalidate_key(self, key: Identity) -> None:
        self.collected().add(InvalidationIntent.key(key))

    def invalidate_tag(self, tag: Identity) -> None:
        self.collected().add(InvalidationIntent.tag(tag))

    def invalidate_entity(self, entity: Identity, key: Identity) -> None:
        self.collected().add(InvalidationIntent.entity(entity, key))

    def invalidate_collection(self, name: Identity) -> None:
        self.collected().add(InvalidationIntent.collection(name))

    def flush(self) -> None:
        """Collect a flush of the whole namespace."""
        self.collected().add(InvalidationIntent.flush())

    def discard(self) -> None:
        """Forget what was collected and not written: it was all rolled back."""
        collected = self.collected_if_any()
        if collected is not None:
            collected.clear()

    # Writing

    def write(self, connection: Any) -> InvalidationReceipt | None:
        """Write what was collected in the open transaction of ``connection``.

        One INSERT; commits nothing. Call it before your commit: where that is over,
        the INSERT begins a transaction that perhaps nobody commits. The end of the
        request looks for it then, and writes it on an own connection, with a warning
        that names the view. What an earlier
        ``write`` of this request wrote in a transaction that was rolled back is written
        again: tried again, it needs its invalidations again.

        :return: the receipt; None if there was nothing to write.
        :raises OutboxError: as ``outbox.enqueue_in``; the intents stay collected.
        """
        written = self._write(connection)
        return None if written is None else written.receipt

    def enqueue(
        self, connection: Any, *what: Invalidations, reason: str = ""
    ) -> InvalidationReceipt:
        """Write ``what`` at once in the open transaction of ``connection``.

        Collects nothing, and leaves alone what was collected.

        :param what: intents, and batches of them.
        :param reason: for operators; by default the view's name.
        """
        collected = self.collected()
        batch = InvalidationIntentBatch(reason or collected.batch().reason)
        for each in what:
            if not isinstance(each, InvalidationIntentBatch):
                batch.intent(each)
                continue
            for intent in each:
                batch.intent(intent)
        joined = self._is_open(connection)
        receipt = self.runtime.write(connection, batch)
        collected.written.append(EnqueuedBatch(receipt, again=False, joined=joined))
        return receipt

    @contextlib.contextmanager
    def transaction(self, connection: Any) -> Iterator[Any]:
        """Begin, run the block, write what was collected, commit; or roll back.

        A transaction that is open already is joined, and committed with the block. An
        exception rolls back and forgets what the block has collected. It does not
        forget if the block has ended the transaction itself, which may have been a
        commit, or has sent a statement by which MySQL commits. Do neither: what follows
        is not atomic with it, and a warning says so.

        Afterwards the rows are published at once in mode ``inline``, or the pool is
        woken; in mode ``strict`` the commit is in a :meth:`quarantine`.

        :param connection: a driver's connection; yielded.
        :raises QuarantineError: in mode ``strict``: memcached could not be told, and
            ``HYDRACACHE_DEGRADE`` is off. All is rolled back.
        """
        runtime, collected = self.runtime, self.collected()
        before, earlier = collected.intents, list(collected.written)
        self._know(connection)
        driver = driver_of(own_connection(connection))
        driver.begin()
        blocks, is_over = collected.committed_blocks, None
        commits = savepoints.commits()
        with driver.noted_end() as has_ended, collected.in_block():
            try:
                yield connection
                is_over = has_ended() and blocks == collected.committed_blocks
                if is_over:
                    _say_ended(collected, earlier)
                self._write(connection)
                with runtime.quarantine(collected.written):
                    driver.commit()
            except BaseException:
                if is_over is None:
                    has_committed = has_ended() or savepoints.commits() != commits
                    is_over = has_committed and blocks == collected.committed_blocks
                if _has_ended(driver):
                    # A commit of its own, or a statement that commits by itself; what
                    # came after a deadlock perhaps, in autocommit.
                    doubt = "no transaction was open when its block raised"
                    before = kept_in_doubt(collected, earlier, doubt)
                elif is_over:
                    before = kept_in_doubt(collected, earlier, ENDED_WITHIN)
                try:
                    driver.roll_back()
                finally:
                    self._go_back(collected, before, earlier)
                raise
        collected.committed_blocks += 1
        for written in collected.written:
            # Not by its place: what was rolled back before is written again, as one
            # with the new.
            if written not in earlier:
                runtime.committed(written)

    def _go_back(
        self,
        collected: RequestState,
        intents: tuple[InvalidationIntent, ...],
        written: Sequence[EnqueuedBatch],
    ) -> None:
        """Forget what a block has collected and written that has raised.

        Not what is committed all the same: by a block within it, by a COMMIT whose
        answer was lost, or before a hook that runs after the commit has raised. A read
        or a wait of this request would take the old value for what it wrote.
        """
        of_block = [each for each in collected.written if each not in written]
        kept = [each for each in of_block if self._may_be_committed(each)]
        # What was collected before the block may have been written with it.
        done = {
            intent
            for each in kept
            if each.committed
            for intent in each.receipt.batch or ()
        }
        left = tuple(intent for intent in intents if intent not in done)
        collected.restore(left, [*written, *kept])

    def _may_be_committed(self, written: EnqueuedBatch) -> bool:
        receipt = written.receipt
        if not written.committed:
            try:
                found = self.outbox.status_for_commit(
                    receipt.namespace,
                    receipt.commit_position,
                    batch=receipt.batch,
                    timeout=self.runtime.config[app_settings.NET_TIMEOUT],
                )
            except Exception:
                # Nothing may take the place of what the block has raised. While the
                # outcome is unknown, its intents count as collected again. The next
                # write, or the end of the request, writes them; that is superfluous if
                # the commit was done.
                logger.debug("after a rollback", exc_info=True)
                return True
            written.committed = bool(
                found.pending or found.published or found.dead_lettered
            )
        return written.committed

    @contextlib.contextmanager
    def quarantine(self) -> Iterator[None]:
        """Hold off what this request has written, in a block around your own COMMIT.

        For mode ``strict``, after :meth:`write`, with nothing but the commit in the
        block; :meth:`transaction` does it by itself. In other modes it does nothing.

        :raises QuarantineError: as :meth:`transaction`, or the commit would come too
            late. Do not commit; roll back.
        """
        collected = self.collected_if_any()
        with self.runtime.quarantine([] if collected is None else collected.written):
            yield
        self.runtime.wake()

    def _write(self, connection: Any) -> EnqueuedBatch | None:
        collected = self.collected_if_any()
        if collected is None:
            return None
        undone = [
            each
            for each in collected.written
            if each.again
            and not each.committed
            and not self.outbox.sees(connection, each.receipt)
        ]
        again = [intent for each in undone for intent in each.receipt.batch or ()]
        batch = collected.batch(again)
        if not batch:
            return None
        joined = self._is_open(connection)
        try:
            written = EnqueuedBatch(
                self.runtime.write(connection, batch, collected.promised),
                joined=joined,
                collected_at=min(
                    [collected.collected_at, *(each.collected_at for each in undone)]
                ),
            )
        except Exception as exc:
            collected.doubt = f"the outbox could not, {type(exc).__name__}: {exc}"
            raise
        collected.written = [
            *(each for each in collected.written if each not in undone),
            written,
        ]
        collected.clear()
        collected.promised = None
        return written

    # Receipts

    @property
    def receipts(self) -> list[InvalidationReceipt]:
        """Receipts of what this request has written, in order."""
        collected = self.collected_if_any()
        return [] if collected is None else collected.receipts

    @property
    def receipt(self) -> InvalidationReceipt | None:
        """The last of :attr:`receipts`."""
        receipts = self.receipts
        return receipts[-1] if receipts else None

    def publish(self) -> PublishReport:
        """Publish this request's receipts now, after its commit.

        Done anyway in mode ``inline``. Never raises for an outage; what it does not
        manage stays for a worker.

        :return: ``complete`` if every later read, anywhere, sees the writes; not where
            something is collected that no :meth:`write` has written, which is
            ``unseen``.
        """
        collected, report = self.collected_if_any(), PublishReport()
        if collected is not None:
            report += PublishReport(
                claimed=collected.unwritten, unseen=collected.unwritten
            )
            report += self.runtime.publish_in_time(collected.written)
            collected.past_cache = False
        return report

    def wait(self, timeout: float) -> WaitOutcome:
        """Wait until what this request has written is published, after its commit.

        What is collected and not written is ``pending``: no wait would see it.

        :param timeout: seconds for all receipts together; 0 looks once.
        :raises OutboxError: the outbox could not be read; nothing is known.
        """
        duration_ms("timeout", timeout)
        collected = self.collected_if_any()
        unwritten = 0 if collected is None else collected.unwritten
        started = time.monotonic()
        outcomes = []
        for written in [] if collected is None else collected.written:
            rest = max(0.0, timeout - (time.monotonic() - started))
            found = InvalidationWait.local(rest).wait(self.outbox, written.receipt)
            written.published |= found.satisfied
            written.committed |= found.satisfied
            outcomes.append(found)
        if collected is not None:
            collected.past_cache = False
        return WaitOutcome(
            ConsistencyMode.LOCAL,
            satisfied=not unwritten and all(each.satisfied for each in outcomes),
            degraded=bool(unwritten) or any(each.degraded for each in outcomes),
            timed_out=any(each.timed_out for each in outcomes),
            pending=unwritten + sum(each.pending for each in outcomes),
            dead_lettered=sum(each.dead_lettered for each in outcomes),
            elapsed_ms=int((time.monotonic() - started) * 1000),
        )

    # Reading

    def reads_own_writes(self) -> bool:
        """Whether every cached read now includes what this request has written.

        Not while it has written or collected something that is not yet published. The
        cache may hold the value from before, and a value loaded in an open transaction
        must not get into the cache. Then the database is to be asked.
        """
        return own_reads.reads_own_writes(self)

    def earlier_are_published(self) -> bool:
        """Whether what the same visitor wrote in earlier requests is published.

        True where nothing is known of them.
        """
        return True

    def get_or_load(
        self,
        key: Identity,
        loader: Callable[[], T],
        *,
        tags: Iterable[Identity] = (),
        ttl: float | None = None,
        soft_ttl: float | None = None,
        stale_on_error: Callable[[Stale], T] | None = None,
    ) -> T:
        """As ``cache.get_or_load``, and never older than this request's own writes.

        While what it has collected or written is not published, the loader is called
        for what that touches, and nothing of it is stored; also, for whatever it reads,
        while it has changed something in an open transaction and collected nothing. As
        long as the request has not committed, nothing that it loads is stored at all.
        The snapshot that the loader reads in is known, see ``HYDRACACHE_SNAPSHOT``.

        :param stale_on_error: not called for what is not looked for in the cache.
        """
        return own_reads.get_or_load(
            self,
            key,
            loader,
            tags=tags,
            ttl=ttl,
            soft_ttl=soft_ttl,
            stale_on_error=stale_on_error,
        )

    def get_many_or_load(
        self,
        keys: Iterable[K],
        loader: Callable[[list[K]], Mapping[K, T]],
        *,
        tags: TagsOfKeys = (),
        ttl: float | None = None,
    ) -> dict[K, T]:
        """As ``cache.get_many_or_load``, under the rules of :meth:`get_or_load`.

        While one of the keys is touched by a write of this request that is not
        published yet, all of them are loaded.
        """
        return own_reads.get_many_or_load(self, keys, loader, tags=tags, ttl=ttl)

    def refresh(
        self,
        key: Identity,
        loader: Callable[[], T],
        *,
        tags: Iterable[Identity] = (),
        ttl: float | None = None,
        soft_ttl: float | None = None,
    ) -> T:
        """As ``cache.refresh``, under the rules of :meth:`get_or_load`."""
        return own_reads.get_or_load(
            self, key, loader, tags=tags, ttl=ttl, soft_ttl=soft_ttl, again=True
        )

    def cached(
        self,
        *,
        key: KeyOf | None = None,
        tags: Iterable[Identity] | TagsOf,
        ttl: float | None = None,
        soft_ttl: float | None = None,
        inherit_tags: bool = True,
    ) -> Callable[[Callable[..., T]], CachedFunction[T]]:
        """Decorate a function so that calls with the same arguments are cached.

        As ``cache.cached``, by this object's :meth:`get_or_load`: it knows this
        request's own writes and its snapshot. It looks for the app only when it is
        called, so it can decorate functions that are defined before the app.
        ``function.invalidate(...)`` collects what invalidates the result of a call.
        """

        def decorate(function: Callable[..., T]) -> CachedFunction[T]:
            return CachedFunction(
                self,
                function,
                key=key,
                tags=tags,
                ttl=ttl,
                soft_ttl=soft_ttl,
                inherit_tags=inherit_tags,
                invalidate=self.invalidate,
                noted_reads=self.noted_reads,
            )

        return decorate

    def _is_open(self, connection: Any) -> bool | None:
        """Whether its transaction has begun before what is written next."""
        self._know(connection)
        try:
            return driver_of(own_connection(connection)).has_begun()
        except Exception:
            return None  # what is wrong with it the outbox says better

    def _know(self, connection: Any) -> None:
        # Whatever HYDRACACHE_SNAPSHOT is: of savepoints, and of deadlocks, which undo
        # what is written.
        see_statements()
        writes = self.request_writes()
        if writes is not None:
            writes.know(connection)


def _say_ended(collected: RequestState, earlier: Sequence[EnqueuedBatch]) -> None:
    """Say that a block has committed, or rolled back, what it was to commit."""
    if collected and all(each in earlier for each in collected.written):
        logger.warning(
            "%s ended its transaction inside the transaction() block, before the"
            " invalidations were written: a crash in between would have lost them."
            " Leave commit and rollback to the block",
            collected.where,
        )


#: Why it is not known whether what a block has collected is written.
ENDED_WITHIN = (
    "its block ended the transaction that it had begun, and raised in another one"
)


def kept_in_doubt(
    collected: RequestState, earlier: Sequence[EnqueuedBatch], doubt: str
) -> tuple[InvalidationIntent, ...]:
    """Return what a block that has raised collected, which the request is to write.

    :param earlier: what was written before the block.
    :param doubt: why some of what it changed may be committed.
    """
    collected.doubt = doubt
    # What it has written and its server has undone before the block went on.
    undone = [each for each in collected.written if each.is_undone()]
    intents = [
        intent
        for each in undone
        if each not in earlier
        for intent in each.receipt.batch or ()
    ]
    return (*intents, *collected.intents)


def _has_ended(driver: CallersConnection) -> bool:
    """Whether it is certain that no transaction is open that has written."""
    try:
        return driver.has_begun() is False
    except Exception:
        return False  # what is wrong with the connection is being raised
