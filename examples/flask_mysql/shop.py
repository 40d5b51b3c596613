"""A small shop on MySQL and memcached, for several worker processes."""

import os
from urllib.parse import unquote, urlsplit

import pymysql
from flask import Flask, abort, g, request

from hydracache_sync import entity_tag
from hydracache_sync.integrations.flask import HydraCache

hydracache = HydraCache()


def create_app():
    app = Flask(__name__)
    app.config.update(
        # Not to be guessed: it signs cookies. No default, which all would have.
        SECRET_KEY=os.environ["SECRET_KEY"],
        HYDRACACHE_NAMESPACE="shop",
        # What a view writes, it publishes right after its commit. The pool has what an
        # outage of memcached leaves.
        HYDRACACHE_MODE="inline",
    )
    # HYDRACACHE_OUTBOX and HYDRACACHE_MEMCACHED, and whatever else you set.
    app.config.update(
        (name, value)
        for name, value in os.environ.items()
        if name.startswith("HYDRACACHE_")
    )
    # Before init_app(): runs after it, when what is left has been written.
    app.teardown_appcontext(close_db)
    hydracache.init_app(app, connection=lambda: g.get("db"))
    return app


def db():
    """The connection of this request, to the database that the outbox is in."""
    if "db" not in g:
        at = urlsplit(os.environ["HYDRACACHE_OUTBOX"])
        g.db = pymysql.connect(
            host=at.hostname,
            port=at.port or 3306,
            user=unquote(at.username or ""),
            password=unquote(at.password or ""),
            database=at.path[1:],
            autocommit=True,
        )
    return g.db


def close_db(exc=None):
    connection = g.pop("db", None)
    if connection is not None:
        connection.close()


app = create_app()


@app.get("/products/<int:id>")
def product(id):
    loaded = []

    def load():
        loaded.append(True)
        with db().cursor() as cursor:
            cursor.execute("select price from product where id = %s", (id,))
            found = cursor.fetchone()
            return found and found[0]

    price = hydracache.get_or_load(
        f"product:{id}", load, tags=[entity_tag("product", id)]
    )
    if price is None:
        abort(404)
    return {"price": price, "from": "the database" if loaded else "the cache"}


@app.post("/products/<int:id>")
def set_price(id):
    price = int(request.form["price"])
    with hydracache.transaction(db()), db().cursor() as cursor:
        cursor.execute("update product set price = %s where id = %s", (price, id))
        hydracache.invalidate_entity("product", id)
    return {"price": price}


@app.get("/healthz")
def health():
    """How the pool of the process is that answers."""
    pool = hydracache.pool
    ok = pool is not None and pool.health().ok
    return {"process": os.getpid(), "pool": ok}, 200 if ok else 503


@app.cli.command("init")
def init():
    """Create the tables and one product."""
    hydracache.outbox.install_schema()
    with db().cursor() as cursor:
        cursor.execute("drop table if exists product")
        cursor.execute("create table product (id integer primary key, price integer)")
        cursor.execute("insert into product values (1, 100)")
