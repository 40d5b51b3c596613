"""The outbox's tables, as this version of the library has them."""

from __future__ import annotations

from typing import Any

from django.db import migrations

from hydracache_sync.integrations.django.operations import CreateOutbox


class Migration(migrations.Migration):  # type: ignore[misc]
    """Another table is another migration with the same operation."""

    initial = True
    dependencies: list[Any] = []
    operations = [CreateOutbox()]
