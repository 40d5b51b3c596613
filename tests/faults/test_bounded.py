"""A short run of ``bounded.py``; ``--reads 100000`` is the long one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("bounded.py")


@pytest.mark.timeout(600)
def test_no_read_with_a_bound_is_older_than_it() -> None:
    scenes = ("cron_dies", "wrong_namespace", "dead_letters", "empty_node")
    ended = subprocess.run(
        [sys.executable, str(PROGRAM), "--seed", "7", "--scenes", *scenes],
        capture_output=True,
        text=True,
        timeout=580,
    )

    said = ended.stdout + ended.stderr
    assert ended.returncode == 0, said
    assert set(re.findall(r"(\w+): played", said)) == set(scenes)
    assert re.search(r"^ +0 of them older than", said, re.MULTILINE), said
    assert re.search(r"^ +[1-9]\d* entries not served", said, re.MULTILINE), said
    assert re.search(r"^ +[1-9]\d* reads without it older", said, re.MULTILINE), said
