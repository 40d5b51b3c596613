"""How each statement of the outbox is run in a large table, and what it may read."""

from __future__ import annotations

import functools
from typing import Any, Callable, Iterator, Mapping, NamedTuple, Sequence

from hydracache_sync.outbox import statements
from hydracache_sync.outbox.base import InvalidationOutbox
from hydracache_sync.outbox.database import IDS_PER_STATEMENT

KEPT = 100_000

#: Of them, the last ones by their numbers are dead, and of one commit.
DEAD = 1_000

#: Ids in one statement, and rows asked for by those with a limit.
SOME = 10

#: Milliseconds: when the rows were made; long before what the server's clock says.
MADE = 1_700_000_000_000

#: Rows that a statement may read in all cases: some for each one it is to find, as
#: an update reads a row again, a sort too, and a range is read to its first stranger.
FEW = 5 * SOME


class Case(NamedTuple):
    """How a statement is run."""

    params: Mapping[str, Any] = {}
    ids: Sequence[Any] = ()
    #: Rows of this state are read all; of a state that the statement chooses itself.
    reads_all_of: int | None = None
    #: Rows that it may read beyond that.
    at_most: int = FEW


IDS = tuple(range(1, SOME + 1))
HASHES = tuple(bytes([n]) * 32 for n in range(SOME))
SHOP = {"namespace": "shop"}
COMMIT = {**SHOP, "position": "tx:7"}
LARGE_COMMIT = {**SHOP, "position": "tx:dead"}
NODE = "10.0.0.1:11211"

#: From the middle of the rows that are due.
LOOK = {
    **SHOP,
    "state": 0,
    "at_ms": MADE + 15_000,
    "created_at_ms": MADE + 15_000,
    "id": 15_000,
}
ANY = {"target": HASHES[0], "reason": "r", "behind_reason": "s", "pattern": None}

CASES = {
    "CLAIM_PEEK": Case(SHOP),
    "CLAIM_SELECT": Case({**SHOP, "limit": SOME}),
    "CLAIM_SELECT_TRACED": Case({**SHOP, "limit": SOME}),
    "CLAIM_UPDATE": Case(
        {"claimed_at_ms": MADE, "until_ms": MADE, "owner": "w", "token": 7}, IDS
    ),
    "CLAIM_UPDATE_NOTED": Case(
        {"claimed_at_ms": MADE, "until_ms": MADE, "owner": "w", "token": 7}, IDS
    ),
    "CLAIMED_IDS": Case({"token": 7}, IDS),
    "MARK_PUBLISHED": Case({"token": 7}, IDS),
    "MARK_FAILED": Case(
        {"token": 7, "state": 0, "delay_ms": 1, "error": "", "noted": ""}, IDS
    ),
    "MARK_TRIED_ALONE": Case({"token": 7}, IDS),
    "RELEASE": Case({"token": 7, "delay_ms": 1}, IDS),
    "RELEASE_WITH_ERROR": Case(
        {"token": 7, "delay_ms": 1, "error": "", "waits_for": None, "noted": ""}, IDS
    ),
    "WAITING": Case({**SHOP, "from_ms": 0, "waits_for": NODE, "limit": SOME}),
    "MAKE_DUE": Case({"waits_for": NODE}, IDS),
    "DATED_AHEAD": Case({**SHOP, "limit": SOME}),
    "MAKE_DATED_AHEAD_DUE": Case({}, IDS),
    "CARRY_AGAIN": Case({**COMMIT, "last": KEPT, "traceparent": None}, HASHES),
    "LAST_BEFORE": Case({**COMMIT, "inserted": 1}),
    "PUBLISH_COMMIT": Case(COMMIT, HASHES),
    "PUBLISH_SEEN": Case({"created_at_ms": MADE}, IDS),
    # Two counts, each up to its cap: read, copied and summed up.
    "STATUS": Case({**SHOP, "cap": 1000}, at_most=8 * 1000),
    "STATUS_FOR_COMMIT": Case(COMMIT),
    "STATUS_FOR_TARGETS": Case(COMMIT, HASHES),
    "SEEN": Case(COMMIT),
    "ROW": Case({"id": 7}),
    "ROWS": Case({**SHOP, "after": 7, "limit": SOME}),
    "ROWS_OF_COMMIT": Case({**COMMIT, "state": 0, "after": 7, "limit": SOME}),
    "HASH": Case({"id": 7}),
    "LOOK_IN_COMMIT": Case({**LARGE_COMMIT, "hash": b"", "limit": SOME}),
    "PUBLISHED_BETWEEN": Case(
        {**SHOP, "from_ms": MADE + 7, "until_ms": MADE + 9, "limit": SOME}
    ),
    # Each row is copied some times, from part to part.
    "LOOK": Case({**LOOK, "scan": SOME}, at_most=20 * SOME),
    "LOOK_END": Case({**LOOK, "scan": SOME}, at_most=20 * SOME),
    "FIND": Case({**LOOK, **ANY, "scan": SOME, "limit": SOME}, at_most=20 * SOME),
    "PUBLISHED_RATE": Case(
        {**SHOP, "from_ms": MADE, "width_ms": KEPT // 30, "cap": SOME},
        at_most=30 * 10 * SOME,
    ),
    "ROWS_BY_ID": Case(SHOP, IDS),
    "NEXT_NAMESPACE": Case({"first": ""}),
    "ALL_NAMESPACES": Case(),
    "NOW": Case(),
    "HEARTBEAT": Case({"host_ms": MADE, "every_ms": 1000}),
    "WORKER_BEAT": Case(
        {
            "owner": "w",
            "kind": "pool",
            "host": "h",
            "pid": 7,
            "version": "1",
            "namespaces": "[]",
            "age_ms": 1,
            "every_ms": 1,
            "is_added": 0,
            "batch_age_ms": None,
            "carried": 1,
            "last_error": None,
            "caches": "{}",
            "reads_elsewhere": None,
        }
    ),
    "WORKERS": Case({"limit": SOME}),
    "GONE": Case({"age_ms": 1}),
    "FORGET_GONE": Case({"age_ms": 1}, ("a", "b")),
    # Each row that waits or is dead is read, up to the cap; and by MySQL 5.6 once more
    # from each of the tables that it makes of the parts.
    "WATERMARK": Case(
        {**SHOP, "first": "d", "last": "e", "cap": SOME}, at_most=10 * SOME
    ),
    "RESET_DEAD": Case({**SHOP, "noted": ""}, IDS),
    "DISCARD_DEAD": Case(SHOP, IDS),
    "PURGE_SELECT": Case({**SHOP, "age_ms": 1, "limit": SOME}),
    "PURGE_DELETE": Case({}, IDS),
    "PAUSE": Case({**SHOP, "reason": ""}),
    "RESUME": Case(SHOP),
    "PAUSED": Case(),
    "SCHEMA_VERSION_SELECT": Case(),
    "ROWS_OF_STATE": Case(
        {**SHOP, "state": 2, "after": 7, "limit": SOME}, reads_all_of=2
    ),
    "ROW_IDS": Case(
        {**SHOP, "state": 2, "age_ms": None, "pattern": None}, reads_all_of=2
    ),
}


#: Texts that are parts of statements, and those that an outbox puts together.
PARTS = {
    "ABANDONED",
    "ANY_PAUSED_BIT",
    "DUE",
    "DUE_BIT",
    "DUE_ROWS",
    "ENQUEUED_AGAIN",
    "INSERT",
    "ON_DUPLICATE_CARRY_AGAIN",
}


def test_every_statement_has_a_case() -> None:
    texts = {
        name
        for name, text in vars(statements).items()
        if name.isupper() and isinstance(text, str) and not name.startswith("_")
    }
    assert texts - PARTS == set(CASES)


class Run(NamedTuple):
    """A statement to be run."""

    name: str
    #: Runs it on a cursor of the outbox's own connection, without a commit.
    on: Callable[[Any], None]
    #: Rows that it may read.
    at_most: int


def runs(
    outbox: InvalidationOutbox, entries: Mapping[int, int], lock: str = ""
) -> Iterator[Run]:
    """Each case, in each of its forms.

    :param entries: of each state, how many rows the index has.
    :param lock: end of a claim's select.
    """
    dialect = outbox._database.dialect

    def stored(name: str, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return dialect.pattern(value) if name == "pattern" else dialect.encode(value)

    for name, case in CASES.items():
        template = getattr(statements, name)
        if name.startswith("CLAIM_SELECT"):
            template += lock
        params = {key: stored(key, value) for key, value in case.params.items()}
        forms: list[tuple[int | None, str]] = [(None, "")]
        if case.reads_all_of is not None:
            forms = [(0, ""), (1, ""), (2, "")]
        if name == "ROW_IDS":
            forms += [(0, ending) for ending in statements.PHASES.values()]
        for state, ending in forms:
            at_most = case.at_most
            chosen = {**outbox._database.params(**params)}
            if state is not None:
                chosen["state"] = state
                # Of a tenth of them the table itself is the shorter way.
                rows = entries[state]
                at_most += 3 * (rows if rows < KEPT / 10 else KEPT)

            def run(
                cursor: Any,
                text: str = template + ending,
                chosen: Mapping[str, Any] = chosen,
                ids: Sequence[Any] = case.ids,
            ) -> None:
                outbox._database.statements.run(cursor, text, chosen, ids)
                if cursor.description:
                    cursor.fetchall()

            form = "" if state is None else f" {state} {' '.join(ending.split())}"
            yield Run(name + form.rstrip(), run, at_most)
        if name in ("LOOK", "LOOK_END", "FIND"):
            other_end = functools.partial(
                outbox._database.statements.run,
                template=statements.backwards(template),
                params=outbox._database.params(**params),
            )
            yield Run(f"{name} backwards", _read(other_end), case.at_most)
        if case.ids == IDS:
            # A planner may change its mind with their number, too.
            many = range(1, IDS_PER_STATEMENT + 1)
            yield Run(
                f"{name} of many",
                functools.partial(run, ids=many),
                FEW // SOME * IDS_PER_STATEMENT,
            )


def _read(run: Callable[..., Any]) -> Callable[[Any], None]:
    """Run a statement and take all its rows."""

    def on(cursor: Any) -> None:
        run(cursor)
        cursor.fetchall()

    return on
