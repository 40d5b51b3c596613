"""The app under chaos: items with a version each, read through the cache.

Half of the items are in a namespace of its own that is strict. Whatever is cached of an
item carries its version, so that a reader knows how old it is.
"""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any, Callable
from urllib.parse import urlsplit

import pymysql

from faults.caches import PlainDeleteCache, plain_key
from hydracache_sync import (
    InvalidationApplier,
    InvalidationIntent,
    InvalidationIntentBatch,
    MemcachedApplier,
    MemcachedStore,
    PlainKeyApplier,
    TaggedCache,
    collection_tag,
    entity_tag,
    open_outbox,
)

NAMESPACE = "chaos"
STRICT = "chaos-strict"

#: Items of a group; a write of one of the default namespace invalidates its group too.
GROUP = 4

#: Seconds. Short, so that what a killed worker held is soon taken over.
CLAIM_TTL = 2.0

TABLES = (
    "create table item (id integer primary key, version integer not null)",
    """create table history (
         seq integer primary key auto_increment, item integer not null,
         version integer not null, position varbinary(128) not null,
         written_at bigint not null)""",
)


@dataclass(frozen=True)
class Settings:
    """What all processes are told.

    :ivar items: of each namespace; the strict ones come after the others.
    :ivar plain_delete: get, set and delete in place of the protocol.
    :ivar quarantine: whether writers of the strict ones hold off before they commit.
    :ivar guard: whether who reads an old snapshot says so.
    """

    seed: int
    folder: str
    database: str
    nodes: tuple[str, ...]
    parent: int
    items: int = 30
    plain_delete: bool = False
    quarantine: bool = True
    guard: bool = True

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Settings:
        facts = json.loads(text)
        return cls(**{**facts, "nodes": tuple(facts["nodes"])})

    @property
    def all_items(self) -> int:
        return 2 * self.items

    def is_strict(self, item: int) -> bool:
        return item >= self.items

    def namespace(self, item: int) -> str:
        return STRICT if self.is_strict(item) else NAMESPACE

    @property
    def ports(self) -> set[int]:
        """Of the database and the nodes."""
        nodes = {int(node.rpartition(":")[2]) for node in self.nodes}
        return nodes | {urlsplit(self.database).port or 3306}

    # The database

    def connect(self, *, autocommit: bool = False) -> Any:
        url = urlsplit(self.database)
        return pymysql.connect(
            host=url.hostname or "",
            port=url.port or 3306,
            user=url.username,
            database=url.path.lstrip("/") or None,
            ssl_disabled=True,
            autocommit=autocommit,
        )

    def prepare(self, name: str) -> None:
        """Make the database, with every item at version 0."""
        url = urlsplit(self.database)
        with closing(
            pymysql.connect(
                host=url.hostname or "",
                port=url.port or 3306,
                user=url.username,
                ssl_disabled=True,
            )
        ) as connection, connection.cursor() as cursor:
            cursor.execute(f"create database {name}")
        with closing(open_outbox(self.database)) as outbox:
            outbox.install_schema()
        with closing(self.connect()) as connection, connection.cursor() as cursor:
            for statement in TABLES:
                cursor.execute(statement)
            for item in range(self.all_items):
                cursor.execute("insert into item (id, version) values (%s, 0)", (item,))
            connection.commit()

    # The cache

    def store(self) -> MemcachedStore:
        return MemcachedStore(list(self.nodes), timeout=0.3, connect_timeout=0.3)

    def cache(self, store: MemcachedStore, item: int, **options: Any) -> Any:
        """What reads ``item``'s namespace."""
        if self.plain_delete:
            return Plain(store)
        if self.is_strict(item):
            return TaggedCache(store, STRICT, strict=True, **options)
        return TaggedCache(store, NAMESPACE, **options)

    def applier(self, store: MemcachedStore, namespace: str) -> InvalidationApplier:
        if self.plain_delete:
            return PlainKeyApplier(store, key=_plain_key, namespace=namespace)
        if namespace == STRICT:
            return MemcachedApplier(store, namespace, strict=True)
        return MemcachedApplier(store, namespace)

    def namespaces(self) -> list[str]:
        return [NAMESPACE, STRICT]

    def tags(self, item: int) -> tuple[str, ...]:
        tags: tuple[str, ...] = (entity_tag("item", str(item)),)
        if not self.is_strict(item):
            tags += (collection_tag(f"group:{item // GROUP}"),)
        return tags

    def batch(self, item: int) -> InvalidationIntentBatch:
        batch = InvalidationIntentBatch().invalidate_entity("item", str(item))
        if not self.is_strict(item):
            batch.invalidate_collection(f"group:{item // GROUP}")
        return batch


class Plain:
    """Cache-aside by get and set, with the signature of ``TaggedCache``."""

    def __init__(self, store: MemcachedStore) -> None:
        self._cache = PlainDeleteCache(store)

    def get_or_load(
        self, key: str, loader: Callable[[], Any], *, tags: Any = (), since: Any = None
    ) -> Any:
        return self._cache.get_or_load(key, loader)


def key_of(item: int) -> str:
    return f"item:{item}"


def _plain_key(intent: InvalidationIntent) -> str | None:
    if intent.entity_name is None or intent.value is None:
        return None
    if intent.kind != "entity":
        return None
    return plain_key(key_of(int(intent.value)))
