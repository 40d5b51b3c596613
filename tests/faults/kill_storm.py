"""Kill processes at random while they write, and see that no promise breaks.

    python tests/faults/kill_storm.py --transactions 10000
    python tests/faults/kill_storm.py --database mariadb --transactions 10000
    python tests/faults/kill_storm.py --database mysql9 --transactions 10000

Several processes commit transactions with their invalidations on one SQLite file, or on
a private MariaDB or MySQL, others carry them to a real memcached, others read
through the cache. Writers and workers are killed with SIGKILL, workers are frozen
beyond their claim, memcached is restarted empty, the database server is killed with
SIGKILL and started on the data that it left. At the end every committed intent must
have been applied and no other one, no row may be dead, and no read may have been older
than what was published before it began.

Exit code: 0 every promise held, 1 one was broken, 2 wrong arguments, 3 the storm itself
failed or did not end in time. The seed repeats the choices (what is written, where who
is killed), not the scheduling.

To see that it can see:

    python tests/faults/kill_storm.py --transactions 1000 --plain-delete
    python tests/faults/kill_storm.py --transactions 1000 --drop-intents 0.05
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Sequence

if TYPE_CHECKING:
    from faults.checker import Verdict

if __name__ == "__main__":
    # Run as a file: what it consists of is the package around it, in the directory
    # above, and what it tests is the checkout that it is part of.
    tests = Path(__file__).resolve().parent.parent
    sys.path[:1] = [str(tests), str(tests.parent)]


def main(arguments: Sequence[str] | None = None) -> int:
    from faults.plan import Settings
    from faults.storm import StormError, run
    from support.servers import ServerError

    options = vars(parser().parse_args(arguments))
    keep, json_file = options.pop("keep"), options.pop("json")
    if keep is not None and Path(keep).exists():
        parser().error(f"--keep: {keep} is there already")
    if options["database_restarts"] is None:
        options["database_restarts"] = 0 if options["database"] == "sqlite" else 2
    elif options["database_restarts"] and options["database"] == "sqlite":
        parser().error("--database-restarts: SQLite has no server")
    if options["deadline"] is None:
        options["deadline"] = 90.0 + 0.04 * options["transactions"]
    settings = Settings(**options)
    print(f"seed {settings.seed}", flush=True)
    # So that everything is ended and removed, as on Ctrl-C.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
    try:
        verdict = run(settings, tell=tell, keep=keep)
    except (StormError, ServerError) as exc:
        tell(f"the storm itself failed: {exc}")
        return 3
    except KeyboardInterrupt:
        tell("interrupted; everything is ended and removed")
        return 130
    if json_file is not None:
        Path(json_file).write_text(json.dumps(asdict(verdict), indent=2))
    print_verdict(verdict)
    return 0 if verdict.good else 1


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def print_verdict(verdict: Verdict) -> None:
    for figures in (verdict.harm, verdict.figures):
        for name, value in figures.items():
            print(f"{value:>9} {name}")
    for name in verdict.not_provoked:
        print(f"not provoked this time: {name}")
    for promise, count in verdict.broken.items():
        print(f"{promise}: " + (f"BROKEN, {count} times" if count else "held"))
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
    add(
        "--database",
        choices=("sqlite", *SQL_SERVERS),
        default="sqlite",
        help="default sqlite; the others need what the extra test-mysql installs",
    )
    add("--transactions", type=count, default=10_000, help="to commit; default 10000")
    add("--seed", type=int, default=random.SystemRandom().randrange(10**9))
    add("--writers", type=count, default=4, help="processes; default 4")
    add("--workers", type=count, default=2, help="processes; default 2, and cron")
    add("--readers", type=count, default=2, help="processes of 4 threads; default 2")
    add("--items", type=count, default=40, help="that are written and read; default 40")
    add(
        "--rate",
        type=float,
        default=100.0,
        help="transactions a second of all writers, 0 for no limit; default 100",
    )
    add("--memcached-restarts", type=int, default=2, help="default 2")
    add(
        "--database-restarts",
        type=int,
        help="by SIGKILL, of a database that has a server; default 2",
    )
    add("--deadline", type=float, help="seconds; default 90 + 0.04 a transaction")
    add("--plain-delete", action="store_true", help="get, set and delete; must fail")
    add(
        "--drop-intents",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="publish a share of the intents without applying them; must fail",
    )
    add("--json", metavar="FILE", help="write the result there, too")
    add("--keep", metavar="FOLDER", help="keep database and ledgers in a new folder")
    return options


def count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


if __name__ == "__main__":
    sys.exit(main())
