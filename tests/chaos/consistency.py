"""Read through the cache while everything fails, and count what was stale.

    python tests/chaos/consistency.py --seconds 60
    python tests/chaos/consistency.py --reads 1000000 --database mysql9

On a private MariaDB or MySQL and three memcached nodes with little memory, processes
write, carry and read; at random they are killed and stopped, workers beyond their
claims, and so are the nodes; tokens and entries are evicted, connections dropped, and
the ring is changed under way; some readers read in long REPEATABLE READ transactions.
Each host reaches the nodes over links that hold what it sends and deliver it 0.1 to 5 s
late, after its sender gave up, or hold it from the first reply of a token's write on.
Beside that, scenes have a late token meet a reader that it could deceive. Each value
carries its version, and each commit and publish is written down with its time.
Afterwards the logs are judged.

Exit code: 0 nothing was stale, 1 something was, 3 the run itself failed, or was so
calm that it shows nothing. The seed repeats the choices, not the scheduling. To see
that it can see, take a protection away:

    python tests/chaos/consistency.py --seconds 60 --plain-delete
    python tests/chaos/consistency.py --seconds 60 --plain-set [--calm]
    python tests/chaos/consistency.py --seconds 60 --without quarantine
    python tests/chaos/consistency.py --seconds 60 --without guard
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Sequence

if TYPE_CHECKING:
    from chaos.judge import Verdict

if __name__ == "__main__":
    # Run as a file: what it consists of is the package around it.
    tests = Path(__file__).resolve().parent.parent
    sys.path[:1] = [str(tests), str(tests.parent)]


#: Seconds from which on a run is to show something, and what it must have met by then.
TELLING = 45.0
HARM = (
    "writers killed",
    "workers killed",
    "readers killed",
    "writers stopped",
    "workers stopped",
    "readers stopped",
    "nodes killed",
    "nodes stopped",
    "connections cut",
    "evictions by memcached",
    "tokens and entries evicted by hand",
    "late duplicates of an apply",
    "changes of the ring",
    "holds of requests (links)",
    "holds of replies (links)",
    "holds after the first reply (links)",
    "late cas (links)",
    "late add (links)",
    "scenes of a late apply",
    "scenes of an apply that was stopped",
    "scenes of a late apply beside a quarantine",
    "scenes of a quarantine that was stopped",
    "loaded in an old snapshot",
    "of the strict namespace from the cache",
)


def main(arguments: Sequence[str] | None = None) -> int:
    from chaos.supervisor import run
    from faults.storm import StormError
    from support.servers import ServerError

    options = parser().parse_args(arguments)
    if options.seconds is None and options.reads is None:
        options.seconds = 60.0
    seed = options.seed
    if seed is None:
        seed = random.SystemRandom().randrange(10**9)
    print(f"seed {seed}", flush=True)
    began = time.monotonic()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="hydracache-chaos-") as folder:
        try:
            verdict = run(
                folder,
                seed=seed,
                seconds=options.seconds,
                reads=options.reads,
                kind=options.database,
                plain_delete=options.plain_delete,
                plain_set=options.plain_set,
                calm=options.calm,
                quarantine=options.without != "quarantine",
                guard=options.without != "guard",
                tell=lambda line: print(line, file=sys.stderr, flush=True),
            )
        except (StormError, ServerError) as exc:
            print(f"the run itself failed: {exc}", file=sys.stderr)
            return 3
    took = time.monotonic() - began
    print(f"{took:.0f} s, with the start and the end; Python {sys.version.split()[0]}")
    print_verdict(verdict)
    if not verdict.good:
        return 1
    missed = [what for what in HARM if not (verdict.counts + verdict.how)[what]]
    if took >= TELLING and missed and not options.calm:
        print(f"it shows little: there were no {', no '.join(missed)}")
        return 3
    return 0


def print_verdict(verdict: Verdict) -> None:
    for what, number in sorted(verdict.counts.items()):
        print(f"{number:>9} {what}")
    for what, number in sorted(verdict.facts.items()):
        print(f"{number:>9} versions {what}")
    for what, number in sorted(verdict.how.items()):
        print(f"{number:>9} reads {what}")
    print(f"{verdict.reads:>9} reads")
    share = len(verdict.windows) / max(1, verdict.default_reads)
    print(
        f"{len(verdict.windows):>9} reads older than a commit before them, in the"
        f" default namespace ({share:.3%}); for how long it had been committed:"
        f" median {verdict.percentile(0.5):.1f} ms, p95 {verdict.percentile(0.95):.1f},"
        f" p99 {verdict.percentile(0.99):.1f}, longest {verdict.percentile(1.0):.1f}"
    )
    for what, number in verdict.stale.items():
        print(f"{number:>9} {what}")
    for story in verdict.stories:
        print(story)


def parser() -> argparse.ArgumentParser:
    from support.servers import SQL_SERVERS

    description, _, notes = (__doc__ or "").partition("\n\n")
    options = argparse.ArgumentParser(
        description=description,
        epilog=notes,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = options.add_argument
    add("--seconds", type=float, help="default 60, unless --reads is given")
    add("--reads", type=int, help="end after so many")
    add("--database", choices=SQL_SERVERS, default="mariadb", help="default mariadb")
    add("--seed", type=int, help="default: drawn, and printed")
    add("--plain-delete", action="store_true", help="get, set and delete; must fail")
    add("--plain-set", action="store_true", help="overwrite tokens; must fail")
    add("--calm", action="store_true", help="the scenes alone, and no other harm")
    add("--without", choices=("quarantine", "guard"), help="must fail")
    return options


if __name__ == "__main__":
    sys.exit(main())
