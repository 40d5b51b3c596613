"""Running the examples as a stranger would, and comparing what they show."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from support import ROOT

EXAMPLES = ROOT / "examples"

#: Seconds until an answer counts as missing.
PATIENCE = 60.0


def pattern(shown: str) -> str:
    """Three dots stand for any text, blanks for any number of them."""
    quoted = re.escape(shown).replace(r"\.\.\.", ".*")
    return re.sub(r"(?:\\ )+", " +", quoted)


def exported(command: str, environment: dict[str, str]) -> dict[str, str]:
    """What a shell sets at an ``export NAME=...``."""
    name = command.split()[1].partition("=")[0]
    programs = f"{Path(sys.executable).parent}:{environment['PATH']}"
    value = subprocess.run(
        ["sh", "-ec", f'{command}; printf %s "${name}"'],
        env={**environment, "PATH": programs},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return {name: value}


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


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
