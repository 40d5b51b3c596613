"""Nothing of the library keeps gevent's hub for long; its work at exit is not cut off.

How long is measured by a greenlet that only sleeps, less the time for which the machine
let the process wait for a processor.
"""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from served_shop import ITEMS, ServedShop
from web_server import HERE, PROGRAMS

from hydracache_sync import InvalidationIntentBatch, SQLiteOutbox
from support.servers import MariaDB, Memcached
from support.waiting import eventually

#: Seconds; stated in docs/operations/servers.md. Each wait below is several times that.
BOUND = 0.25

TESTS = HERE.parent

GUNICORN = [f"{PROGRAMS}/gunicorn", "served_app:app", "--bind=127.0.0.1:{port}"]


def test_hub_goes_on_while_memcached_hangs_and_the_outbox_is_locked(
    mariadb: MariaDB, shop: ServedShop
) -> None:
    with Memcached() as cache:
        environment = {
            "MEMCACHED": cache.address,
            "CACHE_PATIENCE": "0.5",
            "HYDRACACHE_MODE": "inline",
        }
        with shop.serve([*GUNICORN, "--worker-class=gevent"], **environment) as server:
            server.states()
            server.post_all([f"/items/{id}/a" for id in ITEMS])

            cache.pause()
            server.post_all([f"/items/{id}/b" for id in ITEMS], threads=10)
            cache.resume()
            shop.sql("lock tables hydracache_outbox write")
            locked = threading.Timer(2.0, shop.sql, ["unlock tables"])
            locked.start()
            server.post_all([f"/items/{id}/c" for id in ITEMS], threads=10)
            locked.join()
            eventually(lambda: shop.pending() == 0, "everything published")

            [state] = server.states().values()
            assert state["gevent"]
            assert 0 < state["longest"] < BOUND


ON_SQLITE = """if True:
    from gevent import monkey
    monkey.patch_all()

    import sys
    from served_app import Ticker
    from hydracache_sync import InvalidationIntentBatch, SQLiteOutbox

    outbox, ticker = SQLiteOutbox(sys.argv[1], busy_timeout=60), Ticker()
    outbox.status("shop")
    ticker.start_once()
    print("ready", flush=True)
    outbox.enqueue("shop", InvalidationIntentBatch().invalidate_key("a"))
    print(ticker.longest)
"""


def test_hub_goes_on_while_another_process_writes_to_the_sqlite_file(
    tmp_path: Path,
) -> None:
    path = tmp_path / "app.db"
    with contextlib.closing(SQLiteOutbox(path)) as outbox:
        outbox.install_schema()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("begin immediate")
        program = subprocess.Popen(
            [sys.executable, "-c", ON_SQLITE, str(path)],
            env={"PYTHONPATH": f"{HERE}:{TESTS}:{TESTS.parent}"},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        with contextlib.suppress(subprocess.TimeoutExpired):
            program.wait(1.0)
        assert program.poll() is None
        writer.execute("rollback")
        longest = float(program.communicate(timeout=60)[0])

    assert 0 < longest < BOUND


TOLD_TWICE = """if True:
    from gevent import monkey
    monkey.patch_all()

    import atexit
    import sys
    import gevent
    from support.pool_processes import carry_until_in_flight

    carry_until_in_flight(sys.argv[1])
    # What gunicorn does on SIGQUIT. It reaches the main greenlet in the pool's stop:
    # where it first gives way, or where it waits for the batch.
    atexit.register(gevent.spawn_later, float(sys.argv[2]), sys.exit)
"""


@pytest.mark.parametrize("after", ["0.0", "0.1"])
def test_batch_is_finished_though_the_process_is_told_again_to_exit(
    after: str, tmp_path: Path
) -> None:
    path = tmp_path / "app.db"
    with contextlib.closing(SQLiteOutbox(path)) as outbox:
        outbox.install_schema()
        outbox.enqueue("shop", InvalidationIntentBatch().invalidate_key("slow"))

        subprocess.run(
            [sys.executable, "-c", TOLD_TWICE, str(path), after],
            env={"PYTHONPATH": f"{TESTS}:{TESTS.parent}"},
            check=True,
            timeout=60,
        )

        assert outbox.status("shop").pending == 0


KEPT = """if True:
    from gevent import monkey
    monkey.patch_all()

    import atexit
    import sqlite3
    import sys
    from pathlib import Path
    import gevent
    from shop import Shop, hydracache

    shop = Shop(Path(sys.argv[1]), HYDRACACHE_NET_TIMEOUT=0.05)
    lock = sqlite3.connect(sys.argv[1])
    lock.execute("begin immediate")
    with shop.app.test_request_context():
        hydracache.invalidate_key("one")

    def exit_again():
        lock.rollback()
        sys.exit()

    # It reaches the main greenlet where the last try waits for the lock.
    atexit.register(gevent.spawn, exit_again)
"""


def test_last_try_to_write_goes_on_though_the_process_is_told_again_to_exit(
    tmp_path: Path,
) -> None:
    path = tmp_path / "shop.db"

    subprocess.run(
        [sys.executable, "-c", KEPT, str(path)],
        env={"PYTHONPATH": f"{TESTS / 'web'}:{TESTS}:{TESTS.parent}"},
        check=True,
        timeout=60,
    )

    with contextlib.closing(sqlite3.connect(path)) as connection:
        [count] = connection.execute("select count(*) from hydracache_outbox")
    assert count == (1,)


IMPORTED_BEFORE = """if True:
    from hydracache_sync.app import open_transactions
    from gevent import monkey
    monkey.patch_all()

    import gevent

    opened = open_transactions.OpenTransaction()

    def seen():
        return len(list(open_transactions.all_open())), open_transactions.statements()

    def writer():
        open_transactions.opened(opened)
        open_transactions.note_statement()
        gevent.sleep(0)
        return seen()

    greenlets = gevent.spawn(writer), gevent.spawn(seen)
    gevent.joinall(greenlets, raise_error=True)
    print([each.value for each in greenlets])
"""


def test_greenlets_share_no_transactions_though_the_library_was_imported_before() -> (
    None
):
    """As gunicorn's gevent worker does with --preload."""
    printed = subprocess.run(
        [sys.executable, "-c", IMPORTED_BEFORE],
        env={"PYTHONPATH": str(TESTS.parent)},
        stdout=subprocess.PIPE,
        check=True,
        timeout=60,
        text=True,
    ).stdout

    assert printed == "[(1, 1), (0, 0)]\n"
