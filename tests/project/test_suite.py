"""The suite is the same however it was started, and leaves nothing when it fails."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support import TESTS as HERE

#: Seconds in which what was killed is gone, or was not killed.
PATIENCE = 30.0

#: Run below conftest.py, as a part of the suite.
PROBE = """
import subprocess

def test_what_is_started_ignores_nothing():
    told = subprocess.run(
        ["grep", "SigIgn", "/proc/self/status"], capture_output=True, text=True
    )
    # Without 32 and 33, which belong to the C library: no program can set them.
    assert int(told.stdout.split()[1], 16) & ~(3 << 31) == 0

def test_that_fails():
    started = subprocess.Popen(["sh", "-c", "sleep 300 & echo $!; wait"], stdout=-1)
    sleeping = int(started.stdout.readline())
    with open("started", "w") as file:
        file.write(f"{started.pid} {sleeping}")
    assert not "this is a failure"
"""


@pytest.mark.parametrize("processes", ["0", "1"], ids=["alone", "shared"])
def test_below_nohup_children_take_signals_and_a_failed_test_leaves_none(
    tmp_path: Path, processes: str
) -> None:
    (tmp_path / "test_probe.py").write_text(PROBE)
    ignoring = 'trap "" HUP INT QUIT; exec "$@"'
    command = [sys.executable, "-m", "pytest", "-p", "conftest", "-q", "-rA"]
    command += ["-p", "no:cacheprovider", f"--numprocesses={processes}"]

    ran = subprocess.run(
        ["sh", "-c", ignoring, "sh", *command, "test_probe.py"],
        env={**os.environ, "PYTHONPATH": str(HERE)},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )

    assert "1 failed, 1 passed" in ran.stdout, ran.stdout
    for process in (tmp_path / "started").read_text().split():
        deadline = time.monotonic() + PATIENCE
        while is_there(process):
            assert time.monotonic() < deadline, f"{process} is still there"
            time.sleep(0.02)


def is_there(process: str) -> bool:
    """Whether it runs. One that was killed is so a moment later on a busy machine."""
    try:
        state = Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    # A zombie is nobody: whoever has taken it over has not yet looked at it.
    return state.rpartition(")")[2][1] != "Z"
