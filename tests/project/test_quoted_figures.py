"""Figures that a page quotes are those of the results that it links to."""

from __future__ import annotations

import datetime
import json
import re

import pytest

from support import ROOT

DOCS = ROOT / "docs"


def read(page: str) -> str:
    return (DOCS / page).read_text("utf-8")


def test_the_hit_rates_by_writes_of_a_tag_are_measured() -> None:
    measured = json.loads(read("figures/hit_rate.json"))["tables"][0]
    columns = [measured["columns"].index(each) for each in ("writes a second", "hits")]
    rows = [
        tuple(row[at] for at in columns)
        for row in measured["rows"]
        if row[0] == "Flask-SQLAlchemy"
    ]

    quoted = re.findall(
        r"^\| ([\d.]+) a second \| ([\d.]+ %) \|", read("concepts/tags.md"), re.M
    )

    assert quoted == rows


@pytest.mark.parametrize(
    "figure, told",
    [
        ("14 s", "| 100,000 | 13.9 s"),
        ("33 MB on SQLite, 37 MB on MariaDB", "| 33, 33 MB | 36, 37 MB |"),
    ],
)
def test_what_capacity_quotes_is_told_there(figure: str, told: str) -> None:
    quoted = " ".join(read("operations/capacity.md").split())

    assert figure in quoted
    assert told in read("project/performance_latency.md")


def test_the_speed_that_capacity_quotes_is_measured() -> None:
    results = [
        json.loads(read(f"figures/{name}.json"))
        for name in ("sqlite_outbox", "sqlite_outbox_memory", "mysql_outbox")
    ]
    drains = [
        row[2].partition(" ")[0]
        for result in results
        for row in result["tables"][0]["rows"]
        if row[0].startswith("drain of ")
    ]
    quoted = " ".join(read("operations/capacity.md").split())
    [run] = re.findall(
        r"\*\*Speed\*\* of one process, in the runs of (.*?) Far", quoted
    )

    assert re.findall(r"\d+,\d+", run) == drains
    for result in results:
        day = datetime.date.fromisoformat(result["day"])
        assert run.startswith(f"{day.day} {day:%B %Y} on two processors.")
        assert result["processors"] == 2


def test_the_growth_that_capacity_quotes_is_measured() -> None:
    ratios = [
        float(row[-1].rpartition(" ")[2])
        for database in ("sqlite", "mariadb")
        for row in json.loads(read(f"figures/growth_{database}.json"))["tables"][0][
            "rows"
        ]
    ]
    quoted = " ".join(read("operations/capacity.md").split())

    assert f"take {min(ratios)} to {max(ratios)} times as long as with 1,000" in quoted
