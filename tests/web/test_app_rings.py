"""An app's server list: weights, and the list before the last change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hydracache_sync import ConfigurationError, InvalidationIntent
from hydracache_sync.app.config import AppConfig
from hydracache_sync.app.runtime import Runtime


def settings_of(tmp_path: Path, **more: Any) -> dict[str, Any]:
    return {
        "HYDRACACHE_OUTBOX": f"sqlite:///{tmp_path}/shop.db",
        "HYDRACACHE_NAMESPACE": "shop",
        "HYDRACACHE_MEMCACHED": ["cache1:11211", "cache2:11211"],
        "HYDRACACHE_RING": "b",
        **more,
    }


def test_an_app_publishes_to_the_ring_before_the_last_change_too(
    tmp_path: Path,
) -> None:
    config = settings_of(
        tmp_path,
        HYDRACACHE_WEIGHTS={"cache1:11211": 2},
        HYDRACACHE_PREVIOUS_MEMCACHED="cache3:11211",
        HYDRACACHE_PREVIOUS_RING="a",
    )

    applier = Runtime(AppConfig(config)).worker.applier

    assert applier.nodes_of(InvalidationIntent.flush()) == [
        "cache1:11211",
        "cache2:11211",
        "cache3:11211",
    ]


@pytest.mark.parametrize(
    "half", [{"PREVIOUS_RING": "a"}, {"PREVIOUS_MEMCACHED": "cache3:11211"}]
)
def test_half_of_a_change_is_refused(tmp_path: Path, half: dict[str, str]) -> None:
    more = {f"HYDRACACHE_{name}": value for name, value in half.items()}

    with pytest.raises(ConfigurationError, match="belong together"):
        AppConfig(settings_of(tmp_path, **more))
