"""The user that runs this process, as the operator whom a row's history names."""

from __future__ import annotations

import functools
import getpass
import os
import socket


@functools.lru_cache(maxsize=1)
def process_user() -> str:
    """Return the login name and the host, or the number of a user without a name."""
    return f"{_name()}@{socket.gethostname()}"


def _name() -> str:
    try:
        import pwd
    except ImportError:  # Windows
        return getpass.getuser()
    number = os.getuid()
    try:
        # Not getpass: LOGNAME of the environment may say anything.
        return pwd.getpwuid(number).pw_name
    except KeyError:  # in a container, often
        return f"uid {number}"
