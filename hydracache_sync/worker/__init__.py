"""From a committed row to the cache: the worker, its appliers, and waiting for it."""
