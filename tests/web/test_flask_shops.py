"""The example shops: what is cached of them is exact, fresh, and each user's own."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import re
import sys
import time
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from flask.testing import FlaskClient
from fresh_mariadb import fresh_mariadb

from support.examples import EXAMPLES, PATIENCE
from support.servers import MariaDB, Memcached

SHOPS = ["shop_sqlalchemy", "shop_pymysql"]

#: Lines of integration of an example at most.
MOST_LINES = 15

# What SQLAlchemy says of each Numeric on SQLite.
pytestmark = pytest.mark.filterwarnings("ignore:Dialect sqlite:Warning")


class Shop:
    """One of the examples, set up by its own commands, with its own pool."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.app = module.create_app()
        self.run("hydracache", "schema", "install")
        self.run("init-db")

    def run(self, *words: str) -> None:
        ended = self.app.test_cli_runner().invoke(args=words)
        assert ended.exit_code == 0, ended.output

    def client(self, user: int | None = None, *, admin: bool = False) -> FlaskClient:
        """A browser, which has logged in where a user is named."""
        client: FlaskClient = self.app.test_client()
        if user is not None:
            with client.session_transaction() as session:
                session.update(user=user, admin=admin)
        return client

    def hits(self) -> int:
        with self.app.app_context():
            return int(self.module.hydracache.cache.diagnostics().hits)

    def once_cached(self, read: Callable[[], Any]) -> Any:
        """What ``read`` returns, as soon as the cache has answered it."""

        def answered() -> Any:
            before = self.hits()
            result = read()
            return self.hits() > before, result

        return eventually(answered)

    def wait_until_published(self) -> None:
        def published() -> Any:
            with self.app.app_context():
                status = self.module.hydracache.outbox.status("shop")
            return not status.pending, status

        eventually(published)


def eventually(look: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE
    while True:
        done, result = look()
        if done:
            return result
        assert time.monotonic() < deadline, result
        time.sleep(0.02)


def page(client: FlaskClient, path: str) -> tuple[int, str]:
    answer = client.get(path)
    return answer.status_code, answer.get_data(as_text=True)


@contextlib.contextmanager
def example(name: str) -> Iterator[Any]:
    """The module of an example, new for each test as in a process of its own."""
    path = EXAMPLES / name / "app.py"
    spec = importlib.util.spec_from_file_location(f"example_{name}", path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        del sys.modules[spec.name]


@pytest.fixture(params=[*SHOPS, "shop_sqlalchemy on MariaDB"])
def shop(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    mariadb: MariaDB,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Shop]:
    # A memcached of its own: the namespace of the examples is no unique one.
    with contextlib.ExitStack() as stack:
        cache = stack.enter_context(Memcached())
        url, options = stack.enter_context(fresh_mariadb(mariadb))
        monkeypatch.setenv("SHOP_SECRET", "not secret")
        monkeypatch.setenv("SHOP_MEMCACHED", cache.address)
        monkeypatch.setenv("SHOP_DB", str(tmp_path / "shop.db"))
        monkeypatch.setenv("SHOP_DATABASE", mariadb.url(options["database"]))
        name, _, server = request.param.partition(" on ")
        if server:
            monkeypatch.setenv("SHOP_URL", url)
            monkeypatch.setenv("SHOP_OUTBOX", mariadb.url(options["database"]))
        module = stack.enter_context(example(name))
        shop = Shop(module)
        yield shop
        with shop.app.app_context():
            assert module.hydracache.stop_pool(PATIENCE)
            if hasattr(module.db, "engine"):
                module.db.engine.dispose()
            module.hydracache.outbox.close()


@pytest.mark.parametrize(
    ("path", "before", "change", "after"),
    [
        ("/products/1", "tea costs 3.50", "dearer", "tea costs 3.60"),
        ("/products/1", "5 left", "order", "3 left"),
        ("/products/3", "Not Found", "egg", "egg costs 0.30"),
        ("/search?q=te", "costs 3.50", "dearer", "costs 3.60"),
        ("/search?q=eg", "nothing", "egg", "egg</a> costs 0.30"),
        ("/", "costs 3.50", "dearer", "costs 3.60"),
        ("/", "tea", "egg", "egg</a> costs 0.30"),
        ("/purchases", "bought by ann", "order", "tea for 7.00"),
    ],
    ids=lambda text: re.sub(r"\W+", "-", text).strip("-"),
)
def test_a_cached_page_is_fresh_once_the_change_is_published(
    shop: Shop, path: str, before: str, change: str, after: str
) -> None:
    shop.run("add-user", "ann", "--password", "sesame")
    changes = {
        "dearer": ("/admin/prices", {"by": "0.10"}),
        "egg": ("/admin/products", {"name": "egg", "price": "0.30"}),
        "order": ("/products/1/orders", {"count": "2"}),
    }
    # Another browser than the one that changes something. Where a page is for all, one
    # without a session: before Flask 3.1.3 each that holds anything counts as read.
    reader = shop.client(1 if path == "/purchases" else None)
    writer = shop.client(1, admin=True)
    cached = shop.once_cached(lambda: page(reader, path))
    assert before in cached[1] and after not in cached[1]

    url, form = changes[change]
    assert writer.post(url, data=form).status_code == 302
    shop.wait_until_published()

    assert after in page(reader, path)[1]
    # And so is what the cache has from now on.
    assert after in shop.once_cached(lambda: page(reader, path))[1]


def test_prices_and_dates_come_back_exact_from_the_cache(shop: Shop) -> None:
    def read() -> Any:
        with shop.app.test_request_context("/"):
            return shop.module.details(2)

    found = shop.once_cached(read)

    assert found == {
        "id": 2,
        "name": "jam",
        "price": Decimal("4.05"),
        "since": date(2024, 2, 29),
        "stock": 5,
    }
    assert type(found["since"]) is date and str(found["price"]) == "4.05"


def test_no_user_sees_the_page_of_another(shop: Shop) -> None:
    for name in "ann", "bob":
        shop.run("add-user", name, "--password", "sesame of " + name)
    browsers = {}
    for name in "ann", "bob":
        browser = browsers[name] = shop.client()
        login = {"name": name, "password": "sesame of ann"}
        assert browser.post("/login", data=login).status_code == (
            302 if name == "ann" else 403
        )
        login["password"] = "sesame of " + name
        assert browser.post("/login", data=login).status_code == 302
    browsers["ann"].post("/products/1/orders", data={"count": "1"})
    browsers["bob"].post("/products/2/orders", data={"count": "1"})
    shop.wait_until_published()

    seen = {
        name: shop.once_cached(lambda browser=browser: page(browser, "/purchases"))
        for name, browser in list(browsers.items()) * 2
    }

    bought = {
        name: re.findall(r"<p>(.*?)</p>", text) for name, (_, text) in seen.items()
    }
    assert bought == {
        "ann": ["bought by ann", "tea for 3.50"],
        "bob": ["bought by bob", "jam for 4.05"],
    }
    assert page(shop.client(), "/purchases")[0] == 401


def test_what_is_rolled_back_changes_nothing(shop: Shop) -> None:
    shop.run("add-user", "ann", "--password", "sesame")
    ann = shop.client(1)
    cached = shop.once_cached(lambda: page(ann, "/products/1"))
    bought = shop.once_cached(lambda: page(ann, "/purchases"))
    with shop.app.app_context():
        rows = list(shop.module.hydracache.outbox.rows("shop"))

    refused = ann.post("/products/1/orders", data={"count": "6"})

    assert refused.status_code == 409
    with shop.app.app_context():
        assert len(list(shop.module.hydracache.outbox.rows("shop"))) == len(rows)
    for browser in ann, shop.client(1):
        assert page(browser, "/products/1") == cached
        assert page(browser, "/purchases") == bought


@pytest.mark.parametrize("form", [{"by": "NaN"}, {"by": "0.1"}, {"by": "1e3"}])
def test_a_price_that_is_none_is_refused(shop: Shop, form: dict[str, str]) -> None:
    admin = shop.client(1, admin=True)

    assert admin.post("/admin/prices", data=form).status_code == 400
    assert shop.client(1).post("/admin/prices", data=form).status_code == 403
    assert "costs 3.50" in page(admin, "/products/1")[1]


@pytest.mark.parametrize("name", SHOPS)
def test_an_example_shop_takes_few_lines_of_integration(name: str) -> None:
    lines = integration_lines(EXAMPLES / name)

    assert 10 <= len(lines) <= MOST_LINES, "\n".join(lines)


def integration_lines(folder: Path) -> list[str]:
    """Lines that name the library, what is imported of it, or what is made of that.

    In templates, those with a tag of the cache.
    """
    source = (folder / "app.py").read_text("utf-8")
    names = {"hydracache", "hydracache_sync"}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and "hydracache" in str(node.module):
            names.update(alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Assign) and names & {
            each.id for each in ast.walk(node.value) if isinstance(each, ast.Name)
        }:
            names.update(each.id for each in node.targets if isinstance(each, ast.Name))
    said = re.compile(rf"\b(HYDRACACHE_\w+|{'|'.join(sorted(names))})\b")
    lines = [line for line in source.splitlines() if said.search(line)]
    for template in sorted((folder / "templates").glob("*.html")):
        blocks = re.compile(r"{%-?\s*(end)?cache\b")
        lines += filter(blocks.search, template.read_text("utf-8").splitlines())
    return lines
