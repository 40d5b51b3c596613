"""A worker process is killed between the commit of a request and its publish."""

from __future__ import annotations

import http.client
import subprocess
import sys

import pytest
from served_shop import ITEMS, ServedShop
from web_server import PATIENCE, PROGRAMS

from support.waiting import eventually

GUNICORN = [f"{PROGRAMS}/gunicorn", "served_app:app", "--bind=127.0.0.1:{port}"]


def test_a_drain_by_cron_publishes_what_the_killed_process_could_not(
    shop: ServedShop,
) -> None:
    mode = {"HYDRACACHE_MODE": "inline", "HYDRACACHE_POOL": "none"}
    with shop.serve(GUNICORN, **mode) as server:
        shop.fill_cache()
        with pytest.raises(http.client.HTTPException):
            server.ask("POST", f"/items/{ITEMS[0]}/new/die")

        assert shop.pending() == 1
        assert shop.cached()[ITEMS[0]] == "old"
        subprocess.run(
            [sys.executable, "-m", "hydracache_sync", "drain"],
            env={
                "HYDRACACHE_OUTBOX": shop.environment["HYDRACACHE_OUTBOX"],
                "HYDRACACHE_NAMESPACE": shop.namespace,
                "HYDRACACHE_MEMCACHED": shop.environment["MEMCACHED"],
                # A busy machine is no outage.
                "HYDRACACHE_CONNECT_TIMEOUT": str(PATIENCE),
                "HYDRACACHE_TIMEOUT": str(PATIENCE),
            },
            check=True,
            capture_output=True,
        )
        assert shop.pending() == 0
        assert shop.cached() == {**dict.fromkeys(ITEMS, "old"), ITEMS[0]: None}
        assert server.ask("GET", f"/items/{ITEMS[0]}")["name"] == "new"


def test_the_pool_of_another_process_publishes_it(shop: ServedShop) -> None:
    # Should its own pool have claimed the row already, the claim has to end first.
    with shop.serve([*GUNICORN, "--workers=2"], HYDRACACHE_CLAIM_TTL="3") as server:
        killed = set(server.states())
        shop.fill_cache()
        with pytest.raises(http.client.HTTPException):
            server.ask("POST", f"/items/{ITEMS[0]}/new/die")
        eventually(lambda: shop.pending() == 0, "a publish by the other process")

        assert shop.cached() == {**dict.fromkeys(ITEMS, "old"), ITEMS[0]: None}
        eventually(lambda: len(server.workers) == 2, "another worker")
        assert len(killed & set(server.workers)) == 1
