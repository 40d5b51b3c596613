"""Appliers that do what a test has told them."""

from __future__ import annotations

from hydracache_sync import InvalidationApplier, InvalidationIntent


class Applier(InvalidationApplier):
    """Keeps what it applied; raises for a target what the test has set for it."""

    def __init__(self, namespace: str | None = "shop") -> None:
        self.namespace = namespace
        self.failures: dict[InvalidationIntent, BaseException] = {}
        self.applied: list[InvalidationIntent] = []

    def apply_invalidation(self, intent: InvalidationIntent) -> None:
        if intent in self.failures:
            raise self.failures[intent]
        self.applied.append(intent)
