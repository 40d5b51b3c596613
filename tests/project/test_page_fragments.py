"""Blocks that need an app around them do what their pages say, in one process."""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Iterator

import pytest
import sqlalchemy
from flask import Flask, render_template
from jinja2 import DictLoader
from sqlalchemy.orm import Session, declarative_base

from hydracache_sync import (
    InvalidationIntent,
    InvalidationIntentBatch,
    MemcachedApplier,
    MemoryStore,
    OutboxWorker,
    SQLiteOutbox,
    TaggedCache,
    entity_tag,
)
from hydracache_sync.cli.program import hydracache as program
from hydracache_sync.integrations import flask, wsgi
from support.command_lines import lines_of
from support.page_blocks import FRAGMENTS, RUN_BY, Block, blocks_of


class Shop:
    """What a page takes for granted: a database, an outbox, a cache, a worker.

    :ivar names: of the page's code.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "shop.db"
        self.outbox = SQLiteOutbox(self.path)
        self.outbox.install_schema()
        self.connection = sqlite3.connect(self.path)
        self.connection.execute("create table users (id integer primary key, name)")
        self.connection.execute("insert into users values (42, 'before')")
        self.connection.commit()
        store = MemoryStore()
        self.worker = OutboxWorker(self.outbox, MemcachedApplier(store, "shop"))
        self.batch = InvalidationIntentBatch().invalidate_entity("user", 42)
        self.names: dict[str, Any] = {
            # Cached functions have keys with the name of their module.
            "__name__": "shop",
            "outbox": self.outbox,
            "connection": self.connection,
            "store": store,
            "cache": TaggedCache(store, "shop"),
            "worker": self.worker,
            "batch": self.batch,
            "tags": [entity_tag("user", 42)],
        }

    def close(self) -> None:
        self.connection.close()
        self.outbox.close()

    def settings(self) -> dict[str, Any]:
        return {
            "HYDRACACHE_OUTBOX": self.outbox,
            "HYDRACACHE_NAMESPACE": "shop",
            "HYDRACACHE_MEMCACHED": self.names["store"],
            "HYDRACACHE_POOL": "none",
        }

    def calls(self) -> wsgi.HydraCache:
        return wsgi.HydraCache(self.settings())

    def app(self) -> tuple[Flask, flask.HydraCache]:
        app = Flask("shop")
        app.config.update(self.settings(), SECRET_KEY="not secret")
        return app, flask.HydraCache(app)

    def enqueue(self, namespace: str = "shop") -> Any:
        return self.outbox.enqueue(namespace, self.batch)

    def user(self) -> str:
        with closing(sqlite3.connect(self.path)) as connection:
            [(name,)] = connection.execute("select name from users where id = 42")
        return str(name)

    def rows(self, namespace: str = "shop") -> list[Any]:
        """Kind, value and whether it is published, of each row."""
        rows = self.outbox.rows(namespace)
        return [
            (row.intent.kind, row.intent.value, row.is_published)
            for row in rows
            if row.intent is not None
        ]

    def paste(self, block: Block, **names: Any) -> None:
        """Run a block of Python with the names so far, and these."""
        self.names.update(names)
        code = block.body.replace("/srv/shop/shop.db", str(self.path))
        code = code.replace('MemcachedStore(["127.0.0.1:11211"])', "store")
        lines = "\n" * (block.line - 1)
        compiled = compile(lines + code, block.page, "exec", dont_inherit=True)
        exec(compiled, self.names)


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    monkeypatch.chdir(tmp_path)
    with closing(Shop(tmp_path)) as shop:
        yield shop


def fragments(page: str) -> list[Block]:
    """The blocks of a page that this module runs."""
    runs = zip(RUN_BY[page], blocks_of(page))
    return [block for test, block in runs if test == FRAGMENTS]


def test_guide(shop: Shop) -> None:
    write, read = fragments("docs/concepts/guide.md")
    hydracache = shop.calls()

    with hydracache.collecting("a request"):
        names = {"db": shop.connection, "hydracache": hydracache}
        shop.paste(write, **names, name="Ada", id=42)
        receipts = len(hydracache.receipts)
    shop.paste(read, entity_tag=entity_tag)

    assert (shop.user(), receipts) == ("Ada", 1)
    assert shop.rows() == [("entity", "42", False)]
    assert shop.names["profile"].tags(42) == (entity_tag("user", 42),)


def test_own_writes(shop: Shop) -> None:
    [block] = fragments("docs/concepts/own_writes.md")
    receipt = shop.enqueue()
    shop.worker.drain()

    shop.paste(block, receipt=receipt)

    assert shop.names["outcome"].satisfied
    assert shop.names["receipt"] == receipt is not shop.names["receipt"]


def test_strict(shop: Shop) -> None:
    [block] = fragments("docs/concepts/strict.md")
    shop.connection.execute("create table prices (id, amount)")

    shop.paste(block, TaggedCache=TaggedCache, MemcachedApplier=MemcachedApplier)

    OutboxWorker(shop.outbox, shop.names["applier"]).drain()
    assert shop.rows("prices") == [("entity", "42", True)]


def test_bounded_staleness(shop: Shop) -> None:
    [block] = fragments("docs/concepts/bounded_staleness.md")

    shop.paste(
        block,
        TaggedCache=TaggedCache,
        OutboxWorker=OutboxWorker,
        MemcachedApplier=MemcachedApplier,
    )

    shop.names["worker"].drain()
    loads: list[int] = []
    for number in range(2):
        shop.names["cache"].get_or_load("key", lambda: loads.append(number))
    # Without a watermark each read would load.
    assert loads == [0]


def test_drains_and_pools(shop: Shop) -> None:
    drain, pool = fragments("docs/how_to/drains_and_pools.md")

    shop.paste(drain, receipt=shop.enqueue())
    shop.paste(pool)

    assert shop.rows() == [("entity", "42", True)]
    assert shop.names["finished"]


def test_finding_missing_tags(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    record, baseline, compare = fragments("docs/how_to/finding_missing_tags.md")
    engine = sqlalchemy.create_engine(f"sqlite:///{shop.path}")

    def run_the_tests() -> None:
        shop.names["cache"].get_or_load("profile:42", shop_user, tags=["user:42"])

    def shop_user() -> Any:
        return shop.connection.execute("select name from users").fetchone()[0]

    shop.paste(record, db=SimpleNamespace(engine=engine), run_the_tests=run_the_tests)
    engine.dispose()
    [[name, *words]] = lines_of(compare.body)
    Path(words[words.index("--baseline") + 1]).write_text(baseline.body)
    with pytest.raises(SystemExit) as ended:
        # Past the program itself, which sets up the logging of its process.
        program.commands[name].main(words)

    assert ended.value.code == 0, capsys.readouterr()


def test_library(shop: Shop) -> None:
    write, read, pieces, cached, own_writes = fragments("docs/how_to/library.md")
    shop.connection.close()

    shop.paste(write)
    shop.paste(read, load_profile=lambda id: f"profile {id}")
    assert shop.names["profile"] == "profile 42"
    shop.paste(pieces, pieces=["a", "b"])
    shop.paste(cached, load_users=lambda keys: {key: f"user {key}" for key in keys})
    assert shop.names["profile"](42) == "profile 42"
    shop.paste(own_writes, name="Countess", total_of=lambda connection, id: id)
    shop.names["connection"].close()

    cache = shop.names["cache"]
    assert cache.get_or_load("page:42", str, tags=shop.names["tags"]) == "ab"
    assert shop.names["total"] == 42
    assert shop.user() == "Countess"
    active = ("collection", "users:active", False)
    user = ("entity", "42", False)
    assert shop.rows() == [user, active, user]


def test_pages(shop: Shop) -> None:
    view, extension, template = fragments("docs/how_to/pages.md")
    app, hydracache = shop.app()
    app.jinja_loader = DictLoader({"product.html": template.body})
    loads = []

    def load_product(id: int) -> Any:
        loads.append(id)
        return SimpleNamespace(id=id, name="Tea & Co")

    names = {"render_template": render_template, "load_product": load_product}
    shop.paste(extension, app=app)
    shop.paste(view, hydracache=hydracache, entity_tag=entity_tag, **names)
    # The first load of a page learns the tags of its blocks.
    answers = [app.test_client().get("/products/7") for _ in range(3)]

    assert ["<h2>Tea &amp; Co</h2>" in each.text for each in answers] == [True] * 3
    assert loads == [7, 7]


def test_sqlalchemy(shop: Shop) -> None:
    watched, of_objects, core = fragments("docs/integrations/sqlalchemy.md")
    Base = declarative_base()

    class User(Base):  # type: ignore[valid-type, misc]
        __tablename__ = "users"
        id = sqlalchemy.Column(sqlalchemy.Integer, primary_key=True)
        name = sqlalchemy.Column(sqlalchemy.String)

    class OrderLine(Base):  # type: ignore[valid-type, misc]
        __tablename__ = "lines"
        id = sqlalchemy.Column(sqlalchemy.Integer, primary_key=True)
        order_id = sqlalchemy.Column(sqlalchemy.Integer)

    engine = sqlalchemy.create_engine(f"sqlite:///{shop.path}")
    Base.metadata.create_all(engine)
    hydracache = shop.calls()
    with Session(engine) as session, hydracache.collecting("a request"):
        shop.paste(
            watched,
            sessions=hydracache.attach(session),
            User=User,
            OrderLine=OrderLine,
            InvalidationIntent=InvalidationIntent,
        )
        session.add(OrderLine(id=1, order_id=7))
        session.commit()
        user = session.get(User, 42)
        shop.paste(
            of_objects, hydracache=hydracache, user=user, key="user", load=lambda: 1
        )
        collected = hydracache.collected().intents
        session.commit()
    names = {"update": sqlalchemy.update, "users": User.__table__}
    with hydracache.collecting("another request"):
        shop.paste(core, engine=engine, **names)
    engine.dispose()

    assert {tuple(each)[:2] for each in collected} == {
        ("entity", "42"),
        ("collection", "users:active"),
    }
    assert shop.user() == "Ada"
    line, order = ("entity", "1", False), ("entity", "7", False)
    assert shop.rows()[:2] == [line, order]
    assert shop.rows()[-1] == ("entity", "42", False)


def test_wsgi(shop: Shop) -> None:
    [block] = fragments("docs/integrations/wsgi.md")
    hydracache = shop.calls()

    def page(environ: Any, start_response: Any) -> list[bytes]:
        shop.connection.execute("update users set name = 'Ada'")
        hydracache.invalidate_entity("user", 42)
        hydracache.write(shop.connection)
        return [b"done"]

    local = SimpleNamespace(connection=shop.connection)
    shop.paste(block, hydracache=hydracache, local=local, shop=page)
    body = list(shop.names["application"]({}, None))

    assert (body, shop.connection.in_transaction) == ([b"done"], False)


def test_console(shop: Shop) -> None:
    registered, made = fragments("docs/operations/console.md")
    app, _ = shop.app()
    shop.enqueue()

    shop.paste(registered, app=app, operator_name=lambda: "ada")
    shop.paste(made, orders_outbox=shop.outbox, users_outbox=shop.outbox)

    answer = app.test_client().get("/ops/hydracache/")
    assert answer.status_code == 200
    assert "shop" in answer.text


def test_metrics(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    [block] = fragments("docs/operations/metrics.md")
    file = Path("gauge_liveall_7.db").absolute()
    file.touch()
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(file.parent))

    shop.paste(block)
    shop.names["child_exit"](None, SimpleNamespace(pid=7))

    assert not file.exists()


def test_nodes(shop: Shop) -> None:
    from hydracache_sync import MemcachedStore

    [block] = fragments("docs/operations/nodes.md")

    shop.paste(block, MemcachedStore=MemcachedStore)

    shop.names["store"].close()


def test_operating(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    [block] = fragments("docs/operations/operating.md")
    for name in ("shop", "shop.views"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))

    shop.paste(
        block,
        load_profile=lambda id: f"profile {id}",
        profile_tags=lambda id: [entity_tag("user", id)],
    )
    names = shop.names
    verifier = names["verifier"]()
    [read] = names["reads_of"](InvalidationIntent.entity("user", 42))

    assert (read.key, read.load()) == ("profile:42", "profile 42")
    assert verifier is not None


def test_servers(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    gunicorn, uwsgi = fragments("docs/operations/servers.md")
    started: list[Any] = []
    names = {
        "app": "the app",
        "hydracache": SimpleNamespace(start_pool=started.append),
    }
    for name, contents in (
        ("shop", names),
        ("uwsgidecorators", {"postfork": lambda function: function()}),
    ):
        module = ModuleType(name)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)

    shop.paste(gunicorn)
    shop.names["post_worker_init"](None)
    shop.paste(uwsgi, **names)

    assert started == ["the app"] * 2
