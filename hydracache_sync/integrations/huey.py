"""Huey: each task is served as a request is, see docs/how_to/jobs.md."""

from __future__ import annotations

from typing import Any

from hydracache_sync.app.context_extension import ContextExtension


def scope_tasks(huey: Any, hydracache: ContextExtension) -> None:
    """Have the tasks that ``huey`` makes from now on, each collect what is its own.

    It is seen to when the task returns or raises, before its result is stored. What is
    run within a request, ``immediate``, is part of the request.

    :param huey: a ``Huey``; before its tasks are decorated.
    """
    plain = huey.task_wrapper_class

    class ScopedWrapper(plain):  # type: ignore[misc,valid-type,unused-ignore]
        def create_task(self, *args: Any, **settings: Any) -> Any:
            made = super().create_task(*args, **settings)
            run = made.execute

            def execute(task: Any) -> Any:
                with hydracache.collecting(f"task {task.name}", is_request=True):
                    return run(task)

            made.execute = execute
            return made

    huey.task_wrapper_class = ScopedWrapper
