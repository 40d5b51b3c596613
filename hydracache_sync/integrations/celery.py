"""Celery: each task is served as a request is, see docs/how_to/jobs.md."""

from __future__ import annotations

from typing import Any

from celery import Task

from hydracache_sync.app.context_extension import ContextExtension


def task_class(hydracache: ContextExtension) -> type[Any]:
    """Return what Celery makes tasks of: ``Celery("shop", task_cls=...)``.

    What a task collects is of that task, and is seen to when it returns or raises,
    before its result is stored. A call within a request is part of the request.
    """

    class ScopedTask(Task):  # type: ignore[misc,unused-ignore]
        abstract = True

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            with hydracache.collecting(f"task {self.name}", is_request=True):
                return self.run(*args, **kwargs)

    return ScopedTask
