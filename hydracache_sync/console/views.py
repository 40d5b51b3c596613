"""The pages that show, and change nothing."""

from __future__ import annotations

from typing import Any, Callable, Mapping, Sequence

from flask import abort, request

from hydracache_sync.cache.diagnostics import CacheDiagnostics
from hydracache_sync.console.asked import (
    PAGE,
    SEARCHES,
    STATES,
    Scope,
    place_of,
    row_id,
    scope_of,
    search_of,
    text_of,
)
from hydracache_sync.console.page import page_url
from hydracache_sync.console.picture import HEIGHT, WIDTH, Picture, picture_of
from hydracache_sync.console.sources import Source
from hydracache_sync.errors import OutboxError
from hydracache_sync.keys import checked_namespace
from hydracache_sync.outbox.looks import RATE_CAP, SCAN
from hydracache_sync.outbox.row import OutboxRow
from hydracache_sync.outbox.workers import WorkerProcess
from hydracache_sync.printable import described, without_passwords
from hydracache_sync.wording.carriers import cache_counts, uncarried
from hydracache_sync.wording.rows import CUT, count_of, life_of, state_of, target_of
from hydracache_sync.worker.worker import OutboxWorker

#: Namespaces of one outbox that are counted on one page.
NAMESPACES = 10

#: Processes that apply rows of one outbox and are shown, the last seen first.
PROCESSES = 50

#: Rows that one overview counts, of all namespaces together: each costs a seek,
#: some microseconds.
COUNTED = 10_000

#: Seconds that a page waits for a busy database, for each namespace.
STATUS_TIMEOUT = 2.0

#: Why a value was not stored or not served, by its name in the diagnostics.
WHY_NOT_STORED = {
    "unknown": "a token was missing or unknown",
    "snapshot": "the snapshot may be older than a token",
    "transaction": "a transaction was open since before the token",
    "earlier": "the request had read something before",
    "uncommitted": "the request had changes that were not committed",
    "unseen": "the load was not seen to read on a known connection",
    "request": "nothing was known of the request's connections",
    "size": "too large for the store",
    "value": "the codec does not keep such a value",
    "hold_off": "held off after a write, strict",
    "bypassed": "the thread was writing what it rests on",
    "lapsed": "it may be older than max_staleness",
    "errors": "the store failed",
}


class Views:
    """The functions of the pages.

    :param sources: returns the outboxes by name.
    :param render: renders a template, with what all pages have.
    """

    def __init__(
        self,
        sources: Callable[[], Mapping[str, Source]],
        render: Callable[..., str],
    ) -> None:
        self._sources = sources
        self._render = render

    def overview(self) -> str:
        sources = self._sources()
        tables = [self._table(source) for source in sources.values()]
        lines = sum(len(table["names"]) for table in tables)
        # Of each namespace those that wait, and those that are dead.
        cap = COUNTED // (2 * max(lines, 1))
        for table in tables:
            self._count(table, cap)
        chosen = self._chosen(tables)
        workers = [
            worker for each in sources.values() for worker in each.workers.values()
        ]
        return self._render(
            "overview.html",
            tables=tables,
            chosen=chosen,
            picture=None if chosen is None else _picture(chosen),
            size=(WIDTH, HEIGHT),
            most_processes=PROCESSES,
            most_counted=cap,
            rate_cap=RATE_CAP,
            nodes=_nodes(workers),
            caches=_caches(tables),
        )

    def _table(self, source: Source) -> dict[str, Any]:
        """What the overview says of one outbox, but for its lines."""
        begin = request.args.get("from", "")
        if request.args.get("outbox", source.name) != source.name:
            begin = ""
        table: dict[str, Any] = {
            "source": source,
            "names": [],
            "lines": [],
            "foreign": [],
            "more": None,
        }
        try:
            table["now_ms"] = source.outbox.now_ms()
            table["processes"] = source.outbox.workers(timeout=STATUS_TIMEOUT)
            table["listed"] = [each for each in table["processes"] if each.is_listed]
            table["pauses"] = source.outbox.paused()
            names = source.namespaces(table["pauses"], begin, NAMESPACES + 1)
            for name in names[:NAMESPACES]:
                try:
                    table["names"].append(checked_namespace(name))
                except ValueError as exc:
                    # A foreign hand's: no app and no worker can have it.
                    table["foreign"].append((name, str(exc)))
            if len(names) > NAMESPACES:
                table["more"] = names[NAMESPACES]
        except OutboxError as exc:
            _fail(table, exc)
        return table

    def _count(self, table: dict[str, Any], cap: int) -> None:
        """Add the lines of one outbox; its error, if it does not answer."""
        try:
            for name in table["names"]:
                line = _line(Scope(table["source"], name), table["processes"], cap)
                line["pause"] = table["pauses"].get(name)
                table["lines"].append(line)
        except OutboxError as exc:
            _fail(table, exc)

    def _chosen(self, tables: list[dict[str, Any]]) -> Scope | None:
        """Whose last hour is shown: what the query names, or who published last."""
        lines: dict[Scope, int] = {
            line["scope"]: line["status"].last_published_at_ms or 0
            for table in tables
            if "error" not in table
            for line in table["lines"]
        }
        asked = request.args.get("outbox"), request.args.get("namespace")
        for scope in lines:
            if (scope.source.name, scope.namespace) == asked:
                return scope
        return max(lines, key=lambda scope: lines[scope], default=None)

    def rows(self) -> str:
        scope = scope_of(self._sources())
        search, after = search_of(request.args), place_of(request.args)
        found = search.find(scope, after, limit=PAGE)
        now_ms = scope.source.outbox.now_ms()
        further = None
        if found.after is not None:
            query = {**scope.params, **search.params, "after": text_of(found.after)}
            further = page_url("rows", query)
        return self._render(
            "rows.html",
            scope=scope,
            search=search,
            states=STATES,
            searches=SEARCHES,
            rows=[_shown(row, now_ms) for row in _in_order(scope, found.ids)],
            begun=after is not None,
            further=further,
            is_full=len(found.ids) == PAGE,
            scan=SCAN,
            now_ms=now_ms,
        )

    def row(self) -> str:
        scope = scope_of(self._sources())
        outbox = scope.source.outbox
        found = outbox.row(row_id(request.args.get("id", "")))
        if found is None or found.namespace != scope.namespace:
            abort(404, "This namespace has no such row. It may be purged or discarded.")
        now_ms = outbox.now_ms()
        siblings: list[OutboxRow] = []
        has_more = False
        if str(found.commit_position) != "(malformed)":
            commit = outbox.find_in_commit(
                scope.namespace, found.commit_position, limit=PAGE
            )
            siblings = outbox.rows_by_id(scope.namespace, commit.ids)
            has_more = commit.after is not None
        return self._render(
            "row.html",
            scope=scope,
            row=found,
            shown=_shown(found, now_ms),
            life=life_of(found),
            cut="" if found.history is None or found.history.is_whole else CUT,
            siblings=[_shown(each, now_ms) for each in siblings],
            has_more=has_more,
            now_ms=now_ms,
        )

    def act(self) -> str:
        scope = scope_of(self._sources())
        return self._render(
            "act.html",
            scope=scope,
            pause=scope.source.outbox.paused().get(scope.namespace),
            now_ms=scope.source.outbox.now_ms(),
            drains=scope.namespace in scope.source.workers,
        )


def _fail(table: dict[str, Any], exc: OutboxError) -> None:
    """Note that an outbox does not answer."""
    # The page is for such moments: it says so beside the other outboxes.
    table["error"] = without_passwords(described(exc))
    table["names"] = []


def _line(scope: Scope, processes: Sequence[WorkerProcess], cap: int) -> dict[str, Any]:
    """What the overview says of one namespace.

    :param cap: rows of each state to count at most.
    """
    outbox, name = scope.source.outbox, scope.namespace
    status = outbox.status(name, cap=cap, timeout=STATUS_TIMEOUT)
    # It reads each row that waits or is dead, as counting does.
    mark = None if status.capped else outbox.watermark(name)
    return {
        "scope": scope,
        "status": status,
        "counts": {
            "pending": count_of(status.pending, status),
            "due": count_of(status.due, status),
            "claimed": count_of(status.claimed, status),
            "backoff": count_of(status.backoff, status),
            "dead": count_of(status.dead_lettered, status),
        },
        "uncarried": uncarried(name, status, processes),
        "is_long": status.capped,
        "watermark_ms": None if mark is None else mark.moment_ms,
    }


def _picture(scope: Scope) -> Picture | None:
    try:
        return picture_of(scope.source.outbox.published_rate(scope.namespace))
    except OutboxError:
        # Went away since it was counted: the page has what it had found.
        return None


def _nodes(workers: list[OutboxWorker]) -> list[dict[str, Any]]:
    """The nodes as the workers of this process know them."""
    away: dict[str, str | None] = {}
    circuits: dict[str, bool | None] = {}
    for worker in workers:
        for store in getattr(worker.applier, "stores", ()):
            for node, is_open in store.circuits().items():
                # One that another store has asked is known.
                if is_open or circuits.get(node) is None:
                    circuits[node] = is_open
        for outage in worker.outages:
            away[outage.node or "the cache"] = outage.error
    return [
        {
            "name": node,
            "is_open": circuits.get(node, False),
            "away": node in away,
            "error": without_passwords(away.get(node) or ""),
        }
        for node in dict.fromkeys([*circuits, *away])
    ]


def _caches(tables: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What caches did: of processes that apply rows as well, and of this one."""
    found = []
    for table in tables:
        processes = table.get("processes", ())
        for line in table["lines"]:
            name = line["scope"].namespace
            counts = cache_counts(name, processes)
            if counts.hit_rate is not None:
                found.append(_cache(f"{name}, by the workers above", counts))
        for cache in table["source"].caches:
            title = f"{cache.namespace}, in this process"
            found.append(_cache(title, cache.diagnostics()))
    return found


def _cache(title: str, found: CacheDiagnostics) -> dict[str, Any]:
    reasons = {
        **found.not_stored,
        **{name: getattr(found, name) for name in ("bypassed", "lapsed", "errors")},
    }
    return {
        "title": title,
        "found": found,
        "reasons": [
            (WHY_NOT_STORED.get(name, name), count)
            for name, count in reasons.items()
            if count
        ],
    }


def _in_order(scope: Scope, ids: list[int]) -> list[OutboxRow]:
    """The rows of a look; without those that have gone since."""
    rows = scope.source.outbox.rows_by_id(scope.namespace, ids)
    places = {id: place for place, id in enumerate(ids)}
    return sorted(rows, key=lambda row: places[row.id])


def _shown(row: OutboxRow, now_ms: int) -> dict[str, Any]:
    return {
        "row": row,
        "target": target_of(row),
        "state": state_of(row, now_ms),
        "error": without_passwords(row.last_error or ""),
    }
