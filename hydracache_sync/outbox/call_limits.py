"""How long a call of an outbox may take, with all that it does."""

from __future__ import annotations

import contextlib
import time
from typing import Any, ContextManager, Iterator

from hydracache_sync.durations import duration_ms
from hydracache_sync.fork import ProcessLocal

#: Seconds that a call with a time limit has at least. A caller with no time left still
#: wants an answer, and that takes a round trip, or several to connect.
LEAST_TIME = 0.25

_UNLIMITED: ContextManager[None] = contextlib.nullcontext()


class CallLimits:
    """Until when the call that a thread is in has time. Thread-safe."""

    def __init__(self) -> None:
        self._limits = ProcessLocal()

    def within(self, timeout: float | None) -> ContextManager[None]:
        """Have all that is done in the block end within ``timeout`` seconds."""
        return _UNLIMITED if timeout is None else self._limited(timeout)

    @contextlib.contextmanager
    def _limited(self, timeout: float) -> Iterator[None]:
        duration_ms("timeout", timeout)
        limits: dict[str, Any] = self._limits.mine().__dict__
        before = limits.get("until")
        until = time.monotonic() + max(timeout, LEAST_TIME)
        limits["until"] = until if before is None else min(before, until)
        try:
            yield
        finally:
            limits["until"] = before

    def until(self) -> float | None:
        """When this thread's call must end, of ``time.monotonic()``; None: no limit."""
        until: float | None = self._limits.mine().__dict__.get("until")
        return until
