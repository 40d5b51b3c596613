"""A worker and a drain are traced by the provider that the process was set up with."""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path
from typing import Any, Iterator

import pytest

from hydracache_sync import InvalidationIntentBatch
from hydracache_sync.cli import ExitCode
from hydracache_sync.tracing import instrument
from support.commands import (
    PATIENCE,
    Shop,
    ended,
    start,
    wait_until_it_handles_signals,
)
from support.servers import Memcached
from support.spans import Spans, id_of, trace_of

#: As ``opentelemetry-instrument`` does: a provider is set before the command runs. Each
#: span is a line of the file.
SET_UP = """
import json, os, sys
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import (
    SimpleSpanProcessor, SpanExporter, SpanExportResult
)

class Lines(SpanExporter):
    def export(self, spans):
        with open(os.environ["SPANS"], "a") as file:
            for span in spans:
                links = [
                    [link.context.trace_id, link.context.span_id]
                    for link in span.links
                ]
                file.write(json.dumps([span.name, links]) + "\\n")
        return SpanExportResult.SUCCESS

provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(Lines()))
trace.set_tracer_provider(provider)
from hydracache_sync.__main__ import main
main()
"""

#: Says what the command has loaded.
NAMING = """
import atexit, sys
atexit.register(lambda: print("opentelemetry" in sys.modules, file=sys.stderr))
from hydracache_sync.__main__ import main
main()
"""


@pytest.fixture
def shop(tmp_path: Path, memcached: Memcached, unique: str) -> Iterator[Shop]:
    with Shop(tmp_path / "shop.db", unique, memcached.address) as shop:
        yield shop


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "spans"
    file.touch()
    monkeypatch.setenv("SPANS", str(file))
    return file


def told(file: Path) -> dict[str, Any]:
    return dict(map(json.loads, file.read_text().splitlines()))


def request(shop: Shop) -> list[int]:
    """Enqueue in a request that is traced; return its trace, and the span's id."""
    spans = Spans()
    instrument(shop.outbox, tracer_provider=spans.provider)
    batch = InvalidationIntentBatch().invalidate_key("a")
    shop.outbox.enqueue(shop.namespace, batch)
    [span] = spans.all()
    return [trace_of(span), id_of(span)]


def test_a_drain_links_to_the_request(shop: Shop, file: Path) -> None:
    enqueued = request(shop)

    drain = ended(
        start(
            "drain",
            program=(sys.executable, "-c", SET_UP),
            tracing=1,
            **shop.settings,
        )
    )

    assert drain.code == ExitCode.DONE, drain.err
    assert told(file) == {
        f"claim {shop.namespace}": [enqueued],
        f"apply {shop.namespace}": [enqueued],
        f"publish {shop.namespace}": [],
    }


def test_a_worker_links_to_the_request(shop: Shop, file: Path) -> None:
    program = sys.executable, "-c", SET_UP
    worker = start("worker", program=program, tracing="yes", **shop.settings)
    try:
        wait_until_it_handles_signals(worker)
        enqueued = request(shop)
        deadline = time.monotonic() + PATIENCE
        while shop.pending():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        worker.send_signal(signal.SIGTERM)
    finally:
        end = ended(worker)

    assert end.code == ExitCode.DONE, end.err
    assert told(file)[f"apply {shop.namespace}"] == [enqueued]


def test_without_the_setting_nothing_is_imported(shop: Shop) -> None:
    request(shop)

    drain = ended(
        start("drain", program=(sys.executable, "-c", NAMING), **shop.settings)
    )

    assert (drain.code, drain.err) == (ExitCode.DONE, "False\n")


def test_what_is_not_installed_is_named(shop: Shop) -> None:
    without = "import sys; sys.modules['opentelemetry'] = None\n"
    program = sys.executable, "-c", without + SET_UP.splitlines()[-2] + "\nmain()"

    drain = ended(start("drain", program=program, tracing=1, **shop.settings))

    assert drain.code == ExitCode.USAGE, drain.err
    assert "HYDRACACHE_TRACING needs opentelemetry" in drain.err
