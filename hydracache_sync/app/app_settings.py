"""What only an app can set, in its own config: no option of a command.

Its table is docs/settings.md, "In a web app".
"""

from __future__ import annotations

from hydracache_sync.app.setting import (
    Setting,
    choice,
    cookie_name,
    count,
    file_path,
    seconds,
    some_seconds,
    switch,
)

MODE = Setting(
    "mode",
    "MODE",
    "eventual: a pool or a cron job publishes; inline: the request does, right after"
    " its commit; strict: as eventual, and from before its commit on nobody reads what"
    " it writes from the cache.",
    choice("eventual", "inline", "strict"),
    default="eventual",
)
DEGRADE = Setting(
    "degrade",
    "YES|NO",
    "In mode strict: commit all the same while memcached is away, and say so.",
    switch,
    default=False,
)
POOL = Setting(
    "pool",
    "WHERE",
    "Worker threads in every process that serves requests, in one of this machine's,"
    " or in none.",
    choice("every", "one", "none"),
    default="every",
)
POOL_THREADS = Setting(
    "pool_threads", "N", "Worker threads of a pool.", count(1, 64), default=1
)
POOL_LOCK = Setting(
    "pool_lock",
    "PATH",
    "File that the process with the one pool keeps locked. Default: named by outbox and"
    " namespace, in a directory of the user's own below the one for temporary files.",
    file_path,
)
INLINE_TIMEOUT = Setting(
    "inline_timeout",
    "SECONDS",
    "How long an inline publish waits for a busy database.",
    seconds,
    default=0.25,
)
NET_TIMEOUT = Setting(
    "net_timeout",
    "SECONDS",
    "How long the end of a request may take to write what the view collected and did"
    " not write.",
    some_seconds,
    default=0.25,
)
WAIT = Setting(
    "wait",
    "SECONDS",
    "How long after a write the same browser's reads wait for it to be published;"
    " after that they go past the cache until it is.",
    seconds,
    default=0.5,
)
COOKIE = Setting(
    "cookie",
    "NAME",
    "Signed cookie that tells the browser's next request what it wrote. Empty: none."
    " Default: a name of its own for each namespace and secret key.",
    cookie_name,
)
SNAPSHOT = Setting(
    "snapshot",
    "KIND",
    "What loaders of cached values read: auto, what is seen of the connections that are"
    " known, and else as request; request, a transaction that may have begun with the"
    " request; session, one of an attached SQLAlchemy session; fresh, always one that"
    " begins in the loader; replica, one of a server that may be behind, which has a"
    " heartbeat.",
    choice("auto", "request", "session", "fresh", "replica"),
    default="auto",
)
READ_LAG = Setting(
    "read_lag",
    "SECONDS",
    "By how much the server that loaders read may be behind the one that takes writes.",
    seconds,
    default=0.0,
)
TTL = Setting(
    "ttl",
    "SECONDS",
    "How long cached values live unless told otherwise; 0 for no limit.",
    seconds,
    default=3600.0,
)
CLOCK_SKEW = Setting(
    "clock_skew",
    "SECONDS",
    "By how much the clocks of hosts may differ.",
    seconds,
    default=1.0,
)

#: Settings of apps, beside those of SETTINGS that are theirs too.
APP_SETTINGS = (
    MODE,
    DEGRADE,
    POOL,
    POOL_THREADS,
    POOL_LOCK,
    INLINE_TIMEOUT,
    NET_TIMEOUT,
    WAIT,
    COOKIE,
    SNAPSHOT,
    READ_LAG,
    TTL,
    CLOCK_SKEW,
)
