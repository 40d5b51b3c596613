"""Metrics, their table, dashboard, alerts and runbook name the same things."""

from __future__ import annotations

import json
import re
from contextlib import closing
from importlib import metadata
from typing import Any, Iterator

import promql_parser
import pytest
from prometheus_client import CollectorRegistry

from hydracache_sync import (
    CacheVerifier,
    MemcachedApplier,
    MemcachedStore,
    MemoryOutbox,
    OutboxWorker,
    TaggedCache,
)
from hydracache_sync.cli import verify
from hydracache_sync.metrics import Metrics
from support import ROOT
from support.command_lines import lines_of
from support.page_blocks import blocks_of

MONITORING = ROOT / "examples" / "monitoring"
DOCS = ROOT / "docs"

#: Of the node exporter, not ours.
FOREIGN = {"node_textfile_mtime_seconds"}

#: How names of the samples of a type end.
ENDS = {
    "counter": ["_total"],
    "gauge": [""],
    "histogram": ["_bucket", "_sum", "_count"],
}


class Acknowledged(MemcachedApplier):
    """Of nodes that have taken a watermark."""

    def store_watermark(self, moment_ms: int) -> None:
        pass


@pytest.fixture(scope="module")
def families() -> Iterator[list[Any]]:
    """Everything that is exported of an outbox, a worker and a cache."""
    registry = CollectorRegistry()
    store = MemcachedStore(["127.0.0.1:1"])
    with store, closing(MemoryOutbox()) as outbox:
        worker = OutboxWorker(outbox, Acknowledged(store, "shop"))
        assert worker.store_watermark()
        Metrics(
            outbox,
            ["shop"],
            workers=[worker],
            caches=[TaggedCache(store, "shop")],
            registry=registry,
        )
        yield list(registry.collect())


@pytest.fixture(scope="module")
def exported(families: list[Any]) -> list[Any]:
    """The same, and what ``hydracache verify`` exports."""
    with MemcachedStore(["127.0.0.1:1"]) as store, closing(MemoryOutbox()) as outbox:
        verifier = CacheVerifier(outbox, TaggedCache(store, "shop"))
        return families + list(verify._Exporter(verifier, "").collect())


def samples_of(families: list[Any]) -> set[str]:
    return {f"{each.name}{end}" for each in families for end in ENDS[each.type]}


def rules() -> list[dict[str, str]]:
    """The rules of alerts.yml, each of which has one shape, a line for each key."""
    text = (MONITORING / "alerts.yml").read_text("utf-8")
    shape = (
        r"      - alert: (?P<alert>\w+)\n"
        r"        expr: (?P<expr>[a-z][^#\n]*)\n"
        r"        for: (?P<wait>\d+[smh])\n"
        r"        labels:\n          severity: (?P<severity>warning|critical)\n"
        r"        annotations:\n          summary: '(?P<summary>[^'\n]+)'\n"
    )
    found = [match.groupdict() for match in re.finditer(shape, text)]
    head = text.split("      - alert:")[0]
    assert head.endswith("groups:\n  - name: hydracache\n    rules:\n")
    # Nothing is between them, or behind.
    assert re.sub(shape, "", text) == head
    return found


def named_in(expression: str) -> set[str]:
    """The metrics of an expression, which is valid PromQL."""
    promql_parser.parse(expression)
    outside_of_text = re.sub(r'"[^"]*"', '""', expression)
    return set(re.findall(r"\b(?:hydracache|node)_\w+", outside_of_text))


def expressions() -> list[str]:
    board = json.loads((MONITORING / "dashboard.json").read_text("utf-8"))
    found = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    return found + [rule["expr"] for rule in rules()]


def test_the_tables_are_what_is_exported(exported: list[Any]) -> None:
    text = (DOCS / "operations" / "metrics.md").read_text("utf-8")
    rows = re.findall(r"^\| `(hydracache_\w+)` \| (\w+) \|([^|]*)\|", text, re.M)

    found = []
    for each in exported:
        labels = {name for sample in each.samples for name in sample.labels} - {"le"}
        in_order = sorted(labels, key=lambda name: (name != "namespace", name))
        end = "_total" if each.type == "counter" else ""
        found.append((f"{each.name}{end}", each.type, ", ".join(in_order)))
    shown = [(name, kind, labels.strip()) for name, kind, labels in rows]
    assert sorted(shown) == sorted(found)


def test_values_of_labels_are_in_the_tables(exported: list[Any]) -> None:
    text = (DOCS / "operations" / "metrics.md").read_text("utf-8")
    values = {
        value
        for each in exported
        for sample in each.samples
        for name, value in sample.labels.items()
        if name in ("outcome", "reason", "state", "verdict")
    }

    assert [value for value in values if f"`{value}`" not in text] == []


def test_there_are_no_more_series_than_the_page_says(families: list[Any]) -> None:
    text = (DOCS / "operations" / "metrics.md").read_text("utf-8")
    [most] = re.findall(r"at most (\d+) series for a namespace", text)

    assert sum(len(each.samples) for each in families) <= int(most)


@pytest.mark.parametrize("expression", expressions())
def test_what_is_looked_at_is_exported(expression: str, exported: list[Any]) -> None:
    names = named_in(expression)

    assert names
    assert names - FOREIGN <= samples_of(exported)


@pytest.mark.parametrize("wrong", ["rate(a)", "max by (a) b", "sum(a))", "a == == 1"])
def test_an_expression_that_prometheus_refuses_is_found(wrong: str) -> None:
    with pytest.raises(ValueError):
        named_in(wrong)


def test_the_gone_exporter_is_an_alert() -> None:
    [rule] = [each for each in rules() if each["alert"] == "HydraCacheAbsent"]

    # Any other expression has no series then, so it cannot fire.
    assert rule["expr"] == "absent(hydracache_outbox_up)"


def test_only_a_drain_that_writes_no_file_is_silent() -> None:
    [rule] = [each for each in rules() if each["alert"] == "HydraCacheDrainSilent"]
    [watched] = re.findall(r'file=~"([^"]+)"', rule["expr"])
    pages = DOCS / "operations"

    [of_drain] = re.findall(
        r"--metrics-file (/\S+\.prom)", (pages / "metrics.md").read_text("utf-8")
    )
    [of_verify] = re.findall(
        r"--metrics (/\S+\.prom)", (pages / "operating.md").read_text("utf-8")
    )

    assert re.fullmatch(watched, of_drain)
    assert not re.fullmatch(watched, of_verify)


def test_each_alert_has_a_line_of_the_runbook_and_each_line_an_alert() -> None:
    page = (DOCS / "operations" / "operating.md").read_text("utf-8")
    runbook = page.split("\n## Alerts\n")[1]
    lines = re.findall(r"^\| (HydraCache\w+) \|", runbook, re.M)
    alerts = [rule["alert"] for rule in rules()]

    assert alerts and len(set(alerts)) == len(alerts)
    assert sorted(lines) == sorted(alerts)


def test_the_dashboard_can_be_imported() -> None:
    board = json.loads((MONITORING / "dashboard.json").read_text("utf-8"))
    ids = [panel["id"] for panel in board["panels"]]

    assert len(set(ids)) == len(ids)
    variables = {each["name"] for each in board["templating"]["list"]}
    assert set(re.findall(r"\$\{?(\w+)", json.dumps(board))) == variables


def test_the_readme_has_prometheus_look_at_the_worker_that_it_starts() -> None:
    commands, config = blocks_of("examples/monitoring/README.md")
    [worker] = lines_of(commands.body)
    port = worker[worker.index("--metrics-port") + 1]

    assert config.body.splitlines() == [
        "# prometheus.yml",
        "rule_files: [alerts.yml]",
        "scrape_configs:",
        "  - job_name: hydracache",
        "    static_configs:",
        f'      - targets: ["127.0.0.1:{port}"]',
    ]
    assert (MONITORING / "alerts.yml").exists()
    assert f"curl -s http://127.0.0.1:{port}/metrics\n" in commands.body
    extras = set(metadata.metadata("hydracache_sync").get_all("Provides-Extra") or ())
    [wanted] = re.findall(r"pip install '../..\[(.*)\]'", commands.body)
    assert set(wanted.split(",")) <= extras
