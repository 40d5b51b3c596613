"""The pool under Werkzeug's reloader: in the process that serves, not in the other."""

from __future__ import annotations

import os
import signal
import time

from served_shop import ServedShop
from server_checks import check_load, check_pools
from web_server import PROGRAMS

from support.waiting import eventually


def test_pool_lives_in_the_process_that_serves_and_ends_at_reload_and_ctrl_c(
    shop: ServedShop,
) -> None:
    watched = shop.notes / "watched"
    watched.touch()
    command = [f"{PROGRAMS}/flask", "--app=served_app", "run", "--debug"]
    command += ["--port={port}", f"--extra-files={watched}"]
    with shop.serve(command) as server:
        check_pools(shop, server, 1)
        check_load(shop, server, 1)
        assert len(os.listdir(f"/proc/{server.pid}/task")) == 1

        pid = shop.put_in_flight(server)
        later = time.time() + 10
        os.utime(watched, (later, later))
        eventually(lambda: server.workers and pid not in server.workers, "a reload")
        shop.check_finished_by(pid, server)
        check_pools(shop, server, 1)

        # The watching process kills its child a quarter of a second after Ctrl-C: time
        # enough for a batch, not for the slow one.
        [pid] = server.workers
        for process in pid, server.pid:
            os.kill(process, signal.SIGINT)
        eventually(server.has_ended, "the end of the server")
        eventually(lambda: not os.path.exists(f"/proc/{pid}"), "its child's end")
        assert shop.pending() == 0
