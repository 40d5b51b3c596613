"""What a request asks for, read out of its query; 400 or 404 if it makes no sense."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from typing import Iterator, Mapping

from flask import abort, request
from werkzeug.datastructures import MultiDict

from hydracache_sync.console.sources import Source
from hydracache_sync.intents import InvalidationIntent
from hydracache_sync.outbox.arguments import checked_count
from hydracache_sync.outbox.row import FoundRows, OutboxState, PendingPhase, RowPlace

#: Rows of a page.
PAGE = 50

#: What can be listed: a state, or what pending rows wait for.
STATES: dict[str, tuple[OutboxState, PendingPhase | None]] = {
    "pending": (OutboxState.PENDING, None),
    **{phase.value: (OutboxState.PENDING, phase) for phase in PendingPhase},
    "dead": (OutboxState.DEAD, None),
    "published": (OutboxState.PUBLISHED, None),
}

#: What can be searched for. Each is exact but for the last two.
SEARCHES = {
    "key": "key",
    "tag": "tag",
    "collection": "collection",
    "entity": "entity and id",
    "position": "commit position",
    "reason": "reason begins with",
    "error": "last error contains",
}

_PLACE = re.compile(r"(-?[0-9]{1,19})\.(-?[0-9]{1,19})\.([0-9]{1,19})")


@contextlib.contextmanager
def good_input() -> Iterator[None]:
    """Answer 400 to what the library finds wrong with what the operator typed."""
    try:
        yield
    except ValueError as exc:
        abort(400, str(exc))


@dataclass(frozen=True)
class Scope:
    """One namespace of one outbox."""

    source: Source
    namespace: str

    @property
    def params(self) -> dict[str, str]:
        """What leads back here, in a URL."""
        return {"outbox": self.source.name, "namespace": self.namespace}


def scope_of(sources: Mapping[str, Source]) -> Scope:
    """The namespace that the query names."""
    source = sources.get(request.args.get("outbox", ""))
    namespace = request.args.get("namespace", "")
    if source is None:
        abort(404, "There is no such outbox.")
    if not source.has(namespace):
        abort(404, "This outbox has no such namespace.")
    return Scope(source, namespace)


def row_id(text: str) -> int:
    if not re.fullmatch("[0-9]{1,19}", text):
        abort(400, "The number of a row has 1 to 19 digits.")
    with good_input():
        return checked_count("id", int(text))


def intent_of(kind: str, value: str, entity: str) -> InvalidationIntent:
    """What is to be invalidated, or was."""
    with good_input():
        if kind == "entity":
            return InvalidationIntent.entity(entity, value)
        if kind in ("key", "tag", "collection"):
            intent: InvalidationIntent = getattr(InvalidationIntent, kind)(value)
            return intent
    abort(400, "This is no kind of what can be invalidated.")


@dataclass(frozen=True)
class Search:
    """Which rows are meant: of one state, and perhaps only some of them."""

    state: str
    by: str
    text: str
    entity: str
    newest: bool

    @property
    def params(self) -> dict[str, str]:
        found = {"state": self.state, "order": "newest" if self.newest else "oldest"}
        if self.text:
            found.update(by=self.by, q=self.text)
            if self.by == "entity":
                found["entity"] = self.entity
        return found

    def find(
        self, scope: Scope, after: RowPlace | None, *, limit: int, **options: int
    ) -> FoundRows:
        """Look for the rows in the outbox.

        :param options: as ``scan``, of ``find_rows``.
        """
        outbox, (state, phase) = scope.source.outbox, STATES[self.state]
        with good_input():
            if self.text and self.by == "position":
                return self._of_commit(scope, after, limit)
            text = self.text or None
            target = None
            if text is not None and self.by not in ("reason", "error"):
                target = intent_of(self.by, text, self.entity)
            return outbox.find_rows(
                scope.namespace,
                state,
                limit=limit,
                after=after,
                newest=self.newest,
                phase=phase,
                target=target,
                reason=text if self.by == "reason" else None,
                error=text if self.by == "error" else None,
                **options,
            )

    def _of_commit(self, scope: Scope, after: RowPlace | None, limit: int) -> FoundRows:
        """Rows of one commit, of any state; those of a page by their numbers."""
        found = scope.source.outbox.find_in_commit(
            scope.namespace, self.text, limit=limit, after=after
        )
        return found._replace(ids=sorted(found.ids))


def search_of(args: MultiDict[str, str]) -> Search:
    state = args.get("state", "pending")
    by = args.get("by", "key")
    if state not in STATES or by not in SEARCHES:
        abort(400, "There is no such state, or no such search.")
    order = args.get("order", "oldest" if state in _OLDEST_FIRST else "newest")
    return Search(
        state, by, args.get("q", ""), args.get("entity", ""), order == "newest"
    )


_OLDEST_FIRST = ("pending", *(phase.value for phase in PendingPhase))


def place_of(args: MultiDict[str, str]) -> RowPlace | None:
    """Where the page begins; None for the first one."""
    text = args.get("after", "")
    if not text:
        return None
    found = _PLACE.fullmatch(text)
    if found is None or any(abs(int(part)) >= 2**63 for part in found.groups()):
        abort(400, "This page is none of the console's links.")
    return RowPlace(*map(int, found.groups()))


def text_of(place: RowPlace) -> str:
    return ".".join(map(str, place))
