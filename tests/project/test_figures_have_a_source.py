"""Each measured figure of a page is made from a result file, or names the run it is of.

Figures that a program wrote stand in the generated parts of pages, and are not looked
at. All other text, section by section, says from which run its figures are.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Iterator

import pytest

from support import ROOT, generated

PAGES = [
    ROOT / "README.md",
    *sorted(ROOT.glob("docs/*.md")),
    *sorted(ROOT.glob("docs/[!_]*/*.md")),
    *sorted(ROOT.glob("examples/*/*.md")),
]

_NUMBER = r"(?<![\w`=:/.,-])\d[\d,]*(?:\.\d+)?"

#: What is measured has one of these units, or is a share, a ratio or a part of a count.
FIGURE = re.compile(
    rf"{_NUMBER} (?:us|µs|ms|kB|MB|GB|rows/s|rows a second|instructions)\b"
    rf"|{_NUMBER} times (?:as|those|that|of)\b"
    r"|(?<![\w`=:/.,-])\d+\.\d+ %"
    r"|(?<![\w`=:/.,-])\d[\d,]* of \d[\d,]+\b"
    rf"|^\|.*\| (?:{_NUMBER}(?: and {_NUMBER})?) (?:us|ms|rows/s)\b",
    re.M,
)

#: Figures of other kinds, by page: limits, settings, and what follows from them.
NOT_MEASURED = {
    "docs/operations/capacity.md": {
        "16 times as",  # HYDRACACHE_CONNECTIONS
        "216 MB",  # by the block above it, which is run
        "9 MB",
    },
    "docs/operations/console.md": {"100 ms"},  # the goal
    "docs/operations/operating.md": {"99.99 %"},  # what nines are
    "docs/project/consistency.md": {"2 MB"},  # the size that the run gives a node
    "docs/project/performance_reads.md": {"10 us"},  # the goal
}

#: Those that tests/project/test_quoted_figures.py compares with their source.
COMPARED = {
    "docs/concepts/tags.md": r"\d+\.\d %",
    "docs/operations/capacity.md": r"[\d,]+ rows a second|1\.24 times as|3[37] MB",
}


def unsourced(page: str, text: str) -> Iterator[str]:
    """Yield the figures of ``text`` whose section names no run that they are of."""
    by_hand = generated.PART.sub("", text)
    by_hand = re.sub(r"^```.*?^```$", "", by_hand, flags=re.M | re.S)
    compared = COMPARED.get(page, r"(?!)")
    for section in re.split(r"^(?=#+ )", by_hand, flags=re.M):
        is_of_a_run = re.search(r"[Tt]ranscribed\s[^|]*20\d\d", section)
        if is_of_a_run and re.search(r"\w\.py\b", section):
            continue
        for found in FIGURE.finditer(section):
            figure = found.group()
            known = figure in NOT_MEASURED.get(page, ())
            if not known and not re.fullmatch(compared, figure):
                yield figure


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_each_figure_has_a_source(page: Path) -> None:
    name = str(page.relative_to(ROOT))

    assert list(unsourced(name, page.read_text("utf-8"))) == []


@pytest.mark.parametrize(
    "text, figures",
    [
        ("A hit takes 12.5 us, and 1,100 rows a second.", 2),
        ("| a hit | 3 ms |", 1),
        ("12.3 % are hits, 3 of 100 are stale, 4 times as many as before.", 3),
        ("Transcribed from a run of `reads.py` of May 2026: 3 us.", 0),
        ("Transcribed from a run of `reads.py`: 3 us.", 1),
        ("Transcribed from a run of May 2026: 3 us.", 1),
        ("# One\nTranscribed from `reads.py`, 2026: 3 us.\n# Two\n4 us.", 1),
        ("<!-- figures reads -->\n| a | 3 us |\n<!-- end -->\n", 0),
        ("```console\n$ time\n3 ms\n```\n", 0),
        ("Wait 30 seconds (`HYDRACACHE_CLAIM_TTL=30`), with Python 3.11.", 0),
    ],
)
def test_what_counts_as_a_figure_and_as_a_source(text: str, figures: int) -> None:
    assert len(list(unsourced("docs/new.md", text))) == figures


def test_each_exception_is_on_its_page() -> None:
    for page, figures in NOT_MEASURED.items():
        text = (ROOT / page).read_text("utf-8")

        assert [each for each in figures if each not in text] == []
