-- The outbox of hydracache_sync in SQLite. Safe to run twice.

-- One row per invalidation. Text is compared byte by byte (SQLite's default collation
-- BINARY): with NOCASE the position tx:A would be lost after tx:a.
create table if not exists hydracache_outbox (
    -- order of arrival; never used twice, also after a purge
    id integer primary key autoincrement not null,
    namespace text not null,
    commit_position text not null,
    -- SHA-256 of the target, 32 bytes
    target_hash blob not null,
    -- key, tag, entity, collection or flush
    kind text not null,
    -- key, tag, entity's key or collection; null for flush
    value text,
    -- null but for kind entity
    entity_name text,
    reason text not null,
    created_at_ms integer not null,
    -- 0 pending, 1 published, 2 dead
    state integer not null default 0,
    -- pending: not to be claimed before; published: when; dead: since when.
    -- One column for the three, so that one index serves claims, status and purge.
    at_ms integer not null,
    attempts integer not null default 0,
    -- the claim: these four are null while no worker holds the row
    claimed_at_ms integer,
    claim_until_ms integer,
    claim_owner text,
    -- new at each claim: a worker that is late finishes nothing
    claim_token integer,
    -- 1: its worker tries the row by itself, and the cache answered right before
    tried_alone integer not null default 0,
    -- the node of the cache that was away when the row was put off
    waits_for text,
    -- 1: its last claim expired: the worker crashed or hung
    abandoned integer not null default 0,
    -- for people; no program reads it
    last_error text,
    -- where its enqueue was traced: W3C traceparent, for the span that applies the row
    traceparent text,
    -- for people: failures and operators' actions, a line each, the last 4096 characters
    history text
);

-- An intent is enqueued once per commit; waits look here.
create unique index if not exists hydracache_outbox_commit
    on hydracache_outbox (namespace, commit_position, target_hash);

-- Claims, status, dead letters and purge look here.
create index if not exists hydracache_outbox_state
    on hydracache_outbox (namespace, state, at_ms, created_at_ms);

-- One row per paused namespace: its rows are not claimed until it is resumed.
create table if not exists hydracache_outbox_paused (
    namespace text primary key not null,
    since_ms integer not null,
    reason text not null
) without rowid;

-- One row, if any, written where HYDRACACHE_HEARTBEAT says so: until when everything that
-- was committed is in each snapshot that has it. For readers of replicas.
create table if not exists hydracache_outbox_heartbeat (
    id integer primary key not null check (id = 1),
    beat_ms integer not null
);

-- One row for each process that applies rows, which it writes again each ten seconds, and
-- one for all drains of the same namespaces. For people and monitoring: no worker reads
-- it. What was not seen for a day is deleted.
create table if not exists hydracache_outbox_workers (
    owner text primary key not null,
    -- pool, worker or drain
    kind text not null,
    host text not null,
    pid integer not null,
    -- of hydracache_sync
    version text not null,
    -- in JSON
    namespaces text not null,
    started_ms integer not null,
    seen_ms integer not null,
    -- between two of its beats; of drains as it was seen last, 0 after the first one;
    -- -1 of a process that has stopped
    every_ms integer not null,
    -- null until a batch has claimed rows
    batch_ms integer,
    -- rows published
    carried integer not null,
    last_error text,
    -- counts of the process's caches, in JSON
    caches text not null,
    -- a server that its loads read, and that may be behind
    reads_elsewhere text
) without rowid;

-- One row: the version of the tables above.
create table if not exists hydracache_outbox_schema (
    id integer primary key not null check (id = 1),
    version integer not null,
    -- of MySQL's tables; null
    identity text
);

insert into hydracache_outbox_schema (id, version)
values (1, 1)
on conflict (id) do nothing;
