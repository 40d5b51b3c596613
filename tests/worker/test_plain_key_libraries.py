"""The recipes of docs/how_to/plain_keys.md, run on the libraries that they are for.

What the document shows is what runs here; only memcached's address is another one.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Iterator

import pytest
from dogpile.cache import make_region
from dogpile.cache.api import NO_VALUE
from flask import Flask
from flask_caching import Cache
from pymemcache import serde
from pymemcache.client.base import PooledClient

from hydracache_sync import InvalidationIntentBatch, SQLiteOutbox
from support import ROOT
from support.servers import Memcached

DOCUMENT = ROOT / "docs" / "how_to" / "plain_keys.md"


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[SQLiteOutbox]:
    with contextlib.closing(SQLiteOutbox(tmp_path / "app.db")) as outbox:
        outbox.install_schema()
        yield outbox


def recipe(title: str, memcached: Memcached) -> str:
    """The code below a heading, on the server of the tests."""
    section = DOCUMENT.read_text().split(f"\n## {title}\n")[1].split("\n## ")[0]
    code = re.findall(r"```python\n(.*?)```", section, re.S)[0]
    assert "127.0.0.1:11211" in code
    return code.replace("127.0.0.1:11211", memcached.address)


def run(title: str, memcached: Memcached, names: dict[str, Any]) -> None:
    exec(recipe(title, memcached), names)
    names["store"].close()


@pytest.fixture
def region(memcached: Memcached) -> Iterator[Any]:
    region = make_region().configure(
        "dogpile.cache.pymemcache", arguments={"url": [memcached.address]}
    )
    yield region
    region.actual_backend.client.close()


def invalidate(outbox: SQLiteOutbox, key: str) -> None:
    outbox.enqueue("shop", InvalidationIntentBatch().invalidate_key(key))


def published(outbox: SQLiteOutbox) -> list[bool]:
    return [row.is_published for row in outbox.rows("shop")]


@pytest.mark.parametrize("prefix", ["pre:", ""])
def test_flask_caching_misses_after_the_drain(
    outbox: SQLiteOutbox, memcached: Memcached, unique: str, prefix: str
) -> None:
    app = Flask("shop")
    client = PooledClient(memcached.address, serde=serde.pickle_serde)
    cache = Cache()
    cache.init_app(
        app,
        {
            "CACHE_TYPE": "MemcachedCache",
            "CACHE_MEMCACHED_SERVERS": client,
            "CACHE_KEY_PREFIX": prefix,
        },
    )
    with app.app_context():
        cache.set(unique, {"name": "Ada"})
        cache.set(f"{unique}-other", "stays")
        before = cache.get(unique)
    invalidate(outbox, unique)

    names: dict[str, Any] = {"app": app, "cache": cache, "outbox": outbox}
    run("Flask-Caching", memcached, names)

    with app.app_context():
        after = cache.get(unique), cache.get(f"{unique}-other")
    client.close()
    assert before == {"name": "Ada"}
    assert after == (None, "stays")
    assert published(outbox) == [True]


@pytest.mark.parametrize("mangler", [None, lambda key: f"own:{key}"])
def test_dogpile_misses_after_the_drain(
    outbox: SQLiteOutbox, memcached: Memcached, unique: str, region: Any, mangler: Any
) -> None:
    if mangler is not None:
        region.key_mangler = mangler
    region.set(unique, {"name": "Ada"})
    region.set(f"{unique}-other", "stays")
    before = region.get(unique)
    invalidate(outbox, unique)

    run("dogpile.cache", memcached, {"region": region, "outbox": outbox})

    assert before == {"name": "Ada"}
    assert region.get(unique) is NO_VALUE
    assert region.get(f"{unique}-other") == "stays"
    assert published(outbox) == [True]


def test_dogpile_calls_a_decorated_function_again(
    outbox: SQLiteOutbox, memcached: Memcached, unique: str, region: Any
) -> None:
    calls: list[int] = []

    def get_user(number: int) -> str:
        calls.append(number)
        return "Ada"

    get_user.__name__ = unique
    cached = region.cache_on_arguments()(get_user)
    cached(42)
    cached(42)
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.S)
    [code] = [block for block in blocks if "function_key_generator" in block]
    names = {
        "region": region,
        "outbox": outbox,
        "get_user": get_user,
        "InvalidationIntentBatch": InvalidationIntentBatch,
    }

    exec(code, names)
    run("dogpile.cache", memcached, names)
    cached(42)

    assert calls == [42, 42]


def test_django_misses_after_the_drain(
    outbox: SQLiteOutbox, memcached: Memcached, unique: str, tmp_path: Path
) -> None:
    # In a process of its own: Django is configured once in each.
    program = f"""if True:
        import django
        from django.conf import settings
        settings.configure(CACHES={{"default": {{
            "BACKEND": "django.core.cache.backends.memcached.PyMemcacheCache",
            "LOCATION": {memcached.address!r},
            "KEY_PREFIX": {unique!r},
            "VERSION": 7,
        }}}})
        django.setup()
        from django.core.cache import cache
        from hydracache_sync import SQLiteOutbox
        outbox = SQLiteOutbox({str(tmp_path / "app.db")!r})
        cache.set("user", {{"name": "Ada"}})
        cache.set("other", "stays")
        print(cache.get("user"))
        exec({recipe("Django's cache", memcached)!r})
        print(cache.get("user"), cache.get("other"))
        cache._cache.close()
        store.close()
        outbox.close()
    """
    invalidate(outbox, "user")

    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert (ended.stderr, ended.stdout) == ("", "{'name': 'Ada'}\nNone stays\n")
    assert published(outbox) == [True]


def test_a_key_on_several_servers_is_deleted_on_each(
    outbox: SQLiteOutbox, memcached: Memcached, unique: str
) -> None:
    from hydracache_sync import InvalidationApplier, OutboxWorker, PlainKeyApplier

    with Memcached() as second:
        clients = [PooledClient(server.address) for server in (memcached, second)]
        for client in clients:
            client.set(unique, b"value", noreply=False)
        blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.S)
        [code] = [block for block in blocks if "class OnEveryServer" in block]
        names: dict[str, Any] = {"InvalidationApplier": InvalidationApplier}
        exec(code, names)
        appliers = [
            PlainKeyApplier(client, key=lambda intent: intent.value)
            for client in clients
        ]
        applier = names["OnEveryServer"](*appliers, namespace="shop")
        invalidate(outbox, unique)

        OutboxWorker(outbox, applier).drain()

        found = [client.get(unique) for client in clients]
        for client in clients:
            client.close()
    assert found == [None, None]
    assert published(outbox) == [True]
