"""On which servers which tests ran: a table of server by area, with counts.

    python tests/support/server_counts.py FILE

prints what the runs of the suite have added to FILE, to which HYDRACACHE_TEST_COUNTS
pointed them.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Iterable, Mapping

#: Environment variable with the file to which a run adds its counts.
VARIABLE = "HYDRACACHE_TEST_COUNTS"

#: Areas, and the tests that belong to them by the name of their file.
AREAS = {
    "contract": ("outbox",),
    "drivers": ("drivers", "question", "rows"),
    "logins": ("logins", "grants"),
    "faults": ("faults", "failover", "late_commit", "kill_storm"),
    "plans": ("plans",),
    "pool": ("pool",),
}
REST = "the rest"

Counts = Mapping[tuple[str, str], int]


def area_of(nodeid: str) -> str:
    """Area of the test with this id."""
    name = nodeid.partition("::")[0].rpartition("/")[2]
    for area, files in AREAS.items():
        if any(name == f"test_mysql_{file}.py" for file in files):
            return area
    return REST


def table(counts: Counts) -> list[str]:
    """Lines of a table of ``counts``, by server and area."""
    areas = [*AREAS, REST]
    servers = sorted({server for server, _ in counts})
    width = max((len(server) for server in servers), default=0)
    lines = ["server".ljust(width) + "".join(f"{area:>10}" for area in areas)]
    for server in servers:
        numbers = (counts.get((server, area), 0) for area in areas)
        cells = "".join(f"{number or '-':>10}" for number in numbers)
        lines.append(server.ljust(width) + cells)
    return lines


def add_to_file(counts: Counts) -> None:
    """Add ``counts`` to the file that the environment names, if it does."""
    path = os.environ.get(VARIABLE)
    if path:
        with open(path, "a") as file:
            for (server, area), count in counts.items():
                file.write(json.dumps([server, area, count]) + "\n")


def sum_of(lines: Iterable[str]) -> Counter[tuple[str, str]]:
    counts: Counter[tuple[str, str]] = Counter()
    for line in lines:
        server, area, count = json.loads(line)
        counts[server, area] += count
    return counts


def main(arguments: list[str]) -> Any:
    if len(arguments) != 1:
        return __doc__
    path = Path(arguments[0])
    lines = path.read_text().splitlines() if path.exists() else []
    print("\n".join(table(sum_of(lines))))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
