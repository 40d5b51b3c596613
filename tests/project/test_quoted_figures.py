"""Figures that a page quotes are those of the results that it links to."""

from __future__ import annotations

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
        ("77,000 rows", "77,000 to 79,000 rows/s"),
        ("34,500 on MariaDB", "34,500 rows/s"),
        ("14 s", "| 100,000 | 13.9 s"),
        ("33 MB on SQLite, 37 MB on MariaDB", "| 33, 33 MB | 36, 37 MB |"),
    ],
)
def test_what_capacity_quotes_is_told_there(figure: str, told: str) -> None:
    quoted = " ".join(read("operations/capacity.md").split())

    assert figure in quoted
    assert told in read("project/performance_latency.md")
