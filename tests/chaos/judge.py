"""Read the logs afterwards: was any read older than it may have been?

A read may be as old as what was committed before it began, unless something of these
was known before it began: that a newer version is published, that a wait for it was
satisfied, or, in the strict namespace, that it is committed.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Iterable, Sequence

from . import records
from .records import CACHED, LOADED, LOADED_IN_OLD_SNAPSHOT, Fact, Read

#: Violations that are told at length.
TOLD = 5

#: What makes a version one that later reads must not be older than, and what a read is
#: that is.
STALE = {
    "waited": "stale after wait",
    "published": "stale after publish",
    "inline": "stale after inline publish",
    "strict": "strict violations",
}


class Floor:
    """From when on which version of each item has to be seen."""

    def __init__(self, found: Iterable[Fact]) -> None:
        facts: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for fact in found:
            facts[fact.item].append((fact.at, fact.version))
        self._times: dict[int, list[int]] = {}
        self._versions: dict[int, list[int]] = {}
        for item, each in facts.items():
            each.sort()
            versions, highest = [], 0
            for _, version in each:
                highest = max(highest, version)
                versions.append(highest)
            self._times[item] = [at for at, _ in each]
            self._versions[item] = versions

    def at(self, item: int, moment: int) -> int:
        """The version that a read beginning at ``moment`` has to see at least."""
        index = bisect_right(self._times.get(item, ()), moment)
        return self._versions[item][index - 1] if index else 0

    def since(self, item: int, version: int) -> int | None:
        """When the first newer version than ``version`` was there."""
        versions: Sequence[int] = self._versions.get(item, ())
        index = bisect_right(versions, version)
        return self._times[item][index] if index < len(versions) else None


@dataclass
class Verdict:
    """What came of a run.

    :ivar stale: violations by kind; all must be 0.
    :ivar windows: of reads in the default namespace that were older than what was
        committed when they began, for how many milliseconds it had been committed.
    """

    reads: int = 0
    how: Counter[str] = field(default_factory=Counter)
    stale: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(STALE.values(), 0)
    )
    facts: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    windows: list[float] = field(default_factory=list)
    default_reads: int = 0
    stories: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return not any(self.stale.values())

    def percentile(self, part: float) -> float:
        """Of the windows, in milliseconds; 0 if there were none."""
        if not self.windows:
            return 0.0
        ordered = sorted(self.windows)
        return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


HOW = {
    CACHED: "from the cache",
    LOADED: "loaded",
    LOADED_IN_OLD_SNAPSHOT: "loaded in an old snapshot",
}


def judge(folder: str, *, strict_from: int) -> Verdict:
    """Read everything that was written down in ``folder``.

    :param strict_from: number of the first item of the strict namespace.
    """
    verdict = Verdict()
    by_kind: dict[str, list[Fact]] = defaultdict(list)
    for fact in records.facts(folder):
        if fact.kind.startswith("count "):
            verdict.counts[fact.kind[6:]] += fact.version
            continue
        by_kind[fact.kind].append(fact)
        verdict.facts[fact.kind] += 1
    # What its writer did not live to write down, another has seen.
    by_kind["strict"] += by_kind["seen strict"]
    floors = {kind: Floor(by_kind[kind]) for kind in STALE}
    committed = Floor(by_kind["committed"] + by_kind["seen committed"])
    for read in records.reads(folder):
        verdict.reads += 1
        verdict.how[HOW[read.how]] += 1
        if read.item >= strict_from and read.how == CACHED:
            verdict.how["of the strict namespace from the cache"] += 1
        if read.how == LOADED_IN_OLD_SNAPSHOT:
            # The database was asked, in the snapshot that the caller wanted.
            continue
        for kind, floor in floors.items():
            wanted = floor.at(read.item, read.began)
            if read.version < wanted:
                verdict.stale[STALE[kind]] += 1
                if len(verdict.stories) < TOLD:
                    verdict.stories.append(_story(kind, read, wanted, floor))
        if read.item < strict_from:
            verdict.default_reads += 1
            if read.version < committed.at(read.item, read.began):
                since = committed.since(read.item, read.version)
                assert since is not None
                verdict.windows.append((read.began - since) / 1e6)
    return verdict


def _story(kind: str, read: Read, wanted: int, floor: Floor) -> str:
    since = floor.since(read.item, read.version) or 0
    return (
        f"{STALE[kind]}: item {read.item} was read {HOW[read.how]} as v{read.version},"
        f" v{wanted} was {kind} {(read.began - since) / 1e6:.1f} ms before the read"
        f" began, which took {(read.ended - read.began) / 1e6:.1f} ms"
    )
