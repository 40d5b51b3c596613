"""The read side: the cache that compares tokens, and what a store for it must do."""

from hydracache_sync.cache.codecs.codec import Codec
from hydracache_sync.cache.codecs.signed import PickleCodec, SignedCodec
from hydracache_sync.cache.codecs.value_types import cacheable
from hydracache_sync.cache.diagnostics import CacheDiagnostics
from hydracache_sync.cache.entity_kinds import EntityKinds
from hydracache_sync.cache.keyspace import Address, Keyspace, app_address
from hydracache_sync.cache.memory import MemoryStore
from hydracache_sync.cache.reservation import Reservation
from hydracache_sync.cache.store import CacheStore, Copy, Failures, Maker, Write
from hydracache_sync.cache.tagged import Stale, TaggedCache
from hydracache_sync.cache.tokens.strict import Quarantine
from hydracache_sync.cache.tokens.token import fresh_token, fresh_tokens

__all__ = [
    # reading
    "TaggedCache",
    "Quarantine",
    "Reservation",
    "Stale",
    "CacheDiagnostics",
    "EntityKinds",
    "Codec",
    "PickleCodec",
    "SignedCodec",
    "cacheable",
    # stores
    "CacheStore",
    "Copy",
    "MemoryStore",
    # what appliers need
    "Address",
    "Failures",
    "Maker",
    "Keyspace",
    "Write",
    "app_address",
    "fresh_token",
    "fresh_tokens",
]
