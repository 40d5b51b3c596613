"""A shop with Flask-SQLAlchemy: prices, dates, a search, users. See README.md."""

from __future__ import annotations

import functools
import os
import re
from datetime import date
from decimal import Decimal
from typing import Any, Callable

import click
from flask import Blueprint, Flask, abort, redirect, render_template, request, session
from flask_sqlalchemy import SQLAlchemy
from werkzeug.security import check_password_hash, generate_password_hash

from hydracache_sync import entity_tag
from hydracache_sync.integrations.flask import HydraCache

db = SQLAlchemy()
hydracache = HydraCache()
sessions = hydracache.attach(db.session)
shop = Blueprint("shop", __name__, cli_group=None)


class Product(db.Model):  # type: ignore[name-defined]
    id = db.Column(db.Integer, primary_key=True)
    name = db.Column(db.String(40), nullable=False)
    price = db.Column(db.Numeric(10, 2), nullable=False)
    since = db.Column(db.Date, nullable=False)
    stock = db.Column(db.Integer, nullable=False)


class User(db.Model):  # type: ignore[name-defined]
    id = db.Column(db.Integer, primary_key=True)
    name = db.Column(db.String(40), nullable=False, unique=True)
    password = db.Column(db.String(200), nullable=False)
    is_admin = db.Column(db.Boolean, nullable=False)
    purchases = db.relationship("Purchase", order_by="Purchase.id")


class Purchase(db.Model):  # type: ignore[name-defined]
    id = db.Column(db.Integer, primary_key=True)
    user_id = db.Column(db.ForeignKey(User.id), nullable=False)
    what = db.Column(db.String(40), nullable=False)
    paid = db.Column(db.Numeric(10, 2), nullable=False)
    day = db.Column(db.Date, nullable=False)


sessions.watch(Product, entity="product", collections=["products"])
sessions.watch(User, entity="user")  # a purchase of theirs is a change of theirs


def create_app() -> Flask:
    app = Flask(__name__)
    path = os.path.abspath(os.environ.get("SHOP_DB", "shop.db"))
    app.config.update(
        # Not to be guessed: it signs cookies. No default, which all would have.
        SECRET_KEY=os.environ["SHOP_SECRET"],
        SESSION_COOKIE_SAMESITE="Lax",
        SQLALCHEMY_DATABASE_URI=os.environ.get("SHOP_URL", f"sqlite:///{path}"),
        SQLALCHEMY_TRACK_MODIFICATIONS=False,
        HYDRACACHE_OUTBOX=os.environ.get("SHOP_OUTBOX", f"sqlite:///{path}"),
        HYDRACACHE_NAMESPACE="shop",
        HYDRACACHE_MEMCACHED=os.environ.get("SHOP_MEMCACHED", "127.0.0.1:11211"),
    )
    app.jinja_env.add_extension("hydracache_sync.integrations.flask.jinja.CacheBlock")
    app.register_blueprint(shop)
    db.init_app(app)
    hydracache.init_app(app)
    return app


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


def found(text: str) -> Any:
    """Products with ``text`` in their names."""
    by_name = db.select(Product).where(Product.name.contains(text, autoescape=True))
    return db.session.execute(by_name.order_by(Product.name)).scalars().all()


@shop.get("/products/<int:id>")
def product(id: int) -> str:
    return render_template("product.html", product=details(id) or abort(404))


@hydracache.cached(tags=lambda id: [entity_tag("product", id)])
def details(id: int) -> dict[str, Any] | None:
    """What a page shows of a product, with the price as Decimal; None: no such."""
    product = db.session.get(Product, id)
    fields = ("id", "name", "price", "since", "stock")
    return product and {field: getattr(product, field) for field in fields}


@shop.post("/products/<int:id>/orders")
@for_users
def order(id: int) -> Any:
    product = db.session.get(Product, id) or abort(404)
    count = request.form.get("count", 0, type=int)
    if count < 1:
        abort(400, "an order is of 1 or more")
    paid = count * product.price
    db.session.add(
        Purchase(user_id=user(), what=product.name, paid=paid, day=date.today())
    )
    product.stock = Product.stock - count
    db.session.flush()
    if product.stock < 0:
        abort(409, "fewer are left")  # nothing is committed
    db.session.commit()
    return redirect("/purchases")


@shop.get("/purchases")
@for_users
@hydracache.cached_page(tags=lambda: [entity_tag("user", user())], key=user)
def purchases() -> str:
    return render_template("purchases.html", user=db.session.get(User, user()))


@shop.post("/admin/products")
@for_admins
def add_product() -> Any:
    product = Product(
        name=request.form["name"],
        price=money("price"),
        since=date.today(),
        stock=request.form.get("stock", 0, type=int),
    )
    db.session.add(product)
    db.session.commit()
    return redirect(f"/products/{product.id}")


@shop.post("/admin/prices")
@for_admins
def change_prices() -> Any:
    # It does not say which rows it hits: the pages of all products end with it.
    dearer = db.update(Product).values(price=Product.price + money("by"))
    db.session.execute(dearer)
    db.session.commit()
    return redirect("/")


@shop.post("/login")
def login() -> Any:
    by_name = db.select(User).where(User.name == request.form["name"])
    found = db.session.execute(by_name).scalar()
    if not found or not check_password_hash(found.password, request.form["password"]):
        abort(403)
    session.clear()
    session.update(user=found.id, admin=found.is_admin)
    return redirect("/")


@shop.cli.command("init-db")
def init_db() -> None:
    """Make the tables, and two products."""
    db.create_all()
    for name, price in ("tea", "3.50"), ("jam", "4.05"):
        since = date(2024, 2, 29)
        product = Product(name=name, price=Decimal(price), since=since, stock=5)
        db.session.add(product)
    db.session.commit()


@shop.cli.command("add-user")
@click.argument("name")
@click.password_option()
@click.option("--admin", is_flag=True)
def add_user(name: str, password: str, admin: bool) -> None:
    """Make a user."""
    hashed = generate_password_hash(password, "pbkdf2:sha256")
    db.session.add(User(name=name, password=hashed, is_admin=admin))
    db.session.commit()
