"""The code of docs/project/coming_from.md runs, and is what its tables show."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, g, redirect, url_for

from hydracache_sync import (
    InvalidationIntentBatch,
    MemcachedApplier,
    MemcachedStore,
    OutboxWorker,
    SQLiteOutbox,
    TaggedCache,
    collection_tag,
    entity_tag,
)
from hydracache_sync.integrations.flask import HydraCache
from support import ROOT
from support.servers import Memcached

PAGE = (ROOT / "docs" / "project" / "coming_from.md").read_text("utf-8")

#: Calls of tables that the code need not have: no Python, or made by the test.
ELSEWHERE = {"HydraCache", "tag_of"}


def section(title: str) -> tuple[str, str]:
    """What is below a heading: the table, and the code."""
    text = PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]
    [code] = re.findall(r"```python\n(.*?)```", text, re.S)
    return text.split("```")[0], code


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "shop.db"
    with closing(SQLiteOutbox(path)) as outbox:
        outbox.install_schema()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("create table product (id integer, price integer)")
        connection.execute("insert into product values (1, 10), (2, 20)")
        connection.commit()
    return path


def rows_of(path: Path) -> set[tuple[str, str | None]]:
    with closing(SQLiteOutbox(path)) as outbox:
        return {(row.intent.kind, row.intent.value) for row in outbox.rows("shop")}


def loaders(path: Path) -> dict[str, Any]:
    """What the code calls to read the data."""

    def load_prices(ids: list[int]) -> dict[int, int]:
        with closing(sqlite3.connect(path)) as connection:
            found = dict(connection.execute("select id, price from product"))
        return {id: found[id] for id in ids}

    return {
        "load_prices": load_prices,
        "load_price": lambda id: load_prices([id])[id],
        "load_top": lambda: max(load_prices([1, 2]).values()),
        "entity_tag": entity_tag,
        "collection_tag": collection_tag,
    }


@pytest.mark.parametrize("title", ["Flask-Caching", "dogpile.cache", "Django's cache"])
def test_every_call_of_a_table_is_in_the_code(title: str) -> None:
    table, code = section(title)
    cells = [line.split(" | ")[1] for line in table.splitlines() if " | " in line]
    calls = re.findall(r"`@?(?:\w+\.)*(\w+)\(", " ".join(cells))
    calls += re.findall(r"`[^`]*?\.(\w+)\(", " ".join(cells))

    assert len(calls) > 5
    assert set(calls) - ELSEWHERE - set(re.findall(r"(\w+)\(", code)) == set()


def test_flask(path: Path, memcached: Memcached, unique: str) -> None:
    app = Flask("shop")
    app.config.update(
        HYDRACACHE_OUTBOX=f"sqlite:///{path}",
        HYDRACACHE_NAMESPACE="shop",
        HYDRACACHE_MEMCACHED=[memcached.address],
        HYDRACACHE_CONNECT_TIMEOUT=30,
        HYDRACACHE_TIMEOUT=30,
        HYDRACACHE_RING=unique,
        HYDRACACHE_MODE="inline",
        HYDRACACHE_POOL="none",
        SECRET_KEY="not secret",
    )

    def db() -> sqlite3.Connection:
        if "db" not in g:
            g.db = sqlite3.connect(path)
        connection: sqlite3.Connection = g.db
        return connection

    @app.teardown_appcontext
    def close(error: object) -> None:
        if "db" in g:
            g.pop("db").close()

    hydracache = HydraCache(app)
    names: dict[str, Any] = {
        "app": app,
        "hydracache": hydracache,
        "db": db,
        **loaders(path),
    }
    names.update(redirect=redirect, url_for=url_for, __name__="shop")
    exec(section("Flask-Caching")[1], names)
    client = app.test_client()

    first = client.get("/products/1").text
    assert client.post("/products/1").status_code == 302
    assert (first, client.get("/products/1").text) == ("product 1: 10", "product 1: 11")
    with app.test_request_context():
        assert (names["top"](), names["prices"]([1, 2])) == (20, {1: 11, 2: 20})
    assert client.post("/import").text == "done"
    with app.test_request_context():
        assert (names["top"](), names["prices"]([1, 2])) == (40, {1: 22, 2: 40})
    written = rows_of(path)
    assert {kind for kind, _ in written} == {"entity", "key", "collection", "flush"}


def test_dogpile(path: Path, memcached: Memcached, unique: str) -> None:
    code = section("dogpile.cache")[1]
    code = code.replace(
        '"127.0.0.1:11211"]', f'"{memcached.address}"], ring="{unique}"'
    )
    names: dict[str, Any] = {"__name__": "shop", **loaders(path)}
    names.update(
        MemcachedStore=MemcachedStore,
        TaggedCache=TaggedCache,
        InvalidationIntentBatch=InvalidationIntentBatch,
    )
    with closing(SQLiteOutbox(path)) as outbox:
        names["outbox"] = outbox
        exec(code, names)

        with names["store"] as store:
            read = names["top"], names["prices"], names["report"], names["price"](1)
            OutboxWorker(outbox, MemcachedApplier(store, "shop")).drain()
            again = names["price"](1), names["cache"].get("report", default="gone")

    assert read == (20, {1: 10, 2: 20}, {"sum": 30}, 10)
    assert again == (11, "gone")


#: A project of one file. Printed is what the test compares.
DJANGO = """
import sys
import types

import django
from django.conf import settings

database = {{"ENGINE": "django.db.backends.sqlite3", "NAME": {path!r}}}
settings.configure(
    SECRET_KEY="not secret",
    DATABASES={{"default": database}},
    INSTALLED_APPS=["hydracache_sync.integrations.django"],
    DEFAULT_AUTO_FIELD="django.db.models.AutoField",
    HYDRACACHE_OUTBOX="sqlite:///" + {path!r},
    HYDRACACHE_NAMESPACE="shop",
    HYDRACACHE_MEMCACHED=[{memcached!r}],
    HYDRACACHE_RING={ring!r},
    HYDRACACHE_MODE="inline",
    HYDRACACHE_POOL="none",
)
django.setup()

from django.db import models
from django.db.models import F
from hydracache_sync import collection_tag, entity_tag
from hydracache_sync.integrations.django import HydraCache, tag_of

hydracache = HydraCache()


class Product(models.Model):
    price = models.IntegerField()

    class Meta:
        app_label, db_table, managed = "shop", "product", False


def load_prices(ids):
    found = dict(Product.objects.values_list("id", "price"))
    return {{id: found[id] for id in ids}}


def load_top():
    return max(load_prices([1, 2]).values())

# The functions are those of a module: of __main__ the names say nothing.
shop = types.ModuleType("shop")
vars(shop).update(
    {{name: value for name, value in globals().items() if not name.startswith("__")}}
)
sys.modules["shop"] = shop
exec({code!r}, vars(shop))


def read():
    with hydracache.collecting():
        return shop.price(1), shop.top(), shop.prices([1, 2])


assert tag_of(Product(id=1)) == entity_tag("shop.product", 1)
print(read())
shop.change(1)
print(read())
shop.reprice()
print(read())
"""


def test_django(path: Path, memcached: Memcached, unique: str) -> None:
    program = DJANGO.format(
        path=str(path),
        memcached=memcached.address,
        ring=unique,
        code=section("Django's cache")[1],
    )

    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )

    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == [
        "(10, 20, {1: 10, 2: 20})",
        "(11, 20, {1: 11, 2: 20})",
        "(22, 40, {1: 22, 2: 40})",
    ]
    assert ("flush", None) in rows_of(path)
