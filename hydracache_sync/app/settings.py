"""What can be set by a command, in the environment and in an app's config alike.

A setting ``claim_ttl`` is the option ``--claim-ttl`` and the variable
``HYDRACACHE_CLAIM_TTL``. What only an app has is in ``app_settings``.
"""

from __future__ import annotations

from hydracache_sync.app.setting import (
    Setting,
    count,
    dotted_name,
    file_path,
    host_name,
    outbox_url,
    seconds,
    seconds_or_forever,
    servers,
    some_seconds,
    statsd_server,
    switch,
    table_name,
    tracing_backend,
    weights,
)
from hydracache_sync.cache.keyspace import checked_ring
from hydracache_sync.cache.tokens.policy import DEFAULT_HOLD_OFF
from hydracache_sync.keys import checked_namespace
from hydracache_sync.memcached.handshake import checked_password, checked_user
from hydracache_sync.memcached.replies import MAX_VALUE as DEFAULT_MAX_VALUE
from hydracache_sync.memcached.store import POOL_SIZE as DEFAULT_POOL_SIZE
from hydracache_sync.memcached.store import RETRY_AFTER as DEFAULT_RETRY_AFTER
from hydracache_sync.outbox.schema import DEFAULT_TABLE
from hydracache_sync.outbox.sqlite.outbox import BUSY_TIMEOUT as DEFAULT_BUSY_TIMEOUT
from hydracache_sync.outbox.status import STATUS_CAP
from hydracache_sync.outbox.url import has_password
from hydracache_sync.pool.worker_pool import POLL_INTERVAL as DEFAULT_POLL_INTERVAL
from hydracache_sync.pool.worker_pool import PURGE_EVERY as DEFAULT_PURGE_EVERY
from hydracache_sync.worker.wait import KEEP_PUBLISHED as DEFAULT_KEEP_PUBLISHED
from hydracache_sync.worker.worker import BACKOFF as DEFAULT_BACKOFF
from hydracache_sync.worker.worker import BATCH_SIZE as DEFAULT_BATCH_SIZE
from hydracache_sync.worker.worker import CLAIM_TTL as DEFAULT_CLAIM_TTL
from hydracache_sync.worker.worker import MAX_ATTEMPTS as DEFAULT_MAX_ATTEMPTS
from hydracache_sync.worker.worker import MAX_BACKOFF as DEFAULT_MAX_BACKOFF

#: Rows of a batch at most. It has to be applied in half of its claim's time.
LARGEST_BATCH = 100_000

#: Threads at most; a database takes a few hundred connections in all.
MOST_THREADS = 100

HIGHEST_PORT = 2**16 - 1

#: Attempts at most; what a database's integer takes.
MOST_ATTEMPTS = 2**31 - 1

#: Connections to a memcached at most; it takes 1024 in all by default.
MOST_CONNECTIONS = 1000

#: Bytes of a value at most; what memcached's option -I takes.
LARGEST_VALUE = 2**30

OUTBOX = Setting(
    "outbox",
    "URL",
    "The outbox: sqlite:////absolute/path.db, sqlite:///relative.db or"
    " mysql://user:password@host:3306/database.",
    outbox_url,
    secret=has_password,
)
TABLE = Setting(
    "table", "NAME", "Name of the outbox's table.", table_name, default=DEFAULT_TABLE
)
BUSY_TIMEOUT = Setting(
    "busy_timeout",
    "SECONDS",
    "How long to go on trying while others keep the database locked.",
    seconds,
    default=DEFAULT_BUSY_TIMEOUT,
)
NAMESPACE = Setting(
    "namespace",
    "NAME",
    "Cache namespace: a name that no other app or copy has on the same memcached. Give"
    " it again for more than one; in the variable, separate them by commas.",
    checked_namespace,
    several=True,
)
MEMCACHED = Setting(
    "memcached",
    "SERVERS",
    "host:port, [v6]:port or the path of a unix socket; several separated by commas.",
    servers,
)
MEMCACHED_TLS = Setting(
    "memcached_tls",
    "YES|NO",
    "Speak TLS to memcached. The server must prove by its certificate that it is the"
    " host that it is named by.",
    switch,
    default=False,
)
MEMCACHED_TLS_CA = Setting(
    "memcached_tls_ca",
    "PATH",
    "Certificates of the CAs that may vouch for a memcached, PEM. Default: the"
    " system's.",
    file_path,
)
MEMCACHED_TLS_CERT = Setting(
    "memcached_tls_cert",
    "PATH",
    "Certificate to show to memcached, PEM.",
    file_path,
)
MEMCACHED_TLS_KEY = Setting(
    "memcached_tls_key",
    "PATH",
    "Its key, PEM, without a passphrase; the file may be the certificate's.",
    file_path,
)
MEMCACHED_TLS_NAME = Setting(
    "memcached_tls_name",
    "HOST",
    "What each memcached's certificate must name. Default: the host that the list"
    " names.",
    host_name,
)
MEMCACHED_USER = Setting(
    "memcached_user",
    "NAME",
    "User to log in to memcached as, where it asks for that (its option -Y).",
    checked_user,
)
MEMCACHED_PASSWORD = Setting(
    "memcached_password",
    "SECRET",
    "Password of that user; in the variable only.",
    checked_password,
    secret=bool,
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
    weights,
)
PREVIOUS_MEMCACHED = Setting(
    "previous_memcached",
    "SERVERS",
    "A second server list that is written, too: the next one, or the one before.",
    servers,
)
PREVIOUS_RING = Setting("previous_ring", "ID", "The id of that list.", checked_ring)
PREVIOUS_WEIGHTS = Setting(
    "previous_weights", "SERVER=N,...", "The weights of that list.", weights
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
    some_seconds,
    default=DEFAULT_HOLD_OFF,
)
CONNECT_TIMEOUT = Setting(
    "connect_timeout",
    "SECONDS",
    "How long connecting to memcached may take.",
    some_seconds,
    default=0.5,
)
TIMEOUT = Setting(
    "timeout",
    "SECONDS",
    "How long memcached may be silent before it counts as away.",
    some_seconds,
    default=0.5,
)
CALL_TIMEOUT = Setting(
    "call_timeout",
    "SECONDS",
    "How long one round trip to all nodes may take, connecting included. Default: four"
    " times the timeout.",
    some_seconds,
)
RETRY_AFTER = Setting(
    "retry_after",
    "SECONDS",
    "How long a memcached that failed is left alone, at most; 0 for not at all.",
    seconds,
    default=DEFAULT_RETRY_AFTER,
)
CONNECTIONS = Setting(
    "connections",
    "N",
    "Connections of each process to each memcached, at most. With fewer than threads,"
    " threads wait for each other.",
    count(1, MOST_CONNECTIONS),
    default=DEFAULT_POOL_SIZE,
)
MAX_VALUE = Setting(
    "max_value",
    "BYTES",
    "Size of a cached value, at most: what memcached sends beyond it is a failure. The"
    " same for all of its users.",
    count(1, LARGEST_VALUE),
    default=DEFAULT_MAX_VALUE,
)
BATCH_SIZE = Setting(
    "batch_size",
    "ROWS",
    "Rows that are claimed and applied at once.",
    count(1, LARGEST_BATCH),
    default=DEFAULT_BATCH_SIZE,
)
CLAIM_TTL = Setting(
    "claim_ttl",
    "SECONDS",
    "After this time others take over the rows of a drain that was killed.",
    some_seconds,
    default=DEFAULT_CLAIM_TTL,
)
BACKOFF = Setting(
    "backoff",
    "SECONDS",
    "Longest wait after a row's first failed attempt; doubled by each further one.",
    seconds,
    default=DEFAULT_BACKOFF,
)
MAX_BACKOFF = Setting(
    "max_backoff",
    "SECONDS",
    "Longest wait of a row that failed often; not below the backoff.",
    seconds,
    default=DEFAULT_MAX_BACKOFF,
)
MAX_ATTEMPTS = Setting(
    "max_attempts",
    "N",
    "Failed attempts that make a row a dead letter. An outage counts none.",
    count(1, MOST_ATTEMPTS),
    default=DEFAULT_MAX_ATTEMPTS,
)
ESCALATE = Setting(
    "escalate",
    "YES|NO",
    "Flush the namespace, at most once a minute, when a row becomes a dead letter.",
    switch,
    default=True,
)
MAX_STALENESS = Setting(
    "max_staleness",
    "SECONDS",
    "Serve no value older than a commit that long ago, also when no worker runs. To"
    " workers and drains: store what such readers ask for. Default: no bound.",
    some_seconds,
)
KEEP_PUBLISHED = Setting(
    "keep_published",
    "SECONDS",
    "How long published rows are kept before they are deleted, or 'forever'. Not below"
    " the age of receipts that are still waited for.",
    seconds_or_forever,
    default=DEFAULT_KEEP_PUBLISHED,
)
PURGE_EVERY = Setting(
    "purge_every",
    "SECONDS",
    "Time between two looks for such rows, about.",
    some_seconds,
    default=DEFAULT_PURGE_EVERY,
)
HEARTBEAT = Setting(
    "heartbeat",
    "SECONDS",
    "Time between two heartbeats in the outbox's database, for apps that read replicas."
    " Default: none is written.",
    some_seconds,
)
THREADS = Setting(
    "threads",
    "N",
    "Threads that apply rows. More help where memcached is slow or far away.",
    count(1, MOST_THREADS),
    default=1,
)
POLL_INTERVAL = Setting(
    "poll_interval",
    "SECONDS",
    "Time between two looks for rows while there are none.",
    some_seconds,
    default=DEFAULT_POLL_INTERVAL,
)
TRACING = Setting(
    "tracing",
    "HOW",
    "Trace with OpenTelemetry: yes, or keys to have the keys of cached reads in spans."
    " Needs the extra `otel`. Or sentry: an app's cached reads for Sentry, with keys;"
    " needs the extra `sentry`. Default: no.",
    tracing_backend,
)
STATSD = Setting(
    "statsd",
    "HOST:PORT",
    "Send metrics to the StatsD there, by UDP. Port 8125 if it is left out. Default:"
    " none.",
    statsd_server,
)
STATSD_PREFIX = Setting(
    "statsd_prefix",
    "NAME",
    "What their names begin with, before a dot.",
    dotted_name,
    default="hydracache",
)
METRICS_PORT = Setting(
    "metrics_port",
    "PORT",
    "Serve metrics for Prometheus there, at /metrics. Needs the extra `metrics`."
    " Default: none.",
    count(1, HIGHEST_PORT),
)
HEALTH_PORT = Setting(
    "health_port",
    "PORT",
    "Serve the state of the threads there as JSON, at /healthz: 200, or 503 if one is"
    " stuck or dead. May be the port of the metrics. Default: none.",
    count(1, HIGHEST_PORT),
)
HEALTH_HOST = Setting(
    "health_host",
    "HOST",
    "Name or address that both listen on.",
    host_name,
    default="127.0.0.1",
)
METRICS_FILE = Setting(
    "metrics_file",
    "PATH",
    "Write metrics there at the end: a .prom file for the textfile collector of"
    " Prometheus's node exporter. Needs the extra `metrics`.",
    file_path,
)
MAX_SECONDS = Setting(
    "max_seconds",
    "SECONDS",
    "Start no further batch after this time. Default: go on until all is done.",
    some_seconds,
)
MAX_AGE = Setting(
    "max_age",
    "SECONDS",
    "Alert when the oldest pending row is older. Default: no limit.",
    seconds,
)
MAX_PENDING = Setting(
    "max_pending",
    "N",
    "Alert when more rows are pending; beyond"
    f" {STATUS_CAP - 1} they are not counted. Default: no limit.",
    count(0, STATUS_CAP - 1),
)
MAX_DEAD = Setting(
    "max_dead",
    "N",
    "Alert when there are more dead letters: each one needs an operator.",
    count(0, STATUS_CAP - 1),
    default=0,
)

#: Every setting of this file in its order, which is that of docs/reference/settings.md.
SETTINGS = tuple(each for each in vars().copy().values() if isinstance(each, Setting))
