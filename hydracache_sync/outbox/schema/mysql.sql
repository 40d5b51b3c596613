-- The outbox of hydracache_sync in MySQL (from 5.6) and MariaDB (from 10.5).
-- Safe to run twice. Needs the right to create tables; workers and producers do not.

-- One row per invalidation. What identifies is UTF-8 in binary columns: a collation that
-- ignores case would lose the position tx:A after tx:a, and even utf8mb4_bin takes
-- "a " for "a". InnoDB, because the rows must commit and roll back with the data.
create table if not exists hydracache_outbox (
    -- order of arrival
    id bigint not null auto_increment,
    namespace varbinary(64) not null,
    commit_position varbinary(128) not null,
    -- SHA-256 of the target
    target_hash binary(32) not null,
    -- key, tag, entity, collection or flush
    kind varbinary(16) not null,
    -- key, tag, entity's key or collection; null for flush
    value varbinary(4096) null,
    -- null but for kind entity
    entity_name varbinary(4096) null,
    reason varbinary(255) not null,
    created_at_ms bigint not null,
    -- 0 pending, 1 published, 2 dead
    state tinyint not null default 0,
    -- pending: not to be claimed before; published: when; dead: since when.
    -- One column for the three, so that one index serves claims, status and purge.
    at_ms bigint not null,
    attempts int not null default 0,
    -- the claim: these four are null while no worker holds the row
    claimed_at_ms bigint null,
    claim_until_ms bigint null,
    claim_owner varbinary(255) null,
    -- new at each claim: a worker that is late finishes nothing
    claim_token bigint null,
    -- 1: its worker tries the row by itself, and the cache answered right before
    tried_alone tinyint not null default 0,
    -- the node of the cache that was away when the row was put off
    waits_for varbinary(255) null,
    -- 1: its last claim expired: the worker crashed or hung
    abandoned tinyint not null default 0,
    -- for people; no program reads it
    last_error blob null,
    -- where its enqueue was traced: W3C traceparent, for the span that applies the row
    traceparent varbinary(55) null,
    -- for people: failures and operators' actions, a line each, the last 4096 bytes
    history blob null,
    primary key (id),
    -- an intent is enqueued once per commit; waits look here
    unique key hydracache_outbox_commit (namespace, commit_position, target_hash),
    -- claims, status, dead letters and purge look here
    key hydracache_outbox_state (namespace, state, at_ms, created_at_ms)
) engine = InnoDB;

-- One row per paused namespace: its rows are not claimed until it is resumed.
create table if not exists hydracache_outbox_paused (
    namespace varbinary(64) not null,
    since_ms bigint not null,
    reason varbinary(255) not null,
    primary key (namespace)
) engine = InnoDB;

-- One row, if any, written where HYDRACACHE_HEARTBEAT says so: until when everything that
-- was committed is in each snapshot that has it. For readers of replicas.
create table if not exists hydracache_outbox_heartbeat (
    id tinyint not null,
    beat_ms bigint not null,
    primary key (id)
) engine = InnoDB;

-- One row for each process that applies rows, which it writes again each ten seconds, and
-- one for all drains of the same namespaces. For people and monitoring: no worker reads
-- it. What was not seen for a day is deleted.
create table if not exists hydracache_outbox_workers (
    owner varbinary(255) not null,
    -- pool, worker or drain
    kind varbinary(16) not null,
    host varbinary(255) not null,
    pid bigint not null,
    -- of hydracache_sync
    version varbinary(255) not null,
    -- in JSON
    namespaces mediumblob not null,
    started_ms bigint not null,
    seen_ms bigint not null,
    -- between two of its beats; of drains as it was seen last, 0 after the first one;
    -- -1 of a process that has stopped
    every_ms bigint not null,
    -- null until a batch has claimed rows
    batch_ms bigint null,
    -- rows published
    carried bigint not null,
    last_error blob null,
    -- counts of the process's caches, in JSON
    caches mediumblob not null,
    -- a server that its loads read, and that may be behind
    reads_elsewhere varbinary(255) null,
    primary key (owner)
) engine = InnoDB;

-- One row: the version of the tables above, and what tells them from those of the same
-- names on a server that does not replicate this one.
create table if not exists hydracache_outbox_schema (
    id tinyint not null,
    version int not null,
    identity varbinary(64) null,
    primary key (id)
) engine = InnoDB;

insert into hydracache_outbox_schema (id, version, identity)
values (1, 1, concat(utc_timestamp(6), ' ', rand()))
on duplicate key update id = 1;
