"""Waiting for what another thread or process does."""

from __future__ import annotations

import time
from typing import Any, Callable

from support.processes import DEADLINE


def eventually(look: Callable[[], Any]) -> Any:
    """Look until there is something to see, and return it."""
    deadline = time.monotonic() + DEADLINE
    while not (found := look()):
        assert time.monotonic() < deadline, "did not happen"
        time.sleep(0.005)
    return found
