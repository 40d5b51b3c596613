"""A shop with Flask-SQLAlchemy whose models invalidate their pages. See README.md."""

from __future__ import annotations

import os

from flask import Flask, abort, request
from flask_sqlalchemy import SQLAlchemy

from hydracache_sync import entity_tag
from hydracache_sync.integrations.flask import HydraCache

db = SQLAlchemy()
hydracache = HydraCache()
sessions = hydracache.attach(db.session)


class Item(db.Model):  # type: ignore[name-defined]
    id = db.Column(db.Integer, primary_key=True)
    name = db.Column(db.String(40), nullable=False)
    price = db.Column(db.Integer, nullable=False)


# Every insert, update and delete of an item, with its own transaction.
sessions.watch(Item, entity="item", collections=["items"])


def create_app() -> Flask:
    app = Flask(__name__)
    path = os.path.abspath(os.environ.get("SHOP_DB", "shop.db"))
    app.config.update(
        # Not to be guessed: it signs cookies. No default, which all would have.
        SECRET_KEY=os.environ["SHOP_SECRET"],
        SQLALCHEMY_DATABASE_URI=f"sqlite:///{path}",
        HYDRACACHE_OUTBOX=f"sqlite:///{path}",
        HYDRACACHE_NAMESPACE="shop",
        HYDRACACHE_MEMCACHED=os.environ.get("SHOP_MEMCACHED", "127.0.0.1:11211"),
        HYDRACACHE_RING=os.environ.get("SHOP_RING", "1"),
    )
    db.init_app(app)
    hydracache.init_app(app)

    @app.cli.command("init-db")
    def init_db() -> None:
        """Make the tables, and two items."""
        hydracache.outbox.install_schema()
        db.create_all()
        db.session.add_all([Item(name="tea", price=100), Item(name="jam", price=40)])
        db.session.commit()

    @app.get("/items/<int:id>")
    def show(id: int) -> str:
        came_from = "the cache"

        def load() -> str:
            nonlocal came_from
            came_from = "the database"
            item = db.session.get(Item, id)
            return f"{item.name} costs {item.price}" if item else "no such item"

        # A sale changes all prices by one statement, so pages carry its tag, too.
        tags = [entity_tag("item", id), "prices"]
        page = hydracache.get_or_load(f"item:{id}", load, tags=tags)
        return f"{page}, from {came_from}\n"

    @app.post("/items/<int:id>")
    def change_price(id: int) -> str:
        item = db.session.get(Item, id) or abort(404)
        item.price = int(request.form["price"])
        db.session.flush()
        if item.price < 0:
            abort(400, "a price is at least 0")  # nothing is committed
        db.session.commit()
        return f"{item.name} costs {item.price} now, {_published()}\n"

    @app.post("/sale")
    def sale() -> str:
        db.session.execute(db.update(Item).values(price=Item.price / 2))
        # Which rows that hits nobody knows: say what it touches.
        hydracache.invalidate_tag("prices")
        db.session.commit()
        return f"all for half, {_published()}\n"

    return app


def _published() -> str:
    """Wait for a worker thread of this process; a real page would not."""
    return "published" if hydracache.wait(10).satisfied else "not published yet"
