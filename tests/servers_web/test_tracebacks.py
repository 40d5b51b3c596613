"""Whose traceback it is that a server has logged."""

from __future__ import annotations

from pathlib import Path

from tracebacks import tracebacks_of_ours

import hydracache_sync

OURS = Path(hydracache_sync.__file__).parent / "worker.py"

#: What gunicorn says when QUIT meets it inside sendall.
GUNICORNS = """[ERROR] Error handling request /slow
Traceback (most recent call last):
  File "/venv/lib/gunicorn/workers/sync.py", line 134, in handle
    self.handle_request(listener, req, client, addr)
  File "/venv/lib/gunicorn/util.py", line 299, in write
    sock.sendall(data)
    ~~~~~~~~~~~~^^^^^^
  File "/venv/lib/gunicorn/workers/base.py", line 204, in handle_quit
    sys.exit(0)
SystemExit: 0
[INFO] Worker exiting (pid: 7)
"""


def test_a_servers_own_traceback_is_not_ours() -> None:
    # The log goes on with our name, as a checkout's directory may have it too.
    said = GUNICORNS + f'hydracache_sync: File "{OURS}"\n'

    assert tracebacks_of_ours(said) == []


def test_ours_is_found_among_others() -> None:
    ours = GUNICORNS.replace("/venv/lib/gunicorn/util.py", str(OURS))

    [found] = tracebacks_of_ours(GUNICORNS + ours + GUNICORNS)

    assert str(OURS) in found and found.endswith("SystemExit: 0")
