"""No fenced block of a page is run by nothing, and no page names what is not there."""

from __future__ import annotations

import subprocess
from pathlib import Path

import click
import pytest

from support import ROOT, TESTS
from support.command_lines import NoSuchCommand, check, lines_of, scripts, spans
from support.page_blocks import (
    CHECKED,
    DRAWING,
    PAGES,
    RUN_BY,
    Block,
    all_blocks,
    blocks_in,
    blocks_of,
    name_of,
    pasted_pages,
)
from support.page_code import problems
from support.pasted import blocks

BLOCKS = all_blocks()


@pytest.mark.parametrize("page", RUN_BY)
def test_each_block_has_a_test_that_reads_its_page(page: str) -> None:
    runs = RUN_BY[page]

    assert len(runs) == len(blocks_of(page)), f"{page}: which test runs each block?"
    # By its name, or an example by its folder.
    path = Path(page)
    name = path.parent.name if page.startswith("examples/") else path.stem
    for test in set(runs) - {DRAWING, CHECKED}:
        assert name in (TESTS / test).read_text("utf-8"), f"{test} has no {name}"
    for test, block in zip(runs, blocks_of(page)):
        if test == CHECKED:
            assert any(list(lines_of(script)) for script in scripts(block)), block
        if test == DRAWING:
            assert block.language == "", block


@pytest.mark.parametrize("page", pasted_pages())
def test_of_a_page_that_is_pasted_no_block_is_left_out(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")

    assert blocks(text) == [(each.language, each.body) for each in blocks_of(page)]


def test_a_block_is_found_in_any_language_and_depth() -> None:
    text = "# A\n\n```\nx\n```\n- b\n\n  ```sh\n  y\n  ```\n~~~ python\nz\n~~~\n"

    assert blocks_in(text, "a") == [
        Block("a", 4, "", "x\n"),
        Block("a", 9, "sh", "y\n"),
        Block("a", 12, "python", "z\n"),
    ]


def test_each_block_of_python_is_right_as_far_as_its_names_go() -> None:
    found = []
    for page in dict.fromkeys(block.page for block in BLOCKS):
        found += problems([each for each in BLOCKS if each.page == page])

    assert found == []


@pytest.mark.parametrize(
    "code, problem",
    [
        ("from hydracache_sync import SQLiteOutbx", "has no SQLiteOutbx"),
        ("SQLiteOutbox('a', tables='b')", "SQLiteOutbox: "),
        ("def f():\n    cache.get_or_load('k', load, tag=[])", "cache.get_or_load: "),
        ("calls = SQLiteOutbox('a')\ncalls.enqueu('b')", "has no enqueu"),
    ],
)
def test_a_name_that_is_misspelt_is_found(code: str, problem: str) -> None:
    [found] = problems([Block("a", 5, "python", code)])

    assert found.startswith("a:") and problem in found


def test_each_command_is_one_that_the_program_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What a page exports before, or an app has in its settings.
    monkeypatch.setenv("HYDRACACHE_OUTBOX", "sqlite:////srv/shop/shop.db")
    monkeypatch.setenv("HYDRACACHE_NAMESPACE", "shop")
    monkeypatch.setenv("HYDRACACHE_MEMCACHED", "127.0.0.1:11211")
    monkeypatch.chdir(tmp_path)
    for name in ("loads.jsonl", "tags.ini"):
        (tmp_path / name).touch()
    wrong, count = [], 0
    for block in BLOCKS:
        for script in scripts(block):
            for words in lines_of(script):
                count += 1
                try:
                    check(words)
                except click.UsageError as error:
                    wrong.append((block.place, words, error.format_message()))

    assert wrong == []
    assert count > 50


def test_each_command_in_a_sentence_has_only_options_that_there_are() -> None:
    wrong, count = [], 0
    for page in PAGES:
        for span in spans(page.read_text("utf-8")):
            for words in lines_of(span):
                count += 1
                try:
                    check(words)
                except (NoSuchCommand, click.NoSuchOption) as error:
                    wrong.append((name_of(page), span, error.format_message()))
                except click.UsageError:
                    pass  # It stands for its arguments, or has names in place of them.

    assert wrong == []
    assert count > 100


def test_a_command_that_is_misspelt_is_found() -> None:
    block = Block("a", 1, "console", "$ A=b flask hydracache drain --max-second 5\n")
    [[words]] = [list(lines_of(script)) for script in scripts(block)]

    with pytest.raises(click.UsageError, match="--max-second"):
        check(words)
    with pytest.raises(click.UsageError, match="drains"):
        check(["drains"])


def test_a_shell_can_read_each_script() -> None:
    script = "\n".join(script for block in BLOCKS for script in scripts(block))

    ended = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)

    assert (ended.returncode, ended.stderr) == (0, "")
