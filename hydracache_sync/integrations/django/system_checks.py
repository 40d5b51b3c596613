"""What ``manage.py check`` tells of a project; connects to nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning
from django.db import connections
from django.utils.module_loading import import_string

from hydracache_sync.app.config import AppConfig
from hydracache_sync.app.settings import OUTBOX
from hydracache_sync.errors import ConfigurationError
from hydracache_sync.integrations.django import HydraCache
from hydracache_sync.integrations.django.project import project_settings


def check_settings(app_configs: Any, **options: Any) -> list[CheckMessage]:
    """E001: settings are missing, misspelt, wrong, or without effect."""
    try:
        AppConfig(project_settings(), commands=True)
    except ConfigurationError as exc:
        hint = (
            "Each setting is in docs/reference/settings.md; set or unset it in your"
            " settings."
        )
        return [Error(str(exc), hint=hint, id="hydracache.E001")]
    return []


def check_middleware(app_configs: Any, **options: Any) -> list[CheckMessage]:
    """W002: the middleware of a ``HydraCache`` is not the first one."""
    paths = list(settings.MIDDLEWARE)
    try:
        found = [getattr(import_string(path), "__self__", None) for path in paths]
    except (ImportError, ConfigurationError):
        return []  # of which Django itself tells, or E001
    places = [n for n, each in enumerate(found) if isinstance(each, HydraCache)]
    if places == [0]:
        return []
    if not places:
        what = "MIDDLEWARE has no middleware of a HydraCache"
        ours = "shop.cache.middleware"
    else:
        ours = paths[places[-1]]
        what = f"{ours} is at place {places[-1] + 1} of MIDDLEWARE, not first"
    hint = (
        f"Put {ours!r} first, once: what those before it invalidate and read is not of"
        " the request."
    )
    return [Warning(f"{what}.", hint=hint, id="hydracache.W002")]


def check_database(app_configs: Any, **options: Any) -> list[CheckMessage]:
    """W003: no alias of ``DATABASES`` is the outbox's database.

    A warning only: a test runner gives each alias another database.
    """
    outbox = project_settings().get(OUTBOX.variable)
    if not isinstance(outbox, str) or any(_is_at(outbox, each) for each in connections):
        return []
    return [
        Warning(
            f"{OUTBOX.variable} names the database of no alias in DATABASES.",
            hint="Name the one that your models are in: rows are written in its"
            " transactions, and refused on any other connection.",
            id="hydracache.W003",
        )
    ]


def _is_at(outbox: str, alias: str) -> bool:
    """Whether the outbox's URL may name the database of ``alias``.

    Hosts are not compared: one has many names.
    """
    connection = connections[alias]
    name = str(connection.settings_dict["NAME"])
    try:
        parts = urlsplit(outbox)
    except ValueError:
        return True  # of which E001 tells
    path = unquote(parts.path[1:])
    if parts.scheme == "sqlite":
        is_file = connection.vendor == "sqlite"
        return is_file and Path(path).resolve() == Path(name).resolve()
    return connection.vendor == "mysql" and path == name
