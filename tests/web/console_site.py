"""A console in an app of Flask, and a reader of its pages that runs no script."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any, Iterator

from flask import Flask
from shop import text

from hydracache_sync import (
    InvalidationIntentBatch,
    MemcachedApplier,
    MemoryOutbox,
    MemoryStore,
    OutboxWorker,
)
from hydracache_sync.console import console_blueprint

SHOP = "shop"

#: Elements that have no end.
VOID = {"meta", "link", "input", "br"}


class Page(HTMLParser):
    """What a browser makes of a response: its elements and its text."""

    def __init__(self, response: Any) -> None:
        super().__init__()
        self.response = response
        self.status: int = response.status_code
        #: Name and attributes of each element.
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text(response))
        self.close()
        assert self._open == [], f"not closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[Any]) -> None:
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), f"{tag} has an attribute twice: {names}"
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[Any]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open and self._open.pop() == tag, f"</{tag}> ends nothing"

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def said(self) -> str:
        """All its text, blanks made one."""
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def links(self) -> list[str]:
        return [each["href"] for each in self.all("a")]

    def hidden(self) -> dict[str, str]:
        """Of the last form, what it sends by itself."""
        return {
            each["name"]: each["value"]
            for each in self.all("input")
            if each.get("type") == "hidden"
        }

    def target(self) -> str:
        """Where the form that changes something is sent to."""
        [form] = [each for each in self.all("form") if each.get("method") == "post"]
        return form["action"]


class Site:
    """An app with a console at ``/ops``, and one outbox unless it is given others."""

    def __init__(self, outboxes: Any = None, *, who: Any = "ada", **options: Any):
        self.outbox = MemoryOutbox()
        self.worker = OutboxWorker(self.outbox, MemcachedApplier(MemoryStore(), SHOP))
        if outboxes is None:
            options.setdefault("workers", [self.worker])
        #: Who the app says is logged in.
        self.who = who
        options.setdefault("writable", True)
        self.app = Flask("site")
        self.app.secret_key = "not secret"
        self.app.register_blueprint(
            console_blueprint(
                outboxes or self.outbox, authenticate=lambda: self.who, **options
            ),
            url_prefix="/ops",
        )
        self.client = self.app.test_client()

    def get(self, path: str = "", client: Any = None, **query: Any) -> Page:
        return Page((client or self.client).get(f"/ops/{path}", query_string=query))

    def of(self, path: str, **query: Any) -> Page:
        """A page of the one namespace."""
        return self.get(path, outbox="outbox", namespace=SHOP, **query)

    def enqueue(self, *keys: str, reason: str = "", namespace: str = SHOP) -> None:
        batch = InvalidationIntentBatch(reason)
        for key in keys:
            batch.invalidate_key(key)
        self.outbox.enqueue(namespace, batch)

    def kill(self, *keys: str, error: str = "boom", namespace: str = SHOP) -> list[int]:
        """Make dead letters; return their ids."""
        self.enqueue(*keys, namespace=namespace)
        rows = self.outbox.claim(namespace, "w", limit=len(keys), claim_ttl=30)
        self.outbox.mark_failed(rows, error, backoff=0, dead=True)
        return [row.id for row in rows]

    def answer(self, asked: Page, **changed: str) -> Page:
        """Say yes to what a page asks, and go where that leads."""
        response = self.client.post(
            asked.target(), data={**asked.hidden(), **changed}, follow_redirects=True
        )
        return Page(response)

    def states(self) -> dict[int, str]:
        return {
            row.id: row.state.value if row.state else "unknown"
            for row in self.outbox.rows(SHOP)
        }

    def walk(self) -> Iterator[tuple[str, Page]]:
        """Each page that links lead to from the overview, once."""
        seen, waiting = {"/ops/"}, ["/ops/"]
        while waiting:
            link = waiting.pop()
            page = Page(self.client.get(link))
            yield link, page
            for each in page.links():
                each = each.partition("#")[0]
                if each and each not in seen:
                    seen.add(each)
                    waiting.append(each)
