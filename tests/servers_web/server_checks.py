"""What has to hold behind every server, checked on one start of it."""

from __future__ import annotations

import signal
import time
from typing import Sequence

from served_shop import ITEMS, ServedShop
from tracebacks import tracebacks_of_ours
from web_server import GRACE, WebServer

from support.waiting import eventually

#: Two threads of a pool: one carries, one looks after it.
POOL_THREADS = ["hydracache-maintenance", "hydracache-worker-1"]


def check_pools_before_traffic(
    shop: ServedShop, server: WebServer, workers: int
) -> None:
    """Each worker's pool is at work before anybody has asked for a page."""
    eventually(lambda: len(server.workers) == workers, f"{workers} workers")
    eventually(
        lambda: set(server.workers) <= shop.connected(server),
        "a connection of each worker's pool",
    )


def check_pools(shop: ServedShop, server: WebServer, workers: int) -> None:
    """Each worker has its pool, and no connection belongs to two processes."""
    eventually(lambda: len(server.workers) == workers, f"{workers} workers")
    # A poll that a busy machine holds up for a second is no healthy one.
    eventually(
        lambda: all(state["ok"] for state in server.states().values()), "healthy pools"
    )
    states = server.states()

    assert len(states) == workers
    for state in states.values():
        assert state["threads"] == POOL_THREADS, state
    eventually(lambda: set(server.workers) <= shop.connected(server), "connected pools")
    shared = {s: pids for s, pids in shop.holders(server).items() if len(pids) > 1}
    assert not shared, f"{shared}, workers of {server.pid}: {server.workers}"


def check_load(shop: ServedShop, server: WebServer, workers: int) -> None:
    """What is written under load, in all workers at once, is all applied."""
    shop.fill_cache()
    paths = [f"/items/{id}/after{n}" for n in range(6) for id in ITEMS]
    paths += [f"/items/{id}/last" for id in ITEMS]

    served_by = server.post_all(paths[: -len(ITEMS)])
    served_by += server.post_all(paths[-len(ITEMS) :])
    eventually(lambda: shop.pending() == 0, "everything published")

    assert len(served_by) == len(paths)
    assert shop.names() == {"last"}
    assert len(shop.outbox.rows(shop.namespace, limit=1000)) >= len(paths)
    assert shop.cached() == dict.fromkeys(ITEMS)
    for id in ITEMS:
        assert server.ask("GET", f"/items/{id}")["name"] == "last"


def check_worker_ends(
    shop: ServedShop, server: WebServer, numbers: Sequence[signal.Signals]
) -> None:
    """A worker that is told to end finishes its batch; another takes its place."""
    workers = len(server.workers)
    for number in numbers:
        pid = shop.put_in_flight(server)
        began = time.monotonic()
        server.send(pid, number)
        eventually(lambda: pid not in server.workers, f"the end of {pid}")

        assert time.monotonic() - began < GRACE
        shop.check_finished_by(pid, server)
    # gunicorn loses a TERM that comes while a worker starts, with any app, and waits
    # for all of the grace: so until they answer.
    check_pools(shop, server, workers)


def check_reload(
    shop: ServedShop, server: WebServer, number: signal.Signals = signal.SIGHUP
) -> None:
    """At a reload the batch in flight is finished, and new workers carry on."""
    before = server.workers
    pid = shop.put_in_flight(server)
    began = time.monotonic()
    server.send(server.pid, number)
    eventually(
        lambda: len(server.workers) == len(before)
        and not set(before) & set(server.workers),
        "new workers in place of the old",
    )

    assert time.monotonic() - began < GRACE, server.said[-3000:]
    shop.check_finished_by(pid, server)
    check_pools(shop, server, len(before))


def check_end(shop: ServedShop, server: WebServer, number: signal.Signals) -> None:
    """The server ends within its grace, with the batch in flight finished."""
    pid = shop.put_in_flight(server)
    began = time.monotonic()
    server.send(server.pid, number)
    eventually(server.has_ended, "the end of the server")

    assert time.monotonic() - began < GRACE
    shop.check_finished_by(pid, server)
    for late in ("SIGKILL", "NO MERCY", "did not end within"):
        assert late not in server.said, server.said[-5000:]
    assert tracebacks_of_ours(server.said) == []
