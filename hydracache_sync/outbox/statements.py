"""Every statement of the outbox, once. How databases differ is in ``dialect``.

Parameters are named here, ``:name``, and sent in order; only the words of a
dialect and the names of tables are formatted in. States are written as their codes:
0 pending, 1 published, 2 dead.
"""

from __future__ import annotations

import enum
import re

from hydracache_sync.outbox.history import MAX_WHO, RowEventKind
from hydracache_sync.outbox.row import (
    ABANDONED,
    COLUMNS,
    ENQUEUED_AGAIN,
    TARGET_COLUMNS,
    PendingPhase,
)

_COLUMNS = ", ".join(COLUMNS)
_TARGET_COLUMNS = ", ".join(TARGET_COLUMNS)


def _noted(moment: str, *rest: str) -> str:
    """A row's history and one line more, in SQL; see ``history``.

    :param rest: texts in SQL that follow the moment.
    """
    parts = ("coalesce(history, '\n')", "'\n'", moment, *rest)
    return "{{kept[0]}}{}{{kept[2]}}".format("{kept[1]}".join(parts))


INSERT = """
insert into {table} (
  target_hash, kind, value, entity_name,
  namespace, commit_position, reason, created_at_ms, at_ms, state{more}
)
values {rows}{on_conflict}
"""


class Present(enum.Enum):
    """What an INSERT does about a row that is there already, by its key."""

    # Of an Enum it is a call in Python, and each enqueue looks its text up by this.
    __hash__ = object.__hash__

    #: It fails: there can be none, the position has just been generated.
    IMPOSSIBLE = "impossible"
    #: The row is left alone.
    LEFT = "left"
    #: The row is carried once more.
    CARRIED_AGAIN = "carried again"


_AGAIN = _noted("{now}", f"'\t{RowEventKind.AGAIN.value}\t\t\t'")

# A row that is enqueued again belongs to another commit as well, which comes later. Its
# claim is taken away: a worker that has applied it by now has done so too early, and
# its mark finds nothing. A row that waits keeps its place and is as old as it was, but
# for a millisecond: that, and the error, tell a writer that has applied it itself.
# MySQL assigns from left to right: each expression reads what is assigned after it.
_CARRIED_AGAIN = f"""history = {_AGAIN},
    at_ms = case when state = 0 then at_ms else {{now}} end,
    created_at_ms = case
      when state = 0 or {{now}} <= created_at_ms then created_at_ms + 1
      else {{now}}
    end,
    attempts = case when state = 0 then attempts else 0 end,
    last_error = '{ENQUEUED_AGAIN}',
    traceparent = {{traceparent}},
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
set {_CARRIED_AGAIN.replace("{traceparent}", ":traceparent")}
where namespace = :namespace
  and commit_position = :position
  and target_hash in ({{ids}})
  and id <= :last
"""

# The highest id that a commit had before this many rows were inserted for it. Those are
# the highest ids of all; ids of rows that were refused in between are missing among
# them. "id + 0" has no declared type: on a caller's connection of SQLite a converter
# that the app registered for it would be called.
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

# In the order of the index. Without it MySQL's optimizer takes another index and reads
# all rows of the namespace, when many are due or were a short time ago.
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

# The same in one range of the index, for MySQL, which parses and plans a subquery for
# each namespace whenever it is asked. The answers are rows: mostly none. Each begins
# with whether any namespace is paused, which is looked up only if there is a row. The
# hint is the index of the order, so that no other is taken, whatever is in the table.
DUE_ROWS = """
select concat(exists(select 1 from {table}_paused), namespace) as due
from {table}{hint}
where namespace in ({namespaces})
  and state = 0
  and at_ms <= {now}
  and (claim_until_ms is null or claim_until_ms <= {now})
order by namespace, at_ms
limit {limit}
"""

# Of a row whose claim has ended a failed attempt is counted when it is claimed again:
# nobody else can. Only if its worker has noted that it tried this row alone, and that
# the cache was there. Any other worker may have died of another row of its batch, or in
# an outage.
_CLAIMED = {
    "attempts": "attempts + tried_alone",
    "waits_for": "case when claim_token is null then waits_for else null end",
    "abandoned": "case when claim_token is null then abandoned else 1 end",
    "last_error": (
        f"case when claim_token is null then last_error else '{ABANDONED}' end"
    ),
}

# The clock is negative where something has happened to the row before, so that it has
# to be read whole: each column of a result costs a worker time. One that has waited for
# a node, or was abandoned, has an error.
CLAIM_SELECT = f"""
select {_TARGET_COLUMNS}, case
  when claim_token is not null or attempts <> 0 or last_error is not null then -{{now}}
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

CLAIM_SELECT_TRACED = CLAIM_SELECT.replace(", case", ", traceparent, case", 1)

# Of rows to which nothing has happened: they have no error and no attempt to count.
CLAIM_UPDATE = """
update {table}
set claimed_at_ms = :claimed_at_ms,
    claim_until_ms = :until_ms,
    claim_owner = :owner,
    claim_token = :token
where id in ({ids})
  and state = 0
  and claim_token is null
"""

# The worker of a claim that has ended is named here, since no other statement reads its
# name. A claim of rows without failures does not look at their history. SQLite's
# substr() ends at a NUL: here, where it cuts only the name, and not the whole history.
_OWNER = f"substr(coalesce(claim_owner, ''), 1, {MAX_WHO})"
_OWNER = f"replace(replace({_OWNER}, '\t', ' '), '\n', ' ')"

_RAN_OUT = _noted(
    "coalesce(claim_until_ms, :claimed_at_ms)",
    f"'\t{RowEventKind.EXPIRED.value}\t'",
    _OWNER,
    "'\t\t'",
)

# MySQL assigns from left to right: what asks for the old claim comes first.
CLAIM_UPDATE_NOTED = f"""
update {{table}}
set history = case when claim_token is null then history else {_RAN_OUT} end,
    {", ".join(f"{column} = {value}" for column, value in _CLAIMED.items())},
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

# When it was claimed is kept of a flush and of a dead letter, for WATERMARK: a flush
# makes up for what had been claimed before it.
_KEEP_CLAIMED_AT = _CLEAR_CLAIM.replace(
    "claimed_at_ms = null", "claimed_at_ms = case when {kept} then claimed_at_ms end"
)

MARK_PUBLISHED = f"""
update {{table}}
set state = 1,
    at_ms = {{now}},
    {_CLEAR_TROUBLE},
    {_KEEP_CLAIMED_AT.format(kept="kind = 'flush'")}
{_HELD}
"""

MARK_FAILED = f"""
update {{table}}
set history = {_noted("{now}", ":noted")},
    state = :state,
    at_ms = {{now}} + :delay_ms,
    attempts = attempts + 1,
    waits_for = null,
    abandoned = 0,
    last_error = :error,
    {_KEEP_CLAIMED_AT.format(kept=":state = 2")}
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

# Once for each node that is away: an outage of a night would else drop all before it.
RELEASE_WITH_ERROR = f"""
update {{table}}
set history = case
      when waits_for = :waits_for then history
      else {_noted("{now}", ":noted")}
    end,
    at_ms = {_RELEASED_AT},
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
    sum(attempts) as attempts,
    sum(case when claim_until_ms > {{now}} then 1 else 0 end) as claimed,
    sum(case when at_ms > {{now}}
      and (claim_until_ms is null or claim_until_ms <= {{now}})
      then 1 else 0 end) as backoff
  from (
    select at_ms, created_at_ms, attempts, claim_until_ms
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
), pending.claimed, pending.backoff
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
select {_COLUMNS}, history
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

# In the order of the index, from behind a place in it: three ranges, each of which
# begins with one seek. As one condition of three columns MariaDB reads all rows before
# it; so it does where more is asked for than the index has. An order by id would sort
# all rows of the state.
_RANGES = (
    "at_ms = :at_ms and created_at_ms = :created_at_ms and id + 0 > :id",
    "at_ms = :at_ms and created_at_ms > :created_at_ms",
    "at_ms > :at_ms",
)

_RANGE = """
  select * from (
    select at_ms as place_ms, created_at_ms as made_ms, id as place_id
    from {{table}}
    where namespace = :namespace
      and state = :state
      and {range}
    order by at_ms, created_at_ms, id
    limit :scan
  ) as range{number}"""

_PLACE = "place_ms, made_ms, place_id"

#: Rows from behind a place.
LOOK = f"""
select {_PLACE}
from ({" union all ".join(
    _RANGE.format(range=each, number=number) for number, each in enumerate(_RANGES)
)}
) as ranges
order by {_PLACE}
limit :scan
"""

# Of these the ones that are wanted.
FIND = f"""
select {_PLACE}
from ({LOOK}) as looked
join {{table}} on id = place_id
where (:target is null or target_hash = :target)
  and (:reason is null or reason >= :reason and reason < :behind_reason)
  and (:pattern is null or {{matches}})
order by {_PLACE}
limit :limit
"""

# The last of these, wanted or not: where the next look goes on.
LOOK_END = f"""
select {_PLACE}
from ({LOOK}) as looked
order by place_ms desc, made_ms desc, place_id desc
limit 1
"""

_OTHER_END = {
    f"order by {order}": f"order by {order.replace(',', ' desc,')} desc"
    for order in (_PLACE, "at_ms, created_at_ms, id")
}
_OTHER_END.update({there: here for here, there in _OTHER_END.items()})


def backwards(statement: str) -> str:
    """One of the three above, from the other end of the index."""
    orders = sorted(_OTHER_END, key=len, reverse=True)
    turned = re.sub("|".join(orders), lambda match: _OTHER_END[match[0]], statement)
    return turned.replace(" > :", " < :")


def of_phase(statement: str, phase: PendingPhase | None) -> str:
    """FIND, for rows of one phase."""
    wanted = "" if phase is None else PHASES[phase]
    return statement.replace(")\norder by", f")\n{wanted}order by")


HASH = """
select target_hash
from {table}
where id = :id
"""

# In the order of the index: nothing is sorted, however many rows the commit has.
LOOK_IN_COMMIT = """
select id
from {table}
where namespace = :namespace
  and commit_position = :position
  and target_hash > :hash
order by target_hash
limit :limit
"""

#: Parts of the time that PUBLISHED_RATE looks at.
RATE_PARTS = 30

# Of each part the first rows, from the index alone: what it costs does not grow with
# the number of rows that were published.
PUBLISHED_RATE = " union all ".join(f"""
select {part} as part, count(*), max(at_ms), avg(at_ms - created_at_ms),
  max(at_ms - created_at_ms)
from (
  select at_ms, created_at_ms
  from {{table}}
  where namespace = :namespace
    and state = 1
    and at_ms >= :from_ms + {part} * :width_ms
    and at_ms < :from_ms + {part + 1} * :width_ms
  order by at_ms, created_at_ms
  limit :cap
) as part{part}""" for part in range(RATE_PARTS))

# One seek in the index a namespace, however many rows each of them has.
NEXT_NAMESPACE = """
select min(namespace)
from {table}
where namespace >= :first
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
set history = {_noted("{now}", ":noted")},
    state = 0,
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

# The earlier of two clocks: one of them may be wrong by days. A moment in the future
# would let a reader store what its replica does not have.
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

# Of a drain the distance from the one before is measured. It is halved at most: a drain
# by hand, soon after that of cron, must not make the next one of cron late. One that
# comes within 30 s is beside another, of cron on another host: it shortens nothing.
# MySQL assigns from left to right: the distance comes before the moment that it is of.
WORKER_BEAT = """
insert into {table}_workers (
  owner, kind, host, pid, version, namespaces, started_ms, seen_ms, every_ms, batch_ms,
  carried, last_error, caches, reads_elsewhere
)
values (
  :owner, :kind, :host, :pid, :version, :namespaces, {now} - :age_ms, {now}, :every_ms,
  {now} - :batch_age_ms, :carried, :last_error, :caches, :reads_elsewhere
){on_worker} every_ms = case
    when :is_added = 0 then :every_ms
    when 2 * ({now} - seen_ms) > every_ms then {now} - seen_ms
    when {now} - seen_ms < 30000 then every_ms
    else every_ms / 2
  end,
  kind = :kind,
  host = :host,
  pid = :pid,
  version = :version,
  namespaces = :namespaces,
  started_ms = {now} - :age_ms,
  seen_ms = {now},
  batch_ms = coalesce({now} - :batch_age_ms, batch_ms),
  carried = carried * :is_added + :carried,
  last_error = :last_error,
  caches = :caches,
  reads_elsewhere = :reads_elsewhere
"""

WORKERS = """
select {now}, owner, kind, host, pid, version, namespaces, started_ms, seen_ms,
  every_ms, batch_ms, carried, last_error, caches, reads_elsewhere
from {table}_workers
order by seen_ms desc, owner
limit :limit
"""

GONE = """
select owner
from {table}_workers
where seen_ms < {now} - :age_ms
limit 500
"""

FORGET_GONE = """
delete from {table}_workers
where owner in ({ids})
  and seen_ms < {now} - :age_ms
"""

# The rows that hold a watermark back, each up to its cap: those that are pending, and
# dead letters. Not those dead letters that were claimed before a flush that is
# published by now: only such a flush is known to be applied after their commits. The
# flushes are those that make up for dead letters, found by their positions. While one
# of them waits it holds everything back: the dead letter that it is for may have been
# discarded. The clock is the statement's begin, so before its snapshot: a commit that
# is not in it has not ended before that moment.
WATERMARK = """
select {now}, count(*), min(created_at_ms), max(created_at_ms), sum(is_dead), exists (
  select 1
  from {table}
  where namespace = :namespace
    and commit_position >= :first
    and commit_position < :last
    and state + 0 = 0
)
from (
  select created_at_ms, 0 as is_dead
  from (
    select created_at_ms
    from {table}
    where namespace = :namespace
      and state = 0
    order by at_ms, created_at_ms
    limit :cap
  ) as waiting
  union all
  select created_at_ms, 1
  from (
    select created_at_ms
    from {table}
    where namespace = :namespace
      and state = 2
      and coalesce(claimed_at_ms, at_ms) >= coalesce((
        select max(coalesce(flush.claimed_at_ms, flush.created_at_ms))
        from {table} as flush
        where flush.namespace = :namespace
          and flush.commit_position >= :first
          and flush.commit_position < :last
          and flush.state + 0 = 1
      ), 0)
    order by at_ms, created_at_ms
    limit :cap
  ) as dead
) as holding
"""

SCHEMA_VERSION_SELECT = """
select version
from {table}_schema
"""
