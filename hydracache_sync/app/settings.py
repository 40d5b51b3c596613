"""What can be set: one table for the command line, the environment, an app's config.

A setting ``claim_ttl`` is the option ``--claim-ttl`` and the variable
``HYDRACACHE_CLAIM_TTL``. Reading a text never connects to anything, and the complaint
about a bad one shows no password. Knows no click and reads no environment.
"""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass
from typing import Any, Callable, Iterable, Iterator

from hydracache_sync.cache.hold_off import DEFAULT_HOLD_OFF
from hydracache_sync.cache.keyspace import checked_ring
from hydracache_sync.durations import MAX_SECONDS as LONGEST
from hydracache_sync.keys import checked_namespace
from hydracache_sync.memcached.server_list import (
    parse_server,
    parse_servers,
    parse_weights,
)
from hydracache_sync.outbox.base import STATUS_CAP
from hydracache_sync.outbox.schema import DEFAULT_TABLE
from hydracache_sync.outbox.sqlite import BUSY_TIMEOUT as DEFAULT_BUSY_TIMEOUT
from hydracache_sync.outbox.url import open_outbox
from hydracache_sync.pool.worker_pool import POLL_INTERVAL as DEFAULT_POLL_INTERVAL
from hydracache_sync.pool.worker_pool import PURGE_EVERY as DEFAULT_PURGE_EVERY
from hydracache_sync.worker.wait import KEEP_PUBLISHED as DEFAULT_KEEP_PUBLISHED
from hydracache_sync.worker.worker import BACKOFF as DEFAULT_BACKOFF
from hydracache_sync.worker.worker import BATCH_SIZE as DEFAULT_BATCH_SIZE
from hydracache_sync.worker.worker import CLAIM_TTL as DEFAULT_CLAIM_TTL
from hydracache_sync.worker.worker import MAX_ATTEMPTS as DEFAULT_MAX_ATTEMPTS
from hydracache_sync.worker.worker import MAX_BACKOFF as DEFAULT_MAX_BACKOFF

PREFIX = "HYDRACACHE_"

#: Variables that are none of ours to check: the test suite's.
FOREIGN_PREFIXES = ("HYDRACACHE_TEST_",)

#: Rows of a batch at most. It has to be applied in half of its claim's time.
LARGEST_BATCH = 100_000

#: Threads at most; a database takes a few hundred connections in all.
MOST_THREADS = 100

#: Attempts at most; what a database's integer takes.
MOST_ATTEMPTS = 2**31 - 1

#: What keeps published rows for good.
FOREVER = "forever"

#: How alike two names must be, from 0 to 1, for one to be a slip of the other.
ALIKE = 0.6


@dataclass(frozen=True)
class Setting:
    """One thing that can be set.

    :ivar parse: reads a text; raises ``ValueError`` or ``ConfigurationError`` saying
        what is allowed.
    :ivar default: None if there is none.
    :ivar several: may be given more than once; a comma separates in a variable.
    :ivar secret: may hold a password, and then must not be typed on a command line,
        where every user of the machine can read it.
    """

    name: str
    metavar: str
    meaning: str
    parse: Callable[[str], Any]
    default: Any = None
    several: bool = False
    secret: bool = False

    @property
    def option(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return PREFIX + self.name.upper()


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


# What the texts look like


def _outbox(text: str) -> str:
    open_outbox(text)
    return text


def _table(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,99}", text):
        raise ValueError(
            f"{text!r} is no table's name: allowed are 1 to 100 letters, digits and"
            " underscores, no digit first"
        )
    return text


def _servers(text: str) -> tuple[str, ...]:
    servers = tuple(part.strip() for part in text.split(",") if part.strip())
    parse_servers(servers)
    return servers


def _weights(text: str) -> dict[str, float]:
    weights = {}
    for part in filter(None, map(str.strip, text.split(","))):
        server, _, number = part.rpartition("=")
        try:
            weights[server] = float(number)
        except ValueError:
            raise ValueError(f"{part!r} is no weight: expected 'host:port=2'") from None
    parse_weights(weights, [parse_server(server) for server in weights])
    return weights


def _seconds_from(least: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            seconds = float(text)
        except ValueError:
            seconds = math.nan
        # Not a number is in no range.
        if least <= seconds <= LONGEST:
            return seconds
        raise ValueError(
            f"{text!r} is not allowed: seconds, {least:g} to {LONGEST:.0f}"
        )

    return parse


_seconds = _seconds_from(0)
#: The shortest time that is kept as a whole millisecond.
_some_seconds = _seconds_from(0.001)


def _seconds_or_forever(text: str) -> float:
    if text == FOREVER:
        return math.inf
    try:
        return _seconds(text)
    except ValueError as exc:
        raise ValueError(f"{exc}, or {FOREVER!r}") from None


def _count(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if re.fullmatch(r"[+-]?[0-9]{1,18}", text) and least <= int(text) <= most:
            return int(text)
        raise ValueError(f"{text!r} is not allowed: a whole number, {least} to {most}")

    return parse


def _switch(text: str) -> bool:
    if text.lower() in ("1", "yes", "true", "on"):
        return True
    if text.lower() in ("0", "no", "false", "off"):
        return False
    raise ValueError(f"{text!r} is not allowed: yes or no")


def _choice(*allowed: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text in allowed:
            return text
        raise ValueError(f"{text!r} is not allowed: one of {', '.join(allowed)}")

    return parse


def _cookie(text: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9_-]{0,64}", text):
        return text
    raise ValueError(
        f"{text!r} is no cookie's name: up to 64 letters, digits, - and _, or nothing"
        " for no cookie"
    )


# The table

OUTBOX = Setting(
    "outbox",
    "URL",
    "The outbox: sqlite:////absolute/path.db, sqlite:///relative.db or"
    " mysql://user:password@host:3306/database.",
    _outbox,
    secret=True,
)
TABLE = Setting(
    "table", "NAME", "Name of the outbox's table.", _table, default=DEFAULT_TABLE
)
BUSY_TIMEOUT = Setting(
    "busy_timeout",
    "SECONDS",
    "How long to go on trying while others keep the database locked.",
    _seconds,
    default=DEFAULT_BUSY_TIMEOUT,
)
NAMESPACE = Setting(
    "namespace",
    "NAME",
    "Cache namespace. Give it again for more than one; in the variable, separate"
    " them by commas.",
    checked_namespace,
    several=True,
)
MEMCACHED = Setting(
    "memcached",
    "SERVERS",
    "host:port, [v6]:port or the path of a unix socket; several separated by commas.",
    _servers,
)
RING = Setting(
    "ring",
    "ID",
    "Id of the server list, the same for readers and drains.",
    checked_ring,
    default="1",
)
WEIGHTS = Setting(
    "weights",
    "SERVER=N,...",
    "Shares of servers in proportion to the others', the same for readers and drains."
    " Default: 1 each.",
    _weights,
)
PREVIOUS_MEMCACHED = Setting(
    "previous_memcached",
    "SERVERS",
    "The server list before the last change, while somebody still reads by it.",
    _servers,
)
PREVIOUS_RING = Setting("previous_ring", "ID", "The id of that list.", checked_ring)
PREVIOUS_WEIGHTS = Setting(
    "previous_weights", "SERVER=N,...", "The weights of that list.", _weights
)
STRICT = Setting(
    "strict",
    "NAME",
    "Namespace that is strict, of those given. Again, or with commas in the variable,"
    " for more than one.",
    checked_namespace,
    several=True,
)
HOLD_OFF = Setting(
    "hold_off",
    "SECONDS",
    "How long a strict namespace caches nothing that was written, the same for readers,"
    " writers and drains.",
    _some_seconds,
    default=DEFAULT_HOLD_OFF,
)
CONNECT_TIMEOUT = Setting(
    "connect_timeout",
    "SECONDS",
    "How long connecting to memcached may take.",
    _some_seconds,
    default=0.5,
)
TIMEOUT = Setting(
    "timeout",
    "SECONDS",
    "How long memcached may be silent before it counts as away.",
    _some_seconds,
    default=0.5,
)
BATCH_SIZE = Setting(
    "batch_size",
    "ROWS",
    "Rows that are claimed and applied at once.",
    _count(1, LARGEST_BATCH),
    default=DEFAULT_BATCH_SIZE,
)
CLAIM_TTL = Setting(
    "claim_ttl",
    "SECONDS",
    "After this time others take over the rows of a drain that was killed.",
    _some_seconds,
    default=DEFAULT_CLAIM_TTL,
)
BACKOFF = Setting(
    "backoff",
    "SECONDS",
    "Longest wait after a row's first failed attempt; doubled by each further one.",
    _seconds,
    default=DEFAULT_BACKOFF,
)
MAX_BACKOFF = Setting(
    "max_backoff",
    "SECONDS",
    "Longest wait of a row that failed often; not below the backoff.",
    _seconds,
    default=DEFAULT_MAX_BACKOFF,
)
MAX_ATTEMPTS = Setting(
    "max_attempts",
    "N",
    "Failed attempts that make a row a dead letter. An outage counts none.",
    _count(1, MOST_ATTEMPTS),
    default=DEFAULT_MAX_ATTEMPTS,
)
ESCALATE = Setting(
    "escalate",
    "YES|NO",
    "Flush the namespace, at most once a minute, when a row becomes a dead letter.",
    _switch,
    default=True,
)
KEEP_PUBLISHED = Setting(
    "keep_published",
    "SECONDS",
    "How long published rows are kept before they are deleted, or 'forever'. Not below"
    " the age of receipts that are still waited for.",
    _seconds_or_forever,
    default=DEFAULT_KEEP_PUBLISHED,
)
PURGE_EVERY = Setting(
    "purge_every",
    "SECONDS",
    "Time between two looks for such rows, about.",
    _some_seconds,
    default=DEFAULT_PURGE_EVERY,
)
THREADS = Setting(
    "threads",
    "N",
    "Threads that carry rows. More help where memcached is slow or far away.",
    _count(1, MOST_THREADS),
    default=1,
)
POLL_INTERVAL = Setting(
    "poll_interval",
    "SECONDS",
    "Time between two looks for rows while there are none.",
    _some_seconds,
    default=DEFAULT_POLL_INTERVAL,
)
MAX_SECONDS = Setting(
    "max_seconds",
    "SECONDS",
    "Start no further batch after this time. Default: go on until all is done.",
    _some_seconds,
)
MAX_AGE = Setting(
    "max_age",
    "SECONDS",
    "Alert when the oldest pending row is older. Default: no limit.",
    _seconds,
)
MAX_PENDING = Setting(
    "max_pending",
    "N",
    "Alert when more rows are pending; beyond"
    f" {STATUS_CAP - 1} they are not counted. Default: no limit.",
    _count(0, STATUS_CAP - 1),
)
MAX_DEAD = Setting(
    "max_dead",
    "N",
    "Alert when there are more dead letters: each one needs somebody.",
    _count(0, STATUS_CAP - 1),
    default=0,
)

#: Every setting, in the order of the table in docs/settings.md.
SETTINGS = (
    OUTBOX,
    TABLE,
    BUSY_TIMEOUT,
    NAMESPACE,
    MEMCACHED,
    RING,
    WEIGHTS,
    PREVIOUS_MEMCACHED,
    PREVIOUS_RING,
    PREVIOUS_WEIGHTS,
    STRICT,
    HOLD_OFF,
    CONNECT_TIMEOUT,
    TIMEOUT,
    BATCH_SIZE,
    CLAIM_TTL,
    BACKOFF,
    MAX_BACKOFF,
    MAX_ATTEMPTS,
    ESCALATE,
    KEEP_PUBLISHED,
    PURGE_EVERY,
    THREADS,
    POLL_INTERVAL,
    MAX_SECONDS,
    MAX_AGE,
    MAX_PENDING,
    MAX_DEAD,
)

# What only an app has, in its own config. No option of a command.

MODE = Setting(
    "mode",
    "MODE",
    "eventual: a pool or a cron job publishes; inline: the request does, right after"
    " its commit; strict: as eventual, and from before its commit on nobody reads what"
    " it writes from the cache.",
    _choice("eventual", "inline", "strict"),
    default="eventual",
)
DEGRADE = Setting(
    "degrade",
    "YES|NO",
    "In mode strict: commit all the same while memcached is away, and say so.",
    _switch,
    default=False,
)
POOL = Setting(
    "pool",
    "WHERE",
    "Worker threads in every process that serves requests, in one of this machine's,"
    " or in none.",
    _choice("every", "one", "none"),
    default="every",
)
POOL_THREADS = Setting(
    "pool_threads", "N", "Worker threads of a pool.", _count(1, 64), default=1
)
POOL_LOCK = Setting(
    "pool_lock",
    "PATH",
    "File that the process with the one pool keeps locked. Default: named by outbox and"
    " namespace, in a directory of the user's own below the one for temporary files.",
    str,
)
INLINE_TIMEOUT = Setting(
    "inline_timeout",
    "SECONDS",
    "How long an inline publish waits for a busy database.",
    _seconds,
    default=0.25,
)
NET_TIMEOUT = Setting(
    "net_timeout",
    "SECONDS",
    "How long the end of a request may take to write what the view collected and did"
    " not write.",
    _some_seconds,
    default=0.25,
)
WAIT = Setting(
    "wait",
    "SECONDS",
    "How long after a write the same browser's reads wait for it to be published;"
    " after that they go past the cache until it is.",
    _seconds,
    default=0.5,
)
COOKIE = Setting(
    "cookie",
    "NAME",
    "Signed cookie that tells the browser's next request what it wrote. Empty: none.",
    _cookie,
    default="hydracache",
)
SNAPSHOT = Setting(
    "snapshot",
    "KIND",
    "What loaders of cached values read: request, a transaction that may have begun"
    " with the request; session, one of an attached SQLAlchemy session; fresh, always"
    " one that begins in the loader.",
    _choice("request", "session", "fresh"),
    default="request",
)
TTL = Setting(
    "ttl",
    "SECONDS",
    "How long cached values live unless told otherwise; 0 for no limit.",
    _seconds,
    default=3600.0,
)
CLOCK_SKEW = Setting(
    "clock_skew",
    "SECONDS",
    "By how much the clocks of hosts may differ.",
    _seconds,
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
    TTL,
    CLOCK_SKEW,
)
