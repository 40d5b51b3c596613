"""What is left after the storm, held against what was promised.

The database says what was committed, the ledgers say what was applied and read. Neither
is asked about the other's matter, and no clock decides anything.
"""

from __future__ import annotations

import platform
from collections import Counter, defaultdict
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faults.database import Commit, Database
from faults.job import NAMESPACE
from faults.ledger import Entry, read_ledgers
from faults.reading import P3, P4
from faults.workload import NEVER, ONLY
from hydracache_sync import InvalidationIntent, InvalidationOutbox, OutboxRow

P1 = "P1 atomic"
P2 = "P2 never lost"
DEAD = "P2 no dead letter"
STORM = "the storm itself"

#: Rows of one page when all are read.
PAGE = 1000

#: Broken promises that are told in full, of each kind.
TOLD = 3


@dataclass
class Verdict:
    """What was found.

    :ivar harm: what was done to the processes.
    :ivar figures: counts, for people and for tests.
    :ivar broken: how often each promise was broken. All 0 in a good run.
    :ivar stories: the first cases of each, with what happened around them.
    :ivar not_provoked: faults that did not come to pass, so that nothing is known of
        them. Depends on luck and on the machine; a longer run has more of it.
    """

    harm: dict[str, int] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    broken: dict[str, int] = field(default_factory=dict)
    stories: list[str] = field(default_factory=list)
    not_provoked: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return not any(self.broken.values())

    def accuse(self, promise: str, story: str) -> None:
        self.broken[promise] = self.broken.get(promise, 0) + 1
        if self.broken[promise] <= TOLD:
            self.stories.append(f"{promise}: {story}")


def check(
    ledgers: Path,
    database: Database,
    *,
    harm: Counter[str],
    duration: float,
) -> Verdict:
    """Compare database, outbox and ledgers after everything has ended."""
    with closing(database.reader()) as session:
        commits = {commit.txn: commit for commit in session.commits()}
        history = session.history()
        items = session.items()
    with closing(database.open_outbox()) as outbox:
        rows = all_rows(outbox)
    product, version = database.product()
    checker = Checker(commits, history, items, rows, read_ledgers(ledgers))
    checker.check_writers()
    checker.check_atomic()
    checker.check_applied()
    checker.check_reads()
    checker.verdict.figures[product] = version
    checker.count(harm, duration)
    return checker.verdict


def all_rows(outbox: InvalidationOutbox) -> list[OutboxRow]:
    rows: list[OutboxRow] = []
    while True:
        page = outbox.rows(NAMESPACE, limit=PAGE, after=rows[-1].id if rows else 0)
        if not page:
            return rows
        rows += page


class Checker:
    """One check a method; the verdict grows."""

    def __init__(
        self,
        commits: dict[str, Commit],
        history: list[tuple[Any, ...]],
        items: list[tuple[Any, ...]],
        rows: list[OutboxRow],
        entries: dict[str, list[Entry]],
    ) -> None:
        self.verdict = Verdict()
        for promise in (P1, P2, DEAD, P3, P4, STORM):
            self.verdict.broken[promise] = 0
        self._commits = commits
        self._history = history
        self._items = items
        self._rows = rows
        self._entries = entries
        self._acknowledged = self._count_acknowledged()

    def check_writers(self) -> None:
        """What writers know of their transactions agrees with the data."""
        accuse = self.verdict.accuse
        for entry in self._entries["committed"]:
            if entry["txn"] not in self._commits:
                accuse(STORM, f"{entry['txn']} was committed and is gone")
        for entry in self._entries["rolled back"]:
            if entry["txn"] in self._commits:
                accuse(STORM, f"{entry['txn']} was rolled back and is there")
        versions: dict[int, list[int]] = defaultdict(list)
        author: dict[int, str] = {}
        for item, version, txn, position in self._history:
            versions[item].append(version)
            author[item] = txn
            if txn not in self._commits or self._commits[txn].position != position:
                accuse(STORM, f"half of {txn} is in the database")
        for item, version, txn in self._items:
            if versions[item] != list(range(1, version + 1)) or (
                author.get(item, "") != txn
            ):
                accuse(STORM, f"item {item}: history does not lead to {version}, {txn}")

    def check_atomic(self) -> None:
        """P1: the outbox holds the intents of committed transactions, and no others."""
        expected = {
            (commit.position, intent): commit.txn
            for commit in self._commits.values()
            for intent in commit.intents
        }
        found: Counter[tuple[str, Any]] = Counter(
            (row.commit_position.value, row.intent) for row in self._rows
        )
        for (position, intent), txn in expected.items():
            if (position, intent) not in found:
                self.verdict.accuse(P1, f"{txn} has no row for {intent}")
        for (position, intent), count in found.items():
            if (position, intent) not in expected:
                self.verdict.accuse(P1, f"a row of no commit: {position}, {intent}")
            elif count > 1:
                self.verdict.accuse(P1, f"{count} rows for {position}, {intent}")
        for row in self._rows:
            if row.intent and row.target_hash != row.intent.target_hash_hex():
                self.verdict.accuse(P1, f"{row} has the hash of another target")

    def check_applied(self) -> None:
        """P2: every row is published, and the cache acknowledged it after its commit.

        P1 again: nothing was applied for a transaction that was not committed.
        """
        for row in self._rows:
            if row.is_dead_lettered:
                self.verdict.accuse(DEAD, f"{row}: {row.last_error}")
            elif not row.is_published:
                self.verdict.accuse(P2, f"{row} is left: {row.last_error}")
            elif row.id not in self._acknowledged:
                self.verdict.accuse(P2, f"{row} is published and was never applied")
        for entry in self._entries["try"]:
            for kind, value, _ in entry["targets"]:
                if kind == "tag" and value.startswith(NEVER):
                    self.verdict.accuse(P1, f"{value} was applied: {entry.process}")
                if kind == "tag" and value.startswith(ONLY):
                    if value[len(ONLY) :] not in self._commits:
                        self.verdict.accuse(P1, f"{value} was applied, not committed")
        for id in set(self._acknowledged) - {row.id for row in self._rows}:
            self.verdict.accuse(P1, f"row {id or '?'} was applied and is not there")

    def _count_acknowledged(self) -> Counter[int]:
        """How often the cache has acknowledged each row, by its id; 0 for no row."""
        ids = {(row.commit_position.value, row.intent): row.id for row in self._rows}
        acknowledged: Counter[int] = Counter()
        for entry in self._entries["applied"]:
            for *intent, made_for in entry["targets"]:
                for one in made_for:
                    # The id of a claimed row, or the position of an own commit.
                    if not isinstance(one, int):
                        one = ids.get((one, InvalidationIntent(*intent)), 0)
                    acknowledged[one] += 1
        return acknowledged

    def check_reads(self) -> None:
        """P3 and P4: no read was older than what was published when it began."""
        for entry in self._entries["stale"]:
            promise = entry["promise"]
            told = self.verdict.broken[promise] < TOLD
            self.verdict.accuse(promise, self._story(entry) if told else "")
        for entry in self._entries["foreign"]:
            self.verdict.accuse(
                STORM, f"{entry.process} read what nobody wrote: {entry}"
            )

    def _story(self, stale: Entry) -> str:
        """What happened around a stale read."""
        item = stale["item"]
        lines = [
            f"{stale.process} asked for item {item} at {stale['began_ms']} and got"
            f" version {stale['got']} at {stale.at_ms} from the"
            f" {'cache' if stale['hit'] else 'database'},"
            f" {stale['wanted']} was published before"
        ]
        for number, version, txn, position in self._history:
            if number != item or not stale["got"] <= version <= stale["wanted"] + 1:
                continue
            lines.append(f"  version {version} by {txn}, position {position}")
            for row in self._rows:
                if row.commit_position.value != position:
                    continue
                lines.append(
                    f"    row {row.id} {row.intent} created {row.created_at_ms}"
                    f" published {row.published_at_ms}"
                )
                for entry in self._entries["applied"]:
                    for *intent, made_for in entry["targets"]:
                        mine = row.id in made_for or position in made_for
                        if mine and tuple(intent) == row.intent:
                            lines.append(
                                f"      applied {entry.at_ms} by {entry.process}"
                            )
        return "\n".join(lines)

    def count(self, harm: Counter[str], duration: float) -> None:
        """Fill in the figures, and what the storm has failed to bring about."""
        entries = self._entries
        committed = {entry["txn"] for entry in entries["committed"]}
        undecided = {entry["txn"] for entry in entries["intend"]} - committed
        reports = entries["report"]
        reads = self._last_counts()
        lags = sorted(
            row.published_at_ms - row.created_at_ms
            for row in self._rows
            if row.published_at_ms is not None
        )
        figures = {
            "python": platform.python_version(),
            "transactions": len(self._commits),
            "rolled back on purpose": len(entries["rolled back"]),
            "undecided by a kill, committed": len(undecided & set(self._commits)),
            "undecided by a kill, not committed": len(undecided - set(self._commits)),
            "transactions failed, run again": len(entries["fault"]),
            "transactions failed, by a deadlock": sum(
                "deadlock" in entry["error"].lower() for entry in entries["fault"]
            ),
            "rows": len(self._rows),
            "rows published": len(lags),
            "rows applied more than once": sum(
                times > 1 for times in self._acknowledged.values()
            ),
            "marks that came too late": sum(entry["lost"] for entry in reports),
            "rows released": sum(entry["released"] for entry in reports),
            "rows failed and retried": sum(entry["retried"] for entry in reports),
            "failed applies": sum(entry["failed"] for entry in entries["applied"]),
            "outbox errors in workers": len(entries["outbox error"]),
            "inline publishes": len(entries["inline"]),
            "inline publishes, complete": sum(
                entry["complete"] for entry in entries["inline"]
            ),
            "waits": len(entries["wait"]),
            "waits, satisfied": sum(entry["satisfied"] for entry in entries["wait"]),
            "reads": reads["reads"],
            "hits": reads["hits"],
            "slow loads": reads["slow"],
            "evictions": reads["evictions"] + len(entries["evicted"]),
            "reads after a wait or an inline publish": len(entries["read back"]),
            "stale reads": len(entries["stale"]),
            "commit to published, ms: median": _quantile(lags, 0.5),
            "commit to published, ms: p99": _quantile(lags, 0.99),
            "commit to published, ms: longest": lags[-1] if lags else 0,
            "seconds": round(duration, 1),
            "rows/s": round(len(lags) / duration),
        }
        self.verdict.figures.update(figures)
        wanted = [
            "undecided by a kill, committed",
            "undecided by a kill, not committed",
            "rolled back on purpose",
            "rows applied more than once",
            "marks that came too late",
            "failed applies",
            "inline publishes, complete",
            "waits, satisfied",
            "hits",
            "slow loads",
            "evictions",
        ]
        self.verdict.not_provoked = [name for name in wanted if not figures[name]]
        self.verdict.harm = dict(sorted(harm.items()))

    def _last_counts(self) -> Counter[str]:
        """Sum of what each reading thread had counted when it was last heard of."""
        last = {
            (entry.process, entry["thread"]): entry for entry in self._entries["reads"]
        }
        total: Counter[str] = Counter()
        for entry in last.values():
            for name in ("reads", "hits", "slow", "evictions"):
                total[name] += entry[name]
        return total


def _quantile(values: list[int], share: float) -> int:
    return values[int(share * (len(values) - 1))] if values else 0
