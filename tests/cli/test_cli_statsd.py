"""A worker and a drain send what they did to a StatsD before they end."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Iterator

import pytest

from hydracache_sync.cli import ExitCode
from support.commands import Shop, ended, run, start
from support.servers import Memcached
from support.statsd import StatsDServer
from support.waiting import eventually

#: Where nothing listens, and a name that there never is.
NOWHERE = ("127.0.0.1:1", "nowhere.invalid")

#: Says what the command has loaded.
NAMING = """
import atexit, sys
modules = ("hydracache_sync.metrics", "prometheus_client")
atexit.register(lambda: print([name in sys.modules for name in modules]))
from hydracache_sync.__main__ import main
main()
"""


@pytest.fixture
def shop(tmp_path: Path, memcached: Memcached, unique: str) -> Iterator[Shop]:
    with Shop(tmp_path / "shop.db", unique, memcached.address) as shop:
        yield shop


@pytest.fixture
def server() -> Iterator[StatsDServer]:
    with StatsDServer() as server:
        yield server


def test_drains_add_up(shop: Shop, server: StatsDServer) -> None:
    for first, rows in ((0, 3), (3, 2)):
        shop.invalidate(rows, first=first)
        assert shop.drain(statsd=server.address).code == ExitCode.DONE

    sent, of = server.read(), shop.namespace
    assert sent.counts[f"hydracache.worker_rows.{of}.published"] == 5
    assert sent.timed(f"hydracache.publish_lag.{of}") == 5
    assert sent.gauges[f"hydracache.outbox_pending.{of}"] == 0


def test_a_drain_sends_also_where_the_outbox_fails(
    tmp_path: Path, server: StatsDServer
) -> None:
    end = run(
        "drain",
        outbox=f"sqlite:///{tmp_path}/nowhere/shop.db",
        namespace="shop",
        memcached="127.0.0.1:1",
        statsd=server.address,
        statsd_prefix="ops",
    )

    assert end.code == ExitCode.OUTBOX_AWAY
    assert server.read().gauges["ops.outbox_up.shop"] == 0


@pytest.mark.parametrize("where", NOWHERE)
def test_one_that_is_away_costs_no_row(shop: Shop, where: str) -> None:
    shop.invalidate(2)

    end = shop.drain(statsd=where)

    assert end.code == ExitCode.DONE
    assert shop.published() == 2


def test_a_worker_sends_while_it_runs_and_at_its_end(
    shop: Shop, server: StatsDServer
) -> None:
    worker = start("worker", statsd=server.address, **shop.settings)
    name = f"hydracache.worker_rows.{shop.namespace}.published"
    shop.invalidate(3)
    eventually(lambda: server.read().counts.get(name) == 3)
    eventually(lambda: server.read().gauges.get("hydracache.pool_threads.idle"))
    shop.invalidate(2, first=3)
    eventually(lambda: shop.pending() == 0)
    worker.send_signal(signal.SIGTERM)
    end = ended(worker)

    assert (end.code, end.err) == (ExitCode.DONE, "")
    assert server.read().counts[name] == 5


@pytest.mark.parametrize(
    "options, loaded",
    [({}, [False, False]), ({"statsd": NOWHERE[0]}, [True, False])],
)
def test_nothing_is_imported_where_it_is_off_and_prometheus_never(
    shop: Shop, options: dict[str, str], loaded: list[bool]
) -> None:
    program = (sys.executable, "-c", NAMING)

    end = ended(start("drain", program=program, **{**shop.settings, **options}))

    assert end.code == ExitCode.DONE
    assert end.out.splitlines()[-1] == str(loaded)


@pytest.mark.parametrize("where", ["", "/run/statsd.sock", "host:0", "a b:8125"])
def test_what_is_no_address_is_refused(shop: Shop, where: str) -> None:
    end = run("drain", "--statsd", where, **shop.settings)

    assert end.code == ExitCode.USAGE
    assert "is no address of a StatsD" in end.err
