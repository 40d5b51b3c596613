"""Threads that apply an outbox's rows for as long as their process lives."""

from hydracache_sync.pool.health import PoolHealth, ThreadHealth, ThreadState
from hydracache_sync.pool.worker_pool import WorkerPool

__all__ = ["PoolHealth", "ThreadHealth", "ThreadState", "WorkerPool"]
