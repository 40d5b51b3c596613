"""What an operator may change: asked about first, and logged with who did it.

One function makes each change, for the page that asks and for the one that makes it. So
both are about the same rows.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from typing import Any, Callable, Mapping, Sequence

from flask import abort, redirect, request

from hydracache_sync.console.asked import (
    Scope,
    good_input,
    intent_of,
    row_id,
    scope_of,
    search_of,
)
from hydracache_sync.console.guard import Guard, operator
from hydracache_sync.console.page import page_url
from hydracache_sync.console.sources import Source
from hydracache_sync.errors import HydraCacheError
from hydracache_sync.intents import InvalidationIntent, InvalidationIntentBatch
from hydracache_sync.outbox.row import OutboxRow
from hydracache_sync.printable import described, printable, printable_logger
from hydracache_sync.wording.moments import counted
from hydracache_sync.wording.rows import target_of

logger = printable_logger(__name__)

#: Rows that one change is about at most; for more, do it again.
MOST_ROWS = 5_000

#: Rows that are shown before they are changed.
EXAMPLES = 5

#: Rows whose numbers are logged one by one.
_LISTED = 100


@dataclass(frozen=True)
class Change:
    """One change, before it is done.

    :ivar question: what is asked.
    :ivar note: what comes of it.
    :ivar do: does it, and returns what was done.
    :ivar count: rows that it is about, as asked.
    :ivar rows: tells these rows from others; the answer must name it.
    :ivar examples: some of the rows.
    :ivar about: what the log line names.
    """

    question: str
    note: str
    do: Callable[[], str]
    count: int = 1
    rows: str = ""
    examples: Sequence[OutboxRow] = ()
    about: str = ""


class Changes:
    """The page that asks, and the one that does it."""

    def __init__(
        self,
        sources: Callable[[], Mapping[str, Source]],
        render: Callable[..., str],
        guard: Guard,
    ) -> None:
        self._sources = sources
        self._render = render
        self._guard = guard

    def confirm(self) -> str:
        """Ask about a change; changes nothing itself."""
        if not self._guard.writable:
            abort(403, "This console is read-only.")
        return self._ask(request.args.get("action", ""), "")

    def _ask(self, name: str, problem: str) -> str:
        scope = scope_of(self._sources())
        return self._render(
            "confirm.html",
            scope=scope,
            name=name,
            change=_change(name, scope),
            problem=problem,
            target=target_of,
            # All but the action, which is in the path; "id" several times.
            query=[
                (key, value)
                for key, value in request.args.items(multi=True)
                if key != "action"
            ],
        )

    def do(self, name: str) -> Any:
        """Do what was asked about; the guard has let the request in."""
        scope = scope_of(self._sources())
        change = _change(name, scope)
        if request.form.get("rows") != change.rows:
            # As many as before may be others: a form that is sent twice would discard
            # the next ones, which were not confirmed.
            return (
                self._ask(name, "Meanwhile they are other rows. Nothing was done."),
                409,
            )
        where = f"outbox {scope.source.name}, namespace {scope.namespace}"
        try:
            done = change.do()
        except HydraCacheError as exc:
            of = f" of {change.about}" if change.about else ""
            logger.warning(
                "console: %s: %s%s by %s failed: %s",
                *(where, name, of, operator(), described(exc)),
            )
            raise
        # A warning, so that it is seen wherever logging was not set up.
        rest = "" if change.about in done else f"; {change.about}"
        logger.warning("console: %s: %s by %s%s", where, done, operator(), rest)
        back = "rows" if name in ("retry", "discard") else "act"
        query = {"state": "dead"} if back == "rows" else {}
        text = f"{scope.namespace}: {done}."
        seal = self._guard.seal(text)
        return redirect(
            page_url(back, {**scope.params, **query}, done=text, seal=seal), 303
        )


def _change(name: str, scope: Scope) -> Change:
    make = _MAKERS.get(name)
    if make is None:
        abort(404, "There is no such action.")
    return make(scope)


def _dead(scope: Scope) -> tuple[list[int], bool]:
    """Ids of the dead letters that are meant, and whether there are more of them."""
    outbox = scope.source.outbox
    chosen = request.args.getlist("id")
    if chosen:
        ids = [row_id(text) for text in chosen[:MOST_ROWS]]
        rows = outbox.rows_by_id(scope.namespace, ids)
        dead = [row.id for row in rows if row.is_dead_lettered]
        return dead, len(chosen) > MOST_ROWS
    if request.args.get("all") != "1":
        abort(400, "No dead letter is chosen. Go back and choose some.")
    search = search_of(request.args)
    if search.state != "dead" or (search.text and search.by == "position"):
        abort(400, "Only dead letters are retried and discarded, not all of a commit.")
    found = search.find(scope, None, limit=MOST_ROWS, scan=MOST_ROWS)
    return found.ids, found.after is not None


def _of_dead(
    scope: Scope, verb: str, past: str, note: str, change: Callable[..., int]
) -> Change:
    ids, more = _dead(scope)
    letters = counted(len(ids), "dead letter")
    rest = ""
    if more and ids:
        rest = " These are not all: do it again for the rest."
    elif more:
        # Again would look through the same ones.
        rest = f" None of the {MOST_ROWS} that were looked at match. Look further, and"
        rest += " choose from the pages of rows."
    listed = ", ".join(map(str, ids[:_LISTED]))
    if len(ids) > _LISTED:
        listed = f"from {min(ids)} to {max(ids)}"

    def do() -> str:
        number = change(scope.namespace, ids)
        less = len(ids) - number
        gone = f", {less} were dead no more" if less else ""
        return f"{counted(number, 'dead letter')} {past}{gone}"

    return Change(
        f"{verb} {letters}?",
        note + rest,
        do,
        count=len(ids),
        rows=hashlib.sha256(repr(sorted(ids)).encode()).hexdigest(),
        examples=scope.source.outbox.rows_by_id(scope.namespace, ids[:EXAMPLES]),
        about=f"rows {listed}" if ids else "",
    )


def _retry(scope: Scope) -> Change:
    note = "They become pending, due now, with all their attempts. Fix the cause first."
    outbox, by = scope.source.outbox, f"console: {operator()}"
    reset = functools.partial(outbox.reset_dead_letters, by=by)
    return _of_dead(scope, "Retry", "retried", note, reset)


def _discard(scope: Scope) -> Change:
    note = (
        "They are deleted for good and not applied. What they were to invalidate may"
        " stay stale until its TTL, unless the namespace was flushed since."
    )
    discard = scope.source.outbox.discard_dead_letters
    return _of_dead(scope, "Discard", "discarded", note, discard)


def _drain(scope: Scope) -> Change:
    worker = scope.source.workers.get(scope.namespace)
    if worker is None:
        abort(404, "This console has no worker for this namespace, so it drains none.")

    def do() -> str:
        report = worker.run_once()
        parts = {
            "published": report.published,
            "retried": report.retried,
            "dead": report.dead_lettered,
            "given back": report.released,
            "lost to another worker": report.lost,
        }
        said = ", ".join(f"{count} {what}" for what, count in parts.items() if count)
        return f"one batch drained, {said or 'nothing was due'}"

    return Change(
        "Drain one batch?",
        f"Up to {counted(worker.batch_size, 'row')} that are due are claimed and"
        " applied by this process, once.",
        do,
    )


def _by_hand(scope: Scope, intent: InvalidationIntent) -> Callable[[], str]:
    given = request.args.get("reason", "") or f"by hand: {operator()}"
    with good_input():
        batch = InvalidationIntentBatch(given).intent(intent)

    def do() -> str:
        receipt = scope.source.outbox.enqueue(scope.namespace, batch)
        return f"{_words(intent)} enqueued at {receipt.commit_position}"

    return do


def _words(intent: InvalidationIntent) -> str:
    return " ".join(filter(None, (intent.kind, intent.entity_name, intent.value)))


def _invalidate(scope: Scope) -> Change:
    args = request.args
    intent = intent_of(
        args.get("kind", ""), args.get("value", ""), args.get("entity", "")
    )
    if not args.get("value"):
        abort(400, "What is to be invalidated is empty.")
    return Change(
        f"Invalidate {printable(_words(intent))}?",
        "A row is written like those of the apps; a worker or a drain applies it.",
        _by_hand(scope, intent),
        about=_words(intent),
    )


def _flush(scope: Scope) -> Change:
    return Change(
        "Invalidate everything in this namespace?",
        "Nothing that was cached before is served again: every read goes to the"
        " database once.",
        _by_hand(scope, InvalidationIntent.flush()),
    )


def _pause(scope: Scope) -> Change:
    reason = request.args.get("reason", "") or f"by {operator()}"
    with good_input():
        # The same check that the outbox makes, before anything is asked.
        InvalidationIntentBatch(reason)

    def do() -> str:
        scope.source.outbox.pause(scope.namespace, reason)
        return "paused"

    return Change(
        "Pause this namespace?",
        "No worker and no drain takes its rows until it is resumed. Apps go on"
        " enqueueing; cached values that these rows were to invalidate stay.",
        do,
    )


def _resume(scope: Scope) -> Change:
    def do() -> str:
        return (
            "resumed"
            if scope.source.outbox.resume(scope.namespace)
            else ("was not paused")
        )

    return Change("Resume this namespace?", "Its rows are claimed again.", do)


_MAKERS: dict[str, Callable[[Scope], Change]] = {
    "retry": _retry,
    "discard": _discard,
    "drain": _drain,
    "invalidate": _invalidate,
    "flush": _flush,
    "pause": _pause,
    "resume": _resume,
}
