"""The kill storm run as a program, for tests of what it finds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

PROGRAM = Path(__file__).with_name("kill_storm.py")


class Result(NamedTuple):
    """A storm that has ended.

    :ivar verdict: what it wrote as JSON.
    :ivar folder: its ledgers, and its database if that is a file.
    """

    exit_code: int
    verdict: dict[str, Any]
    output: str
    folder: Path


def storm(folder: Path, arguments: str) -> Result:
    """Run the program with ``arguments``; keep what it leaves in ``folder``."""
    file = folder.with_suffix(".json")
    process = subprocess.run(
        [sys.executable, str(PROGRAM), "--keep", str(folder), "--json", str(file)]
        + arguments.split(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        env={**os.environ, "PYTHONUTF8": "1"},
    )
    # pytest shows it if a test fails; the seed is in it.
    print(process.stdout)
    assert file.exists(), process.stdout
    return Result(
        process.returncode, json.loads(file.read_text()), process.stdout, folder
    )
