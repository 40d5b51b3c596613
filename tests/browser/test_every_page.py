"""Every page of the console: readable for all, narrow and dark, whatever rows hold."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator

import pytest

from hydracache_sync import InvalidationIntent, InvalidationIntentBatch
from hydracache_sync.outbox.workers import WorkerBeat
from support.browser import Browser
from support.console_site import NAMESPACE, ConsoleSite, console_site
from support.servers import Memcached

# Each test opens every page there is: minutes, on a busy machine.
pytestmark = pytest.mark.timeout(600)

#: Runs in a page that does not escape it.
HIT = "window.__hit = 1"

#: What breaks out of a text, out of an attribute, out of what is not shown.
HOSTILE = (
    f'<img src="x" onerror="{HIT}">',
    f'"><script>{HIT}</script>',
    f"'--></style></title></textarea></pre><svg onload='{HIT}'>",
    f'" autofocus onfocus="{HIT}" x="',
)

#: A text that no line can hold, and that has no place to break it.
LONG = "x" * 255


@pytest.fixture(scope="module")
def sites(
    tmp_path_factory: pytest.TempPathFactory, memcached: Memcached
) -> Iterator[dict[str, ConsoleSite]]:
    """A console with rows as apps write them, with hostile ones, with long ones."""
    texts = {"plain": ["prices of summer"], "hostile": HOSTILE, "long": [LONG]}
    made = {}
    opened = []
    for name, each in texts.items():
        folder = tmp_path_factory.mktemp(name)
        context = console_site(folder, memcached.address, folder.name)
        made[name] = context.__enter__()
        opened.append(context)
        for text in each:
            fill(made[name], text)
    yield made
    for context in opened:
        context.__exit__(None, None, None)


def fill(site: ConsoleSite, text: str) -> None:
    """Rows of each state that hold ``text`` wherever a row can hold one."""
    intents = [
        InvalidationIntent.key(text),
        InvalidationIntent.tag(text),
        InvalidationIntent.entity(text, text),
        InvalidationIntent.collection(text),
    ]
    site.cache.reserve("list", tags=[text]).fill("1")
    site.cache.get("list", tags=[text])
    site.enqueue(*intents, reason=text)
    site.worker.drain()
    [dead, claimed, *_] = site.enqueue(*intents, reason=text)
    position = f"{text[:120]}:1"
    batch = InvalidationIntentBatch(text).invalidate_tag(text)
    site.outbox.enqueue(NAMESPACE, batch, commit_position=position)
    site.outbox.enqueue(text[:60], batch)
    site.set_column("state", 2, dead)
    site.set_column("attempts", 5, dead)
    site.set_column("last_error", f"ApplyPermanent: {text}\n{text}", dead)
    site.set_column("claim_owner", text, claimed)
    site.set_column("claimed_at_ms", site.outbox.now_ms(), claimed)
    site.set_column("claim_until_ms", site.outbox.now_ms() + 3_600_000, claimed)
    site.set_column("claim_token", 1, claimed)
    site.set_column("at_ms", site.outbox.now_ms() + 3_600_000, claimed)
    site.set_column("waits_for", text, claimed)
    site.outbox.pause(NAMESPACE, text)
    site.outbox.beat(
        WorkerBeat(
            owner=text,
            kind="worker",
            host=text,
            pid=1,
            version="1",
            namespaces=(text[:60],),
            age=60.0,
            every=10.0,
            carried=2,
            batch_age=1.0,
            last_error=text,
        )
    )


def pages(site: ConsoleSite) -> Iterator[tuple[str, str]]:
    """Names and URLs of all kinds of pages, with all kinds of rows."""
    [dead, *_] = site.outbox.dead_letters(NAMESPACE)
    text = dead.reason
    yield "overview", site.page()
    for state in ("pending", "claimed", "dead", "published"):
        yield f"{state} rows", site.page("rows", {"state": state})
    for by in ("key", "entity", "reason", "error"):
        query = {"state": "dead", "by": by, "q": text, "entity": text}
        yield f"rows by {by}", site.page("rows", query)
    for row in site.outbox.rows(NAMESPACE):
        yield f"row {row.id}", site.page("row", {"id": row.id})
    yield "actions", site.page("act")
    for action in ("retry", "discard"):
        query = {"action": action, "all": 1, "state": "dead"}
        yield f"question of {action}", site.page("confirm", query)
    for action in ("drain", "flush", "pause", "resume"):
        query = {"action": action, "reason": text}
        yield f"question of {action}", site.page("confirm", query)
    query = {"action": "invalidate", "kind": "tag", "value": text, "reason": text}
    yield "question of invalidate", site.page("confirm", query)


def errors(site: ConsoleSite) -> Iterator[tuple[str, str]]:
    """Pages of what was asked for in vain, with texts of the query."""
    text = site.outbox.dead_letters(NAMESPACE)[0].reason
    yield "no such row", site.page("row", {"id": 10**9})
    yield "no number", site.page("row", {"id": text})
    yield "no namespace", site.page("rows", {"namespace": text * 2})
    yield "no action", site.page("confirm", {"action": text})
    yield "too long", site.page("rows", {"by": "reason", "q": text * 50})


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_nothing_serious(
    sites: dict[str, ConsoleSite], browser: Browser, dark: bool
) -> None:
    site, found = sites["plain"], {}
    browser.prefer(dark=dark)

    for name, url in pages(site):
        browser.get(url)
        found[name] = browser.violations()
        # None of the pages of errors below.
        assert (name, browser.find_elements("css selector", "[role=alert]")) == (
            name,
            [],
        )
    for name, url in errors(site):
        browser.get(url)
        found[name] = browser.violations()
        assert browser.find("[role=alert]").text

    assert len(found) > 25
    assert {name: said for name, said in found.items() if said} == {}


@pytest.mark.parametrize("texts", ["plain", "hostile", "long"])
def test_no_page_is_wider_than_a_phone(
    sites: dict[str, ConsoleSite], browser: Browser, texts: str
) -> None:
    browser.resize(360, 800)
    widths = {}

    for name, url in [*pages(sites[texts]), *errors(sites[texts])]:
        browser.get(url)
        widths[name] = browser.widths()

    assert {name: each for name, each in widths.items() if each != (360, 360)} == {}


def test_nothing_that_a_row_or_a_query_holds_becomes_a_part_of_a_page(
    sites: dict[str, ConsoleSite], browser: Browser
) -> None:
    site = sites["hostile"]

    for name, url in pages(site):
        browser.get(url)

        # The policy would refuse it and say so, had something got through.
        assert (name, browser.complaints()) == (name, [])

    # Without the policy it would run.
    browser.command("Page.setBypassCSP", enabled=True)
    for name, url in [*pages(site), *errors(site)]:
        browser.get(url)
        made = len(
            browser.find_elements("css selector", "script, img, [onload], [onfocus]")
        )
        hit = browser.execute_script("return window.__hit || 0")
        assert (name, made, hit) == (name, 0, 0)


def test_what_is_hostile_is_shown_as_it_is(
    sites: dict[str, ConsoleSite], browser: Browser
) -> None:
    browser.get(sites["hostile"].page("rows", {"state": "dead"}))

    shown = browser.find("table").text
    for text in HOSTILE:
        assert shown.count(text) == 4  # the key, the reason, two lines of the error


def test_hostile_text_would_run_in_a_page_that_does_not_escape(
    browser: Browser, tmp_path: Path
) -> None:
    """That the tests above would see it."""
    page = tmp_path / "page.html"
    for text in HOSTILE:
        page.write_text(f'<!doctype html><p>{text}</p><input value="{text}">')
        browser.get(page.as_uri())
        assert browser.execute_script("return window.__hit || 0") == 1, text
