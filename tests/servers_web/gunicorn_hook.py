"""gunicorn's config: a hook starts the pool, as in docs/operations/servers.md."""

from typing import Any


def post_worker_init(worker: Any) -> None:
    from served_app import app, hydracache

    hydracache.start_pool(app)
