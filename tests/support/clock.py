"""Clocks that a test moves."""

from __future__ import annotations

import time

import pytest


class FakeClock:
    """Unix seconds, the same at every call; give it to an outbox as ``clock=``.

    Counts in whole milliseconds, like the rows, and reads in the middle of one, so that
    no rounding on the way to milliseconds changes it.
    """

    def __init__(self, now_ms: int = 1_700_000_000_000) -> None:
        self.now_ms = now_ms

    def __call__(self) -> float:
        return (self.now_ms + 0.5) / 1000

    def advance(self, seconds: float) -> None:
        """Move on by ``seconds``, or back if they are negative."""
        self.now_ms += round(seconds * 1000)


class Later:
    """``time.monotonic`` as it will be: it passes, and a test moves it on besides."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._now = time.monotonic
        self._ahead = 0.0
        monkeypatch.setattr(time, "monotonic", self)

    def __call__(self) -> float:
        return self._now() + self._ahead

    def advance(self, seconds: float) -> None:
        self._ahead += seconds
