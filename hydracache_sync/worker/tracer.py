"""What a worker asks to open spans around its work; this one opens none."""

from __future__ import annotations

import contextlib
from typing import Any, Callable, ContextManager, Sequence

from hydracache_sync.outbox.row import OutboxRow
from hydracache_sync.receipts import InvalidationReceipt
from hydracache_sync.worker.reports import PublishReport

_NO_SPAN: ContextManager[Callable[..., Any]] = contextlib.nullcontext(
    lambda *_: None  # what came of it
)


class WorkerTracer:
    """Opens spans, each around a block. Never raises; what a block raises goes on."""

    def claim(
        self, namespace: str
    ) -> ContextManager[Callable[[Sequence[OutboxRow]], object]]:
        """Open the span of a claim; the block calls what it is given with the rows."""
        return _NO_SPAN

    def apply(
        self, namespace: str, rows: Sequence[OutboxRow]
    ) -> ContextManager[
        Callable[[PublishReport, Sequence["Exception | None"]], object]
    ]:
        """Open the span of a batch, from its rows to their settlement.

        The block calls what it is given with what came of the rows, and of each apply.
        """
        return _NO_SPAN

    def settle(self, namespace: str, rows: int) -> ContextManager[object]:
        """Open the span of writing down what became of rows."""
        return _NO_SPAN

    def publish(
        self, receipt: InvalidationReceipt
    ) -> ContextManager[Callable[[PublishReport], object]]:
        """Open the span of an inline publish."""
        return _NO_SPAN


NO_TRACER = WorkerTracer()
