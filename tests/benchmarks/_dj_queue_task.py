"""What dj-queue runs, where it finds it by name; imported once Django is set up."""

from __future__ import annotations

from django.tasks import task


def apply(key: str) -> None:
    """Replaced by whoever carries."""
    raise NotImplementedError


@task
def carry(key: str) -> None:
    apply(key)
