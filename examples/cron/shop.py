"""A shop with one product: its price is in SQLite, and read through memcached.

    python shop.py init
    python shop.py price
    python shop.py set-price 120

Settings are those of the hydracache command: HYDRACACHE_OUTBOX, HYDRACACHE_NAMESPACE,
HYDRACACHE_MEMCACHED.
"""

from __future__ import annotations

import os
import sys

from hydracache_sync import (
    InvalidationIntentBatch,
    MemcachedStore,
    TaggedCache,
    open_outbox,
)

outbox = open_outbox(os.environ["HYDRACACHE_OUTBOX"])
namespace = os.environ["HYDRACACHE_NAMESPACE"]


def init() -> None:
    outbox.install_schema()
    with outbox.transaction() as connection:
        connection.execute("create table if not exists product (id, price)")
        connection.execute("delete from product")
        connection.execute("insert into product values (1, 100)")


def set_price(price: int) -> None:
    # Both or neither: killed at any point, there is no new price without its row.
    with outbox.transaction() as connection:
        connection.execute("update product set price = ? where id = 1", [price])
        batch = InvalidationIntentBatch("new price").invalidate_entity("product", 1)
        outbox.enqueue_in(connection, namespace, batch)
    print(f"the price is {price}")


def show_price() -> None:
    source = "cache"

    def load() -> int:
        nonlocal source
        source = "database"
        with outbox.transaction() as connection:
            query = "select price from product where id = 1"
            return int(connection.execute(query).fetchone()[0])

    with MemcachedStore([os.environ["HYDRACACHE_MEMCACHED"]]) as store:
        cache = TaggedCache(store, namespace)
        price = cache.get_or_load("price:1", load, tags=["product:1"])
    print(f"{price}, from the {source}")


if __name__ == "__main__":
    command, *arguments = sys.argv[1:] or ["price"]
    if command == "init":
        init()
    elif command == "set-price":
        set_price(int(arguments[0]))
    elif command == "price":
        show_price()
    else:
        sys.exit(__doc__)
    outbox.close()
