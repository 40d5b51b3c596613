"""A shop with PyMySQL and no ORM: prices, dates, a search, users. See README.md."""

from __future__ import annotations

import contextlib
import functools
import os
import re
from datetime import date
from decimal import Decimal
from typing import Any, Callable, Iterator
from urllib.parse import unquote, urlsplit

import click
import pymysql
from flask import (
    Blueprint,
    Flask,
    abort,
    g,
    redirect,
    render_template,
    request,
    session,
)
from pymysql.cursors import DictCursor
from werkzeug.security import check_password_hash, generate_password_hash

from hydracache_sync import entity_tag
from hydracache_sync.integrations.flask import HydraCache

hydracache = HydraCache()
shop = Blueprint("shop", __name__, cli_group=None)

TABLES = [
    "create table product (id integer primary key auto_increment, name varchar(40)"
    " not null, price decimal(10, 2) not null, since date not null,"
    " stock integer not null)",
    "create table user (id integer primary key auto_increment, name varchar(40)"
    " not null unique, password varchar(200) not null, is_admin boolean not null)",
    "create table purchase (id integer primary key auto_increment, user_id integer"
    " not null, what varchar(40) not null, paid decimal(10, 2) not null,"
    " day date not null)",
]


def create_app() -> Flask:
    app = Flask(__name__)
    url, cache = os.environ["SHOP_DATABASE"], os.environ["SHOP_MEMCACHED"]
    app.config.update(
        # Not to be guessed: it signs cookies. No default, which all would have.
        SECRET_KEY=os.environ["SHOP_SECRET"],
        SESSION_COOKIE_SAMESITE="Lax",
    )
    app.config.update(
        HYDRACACHE_OUTBOX=url, HYDRACACHE_NAMESPACE="shop", HYDRACACHE_MEMCACHED=cache
    )
    app.jinja_env.add_extension("hydracache_sync.integrations.flask.jinja.CacheBlock")
    app.register_blueprint(shop)
    app.teardown_appcontext(close_db)  # before init_app: what comes first runs last
    hydracache.init_app(app, connection=lambda: g.get("db"))
    return app


def db() -> Any:
    """The connection of this request, to the database that the outbox is in."""
    if "db" not in g:
        at = urlsplit(os.environ["SHOP_DATABASE"])
        g.db = pymysql.connect(
            host=at.hostname,
            port=at.port or 3306,
            user=unquote(at.username or ""),
            password=unquote(at.password or ""),
            database=at.path[1:],
            charset="utf8mb4",
            autocommit=True,
            cursorclass=DictCursor,
        )
    return g.db


def close_db(exc: BaseException | None) -> None:
    connection = g.pop("db", None)
    if connection is not None:
        connection.close()


def rows(statement: str, *values: Any) -> list[dict[str, Any]]:
    with db().cursor() as cursor:
        cursor.execute(statement, values)
        return list(cursor.fetchall())


@contextlib.contextmanager
def transaction() -> Iterator[None]:
    """Commit what the block does, and what it says that this concerns.

    An error in the block rolls it back.
    """
    with hydracache.transaction(db()):
        yield


def user() -> Any:
    """The id of the logged-in user."""
    return session.get("user")


def for_users(view: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(view)
    def checked(**arguments: Any) -> Any:
        return view(**arguments) if user() else abort(401)

    return checked


def for_admins(view: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(view)
    def checked(**arguments: Any) -> Any:
        return view(**arguments) if session.get("admin") else abort(403)

    return checked


def money(field: str) -> Decimal:
    """A field of the form that is an amount with cents."""
    text = request.form[field]
    if not re.fullmatch(r"-?[0-9]{1,6}\.[0-9]{2}", text):
        abort(400, f"{field} is not an amount such as 3.50")
    return Decimal(text)


@shop.get("/")
def home() -> str:
    return render_template("home.html", user=user(), found=lambda: found(""))


@shop.get("/search")
@hydracache.cached_page(tags=["products"], query=["q"])
def search() -> str:
    return render_template("products.html", products=found(request.args.get("q", "")))


def found(text: str) -> list[dict[str, Any]]:
    """Products with ``text`` in their names."""
    return rows(
        "select id, name, price from product where locate(%s, name) order by name", text
    )


@shop.get("/products/<int:id>")
def product(id: int) -> str:
    return render_template("product.html", product=details(id) or abort(404))


@hydracache.cached(tags=lambda id: [entity_tag("product", id), "products"])
def details(id: int) -> dict[str, Any] | None:
    """What a page shows of a product, with the price as Decimal; None: no such."""
    of_product = "select id, name, price, since, stock from product where id = %s"
    return next(iter(rows(of_product, id)), None)


@shop.post("/products/<int:id>/orders")
@for_users
def order(id: int) -> Any:
    count = request.form.get("count", 0, type=int)
    if count < 1:
        abort(400, "an order is of 1 or more")
    with transaction():
        rows("update product set stock = stock - %s where id = %s", count, id)
        rows(
            "insert into purchase (user_id, what, paid, day)"
            " select %s, name, %s * price, %s from product where id = %s",
            *(user(), count, date.today(), id),
        )
        hydracache.invalidate_entity("product", id)
        hydracache.invalidate_entity("user", user())
        after = rows("select stock from product where id = %s", id) or abort(404)
        if after[0]["stock"] < 0:
            abort(409, "fewer are left")  # nothing is committed
    return redirect("/purchases")


@shop.get("/purchases")
@for_users
@hydracache.cached_page(tags=lambda: [entity_tag("user", user())], key=user)
def purchases() -> str:
    [named] = rows("select name from user where id = %s", user())
    bought = "select what, paid from purchase where user_id = %s order by id"
    return render_template(
        "purchases.html", user=named["name"], purchases=rows(bought, user())
    )


@shop.post("/admin/products")
@for_admins
def add_product() -> Any:
    stock = request.form.get("stock", 0, type=int)
    with transaction():
        rows(
            "insert into product (name, price, since, stock) values (%s, %s, %s, %s)",
            *(request.form["name"], money("price"), date.today(), stock),
        )
        hydracache.invalidate_collection("products")
    return redirect("/")


@shop.post("/admin/prices")
@for_admins
def change_prices() -> Any:
    with transaction():
        rows("update product set price = price + %s", money("by"))
        # Of single products too: it does not say which rows it hits.
        hydracache.invalidate_collection("products")
    return redirect("/")


@shop.post("/login")
def login() -> Any:
    found = rows("select * from user where name = %s", request.form["name"])
    if not found or not check_password_hash(
        found[0]["password"], request.form["password"]
    ):
        abort(403)
    session.clear()
    session.update(user=found[0]["id"], admin=bool(found[0]["is_admin"]))
    return redirect("/")


@shop.cli.command("init-db")
def init_db() -> None:
    """Make the tables, and two products."""
    for table in TABLES:
        rows(table)
    rows(
        "insert into product (name, price, since, stock)"
        " values ('tea', 3.50, '2024-02-29', 5), ('jam', 4.05, '2024-02-29', 5)"
    )


@shop.cli.command("add-user")
@click.argument("name")
@click.password_option()
@click.option("--admin", is_flag=True)
def add_user(name: str, password: str, admin: bool) -> None:
    """Make a user."""
    hashed = generate_password_hash(password, "pbkdf2:sha256")
    rows(
        "insert into user (name, password, is_admin) values (%s, %s, %s)",
        *(name, hashed, admin),
    )
