"""The browser of these tests sees what is wrong with a page, and leaves nothing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Callable, Iterator

import pytest
from flask import Flask, request
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.keys import Keys

from support import browser as harness
from support.browser import Browser, ChromeDriver
from support.servers import ServerError
from support.serving import served
from support.waiting import eventually

PAGE = """<!doctype html><html lang="en"><head><title>A page</title>
<style>@media (prefers-color-scheme: dark) { body { background: #000 } }</style>
</head><body><main><h1>Here</h1><a href="/other">Other</a>
<p id="script">as it was</p><img src="/picture" BADLY>
<script>document.getElementById("script").textContent = "changed"</script>
</main></body></html>"""


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    app = Flask(__name__)

    @app.get("/")
    def page() -> tuple[str, dict[str, str]]:
        headers = {"Set-Cookie": f"seen={request.cookies.get('seen', 'never')}"}
        if "policy" in request.args:
            headers["Content-Security-Policy"] = "default-src 'none'"
        described = "" if "bad" in request.args else 'alt="A picture"'
        return PAGE.replace("BADLY", described), headers

    @app.get("/picture")
    def picture() -> tuple[str, dict[str, str]]:
        return '<svg xmlns="http://www.w3.org/2000/svg"/>', {
            "Content-Type": "image/svg+xml"
        }

    @app.get("/wide")
    def wide() -> str:
        return '<title>Wide</title><div style="width: 500px">wide</div>'

    with served(app) as url:
        yield url


def test_a_page_is_seen_and_its_scripts_run(browser: Browser, site: str) -> None:
    browser.get(site)

    assert browser.title == "A page"
    assert browser.find("#script").text == "changed"
    assert browser.picture().startswith(b"\x89PNG")


def test_a_page_is_seen_without_scripts_and_in_the_dark(
    open_browser: Callable[..., Browser], site: str
) -> None:
    browser = open_browser(scripts=False, dark=True)

    browser.get(site)

    assert browser.find("#script").text == "as it was"
    body = browser.find("body")
    assert body.value_of_css_property("background-color") == "rgba(0, 0, 0, 1)"


def test_a_browser_knows_nothing_of_another(
    open_browser: Callable[..., Browser], site: str
) -> None:
    for _ in range(2):
        browser = open_browser()
        browser.get(site)
        assert [cookie["value"] for cookie in browser.get_cookies()] == ["never"]


def test_what_a_policy_refuses_is_told(browser: Browser, site: str) -> None:
    browser.get(site)
    # Its own icon apart, which every browser asks for.
    assert [said for said in browser.complaints() if "favicon" not in said] == []

    browser.get(f"{site}/?policy")

    assert any("Content Security Policy" in said for said in browser.complaints())
    assert browser.find("#script").text == "as it was"


def test_axe_finds_what_is_wrong_also_below_a_policy(
    browser: Browser, site: str
) -> None:
    for policy in ("", "&policy"):
        browser.get(f"{site}/?{policy}")
        assert browser.violations() == []

        browser.get(f"{site}/?bad{policy}")

        [found] = browser.violations()
        assert found.startswith("image-alt (critical)")


def test_a_page_that_is_too_wide_is_seen(browser: Browser, site: str) -> None:
    browser.resize(360, 800)
    browser.get(site)
    assert browser.widths() == (360, 360)

    browser.get(f"{site}/wide")

    wide, seen = browser.widths()
    assert wide > seen == 360


def test_a_link_is_reached_and_followed_by_keys(browser: Browser, site: str) -> None:
    browser.get(site)

    browser.tab_to("a", "Other")
    browser.press(Keys.ENTER)

    assert eventually(lambda: browser.current_url == f"{site}/other")
    assert browser.find("h1").text == "Not Found"


def test_it_reaches_this_machine_only(browser: Browser) -> None:
    for address in ("a.test", "192.0.2.1", "localhost"):
        with pytest.raises(WebDriverException, match="NAME_NOT_RESOLVED"):
            browser.get(f"http://{address}/")


def test_a_killed_driver_takes_its_browsers_along() -> None:
    with ChromeDriver() as driver:
        Browser(driver)
        home = f"HOME={driver.directory}".encode()
        assert running_in(home)

        driver.kill()

        assert eventually(lambda: not running_in(home))


def running_in(home: bytes) -> list[str]:
    """Processes that have this in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if home in path.read_bytes().split(b"\0"):
                found.append(path.parent.name)
        except OSError:
            continue  # it has ended
    return found


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.devnull)

    with pytest.raises(ServerError, match="apt-get install chromium chromium-driver"):
        ChromeDriver()


def test_a_missing_axe_is_named(
    browser: Browser, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(harness, "AXE", tmp_path / "axe.min.js")

    with pytest.raises(ServerError, match="setup_machine.sh browser"):
        browser.violations()
