"""A scrape of one of gunicorn's processes tells what all of them have done."""

from __future__ import annotations

import http.client
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from served_shop import ITEMS, ServedShop
from web_server import PROGRAMS, WebServer

from support.statsd import StatsDServer
from support.waiting import eventually

WORKERS = 2


def scraped(server: WebServer) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        connection.request("GET", "/ops/metrics")
        response = connection.getresponse()
        assert response.status == 200
        assert response.getheader("Content-Type", "").startswith("text/plain")
        return response.read().decode()
    finally:
        connection.close()


def found_in(directory: Path) -> str:
    """What all processes together have counted so far."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(directory))
    return generate_latest(registry).decode()


def total(text: str, name: str) -> float:
    found = re.findall(rf"^hydracache_{re.escape(name)}[^\n]* (\S+)$", text, re.M)
    assert found, f"{name} is missing in {text}"
    return sum(map(float, found))


@pytest.mark.parametrize(
    "kind, preload", [("sync", False), ("gthread", True), ("gevent", True)]
)
def test_what_two_processes_did_adds_up(
    shop: ServedShop, tmp_path: Path, kind: str, preload: bool
) -> None:
    directory = tmp_path / "metrics"
    directory.mkdir()
    command: list[Any] = [f"{PROGRAMS}/gunicorn", "served_app:app"]
    command += ["--bind=127.0.0.1:{port}", f"--workers={WORKERS}"]
    command.append(f"--worker-class={kind}")
    command += ["--preload"] * preload
    environment = {
        "HYDRACACHE_METRICS": "/ops/metrics",
        "PROMETHEUS_MULTIPROC_DIR": str(directory),
    }
    with shop.serve(command, **environment) as server:
        server.states()
        # An app looks at the cache once while it is made. What a process did that only
        # forks others, those leave to it.
        warm = 0 if preload else WORKERS
        reads = [f"/items/{id}" for id in ITEMS] * 4
        pids = {server.ask("GET", path)["pid"] for path in reads}
        while len(pids) < WORKERS:
            reads.append(reads[0])
            pids.add(server.ask("GET", reads[-1])["pid"])
        writes = server.post_all([f"/items/{id}/after" for id in ITEMS])
        eventually(lambda: shop.pending() == 0, "an empty outbox")

        of = f'namespace="{shop.namespace}"'

        def adds_up(text: str) -> bool:
            published = total(text, f'worker_rows_total{{{of},outcome="published')
            counted = total(text, "cache_reads_total")
            return (published, counted) == (len(writes), len(reads) + warm)

        # Of what each process has put there by itself: no scrape has asked for it.
        eventually(lambda: adds_up(found_in(directory)), "what was done")
        text = scraped(server)

    assert adds_up(text)
    assert total(text, "outbox_pending") == 0
    assert total(text, "outbox_up") == 1
    assert total(text, "pool_threads") == WORKERS


@pytest.mark.parametrize("kind, preload", [("sync", False), ("gthread", True)])
def test_a_statsd_is_sent_what_two_processes_did(
    shop: ServedShop, kind: str, preload: bool
) -> None:
    command: list[Any] = [f"{PROGRAMS}/gunicorn", "served_app:app"]
    command += ["--bind=127.0.0.1:{port}", f"--workers={WORKERS}"]
    command.append(f"--worker-class={kind}")
    command += ["--preload"] * preload
    with StatsDServer() as statsd:
        with shop.serve(command, HYDRACACHE_STATSD=statsd.address) as server:
            server.states()
            warm = 0 if preload else WORKERS
            reads = [f"/items/{id}" for id in ITEMS] * 4
            pids = {server.ask("GET", path)["pid"] for path in reads}
            while len(pids) < WORKERS:
                reads.append(reads[0])
                pids.add(server.ask("GET", reads[-1])["pid"])
            writes = server.post_all([f"/items/{id}/after" for id in ITEMS])
            eventually(lambda: shop.pending() == 0, "an empty outbox")

            def adds_up() -> bool:
                counts = statsd.read().counts
                published = counts.get(
                    f"hydracache.worker_rows.{shop.namespace}.published"
                )
                counted = sum(
                    count for name, count in counts.items() if ".cache_reads." in name
                )
                return (published, counted) == (len(writes), len(reads) + warm)

            eventually(adds_up, "what was done")


def test_off_there_is_no_page(shop: ServedShop) -> None:
    command = [f"{PROGRAMS}/gunicorn", "served_app:app", "--bind=127.0.0.1:{port}"]
    with shop.serve(command) as server:
        server.states()
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        connection.request("GET", "/metrics")

        assert connection.getresponse().status == 404
        connection.close()
