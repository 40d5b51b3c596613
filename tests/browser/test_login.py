"""The console that stands alone: in and out again."""

from __future__ import annotations

import contextlib
import re
import subprocess
from pathlib import Path
from typing import Callable, Iterator

import pytest
from selenium.webdriver.common.keys import Keys

from hydracache_sync import InvalidationIntentBatch, SQLiteOutbox
from support.browser import Browser
from support.commands import start

PASSWORD = "a phrase of four words"

#: What the console logs of a login that failed is not looked at here.
DISCARDED = subprocess.DEVNULL


@contextlib.contextmanager
def console(folder: Path, *arguments: str, lines: int) -> Iterator[list[str]]:
    """Run ``hydracache console``; yield the URLs of the first lines that it prints."""
    path = folder / "shop.db"
    with contextlib.closing(SQLiteOutbox(path)) as outbox:
        outbox.install_schema()
        outbox.enqueue("shop", InvalidationIntentBatch("sale").invalidate_tag("prices"))
    process = start(
        *("console", "--port", "0", *arguments),
        stderr=DISCARDED,
        outbox=f"sqlite:///{path}",
    )
    assert process.stdout is not None
    with process:
        try:
            said = [process.stdout.readline() for _ in range(lines)]
            yield [re.search(r"http://[^,\s]+", line)[0] for line in said]
        finally:
            process.kill()


def test_a_link_of_the_terminal_is_good_for_one_login(
    tmp_path: Path, open_browser: Callable[..., Browser]
) -> None:
    with console(tmp_path, lines=2) as (address, link):
        browser = open_browser()
        browser.get(address)
        assert browser.current_url.endswith("/login")
        browser.get(link)
        assert browser.violations() == []
        browser.find("button", "Log in").click()
        browser.find("h1", "Overview")
        assert browser.find("th a", "shop")
        assert "terminal, read-only" in browser.find("header").text
        assert browser.complaints() == []

        other = open_browser()
        other.get(link)
        other.find("button", "Log in").click()
        other.find("main", "This is wrong")


@pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "no-scripts"])
def test_a_password_lets_in_by_keyboard_until_the_logout(
    tmp_path: Path, open_browser: Callable[..., Browser], scripts: bool
) -> None:
    file = tmp_path / "password"
    file.write_text(PASSWORD)
    arguments = ("--user", "ada", "--password-file", str(file), "--writable")
    with console(tmp_path, *arguments, lines=1) as [address]:
        browser = open_browser(scripts=scripts, width=360, dark=True)
        for password in ("guessed", PASSWORD):
            browser.get(address)
            assert browser.widths() == (360, 360)
            if scripts:  # axe-core needs them itself
                assert browser.violations() == []
            browser.tab_to("#user")
            browser.press("ada", Keys.TAB, password, Keys.ENTER)
            if password == "guessed":
                browser.find("main", "This is wrong")
                assert any("403" in said for said in browser.complaints())

        browser.find("h1", "Overview")
        assert "ada, may change" in browser.find("header").text
        browser.tab_to("button", "Log out")
        browser.press(Keys.ENTER)
        browser.find("h1", "Log in")
        # Browsers may keep the page that was left, which opens nothing any more.
        browser.back()
        browser.refresh()
        browser.find("h1", "Log in")
        assert browser.complaints() == []
