"""What a worker serves by HTTP, and the file of metrics that a drain leaves."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Iterator, Tuple

import pytest

from hydracache_sync.cli import ExitCode
from hydracache_sync.cli.http_pages import health_page
from hydracache_sync.events import OutageBegan
from hydracache_sync.pool import PoolHealth, ThreadHealth, ThreadState
from support.commands import PATIENCE, Shop, ended, run, start
from support.servers import Memcached

#: An applier that never comes back, in place of memcached's.
HANGING = """
import threading
from hydracache_sync import InvalidationApplier
from hydracache_sync.app import build

class Hanging(InvalidationApplier):
    def __init__(self, store, namespace, **options):
        self.namespace = namespace
    def apply_batch(self, intents):
        threading.Event().wait()

build.MemcachedApplier = Hanging
from hydracache_sync.__main__ import main
main()
"""

#: As where the extra is not installed.
WITHOUT_CLIENT = (
    "import sys; sys.modules['prometheus_client'] = None\n"
    "from hydracache_sync.__main__ import main; main()"
)


@pytest.fixture
def shop(tmp_path: Path, memcached: Memcached, unique: str) -> Iterator[Shop]:
    with Shop(tmp_path / "shop.db", unique, memcached.address) as shop:
        yield shop


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def ask(port: int, path: str, method: str = "GET") -> Tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def health(port: int) -> Tuple[int, Any]:
    status, body = ask(port, "/healthz")
    return status, json.loads(body)


def wait_for(port: int, status: str) -> Any:
    """Wait until the worker is there and says that it is in ``status``."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            code, found = health(port)
            if found["status"] == status:
                return code, found
        except OSError:
            found = "nobody listens"
        assert time.monotonic() < deadline, found
        time.sleep(0.02)


def value(text: str, name: str, **labels: str) -> float:
    wanted = [f'{label}="{text}"' for label, text in labels.items()]
    found = [
        float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if line.startswith(f"hydracache_{name}") and all(w in line for w in wanted)
    ]
    assert found, f"{name} {labels} is missing in {text}"
    return sum(found)


class TestWorker:
    def test_one_port_has_metrics_and_health(self, shop: Shop, port: int) -> None:
        worker = start("worker", metrics_port=port, health_port=port, **shop.settings)
        wait_for(port, "ok")
        shop.invalidate(3)
        deadline = time.monotonic() + PATIENCE
        published = 0.0
        while published < 3:
            assert time.monotonic() < deadline
            status, body = ask(port, "/metrics")
            text = body.decode()
            published = value(text, "worker_rows_total{", outcome="published")
        code, found = health(port)
        others = [ask(port, "/metrics", "HEAD"), ask(port, "/"), ask(port, "/x?y")]
        worker.send_signal(signal.SIGTERM)
        end = ended(worker)

        assert status == 200 and published == 3
        assert value(text, "outbox_up{", namespace=shop.namespace) == 1
        assert value(text, "pool_threads{") == 1
        assert code == 200 and found["pid"] == worker.pid
        assert found["threads"][0]["name"] == "hydracache-worker-1"
        assert others == [(200, b""), (404, b""), (404, b"")]
        assert (end.code, end.err) == (ExitCode.DONE, "")

    def test_an_outage_waits_and_is_no_failure(
        self, tmp_path: Path, unique: str, port: int
    ) -> None:
        with Shop(tmp_path / "shop.db", unique, "127.0.0.1:1") as shop:
            worker = start("worker", health_port=port, **shop.settings)
            wait_for(port, "ok")
            shop.invalidate(1)
            code, found = wait_for(port, "waiting")
            worker.kill()
            ended(worker)

        assert code == 200
        assert found["outages"] == [
            {"what": "cache", "namespace": unique, "node": "127.0.0.1:1"}
        ]

    def test_it_answers_while_the_pool_hangs(self, shop: Shop, port: int) -> None:
        program = (sys.executable, "-c", HANGING)
        settings = {**shop.settings, "claim_ttl": 0.5}
        worker = start("worker", program=program, health_port=port, **settings)
        wait_for(port, "ok")
        shop.invalidate(1)
        code, found = wait_for(port, "stuck")
        worker.kill()
        ended(worker)

        assert code == 503
        assert shop.namespace in [each["namespace"] for each in found["threads"]]

    def test_a_port_that_is_taken_is_said_at_once(self, shop: Shop) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            taken = other.getsockname()[1]
            end = ended(start("worker", health_port=taken, **shop.settings))

        assert end.code == ExitCode.USAGE
        assert f"cannot listen on 127.0.0.1 port {taken}" in end.err


@pytest.mark.parametrize(
    "states, status, code",
    [
        (["idle", "working"], "ok", 200),
        (["idle", "waiting"], "waiting", 200),
        (["waiting", "stuck"], "stuck", 503),
        (["idle", "stuck", "dead"], "dead", 503),
    ],
)
def test_health_tells_dead_stuck_and_waiting_apart(
    states: list[str], status: str, code: int
) -> None:
    secret = "mysql://shop:s3cr3t@db/shop"
    threads = tuple(
        ThreadHealth(f"t{n}", ThreadState(state), 1.0, secret, "shop", secret)
        for n, state in enumerate(states)
    )
    outages = (OutageBegan(None, "database", secret),)

    found, kind, body = health_page(PoolHealth(True, 1, threads, outages, 2))

    assert (found, kind) == (code, "application/json")
    assert json.loads(body)["status"] == status
    assert json.loads(body)["replaced"] == 2
    assert b"s3cr3t" not in body


def test_a_pool_that_does_not_run_is_told() -> None:
    code, _, body = health_page(PoolHealth(False, 1))

    assert (code, json.loads(body)["status"]) == (503, "stopped")


class TestDrain:
    def test_its_file_adds_up_from_run_to_run(self, shop: Shop, tmp_path: Path) -> None:
        path = tmp_path / "hydracache.prom"
        settings = {**shop.settings, "metrics_file": path}
        shop.invalidate(3)
        first = run("drain", **settings)
        shop.invalidate(2, first=3)
        second = run("drain", **settings)

        text = path.read_text()

        assert (first.code, second.code) == (ExitCode.DONE, ExitCode.DONE)
        assert value(text, "worker_rows_total{", outcome="published") == 5
        assert value(text, "publish_lag_seconds_count{") == 5
        assert value(text, "outbox_pending{", namespace=shop.namespace) == 0

    def test_it_is_written_also_where_the_outbox_fails(self, tmp_path: Path) -> None:
        path = tmp_path / "hydracache.prom"

        end = run(
            "drain",
            outbox=f"sqlite:///{tmp_path}/nowhere/shop.db",
            namespace="shop",
            memcached="127.0.0.1:1",
            metrics_file=path,
        )

        assert end.code == ExitCode.OUTBOX_AWAY
        assert value(path.read_text(), "outbox_up{", namespace="shop") == 0

    def test_a_file_that_cannot_be_written_costs_no_row(
        self, shop: Shop, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        shop.invalidate(1)

        end = run("drain", metrics_file=tmp_path / "no" / "x.prom", **shop.settings)

        assert end.code == ExitCode.DONE
        assert shop.published() == 1
        assert "the metrics are not written" in caplog.text

    @pytest.mark.parametrize(
        "command, setting, given",
        [("drain", "metrics_file", "x.prom"), ("worker", "metrics_port", 9)],
    )
    def test_what_is_not_installed_is_named_before_anything_is_done(
        self, shop: Shop, command: str, setting: str, given: object
    ) -> None:
        shop.invalidate(1)
        program = (sys.executable, "-c", WITHOUT_CLIENT)
        values = {**shop.settings, setting: given}
        process: subprocess.Popen[str] = start(command, program=program, **values)

        end = ended(process)

        assert end.code == ExitCode.USAGE
        assert (
            "needs prometheus_client: install hydracache_sync with its extra 'metrics'"
        ) in end.err
        assert shop.published() == 0
