"""gunicorn's config of the tests that start the pool by a hook, as docs/servers.md."""

from typing import Any


def post_worker_init(worker: Any) -> None:
    from served_app import app, hydracache

    hydracache.start_pool(app)
