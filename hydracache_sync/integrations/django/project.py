"""What a Django project says of the outbox: its ``HYDRACACHE_`` settings."""

from __future__ import annotations

from typing import Any

from django.conf import settings

from hydracache_sync.app.settings import TABLE

NAME = "hydracache_sync.integrations.django"


def project_settings() -> dict[str, Any]:
    """Settings of the project that are ours, or look like it."""
    return {
        name: getattr(settings, name)
        for name in dir(settings)
        if name.startswith("HYDRA")
    }


def is_installed() -> bool:
    """Whether the project has our app, and so our commands."""
    return any(f"{each}.".startswith(f"{NAME}.") for each in settings.INSTALLED_APPS)


def table_name() -> str:
    """Name of the outbox's own table.

    :raises ValueError: the setting is no table's name.
    """
    table: str = TABLE.parse(getattr(settings, TABLE.variable, None) or TABLE.default)
    return table
