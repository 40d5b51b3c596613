"""What the pages show for wiring an app is short, and does what they say."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, g, redirect, request, url_for
from flask_sqlalchemy import SQLAlchemy

from hydracache_sync import MemoryStore, SQLiteOutbox
from hydracache_sync.integrations import wsgi
from support import ROOT
from support.page_blocks import blocks_of

INTEGRATIONS = ROOT / "docs" / "integrations"

#: Lines of their own that a newcomer writes.
MOST_LINES = 15

USE_CASES = ["flask", "sqlalchemy", "wsgi", "django"]


def block(page: str) -> str:
    text = (INTEGRATIONS / f"{page}.md").read_text("utf-8")
    section = text.split("\n## Wiring\n")[1].split("\n## ")[0]
    found: str = re.findall(r"```python\n(.*?)```", section, re.S)[0]
    return found


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "shop.db"
    with closing(SQLiteOutbox(path)) as outbox:
        outbox.install_schema()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("create table users (id integer, name)")
        connection.execute("insert into users values ('42', 'Ada')")
        connection.commit()
    return path


def written(path: Path) -> tuple[str, list[Any]]:
    with closing(SQLiteOutbox(path)) as outbox:
        rows = [row.intent and tuple(row.intent)[:2] for row in outbox.rows("shop")]
    with closing(sqlite3.connect(path)) as connection:
        [(name,)] = connection.execute("select name from users")
    return name, rows


@pytest.mark.parametrize("page", USE_CASES)
def test_each_use_takes_few_lines(page: str) -> None:
    lines = [
        line
        for line in block(page).splitlines()
        if line.strip() and not line.lstrip().startswith("#")
    ]

    assert len(lines) <= MOST_LINES


def configured(app: Flask, database: Path) -> str:
    """The Flask app's block, for ``database`` and a cache in this process."""
    app.config.update(HYDRACACHE_POOL="none", SECRET_KEY="not secret")
    code = block("flask").replace("/srv/shop/shop.db", str(database))
    return code.replace('["127.0.0.1:11211"]', "MemoryStore()")


def test_flask_as_shown(database: Path, caplog: pytest.LogCaptureFixture) -> None:
    app = Flask("shop")

    def db() -> sqlite3.Connection:
        if "db" not in g:
            g.db = sqlite3.connect(database)
        connection: sqlite3.Connection = g.db
        return connection

    @app.teardown_appcontext
    def close(exc: BaseException | None) -> None:
        db().close()

    names: dict[str, Any] = {"app": app, "g": g, "db": db, "MemoryStore": MemoryStore}
    # The code is in a module, which is part of the keys of what it caches.
    names["__name__"] = "shop"
    exec(configured(app, database), names)

    @app.post("/users/<id>")
    def view(id: str) -> str:
        names["rename"](id, "Countess")
        return str(names["profile"](id))

    assert app.test_client().post("/users/42").status_code == 200

    assert written(database) == ("Countess", [("entity", "42")])
    assert caplog.records == []


def test_sqlalchemy_as_shown(database: Path, caplog: pytest.LogCaptureFixture) -> None:
    app = Flask("shop")
    config = configured(app, database).split("hydracache.init_app")[0]
    exec(config, {"app": app, "MemoryStore": MemoryStore})
    app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{database}"
    db = SQLAlchemy()

    class User(db.Model):  # type: ignore[name-defined]
        __tablename__ = "users"
        id = db.Column(db.Integer, primary_key=True)
        name = db.Column(db.String)

    names: dict[str, Any] = {
        "app": app,
        "SQLAlchemy": lambda: db,
        "User": User,
        "request": request,
        "redirect": redirect,
        "url_for": url_for,
    }
    app.add_url_rule("/users/<int:id>", "profile", lambda id: id)
    exec(block("sqlalchemy"), names)

    answer = app.test_client().post("/users/42", data={"name": "Countess"})
    with app.app_context():
        db.engine.dispose()

    assert answer.headers["Location"].endswith("/users/42")
    name, rows = written(database)
    assert name == "Countess"
    assert sorted(rows) == [
        ("collection", "teams"),
        ("collection", "users:active"),
        ("entity", "42"),
    ]
    assert caplog.records == []


def test_plain_wsgi_as_shown(
    database: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    connection = sqlite3.connect(database)
    monkeypatch.setenv("HYDRACACHE_OUTBOX", f"sqlite:///{database}")
    monkeypatch.setenv("HYDRACACHE_NAMESPACE", "shop")
    monkeypatch.setenv("HYDRACACHE_MEMCACHED", "127.0.0.1:1")
    monkeypatch.setenv("HYDRACACHE_POOL", "none")

    def application(environ: Any, start_response: Any) -> list[bytes]:
        names["rename"]("42", "Countess")
        return [b"done"]

    names: dict[str, Any] = {"application": application, "db": connection, "os": os}
    exec(block("wsgi"), names)
    body = names["application"]({}, None)

    connection.close()
    assert body == [b"done"]
    assert isinstance(names["hydracache"], wsgi.HydraCache)
    assert written(database) == ("Countess", [("entity", "42")])
    assert caplog.records == []


def test_django_as_shown(database: Path, tmp_path: Path) -> None:
    wiring, _, objects, atomic, own, _ = (
        each.body for each in blocks_of("docs/integrations/django.md")
    )
    module, view = wiring.split("# in a view, a command, a task\n")
    assert module.startswith("# shop/cache.py\n")
    page = (INTEGRATIONS / "django.md").read_text("utf-8")
    [middleware] = re.findall(r'`"([\w.]+)"` as the first of `MIDDLEWARE`', page)
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "cache.py").write_text(module, "utf-8")
    # In a process of its own: Django is configured once in each.
    program = f"""if True:
        import django, sys
        from django.conf import settings
        from hydracache_sync import MemoryStore
        path = {str(database)!r}
        sys.path.insert(0, {str(tmp_path)!r})
        settings.configure(
            SECRET_KEY="not secret",
            ALLOWED_HOSTS=["*"],
            ROOT_URLCONF="__main__",
            MIDDLEWARE=[{middleware!r}],
            DATABASES={{"default": {{
                "ENGINE": "django.db.backends.sqlite3", "NAME": path
            }}}},
            HYDRACACHE_OUTBOX="sqlite:///" + path,
            HYDRACACHE_NAMESPACE="shop",
            HYDRACACHE_MEMCACHED=MemoryStore(),
            HYDRACACHE_POOL="none",
        )
        django.setup()
        from django.db import connection
        from django.http import HttpResponse
        from django.test import Client
        from django.urls import path as route
        from django.db import models
        from hydracache_sync import InvalidationIntentBatch
        from shop.cache import hydracache

        class User(models.Model):
            name = models.TextField()
            class Meta:
                app_label = "shop"
                db_table = "users"

        user = User(42, "Countess")
        names = dict(user=user, hydracache=hydracache, key="user", load=dict)
        names.update(
            outbox=hydracache.outbox, batch=InvalidationIntentBatch().flush(),
            worker=hydracache.runtime.worker,
        )

        def view(request):
            exec({view!r}, names)
            with hydracache.atomic():
                exec({objects!r}, names)
            exec({atomic!r}, names)
            with names["transaction"].atomic():
                exec({own!r}, names)
            return HttpResponse(str(len(hydracache.receipts)))

        urlpatterns = [route("", view)]
        print(Client().get("/").content.decode())
        connection.close()
        hydracache.outbox.close()
    """

    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert (ended.stdout, ended.stderr) == ("3\n", "")
    name, rows = written(database)
    entity = ("entity", "42")
    assert (name, rows) == ("Countess", [entity, entity, entity, ("flush", None)])


@pytest.mark.parametrize(
    "page", sorted((ROOT / "docs").glob("**/*.md")) + [ROOT / "README.md"], ids=str
)
def test_links_lead_to_files_and_headings_that_are_there(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", page.read_text("utf-8"))

    assert [link for link, _ in links if not (page.parent / link).exists()] == []
    for link, anchor in links:
        if anchor:
            target = page.parent / link if link else page
            assert anchor in anchors(target), f"{link}#{anchor}"


def anchors(page: Path) -> set[str]:
    """What its headings are called in links."""
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.M)
    return {
        re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings
    }


def test_the_docs_lead_to_every_page() -> None:
    """By links, as a code host shows them; the site's build checks its own tree."""
    index = ROOT / "docs" / "index.md"
    reached, new = set(), {index}
    while new:
        reached |= new
        found = {
            (page.parent / link).resolve()
            for page in new
            if page.name == "index.md"
            for link in re.findall(r"\]\(([^)#:]+\.md)", page.read_text("utf-8"))
        }
        new = found - reached

    assert set((ROOT / "docs").glob("*/*.md")) <= reached
