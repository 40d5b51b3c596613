"""The start of every process of the storm: ``python -m faults.process JOB``."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from typing import Callable

from faults.job import Job
from faults.reader import run_reader, run_sweep
from faults.worker import run_cron, run_last_drain, run_worker
from faults.writer import run_writer

ROLES: dict[str, Callable[[Job, threading.Event], None]] = {
    "writer": run_writer,
    "worker": run_worker,
    "cron": run_cron,
    "last-drain": run_last_drain,
    "reader": run_reader,
    "sweep": run_sweep,
}

#: Linux, <sys/prctl.h>.
PR_SET_PDEATHSIG = 1


def main() -> None:
    """Run the job's role; SIGTERM asks it to finish what it is doing."""
    job = Job.from_json(sys.argv[1])
    die_with(job.parent)
    ROLES[job.role](job, set_at_sigterm())


def set_at_sigterm() -> threading.Event:
    """Return an event that SIGTERM sets; called before there are other threads.

    By a thread that waits for it: a handler might interrupt the main thread while that
    holds the event's lock, and would wait for it for ever.
    """
    told = threading.Event()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def wait() -> None:
        signal.sigwait({signal.SIGTERM})
        told.set()

    threading.Thread(target=wait, name="SIGTERM", daemon=True).start()
    return told


def die_with(parent: int) -> None:
    """Have the kernel kill this process when ``parent`` ends, in whatever way."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent:
        # It ended before we had asked.
        os._exit(1)


if __name__ == "__main__":
    main()
