"""Ends a command between two batches when it is told to by a signal."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class StopOnSignals:
    """Set an event at the first SIGTERM or SIGINT; a second one ends the process.

    A context manager; does nothing outside the main thread, where Python takes no
    signals.

    :ivar event: set by the first signal, and by nothing else. Not for the main thread
        to wait on: the handler may interrupt that wait while it holds the event's lock,
        and would wait for it for ever.
    :ivar received: the name of that signal, None before.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self.event = threading.Event()
        self.received: str | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopOnSignals:
        if threading.current_thread() is threading.main_thread():
            for number in self.SIGNALS:
                before = signal.getsignal(number)
                # Ignored by whoever started us, as by a shell's "&": stays so.
                if before is not signal.SIG_IGN and before is not None:
                    self._before[number] = before
                    signal.signal(number, self._stop)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before.clear()

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number).name
        # First, so that this is never run again inside the event's set(), which holds
        # a lock.
        for each in self._before:
            signal.signal(each, signal.SIG_DFL)
        self.event.set()
