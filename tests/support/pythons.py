"""Which of the supported Pythons this machine has."""

from __future__ import annotations

import os
import shutil
import subprocess
from glob import glob

#: Minor versions of Python 3.
SUPPORTED = range(9, 14)


def pythons(default: str) -> list[tuple[int, str]]:
    """Minor version and path of one Python for each supported one here, oldest first.

    :param default: name or path of one to look at after those in PATH and of pyenv.
    :raises RuntimeError: there is none.
    """
    pyenv = os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv")
    found = []
    for minor in SUPPORTED:
        candidates = [
            *(f"{folder}/python3.{minor}" for folder in os.get_exec_path()),
            *sorted(glob(f"{pyenv}/versions/3.{minor}.*/bin/python3")),
            shutil.which(default) or default,
        ]
        for candidate in candidates:
            if os.access(candidate, os.X_OK) and minor_of(candidate) == minor:
                found.append((minor, candidate))
                break
    if not found:
        raise RuntimeError("no supported Python here")
    return found


def minor_of(python: str) -> int | None:
    """11 for a Python 3.11 that really runs, and can make environments.

    A shim of pyenv's may only look as if.
    """
    program = (
        "import ensurepip, sqlite3, ssl, sys, venv\n"
        "if sys.version_info[0] == 3: print(sys.version_info[1])"
    )
    try:
        told = subprocess.run(
            [python, "-c", program],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
    except OSError:
        return None
    return int(told.stdout) if told.returncode == 0 and told.stdout else None
