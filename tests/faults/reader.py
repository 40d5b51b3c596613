"""Readers: threads that read the same items all the time, and the sweep at the end."""

from __future__ import annotations

import os
import threading
import time
import traceback
from contextlib import closing

from faults.caches import evict, open_cache, open_store
from faults.database import open_database
from faults.job import Job
from faults.ledger import Ledger
from faults.reading import P3, CheckedReads
from faults.workload import intents_of, pick

#: Threads of a reader, which share a cache object.
THREADS = 4

#: Seconds between two reads of a thread, at most. All readers together are to leave
#: the writers and workers half of two slow cores.
PAUSE = 0.008

#: Share of reads before which a token is evicted.
EVICTED = 0.002

#: Seconds between two notes of the counts.
NOTED_EVERY = 0.5


def run_reader(job: Job, stop: threading.Event) -> None:
    """Read until told to stop, each time against what was published before."""
    ledger = Ledger(job.ledgers, job.name)
    store = open_store(job)
    cache = open_cache(job, store)

    def read(thread: int) -> None:
        rng = job.random(thread)
        evictions = 0
        with closing(open_database(job.database).reader()) as session:
            reads = CheckedReads(cache, session, ledger, rng)

            def note() -> None:
                ledger.note(
                    "reads",
                    thread=thread,
                    reads=reads.reads,
                    hits=reads.hits,
                    slow=reads.slow,
                    evictions=evictions,
                )

            noted = time.monotonic()
            while not stop.wait(rng.uniform(0.0, PAUSE)):
                item = pick(rng, job.items)
                if rng.random() < EVICTED:
                    evict(store, rng.choice(intents_of(item)))
                    evictions += 1
                reads.read_published(item)
                if time.monotonic() - noted > NOTED_EVERY:
                    noted = time.monotonic()
                    note()
            note()

    def guarded(thread: int) -> None:
        try:
            read(thread)
        except BaseException:
            # A thread that dies in silence would be a reader that finds nothing.
            traceback.print_exc()
            os._exit(1)

    threads = [
        threading.Thread(target=guarded, args=(number,), name=f"reader-{number}")
        for number in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def run_sweep(job: Job, stop: threading.Event) -> None:
    """Read every item once, when all is published: the newest version has to come."""
    ledger = Ledger(job.ledgers, job.name)
    cache = open_cache(job, open_store(job))
    with closing(open_database(job.database).reader()) as session:
        reads = CheckedReads(cache, session, ledger, job.random())
        for item in range(job.items):
            newest, _ = session.item(item)
            reads.read(item, newest, P3)
        ledger.note(
            "reads", thread=0, reads=reads.reads, hits=reads.hits, slow=0, evictions=0
        )
