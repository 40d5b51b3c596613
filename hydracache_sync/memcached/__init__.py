"""The memcached client: a store of several nodes, its connections and its wire.

Importing it loads no other client; that happens when a ``MemcachedStore`` connects.
"""

from hydracache_sync.memcached.store import MemcachedStore

__all__ = ["MemcachedStore"]
