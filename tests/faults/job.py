"""What one process of the storm is told: who it is, where things are, how it ends.

A job travels as JSON on the command line, so that every process starts from nothing.
"""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass
from pathlib import Path

#: The one cache namespace of a storm.
NAMESPACE = "kill-storm"

#: Seconds of a claim. Short, so that what a killed worker held is soon taken over and a
#: frozen one is late after a bearable time.
CLAIM_TTL = 2.0


@dataclass(frozen=True)
class Job:
    """
    :ivar role: what it runs, see ``process.py``.
    :ivar slot: place among those of its role; a successor takes the same.
    :ivar life: 0 for the first process in a slot, 1 for its successor.
    :ivar quota: transactions that a writer's slot has to commit in all.
    :ivar rate: transactions a second of one writer; 0 for no limit.
    :ivar fate: point at which the process signals itself, see ``fate.py``.
    :ivar parent: process id without which this process has no reason to live.
    """

    role: str
    slot: int
    life: int
    seed: int
    folder: str
    database: str
    memcached: str
    items: int
    parent: int
    quota: int = 0
    rate: float = 0.0
    fate: tuple[str, int, int] | None = None
    plain_delete: bool = False
    drop_intents: float = 0.0

    @property
    def name(self) -> str:
        """Unique among the processes of a storm."""
        return f"{self.role}-{self.slot}-{self.life}"

    @property
    def ledgers(self) -> Path:
        return Path(self.folder) / "ledgers"

    def random(self, part: object = "") -> random.Random:
        """Choices that the storm's seed repeats: what is done, not when."""
        return random.Random(f"{self.seed} {self.name} {part}")

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        return cls(**json.loads(text))
