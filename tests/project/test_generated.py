"""What programs write into pages is what they would write now, and pages are short."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support import ROOT, generated, plots

#: Lines of a page at most; what is longer is two pages.
MOST_LINES = 350

#: Not those of a site that was built.
PAGES = [page for depth in ("*", "*/*") for page in ROOT.glob(f"docs/{depth}.md")]


@pytest.mark.parametrize("page", generated.pages(), ids=lambda page: page.name)
def test_a_page_is_as_it_would_be_filled_now(page: Path) -> None:
    """If not: PYTHONPATH=tests python -m support.generated"""
    text = page.read_text("utf-8")

    assert generated.filled(text) == text


def test_the_tables_of_settings_are_on_their_page() -> None:
    page = (ROOT / "docs" / "reference" / "settings.md").read_text("utf-8")

    assert "<!-- settings of commands -->" in page
    assert "<!-- settings of apps -->" in page


def test_every_result_file_and_plot_is_on_a_page() -> None:
    texts = "".join(page.read_text("utf-8") for page in PAGES)

    for file in generated.FIGURES.iterdir():
        name = f"<!-- figures {file.stem} -->" if file.suffix == ".json" else file.name
        assert name in texts


@pytest.mark.parametrize(
    "page",
    sorted((ROOT / "docs" / "project").glob("performance*.md")),
    ids=lambda page: page.stem,
)
def test_figures_of_no_result_file_say_that_they_are_transcribed(page: Path) -> None:
    by_hand = generated.PART.sub("", page.read_text("utf-8"))

    for section in re.split(r"^#+ ", by_hand, flags=re.M):
        if re.search(r"^\|.*\| \d", section, re.M):
            assert re.search(r"Transcribed\s[^|]*20\d\d", section), section
            assert re.search(r"\w\.py\b", section), section


@pytest.mark.parametrize("name", plots.PLOTS)
def test_a_plot_is_of_the_figures_that_are_there(name: str) -> None:
    """If not: PYTHONPATH=tests python -m support.plots"""
    plot = (generated.FIGURES / f"{name}.svg").read_text("utf-8")

    assert plots.source_of(name) in plot


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_is_short(page: Path) -> None:
    assert len(page.read_text("utf-8").splitlines()) <= MOST_LINES
