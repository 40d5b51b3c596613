"""What a page's cached reads cost with a memo for the request, against bare gets.

    chrt -r 10 python tests/benchmarks/request_memo.py [--rounds 1001]

A Flask page reads 20 entries by 40 calls, each twice, with two tags each; its base is
20 ``PooledClient.get`` of the same bytes. Both are timed in the view, in turn, on one
CPU with the server. Goal: at most 1.00, with the memo, for bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _results import Results, add_save, tell, versions  # noqa: E402
from flask import Flask  # noqa: E402
from pymemcache.client.base import PooledClient  # noqa: E402

from hydracache_sync.integrations.flask import HydraCache  # noqa: E402
from support.servers import Memcached  # noqa: E402

ENTRIES = 20
TAGS = ("tag:1", "tag:2")

#: Returns seconds, or a ratio.
Call = Callable[[], float]

VALUE = {"id": 1, "name": "a" * 60, "seen": [1, 2, 3]}
TEXT = json.dumps(VALUE).encode()


def make_app(
    folder: str, memcached: str, name: str, memo: bool, value: Any, bare: Call
) -> Call:
    """Return what measures one page: its reads against ``bare``, in one request."""
    app, hydracache = Flask(name), HydraCache()
    app.config.update(
        SECRET_KEY="not secret",
        HYDRACACHE_OUTBOX=f"sqlite:///{folder}/{name}.db",
        HYDRACACHE_NAMESPACE=name,
        HYDRACACHE_MEMCACHED=memcached,
        HYDRACACHE_POOL="none",
        HYDRACACHE_SNAPSHOT="fresh",
        HYDRACACHE_REQUEST_MEMO=memo,
    )
    hydracache.init_app(app)
    keys = [f"entry:{number}" for number in range(ENTRIES)]
    ratios: list[float] = []

    def load() -> Any:
        return value

    @app.get("/")
    def page() -> str:
        pair = (bare, reads) if len(ratios) % 2 else (reads, bare)
        taken = {side: side() for side in pair}
        ratios.append(taken[reads] / taken[bare])
        return ""

    def reads() -> float:
        started = time.perf_counter()
        for _ in range(2):
            for key in keys:
                hydracache.get_or_load(key, load, tags=TAGS)
        return time.perf_counter() - started

    client = app.test_client()

    def once() -> float:
        client.get("/")
        return ratios[-1]

    return once


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=1001)
    add_save(parser)
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with Memcached() as server, tempfile.TemporaryDirectory() as folder:
        pooled = PooledClient(server.address, no_delay=True)
        for number in range(ENTRIES):
            pooled.set(f"entry:{number}", TEXT, noreply=False)

        def bare() -> float:
            started = time.perf_counter()
            for number in range(ENTRIES):
                pooled.get(f"entry:{number}")
            return time.perf_counter() - started

        sides: dict[str, Call] = {}
        for memo in True, False:
            for kind, value in ("bytes", TEXT), ("dict", VALUE):
                name = f"{kind}{', memo' if memo else ', no memo'}"
                sides[name] = make_app(
                    folder, server.address, f"{kind}{memo:d}", memo, value, bare
                )
        ratios: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(options.rounds):
            for name, side in sides.items():
                ratios[name].append(side())
    results = Results()
    saved = results.table("Ratio to 20 `PooledClient.get`:", ["values", "ratio"])
    for name, found in ratios.items():
        tell(saved, name, f"{statistics.median(found[10:]):.2f}")
    if options.save:
        results.save(options.save, **versions("Flask", "pymemcache"))


if __name__ == "__main__":
    main()
