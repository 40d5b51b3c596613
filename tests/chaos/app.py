"""The app under chaos: items with a version each, read through the cache.

Half of the items are in a namespace of its own that is strict. Whatever is cached of an
item carries its version, so that a reader knows how old it is.

A process is on one of some simulated hosts. Each host reaches the nodes over links of
its own, which hold what the host has sent and deliver it late.
"""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any, Callable, Mapping, Sequence
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
from support.plain_set_store import PlainSetStore

NAMESPACE = "chaos"
STRICT = "chaos-strict"

#: Items of a group; a write of one of the default namespace invalidates its group too.
GROUP = 4

#: Seconds. Short, so that what a killed worker held is soon taken over.
CLAIM_TTL = 2.0

#: Seconds. Short, because a message is late only if it is later than these: the hosts
#: share one clock, and a writer stands still for less than half of the hold-off.
CLOCK_SKEW = 0.2
HOLD_OFF = 1.0

#: Items of each namespace, the last ones, that only scenes write. A whole group.
SCENES_ITEMS = 2

HOSTS = 3

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

    :ivar links: ports of each host's links, in the order of the nodes.
    :ivar ring: which readers use.
    :ivar rings: which appliers and quarantines write to; several during a roll-out.
    :ivar items: of each namespace; the strict ones come after the others.
    :ivar plain_delete: get, set and delete in place of the protocol.
    :ivar plain_set: tokens overwritten, and not replaced as the protocol does it.
    :ivar calm: links deliver at once.
    :ivar quarantine: whether writers of the strict ones hold off before they commit.
    :ivar guard: whether who reads an old snapshot says so.
    """

    seed: int
    folder: str
    database: str
    nodes: tuple[str, ...]
    links: tuple[tuple[int, ...], ...]
    parent: int
    ring: str = "4"
    rings: tuple[str, ...] = ("4",)
    items: int = 30
    plain_delete: bool = False
    plain_set: bool = False
    calm: bool = False
    quarantine: bool = True
    guard: bool = True

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Settings:
        facts = json.loads(text)
        facts["nodes"] = tuple(facts["nodes"])
        facts["links"] = tuple(map(tuple, facts["links"]))
        facts["rings"] = tuple(facts["rings"])
        return cls(**facts)

    @property
    def all_items(self) -> int:
        return 2 * self.items

    def is_strict(self, item: int) -> bool:
        return item >= self.items

    def namespace(self, item: int) -> str:
        return STRICT if self.is_strict(item) else NAMESPACE

    def ports(self, host: int) -> set[int]:
        """Of the database and of the nodes, as processes on ``host`` connect to."""
        return {urlsplit(self.database).port or 3306, *self.links[host]}

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

    def stores(self, ports: Sequence[int] | None = None) -> list[MemcachedStore]:
        """What reads :attr:`ring`, and after it the other rings that are written to.

        :param ports: of the links to the nodes; None for none between.
        """
        rings = [self.ring, *(ring for ring in self.rings if ring != self.ring)]
        kind = LinkedPlainSetStore if self.plain_set else LinkedStore
        return [
            kind(
                ring_nodes(self.nodes, ring),
                dict(zip(self.nodes, ports)) if ports else {},
                ring=ring,
            )
            for ring in rings
        ]

    def on_host(self, host: int) -> list[MemcachedStore]:
        """As :meth:`stores`, over the links of a host."""
        return self.stores(self.links[host])

    def cache(self, stores: list[MemcachedStore], item: int, **options: Any) -> Any:
        """What reads ``item``'s namespace."""
        store, *also = stores
        if self.plain_delete:
            return Plain(store)
        namespace, strict = self.namespace(item), self.is_strict(item)
        return TaggedCache(
            store,
            namespace,
            also=also,
            strict=strict,
            hold_off=HOLD_OFF,
            clock_skew=CLOCK_SKEW,
            **options,
        )

    def applier(
        self, stores: list[MemcachedStore], namespace: str, **options: Any
    ) -> InvalidationApplier:
        store, *also = stores
        if self.plain_delete:
            return PlainKeyApplier(store, key=_plain_key, namespace=namespace)
        return MemcachedApplier(
            store,
            namespace,
            also=also,
            strict=namespace == STRICT,
            hold_off=HOLD_OFF,
            **options,
        )

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


class LinkedStore(MemcachedStore):
    """Reaches each node over a link. Keys are placed by the names of the nodes."""

    def __init__(
        self, nodes: Sequence[str], ports: Mapping[str, int], *, ring: str
    ) -> None:
        super().__init__(nodes, ring=ring, timeout=0.3, connect_timeout=0.3)
        for node in self._nodes:
            if node.name in ports:
                server = node._pool.server
                node._pool.server = server._replace(port=ports[node.name])


class LinkedPlainSetStore(LinkedStore, PlainSetStore):
    """The same, and tokens are overwritten."""


def ring_nodes(nodes: Sequence[str], ring: str) -> list[str]:
    """The server list of a ring: each leaves out another node, and some leave out none.

    A node comes back with what it held when it was left.
    """
    left_out = int(ring) % (len(nodes) + 1)
    return [node for number, node in enumerate(nodes, 1) if number != left_out]


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
