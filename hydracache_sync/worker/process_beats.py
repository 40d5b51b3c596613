"""What a process that runs workers says of itself, beside their outbox.

Knows no thread: a pool's maintenance, or a drain at its end, has it written.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import socket
import time
from dataclasses import asdict, replace
from typing import Callable, Sequence

from hydracache_sync.cache.tagged import TaggedCache
from hydracache_sync.events import (
    DeadLettered,
    Event,
    OutageBegan,
    Published,
    Released,
    Retried,
)
from hydracache_sync.fork import abandon_in_children
from hydracache_sync.outbox.workers import WorkerBeat, checked_kind
from hydracache_sync.version import __version__
from hydracache_sync.worker.worker import OutboxWorker

#: Seconds that a beat waits for a busy database; the next one is not far.
PATIENCE = 1.0

#: Seconds for which the last error is told.
ERROR_KEPT = 600.0

#: Beats of a process between two times that it forgets others.
PURGE_AT = 60


class ProcessBeats:
    """The beats of one process for the workers of one outbox.

    Used by one thread at a time; :meth:`listen` may be called in any.

    :param workers: all of one outbox.
    :param kind: "pool", "worker" or "drain".
    :param every: seconds between two beats; 0 for a drain.
    :param caches: of this process, whose counts are told.
    :param reads_elsewhere: returns a server that loads were seen to read, and that is
        not known to have what is committed.
    """

    def __init__(
        self,
        workers: Sequence[OutboxWorker],
        *,
        kind: str,
        every: float,
        caches: Sequence[TaggedCache] = (),
        reads_elsewhere: Callable[[], str | None] = lambda: None,
    ) -> None:
        self.outbox = workers[0].outbox
        self._workers = workers
        self._kind = checked_kind(kind)
        self._every = every
        self._caches = caches
        self._reads_elsewhere = reads_elsewhere
        self._namespaces = tuple(sorted(worker.namespace for worker in workers))
        self._began_in(os.getpid())
        abandon_in_children(self)

    def _began_in(self, pid: int) -> None:
        """Begin to count: a forked child has its parent's counts, and its name."""
        self._pid = pid
        self._batch_at: float | None = None
        self._error: tuple[float, str] | None = None
        self._written = 0
        self._started = time.monotonic()
        self._published_before = self._published()
        # A name of a host may be bytes that are no UTF-8, or long as bytes.
        host = socket.gethostname().encode("utf-8", "backslashreplace")[:200]
        name = host.decode("utf-8", "ignore")
        # Those of drains are one: each is gone before anybody looks.
        self._owner = f"{name}/{pid}/{secrets.token_hex(4)}"
        if self._kind == "drain":
            names = json.dumps(self._namespaces).encode()
            self._owner = f"drain/{hashlib.sha256(names).hexdigest()[:32]}"

    def _published(self) -> int:
        return sum(worker.diagnostics().published for worker in self._workers)

    def listen(self) -> Callable[[], None]:
        """Note batches and errors from now on; call what it returns to end that."""
        ends = [worker.subscribe(self._note, inline=False) for worker in self._workers]

        def end() -> None:
            for each in ends:
                each()

        return end

    def abandon_inherited(self) -> None:
        """In a child: begin again."""
        if self._pid != os.getpid():
            self._began_in(os.getpid())

    def _note(self, event: Event) -> None:
        self.abandon_inherited()
        now = time.monotonic()
        if isinstance(event, (Published, Released, Retried, DeadLettered)):
            self._batch_at = now
        if isinstance(event, (Released, Retried, DeadLettered, OutageBegan)):
            if event.error is not None:
                self._error = now, event.error

    def write(self) -> None:
        """Write a beat, and now and then forget processes that are long gone.

        :raises OutboxError: the database failed. Nothing is lost: the next one says
            all of it.
        """
        self.abandon_inherited()
        self.outbox.beat(self._beat(), timeout=PATIENCE)
        self._written += 1
        if self._written % PURGE_AT == 1:
            self.outbox.purge_workers()

    def write_stopped(self) -> None:
        """Write that this process carries no more, if it has said that it does.

        :raises OutboxError: the database failed: it will count as late.
        """
        self.abandon_inherited()
        if self._written:
            self.outbox.beat(replace(self._beat(), stopped=True), timeout=PATIENCE)

    def _beat(self) -> WorkerBeat:
        # Before the clock: a batch may end meanwhile, and none ends in the future.
        batch_at, noted = self._batch_at, self._error
        now = time.monotonic()
        error = None
        if noted is not None and now - noted[0] <= ERROR_KEPT:
            error = noted[1]
        counts = {
            cache.namespace: {
                name: count
                for name, count in asdict(cache.diagnostics()).items()
                if count
            }
            for cache in self._caches
        }
        return WorkerBeat(
            owner=self._owner,
            kind=self._kind,
            host=socket.gethostname(),
            pid=self._pid,
            version=__version__,
            namespaces=self._namespaces,
            age=now - self._started,
            every=self._every,
            carried=max(0, self._published() - self._published_before),
            batch_age=None if batch_at is None else now - batch_at,
            last_error=error,
            caches=counts,
            reads_elsewhere=self._reads_elsewhere(),
        )
