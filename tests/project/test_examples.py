"""The examples run as a stranger would run them, and show what they say."""

from __future__ import annotations

import os

from support.examples import EXAMPLES, check_quickstart


def test_quickstart_shows_a_stale_read_prevented_and_a_crash_survived() -> None:
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("HYDRACACHE_OUTBOX", "HYDRACACHE_MEMCACHED")
    }

    check_quickstart([str(EXAMPLES / "quickstart.py")], env=environment)
