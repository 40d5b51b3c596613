"""The app for ``INSTALLED_APPS``: migrations, system checks and commands."""

from __future__ import annotations

from django.apps import AppConfig
from django.core import checks

from hydracache_sync.integrations.django.project import NAME


class HydraCacheConfig(AppConfig):  # type: ignore[misc]
    """Needs nothing but its line; without it the rest of the integration works, too."""

    name = NAME
    label = "hydracache"
    verbose_name = "hydracache_sync"

    def ready(self) -> None:
        from hydracache_sync.integrations.django import system_checks

        checks.register(system_checks.check_settings)
        checks.register(system_checks.check_middleware)
        checks.register(system_checks.check_database, checks.Tags.database)
