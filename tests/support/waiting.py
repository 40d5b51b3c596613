"""Waiting for what another thread or process does."""

from __future__ import annotations

import time
from typing import Any, Callable

from support.processes import DEADLINE


def eventually(look: Callable[[], Any], what: str = "it did not happen") -> Any:
    """Look until there is something to see, and return it.

    :param what: says what is missing.
    """
    deadline = time.monotonic() + DEADLINE
    while not (found := look()):
        assert time.monotonic() < deadline, what
        time.sleep(0.005)
    return found
