"""The examples run as a stranger would run them, and show what they say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def test_quickstart_shows_a_stale_read_prevented_and_a_crash_survived() -> None:
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("HYDRACACHE_OUTBOX", "HYDRACACHE_MEMCACHED")
    }

    check_quickstart([str(EXAMPLES / "quickstart.py")], env=environment)


def check_quickstart(command: list[str], **options: Any) -> None:
    ended = subprocess.run(
        [sys.executable, "-W", "error", *command],
        capture_output=True,
        text=True,
        timeout=60,
        **options,
    )

    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    lines = [" ".join(line.split()) for line in ended.stdout.splitlines()]
    assert "the reader wakes up and stores Ada Lovelace" in lines
    assert "the next read Countess Lovelace" in lines
    assert "exit status of the writer (SIGKILL) -9" in lines
    assert "a drain, as cron would run it, publishes 1" in lines
    assert "rows that wait 0" in lines
    assert re.fullmatch(r"last published \d+\.\d s ago", lines[-1])
