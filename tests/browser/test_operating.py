"""The operator's console, in a browser: what an operator does at night."""

from __future__ import annotations

from pathlib import Path
from typing import Callable, Iterator

import pytest
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from hydracache_sync import InvalidationIntent
from support.browser import Browser
from support.console_site import NAMESPACE, OPERATOR, ConsoleSite, console_site
from support.servers import Memcached
from support.waiting import eventually

PRICES = InvalidationIntent.tag("prices")


@pytest.fixture
def site(tmp_path: Path, memcached: Memcached, unique: str) -> Iterator[ConsoleSite]:
    with console_site(tmp_path, memcached.address, unique) as made:
        yield made


def is_gone(element: WebElement) -> bool:
    try:
        element.is_enabled()
    except WebDriverException:
        # Stale; or, in mid-navigation, of no document that there is.
        return True
    return False


class Hand:
    """Follows links and presses buttons with the mouse."""

    def __init__(self, browser: Browser) -> None:
        self.browser = browser

    def use(self, selector: str, text: str = "") -> None:
        """Follow a link, or press a button, and wait until another page is there."""
        left = self.browser.find("body")
        self._use(selector, text)
        assert eventually(lambda: is_gone(left))

    def _use(self, selector: str, text: str) -> None:
        self.browser.find(selector, text).click()

    def choose(self, selector: str) -> None:
        self.browser.find(selector).click()

    def write(self, selector: str, text: str) -> None:
        self.browser.find(selector).send_keys(text)


class Keyboard(Hand):
    """Does so with Tab, Space and Enter alone, and must see where the focus is."""

    def _reach(self, selector: str, text: str = "") -> None:
        element = self.browser.tab_to(selector, text)
        assert (
            element.value_of_css_property("outline-style") != "none"
        ), f"the focus is not seen on {selector} {text}"

    def _use(self, selector: str, text: str) -> None:
        self._reach(selector, text)
        self.browser.press(Keys.ENTER)

    def choose(self, selector: str) -> None:
        self._reach(selector)
        self.browser.press(Keys.SPACE)

    def write(self, selector: str, text: str) -> None:
        self._reach(selector)
        self.browser.press(text)


@pytest.mark.parametrize(
    "hand, options",
    [
        (Hand, {}),
        (Hand, {"scripts": False}),
        (Hand, {"width": 360, "dark": True}),
        (Keyboard, {}),
        (Keyboard, {"scripts": False}),
    ],
    ids=["mouse", "no-scripts", "phone", "keyboard", "keyboard-no-scripts"],
)
def test_a_dead_letter_is_found_understood_mended_retried_and_published(
    site: ConsoleSite,
    open_browser: Callable[..., Browser],
    hand: type[Hand],
    options: dict[str, object],
) -> None:
    reservation = site.cache.reserve("list", tags=["prices"])
    assert reservation.fill("9.99")
    id = site.dead_letter(PRICES, reason="price import")
    assert site.cache.get("list", tags=["prices"]) == "9.99"  # stale, and stays so
    browser = open_browser(**options)
    operator = hand(browser)

    # Found, and its reason read.
    browser.get(site.page())
    operator.use("td a.bad", "1")
    operator.use("th a", str(id))
    assert "price import" in browser.find("dd", "price import").text
    assert "unknown kind 'Tag'" in browser.find("pre").text

    # Its cause fixed; retried from the list, after a question.
    site.set_column("kind", "tag", id)
    operator.use("a", "Other rows of this state")
    operator.choose(f'input[value="{id}"]')
    operator.use("button", "Retry the chosen")
    assert browser.find("h1").text == "Retry 1 dead letter?"
    assert site.outbox.status(NAMESPACE).dead_lettered == 1
    operator.use("button", "Yes, retry")
    assert "1 dead letter retried" in browser.find("[role=status]").text

    # Carried, and seen published.
    operator.use("nav a", "Actions")
    operator.use("button", "Drain one batch")
    operator.use("button", "Yes, drain")
    assert "1 published" in browser.find("[role=status]").text
    browser.get(site.page("row", {"id": id}))
    assert browser.find("dd", "published").text == "published"
    assert site.cache.get("list", tags=["prices"]) is None

    # All that happened to it, on one page.
    history = browser.find('[aria-label="History of this row"]')
    told = [
        [cell.text for cell in line.find_elements("css selector", "td")]
        for line in history.find_elements("css selector", "tbody tr")
    ]
    events, actors, errors = zip(*told)
    assert events == (
        "enqueued",
        "attempt failed, given up as a dead letter",
        "retried by an operator",
        "published",
    )
    assert actors == ("-", site.worker.owner, f"console: {OPERATOR}", "-")
    assert "unknown kind 'Tag'" in errors[1]
    wide, seen = browser.widths()
    assert wide <= seen
    assert browser.complaints() == []


def test_a_question_answered_with_no_changes_nothing(
    site: ConsoleSite, browser: Browser
) -> None:
    id = site.dead_letter(PRICES)
    operator = Hand(browser)

    browser.get(site.page("row", {"id": id}))
    operator.use("a", "Discard this row")
    operator.use("a", "No, go back")

    assert browser.find("h1").text.startswith("Rows of")
    assert site.outbox.status(NAMESPACE).dead_lettered == 1


def test_a_namespace_is_paused_with_a_reason_and_resumed_by_keyboard(
    site: ConsoleSite, browser: Browser
) -> None:
    operator = Keyboard(browser)

    browser.get(site.page("act"))
    operator.write("#pause-reason", "the node is exchanged")
    operator.use("button", "Pause")
    operator.use("button", "Yes, pause")

    assert "the node is exchanged" in browser.find(".alarm").text
    assert site.outbox.paused()[NAMESPACE].reason == "the node is exchanged"
    operator.use("button", "Resume")
    operator.use("button", "Yes, resume")
    assert site.outbox.paused() == {}
