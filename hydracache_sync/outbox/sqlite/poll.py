"""Polling a SQLite file: a file that nobody has changed has no new rows."""

from __future__ import annotations

import os
import time
from typing import Callable, Sequence

from hydracache_sync.outbox.due import Poll, QuietLook

#: Seconds that a file must have been left alone so that its time of change
#: distinguishes the next change from the last. Some systems count it in ticks of 10 ms.
QUIET_AFTER = 0.05

#: Seconds until a file that nobody changed is looked into all the same, for rows whose
#: backoff or claim has ended.
LOOK_ANYWAY = 0.25


class FilePoll:
    """Answers at once, from the times of the files, when nobody has committed.

    An idle worker asks fifty times a second; the system call takes a fraction of a
    query's time. Rows whose backoff or claim has ended are found up to
    :data:`LOOK_ANYWAY` seconds late.

    :param poll: asks with a query.
    :param clock: returns Unix seconds; by default ``time.time``.
    """

    def __init__(
        self, poll: Poll, path: str, clock: Callable[[], float] | None
    ) -> None:
        self._poll = poll
        self._path = path
        self._log = f"{path}-wal"
        self._clock = clock
        #: What was asked for when nothing was due, how the files were then, and when.
        self._quiet: tuple[tuple[str, ...], tuple[int, int], float] | None = None

    def due(self, namespaces: Sequence[str]) -> list[str]:
        asked = tuple(namespaces)
        now = (self._clock or time.time)()
        # Read before the rows: what is committed in between makes a difference later.
        changes = self._changes()
        quiet = self._quiet
        if quiet is not None and quiet[:2] == (asked, changes):
            if abs(now - quiet[2]) < LOOK_ANYWAY:
                return []
        due = self._poll.due(asked)
        self._quiet = None
        if changes is not None and not due:
            if changes[0] < (time.time() - QUIET_AFTER) * 1e9:
                self._quiet = (asked, changes, now)
        return due

    def quiet_look(self, namespaces: Sequence[str]) -> QuietLook | None:
        quiet = self._quiet
        if quiet is None or quiet[0] != tuple(namespaces):
            return None
        _, changes, asked_at = quiet
        age = abs((self._clock or time.time)() - asked_at)
        return QuietLook(
            lambda now: self._changes() == changes, time.monotonic() + LOOK_ANYWAY - age
        )

    def _changes(self) -> tuple[int, int] | None:
        """When what commits go to was changed, and its size; None without a file.

        In WAL mode each commit goes to the log, and to the data later.
        """
        for path in (self._log, self._path):
            try:
                found = os.stat(path)
            except OSError:
                continue  # a rollback journal; or opening the file says what is wrong
            return found.st_mtime_ns, found.st_size
        return None
