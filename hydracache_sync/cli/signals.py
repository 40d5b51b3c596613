"""Ends a command between two batches when it is told to by a signal."""

from __future__ import annotations

import os
import select
import signal
import threading
from types import FrameType
from typing import Any, Sequence

#: What ends a command that runs until it is told: also the end of its terminal.
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


#: Seconds in which a signal that comes again is the same one: timeout(1) sends its own
#: twice, to the process and to its group. No person is as fast.
SAME_SIGNAL = 0.2


class StopOnSignals:
    """Set an event at the first of some signals; a second one ends the process.

    A context manager; does nothing outside the main thread, where Python takes no
    signals.

    :param signals: by default SIGTERM and SIGINT.
    :ivar event: set by the first signal, and by nothing else. Not for the main thread
        to wait on: the handler may interrupt that wait while it holds the event's lock,
        and would never get it. That is what :meth:`wait` is for.
    :ivar received: the name of that signal, None before.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self, signals: Sequence[signal.Signals] = SIGNALS) -> None:
        self.event = threading.Event()
        self.received: str | None = None
        self._signals = signals
        self._before: dict[signal.Signals, Any] = {}
        self._alarm_before: Any = None
        #: Written to by the handler: a select may be woken where a lock may not.
        self._pipe: tuple[int, int] | None = None

    def __enter__(self) -> StopOnSignals:
        self._pipe = os.pipe()
        if threading.current_thread() is threading.main_thread():
            self._alarm_before = signal.signal(signal.SIGALRM, self._let_end)
            for number in self._signals:
                before = signal.getsignal(number)
                # Ignored by whoever started us, as by a shell's "&": stays so.
                if before is not signal.SIG_IGN and before is not None:
                    self._before[number] = before
                    signal.signal(number, self._stop)
        return self

    def __exit__(self, *_: object) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, self._alarm_before or signal.SIG_DFL)
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before.clear()
        if self._pipe is not None:
            for end in self._pipe:
                os.close(end)
            self._pipe = None

    def wait(self, seconds: float) -> None:
        """Block for so long, or until the first signal; for the main thread."""
        if self._pipe is not None and self.received is None:
            select.select([self._pipe[0]], [], [], seconds)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            # Also where it interrupted the event's set(), which holds a lock.
            return
        self.received = signal.Signals(number).name
        signal.setitimer(signal.ITIMER_REAL, SAME_SIGNAL)
        if self._pipe is not None:
            os.write(self._pipe[1], b".")
        self.event.set()

    def _let_end(self, number: int, frame: FrameType | None) -> None:
        """From now on a signal ends the process, whatever it is in the middle of."""
        for each in self._before:
            signal.signal(each, signal.SIG_DFL)
