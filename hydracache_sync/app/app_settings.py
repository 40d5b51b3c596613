"""What only an app can set, in its own config; and variables that are slips of one.

No option of a command. The table is docs/reference/settings.md, "In a web app".
"""

from __future__ import annotations

import difflib
import re
from typing import Iterable, Iterator

from hydracache_sync.app.setting import (
    PREFIX,
    Setting,
    choice,
    cookie_name,
    count,
    file_path,
    seconds,
    share,
    signing_keys,
    some_seconds,
    switch,
    url_path,
)
from hydracache_sync.app.settings import SETTINGS
from hydracache_sync.cache.codecs.compression import AUTO, LARGEST, ZLIB, ZSTD
from hydracache_sync.cache.loads.coalescer import DEFAULT_MAX_WAIT
from hydracache_sync.cache.unstorable import LOG, RAISE

ENABLED = Setting(
    "enabled",
    "YES|NO",
    "No: invalidations are checked and dropped, every cached read loads, and no outbox,"
    " memcached or thread is used.",
    switch,
    default=True,
)
MODE = Setting(
    "mode",
    "MODE",
    "eventual: a pool or a cron job publishes; inline: the request does, right after"
    " its commit; strict: as eventual, and from before its commit on no reader gets"
    " from the cache what it writes.",
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
    "Signed cookie that names to the browser's next request what it wrote. Empty: none."
    " Default: a name of its own for each outbox, namespace and secret key.",
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
    "How long cached values live by default; 0 for no limit.",
    seconds,
    default=3600.0,
)
SOFT_TTL = Setting(
    "soft_ttl",
    "SECONDS",
    "After this time one of the readers of a value loads it again, and the others go on"
    " with it. Default: none does.",
    some_seconds,
)
MAX_WAIT = Setting(
    "max_wait",
    "SECONDS",
    "How long readers of a value wait for another's load of it before one more loads.",
    seconds,
    default=DEFAULT_MAX_WAIT,
)
CLOCK_SKEW = Setting(
    "clock_skew",
    "SECONDS",
    "By how much the clocks of hosts may differ.",
    seconds,
    default=1.0,
)
AUDIT = Setting(
    "audit",
    "SHARE",
    "Share of cached reads, 0 to 1, whose value is loaded as well, to find out what is"
    " stale.",
    share,
    default=0.0,
)

CODEC = Setting(
    "codec",
    "CODEC",
    "How cached values are kept: default, with their types; json, what JSON keeps and"
    " no more; signed, as default under a signature; pickle, what pickle takes, under"
    " one, too.",
    choice("default", "json", "signed", "pickle"),
    default="default",
)
CODEC_KEY = Setting(
    "codec_key",
    "SECRET",
    "What such a codec signs with, 16 bytes or more. Several, separated by commas: the"
    " first signs, all are accepted.",
    signing_keys,
    secret=bool,
)
COMPRESS_OVER = Setting(
    "compress_over",
    "BYTES",
    "Values of more bytes than this are stored compressed, where that makes them"
    " smaller. Default: none is.",
    count(0, LARGEST),
)
COMPRESSION = Setting(
    "compression",
    "METHOD",
    "What compresses them: zlib; zstd, which needs the extra `zstd`; auto, zstd where"
    " it is installed and else zlib. What zstd has compressed is a miss where it is not"
    " installed.",
    choice(AUTO, ZLIB, ZSTD),
    default=AUTO,
)
UNSTORABLE = Setting(
    "unstorable",
    "HOW",
    "What a loaded value does that the codec does not keep: raise an error, or log a"
    " warning and be returned without being stored.",
    choice(RAISE, LOG),
    default=RAISE,
)
METRICS = Setting(
    "metrics",
    "PATH",
    "Page of the app that has its metrics for Prometheus, /metrics for instance. Needs"
    " the extra `metrics`. Default: none.",
    url_path,
)
REQUEST_MEMO = Setting(
    "request_memo",
    "YES|NO",
    "Fetch a cached value once in a request that changes nothing, by its method; not"
    " with mode strict, and not with max_staleness.",
    switch,
    default=False,
)

#: Every setting of this file in its order: those of apps, beside SETTINGS that are
#: theirs too.
APP_SETTINGS = tuple(
    each for each in vars().copy().values() if isinstance(each, Setting)
)


#: Variables that are none of ours to check: the test suite's.
FOREIGN_PREFIXES = ("HYDRACACHE_TEST_",)

#: How alike two names must be, from 0 to 1, for one to be a slip of the other.
ALIKE = 0.6


def misspelt(names: Iterable[str]) -> Iterator[tuple[str, str | None]]:
    """Find variables that look like settings and are none.

    :param names: of environment variables.
    :return: pairs of such a name and the setting that was probably meant, or None.
    """
    known = {
        setting.name.upper(): setting.variable for setting in SETTINGS + APP_SETTINGS
    }
    for name in sorted(names):
        # Also HYDRA_CACHE_OUTBOX and hydracache_outbox.
        found = re.match(r"HYDRA_?CACHE_?", name, re.IGNORECASE)
        if found is None or name in known.values():
            continue
        if name.startswith(FOREIGN_PREFIXES):
            continue
        rest = name[found.end() :].upper()
        near = difflib.get_close_matches(rest, known, n=1, cutoff=ALIKE)
        if near or name.startswith(PREFIX):
            yield name, known[near[0]] if near else None
