"""The pool in gunicorn's worker processes: each kind of worker, preloaded or not."""

from __future__ import annotations

import signal
from typing import NamedTuple

import pytest
from served_shop import ServedShop
from server_checks import (
    check_end,
    check_load,
    check_pools,
    check_pools_before_traffic,
    check_reload,
    check_worker_ends,
)
from web_server import GRACE, HERE, PROGRAMS

# Half a minute, and some twenty starts of processes, on a machine that is not busy.
pytestmark = pytest.mark.timeout(600)

WORKERS = 2


class Way(NamedTuple):
    """One way to run gunicorn.

    :ivar hook: the pool is started by the hook and not by the first request.
    :ivar end: the signal that ends the server.
    """

    kind: str
    preload: bool
    hook: bool
    end: signal.Signals

    @property
    def command(self) -> list[str]:
        command = [f"{PROGRAMS}/gunicorn", "served_app:app", "--bind=127.0.0.1:{port}"]
        command += [f"--workers={WORKERS}", f"--worker-class={self.kind}"]
        command.append(f"--graceful-timeout={GRACE}")
        command += ["--threads=4"] * (self.kind == "gthread")
        command += ["--preload"] * self.preload
        if self.hook:
            command.append(f"--config={HERE}/gunicorn_hook.py")
        return command


# Every kind of worker is started by the hook in one way and lazily in the other, and
# every signal ends two servers.
WAYS = [
    Way("sync", False, False, signal.SIGTERM),
    Way("sync", True, True, signal.SIGINT),
    Way("gthread", False, True, signal.SIGQUIT),
    Way("gthread", True, False, signal.SIGTERM),
    Way("gevent", False, True, signal.SIGINT),
    Way("gevent", True, False, signal.SIGQUIT),
]


@pytest.mark.parametrize(
    "way", WAYS, ids=[f"{w.kind}{'-preload' * w.preload}" for w in WAYS]
)
def test_pools_live_carry_and_end_with_gunicorn(way: Way, shop: ServedShop) -> None:
    with shop.serve(way.command) as server:
        if way.hook:
            check_pools_before_traffic(shop, server, WORKERS)
        check_pools(shop, server, WORKERS)
        check_load(shop, server, WORKERS)
        check_pools(shop, server, WORKERS)
        ends = signal.SIGTERM, signal.SIGQUIT, signal.SIGINT
        check_worker_ends(shop, server, ends)
        check_reload(shop, server)
        check_end(shop, server, way.end)
