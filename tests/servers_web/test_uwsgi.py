"""The pool in the worker processes of uWSGI, which forks without telling Python.

Left out where uWSGI has no build: on Python 3.13 and newer. Its versions before 2.0.27
run threads only if asked to; the others always do. CI has one of the older ones on its
oldest Python.
"""

from __future__ import annotations

import importlib.metadata
import signal
import sys
from typing import NamedTuple

import pytest
from served_shop import ITEMS, ServedShop
from server_checks import (
    check_end,
    check_load,
    check_pools,
    check_pools_before_traffic,
    check_reload,
)
from web_server import GRACE, HERE, PROGRAMS

from support.waiting import eventually

# Half a minute, and some twenty starts of processes, on a machine that is not busy.
pytestmark = pytest.mark.timeout(600)

WORKERS = 2

OPTIONS = [
    f"{PROGRAMS}/uwsgi",
    "--http-socket=127.0.0.1:{port}",
    f"--pythonpath={HERE}",
    f"--virtualenv={PROGRAMS.parent}",
    "--master",
    "--no-orphans",
    "--need-app",
    f"--processes={WORKERS}",
    f"--worker-reload-mercy={GRACE}",
]


class Way(NamedTuple):
    """One way to run uWSGI.

    :ivar options: beside those of all.
    :ivar hook: the pool is started by the hook and not by the first request.
    :ivar reload, end: signals to the master. SIGTERM reloads and SIGQUIT ends, and with
        ``--die-on-term`` it is the other way round.
    """

    name: str
    options: list[str]
    hook: bool
    reload: signal.Signals
    end: signal.Signals


DIE = "--die-on-term"
HUP, TERM, QUIT = signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT
WAYS = [
    Way("prefork", ["--enable-threads", DIE], True, HUP, TERM),
    Way("lazy-apps", ["--enable-threads", "--lazy-apps"], True, HUP, signal.SIGINT),
    Way("threads", ["--threads=2"], False, TERM, QUIT),
]


@pytest.mark.parametrize("way", WAYS, ids=[way.name for way in WAYS])
def test_pools_live_carry_and_end_with_uwsgi(way: Way, shop: ServedShop) -> None:
    module = "uwsgi_hook:app" if way.hook else "served_app:app"
    with shop.serve([*OPTIONS, *way.options, f"--module={module}"]) as server:
        if way.hook:
            check_pools_before_traffic(shop, server, WORKERS)
        check_pools(shop, server, WORKERS)
        check_load(shop, server, WORKERS)
        check_pools(shop, server, WORKERS)
        check_reload(shop, server, way.reload)
        check_end(shop, server, way.end)


# What uWSGI is without an option, by its version.


def runs_threads_unasked() -> bool:
    version = importlib.metadata.version("uwsgi").split(".")
    return tuple(map(int, version)) >= (2, 0, 27)


if sys.version_info < (3, 13) and not runs_threads_unasked():

    def test_uwsgi_without_threads_says_so_once_and_inline_still_publishes(
        shop: ServedShop,
    ) -> None:
        command = [*OPTIONS, "--module=served_app:app"]
        with shop.serve(command, HYDRACACHE_MODE="inline") as server:
            states = server.states()
            shop.fill_cache()
            server.post_all([f"/items/{id}/inline" for id in ITEMS])

            assert [state["threads"] for state in states.values()] == [[], []]
            assert shop.pending() == 0
            assert shop.cached() == dict.fromkeys(ITEMS)
            for pid in states:
                complaint = f"no worker pool in process {pid}: uWSGI runs this app"
                assert server.said.count(complaint) == 1
            assert "--enable-threads" in server.said
            server.send(server.pid, signal.SIGINT)
            eventually(server.has_ended, "the end of the server")

else:

    def test_uwsgi_has_threads_without_being_asked(shop: ServedShop) -> None:
        with shop.serve([*OPTIONS, "--module=served_app:app"]) as server:
            check_pools(shop, server, WORKERS)
