"""RQ: each job is served as a request is, see docs/how_to/jobs.md."""

from __future__ import annotations

from typing import Any

from rq.job import Job

from hydracache_sync.app.context_extension import ContextExtension


def job_class(hydracache: ContextExtension) -> type[Any]:
    """Return the class of a worker's jobs: ``rq worker --job-class``, ``job_class=``.

    What a job collects is of that job, and is seen to when it returns or raises, before
    its result is stored and its process ends.
    """

    class ScopedJob(Job):  # type: ignore[misc,unused-ignore]
        def perform(self) -> Any:
            with hydracache.collecting(f"job {self.func_name}", is_request=True):
                return super().perform()

    return ScopedJob
