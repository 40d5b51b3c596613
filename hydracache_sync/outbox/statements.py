"""Every statement of the outbox, once. How databases differ is in ``dialect``.

Parameters are named here, ``:name``, and sent in order; only the words of a
dialect and the names of tables are formatted in. States are written as their codes:
0 pending, 1 published, 2 dead.
"""

from __future__ import annotations

import enum

from hydracache_sync.outbox.row import (
    ABANDONED,
    COLUMNS,
    ENQUEUED_AGAIN,
    TARGET_COLUMNS,
    PendingPhase,
)

_COLUMNS = ", ".join(COLUMNS)
_TARGET_COLUMNS = ", ".join(TARGET_COLUMNS)

INSERT = """
insert into {table} (
  target_hash, kind, value, entity_name,
  namespace, commit_position, reason, created_at_ms, at_ms, state
)
values {rows}{on_conflict}
"""


class Present(enum.Enum):
    """What an INSERT does about a row that is there already, by its key."""

    #: It fails: there can be none, the position has just been generated.
    IMPOSSIBLE = "impossible"
    #: The row is left alone.
    LEFT = "left"
    #: The row is carried once more.
    CARRIED_AGAIN = "carried again"


# A row that is enqueued again belongs to another commit as well, which comes later. Its
# claim is taken away: a worker that has applied it by now has done so too early, and
# its mark finds nothing. A row that waits keeps its place and is as old as it was, but
# for a millisecond: that, and the error, tell a writer that has applied it itself.
# MySQL assigns from left to right: each expression reads what is assigned after it.
_CARRIED_AGAIN = f"""at_ms = case when state = 0 then at_ms else {{now}} end,
    created_at_ms = case
      when state = 0 or {{now}} <= created_at_ms then created_at_ms + 1
      else {{now}}
    end,
    attempts = case when state = 0 then attempts else 0 end,
    last_error = '{ENQUEUED_AGAIN}',
    claimed_at_ms = null,
    claim_until_ms = null,
    claim_owner = null,
    claim_token = null,
    tried_alone = 0,
    state = 0"""

#: Appended to an INSERT, where that gives the number of rows inserted all the same.
ON_DUPLICATE_CARRY_AGAIN = f"\non duplicate key update {_CARRIED_AGAIN}"

CARRY_AGAIN = f"""
update {{table}}
set {_CARRIED_AGAIN}
where namespace = :namespace
  and commit_position = :position
  and target_hash in ({{ids}})
  and id <= :last
"""

# The highest id that a commit had before this many rows were inserted for it: those are
# the highest of all, but ids that rows in between were refused are missing among them.
# "id + 0" has no declared type: on a caller's connection of SQLite a converter that the
# app registered for it would be called.
LAST_BEFORE = """
select id + 0
from {table}
where namespace = :namespace
  and commit_position = :position
order by id desc
limit 1 offset :inserted
"""

# Read once for the whole statement, by primary key and without a lock: FOR UPDATE
# locks nothing in a subquery.
_NOT_PAUSED = """not exists (
    select 1
    from {table}_paused
    where namespace = :namespace
  )"""

# In the order of the index: without it MySQL's optimizer takes another one and reads
# all rows of the namespace, once many are due, or were until a short while ago.
CLAIM_PEEK = f"""
select 1
from {{table}}
where namespace = :namespace
  and state = 0
  and at_ms <= {{now}}
  and (claim_until_ms is null or claim_until_ms <= {{now}})
  and {_NOT_PAUSED}
order by at_ms
limit 1
"""

# Of each namespace the first row that is due is looked for, and no other. The answers
# are the bits of one number: each column of a result costs an idle worker a packet.
# Named, or its text would be its name and part of each answer. Not "exists": within it
# databases leave out the order, and MySQL then errs as above.
DUE = """select {bits} as due"""

DUE_BIT = """{bit} * coalesce((
  select 1
  from {table}
  where namespace = {p}
    and state = 0
    and at_ms <= {now}
    and (claim_until_ms is null or claim_until_ms <= {now})
  order by at_ms
  limit 1
), 0)"""

ANY_PAUSED_BIT = """{bit} * exists (
  select 1
  from {table}_paused
)"""

# Of a row whose claim has ended a failed attempt is counted when it is claimed again:
# nobody else can. Only if its worker has noted that it tried this row alone, and that
# the cache was there: any other may have died of a row beside it, or in an outage.
_CLAIMED = {
    "attempts": "attempts + tried_alone",
    "waits_for": "case when claim_token is null then waits_for else null end",
    "abandoned": "case when claim_token is null then abandoned else 1 end",
    "last_error": (
        f"case when claim_token is null then last_error else '{ABANDONED}' end"
    ),
}

# The clock is negative where something has happened to the row before, so that it has
# to be read whole: each column of a result costs a worker time.
CLAIM_SELECT = f"""
select {_TARGET_COLUMNS}, case
  when claim_token is not null or attempts <> 0 or abandoned <> 0
    or waits_for is not null or last_error is not null then -{{now}}
  else {{now}}
end
from {{table}}
where namespace = :namespace
  and state = 0
  and at_ms <= {{now}}
  and (claim_until_ms is null or claim_until_ms <= {{now}})
  and {_NOT_PAUSED}
order by at_ms, created_at_ms, id
limit :limit
"""

# MySQL assigns from left to right: what asks for the old claim comes first.
CLAIM_UPDATE = f"""
update {{table}}
set {", ".join(f"{column} = {value}" for column, value in _CLAIMED.items())},
    tried_alone = 0,
    claimed_at_ms = :claimed_at_ms,
    claim_until_ms = :until_ms,
    claim_owner = :owner,
    claim_token = :token
where id in ({{ids}})
  and state = 0
  and (claim_until_ms is null or claim_until_ms <= :claimed_at_ms)
"""

CLAIMED_IDS = """
select id
from {table}
where id in ({ids})
  and claim_token = :token
"""

_CLEAR_CLAIM = """claimed_at_ms = null,
    claim_until_ms = null,
    claim_owner = null,
    claim_token = null,
    tried_alone = 0"""

_CLEAR_TROUBLE = """waits_for = null,
    abandoned = 0,
    last_error = null"""

# A mark finds rows by primary key, which locks nothing else, and changes only those
# whose claim is the one it was made with.
_HELD = """where id in ({ids})
  and claim_token = :token
  and state = 0"""

MARK_PUBLISHED = f"""
update {{table}}
set state = 1,
    at_ms = {{now}},
    {_CLEAR_TROUBLE},
    {_CLEAR_CLAIM}
{_HELD}
"""

MARK_FAILED = f"""
update {{table}}
set state = :state,
    at_ms = {{now}} + :delay_ms,
    attempts = attempts + 1,
    waits_for = null,
    abandoned = 0,
    last_error = :error,
    {_CLEAR_CLAIM}
{_HELD}
"""

MARK_TRIED_ALONE = f"""
update {{table}}
set tried_alone = 1
{_HELD}
"""

_RELEASED_AT = "case when :delay_ms = 0 then at_ms else {now} + :delay_ms end"

RELEASE = f"""
update {{table}}
set at_ms = {_RELEASED_AT},
    {_CLEAR_CLAIM}
{_HELD}
"""

RELEASE_WITH_ERROR = f"""
update {{table}}
set at_ms = {_RELEASED_AT},
    waits_for = :waits_for,
    abandoned = 0,
    last_error = :error,
    {_CLEAR_CLAIM}
{_HELD}
"""

# Read without a lock, in the order of the index, so that a call that goes on where the
# one before ended reads no row twice.
WAITING = """
select id, at_ms
from {table}
where namespace = :namespace
  and state = 0
  and at_ms > {now}
  and at_ms >= :from_ms
  and claim_token is null
  and waits_for = :waits_for
order by at_ms
limit :limit
"""

# By primary key, as a mark: it blocks no other worker. What has changed since it was
# read is left alone.
MAKE_DUE = """
update {table}
set at_ms = {now}
where id in ({ids})
  and state = 0
  and at_ms > {now}
  and claim_token is null
  and waits_for = :waits_for
"""

# A row that no worker has touched is due at the moment it was enqueued. One that waits
# for a moment all the same is dated ahead: its producer's clock was wrong, or its
# session had SET timestamp. Both moments are in the index, and so read from that alone.
_DATED_AHEAD = """state = 0
  and at_ms > {now}
  and at_ms <= created_at_ms
  and attempts = 0
  and claim_token is null"""

DATED_AHEAD = f"""
select id, at_ms - {{now}}
from {{table}}
where namespace = :namespace
  and {_DATED_AHEAD}
order by at_ms
limit :limit
"""

MAKE_DATED_AHEAD_DUE = f"""
update {{table}}
set at_ms = {{now}}
where id in ({{ids}})
  and {_DATED_AHEAD}
"""

# No row that has an error: it may have been enqueued again since, by a commit that came
# after the apply. So may one that is due later than it was created: a dead letter that
# was reset. "state + 0" keeps SQLite's planner from reading all pending rows.
PUBLISH_COMMIT = f"""
update {{table}}
set state = 1,
    at_ms = {{now}},
    {_CLEAR_TROUBLE},
    {_CLEAR_CLAIM}
where namespace = :namespace
  and commit_position = :position
  and target_hash in ({{ids}})
  and state + 0 = 0
  and last_error is null
  and at_ms <= created_at_ms
"""

# As they were seen before they were applied.
PUBLISH_SEEN = f"""
update {{table}}
set state = 1,
    at_ms = {{now}},
    {_CLEAR_TROUBLE},
    {_CLEAR_CLAIM}
where id in ({{ids}})
  and state = 0
  and created_at_ms = :created_at_ms
"""

_COUNT = """(
  select count(*) as n,
    min(case when at_ms < created_at_ms then at_ms else created_at_ms end) as oldest,
    max(created_at_ms) as newest,
    sum(attempts) as attempts
  from (
    select at_ms, created_at_ms, attempts
    from {{table}}
    where namespace = :namespace
      and state = {state}
    order by at_ms, created_at_ms
    limit :cap
  ) as counted
)"""

STATUS = f"""
select {{now}}, pending.n, pending.oldest, pending.newest, pending.attempts, dead.n,
  dead.attempts, (
  select at_ms
  from {{table}}
  where namespace = :namespace
    and state = 1
  order by at_ms desc
  limit 1
), (
  select since_ms
  from {{table}}_paused
  where namespace = :namespace
)
from {_COUNT.format(state=0)} as pending, {_COUNT.format(state=2)} as dead
"""

STATUS_FOR_COMMIT = """
select {now},
  sum(case when state = 0 then 1 else 0 end),
  sum(case when state = 1 then 1 else 0 end),
  sum(case when state = 2 then 1 else 0 end)
from {table}
where namespace = :namespace
  and commit_position = :position
"""

STATUS_FOR_TARGETS = f"""{STATUS_FOR_COMMIT}  and target_hash in ({{ids}})
"""

SEEN = """
select count(*)
from {table}
where namespace = :namespace
  and commit_position = :position
"""

ROW = f"""
select {_COLUMNS}
from {{table}}
where id = :id
"""

ROWS = f"""
select {_COLUMNS}
from {{table}}
where namespace = :namespace
  and id > :after
order by id
limit :limit
"""

# "id + 0" keeps the planner from walking the primary key over every finished row.
ROWS_OF_STATE = f"""
select {_COLUMNS}
from {{table}}
where namespace = :namespace
  and state = :state
  and id + 0 > :after
order by id + 0
limit :limit
"""

ROWS_OF_COMMIT = f"""
select {_COLUMNS}
from {{table}}
where namespace = :namespace
  and commit_position = :position
  and (:state is null or state = :state)
  and id + 0 > :after
order by id + 0
limit :limit
"""


def newest_first(statement: str) -> str:
    """One of those that list rows, from the other end."""
    return statement.replace("\nlimit ", " desc\nlimit ")


PUBLISHED_BETWEEN = f"""
select {_COLUMNS}
from {{table}}
where namespace = :namespace
  and state = 1
  and at_ms >= :from_ms
  and at_ms < :until_ms
order by at_ms, created_at_ms, id
limit :limit
"""

# By primary key, however many there are: "nullif" keeps SQLite's planner from reading
# all rows of the namespace. So below.
ROWS_BY_ID = f"""
select {_COLUMNS}
from {{table}}
where id in ({{ids}})
  and nullif(namespace, '') = :namespace
order by id
"""

# How long a row has waited, or how long ago it was finished.
ROW_IDS = """
select id
from {table}
where namespace = :namespace
  and state = :state
  and (:age_ms is null
    or case when state = 0 then created_at_ms else at_ms end <= {now} - :age_ms)
  and (:pattern is null or {matches})
"""

#: Ends of ROW_IDS for pending rows. A claim that has ended makes no row wait.
PHASES = {
    PendingPhase.DUE: """  and at_ms <= {now}
  and (claim_until_ms is null or claim_until_ms <= {now})
""",
    PendingPhase.CLAIMED: """  and claim_until_ms > {now}
""",
    PendingPhase.BACKOFF: """  and at_ms > {now}
  and (claim_until_ms is null or claim_until_ms <= {now})
""",
}

# One seek in the index a namespace, however many rows each of them has.
NEXT_NAMESPACE = """
select min(namespace)
from {table}
where namespace > :after
"""

ALL_NAMESPACES = """
select distinct namespace
from {table}
"""

NOW = """
select {now}
"""

# It was created before it is due again, which keeps PUBLISH_COMMIT away from it.
RESET_DEAD = f"""
update {{table}}
set state = 0,
    created_at_ms = case
      when created_at_ms < {{now}} then created_at_ms
      else {{now}} - 1
    end,
    at_ms = {{now}},
    attempts = 0,
    {_CLEAR_TROUBLE},
    {_CLEAR_CLAIM}
where id in ({{ids}})
  and nullif(namespace, '') = :namespace
  and state + 0 = 2
"""

DISCARD_DEAD = """
delete from {table}
where id in ({ids})
  and nullif(namespace, '') = :namespace
  and state + 0 = 2
"""

PURGE_SELECT = """
select id
from {table}
where namespace = :namespace
  and state = 1
  and at_ms < {now} - :age_ms
order by at_ms
limit :limit
"""

PURGE_DELETE = """
delete from {table}
where id in ({ids})
  and state = 1
"""

PAUSE = """
insert into {table}_paused (namespace, since_ms, reason)
values (:namespace, {now}, :reason){on_paused} reason = :reason
"""

RESUME = """
delete from {table}_paused
where namespace = :namespace
"""

PAUSED = """
select namespace, since_ms, reason
from {table}_paused
order by namespace
"""

# The earlier of two clocks: one of them may be wrong by days, and a moment that has not
# come yet would let a reader store what its replica does not have.
_BEAT = "case when {now} < :host_ms then {now} else :host_ms end"

# It never goes back, so a writer whose clock is behind takes nothing from the others;
# but what is ahead of the database's clock was written when a clock was wrong.
HEARTBEAT = f"""
insert into {{table}}_heartbeat (id, beat_ms)
values (1, {_BEAT}){{on_heartbeat}} beat_ms = case
  when beat_ms <= {_BEAT} - :every_ms or beat_ms > {{now}} then {_BEAT}
  else beat_ms
end
"""

SCHEMA_VERSION_SELECT = """
select version
from {table}_schema
"""
