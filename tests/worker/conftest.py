"""An outbox of each kind that needs no server, on a clock that a test moves."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Iterator, Union

import pytest

from hydracache_sync import MemoryOutbox, SQLiteOutbox
from support.clock import FakeClock


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "app.db"


@pytest.fixture
def sqlite(path: Path, clock: FakeClock) -> Iterator[SQLiteOutbox]:
    with contextlib.closing(SQLiteOutbox(path, clock=clock)) as outbox:
        outbox.install_schema()
        outbox.check_schema()
        yield outbox


@pytest.fixture(params=["memory", "sqlite"])
def outbox(
    request: pytest.FixtureRequest, clock: FakeClock
) -> Union[MemoryOutbox, SQLiteOutbox]:
    if request.param == "memory":
        return MemoryOutbox(clock=clock)
    outbox: SQLiteOutbox = request.getfixturevalue("sqlite")
    return outbox
