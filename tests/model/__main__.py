"""Walk everything, and print what was exhausted and what was found.

    python -m tests.model                  all of it, about six minutes of a core
    python -m tests.model --long           larger walks as well, many minutes
    python -m tests.model --tables         only the tables of docs/project/model.md
    python -m tests.model strict cold      only scenarios with such a name

Exit code 1: a promise is broken, or what must break has not been found to.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Iterable, Sequence

from .explore import Walk, walk
from .scenarios import (
    BREAKS,
    COLUMNS,
    FLIGHT_COLUMNS,
    HOLDS,
    LONG,
    NEEDLESS,
    STRICT_COLUMNS,
    Scenario,
    flight_table,
    strict_table,
    table,
)


def _walk(scenario: Scenario) -> tuple[Walk, float]:
    began = time.monotonic()
    return walk(scenario.model, limit=scenario.limit), time.monotonic() - began


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.model", description=__doc__)
    parser.add_argument("names", nargs="*", help="parts of scenarios' names")
    parser.add_argument("--long", action="store_true", help="larger walks as well")
    parser.add_argument("--tables", action="store_true", help="the tables only")
    parser.add_argument("--no-traces", action="store_true", help="results only")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parser.parse_args(arguments)

    def chosen(scenarios: Iterable[Scenario]) -> list[Scenario]:
        if options.tables:
            return []
        return [
            each
            for each in scenarios
            if not options.names or any(name in each.name for name in options.names)
        ]

    holds = chosen(HOLDS + (LONG if options.long else []))
    breaks, needless = chosen(BREAKS), chosen(NEEDLESS)
    cells = [] if options.names else table()
    strict_cells = [] if options.names else strict_table()
    flight_cells = [] if options.names else flight_table()
    everything = holds + needless + breaks + cells + strict_cells + flight_cells
    began = time.monotonic()
    bad = 0
    # States make no cycles: to look for some is a tenth of the time.
    with ProcessPoolExecutor(options.jobs, initializer=gc.disable) as pool:
        results = list(zip(everything, pool.map(_walk, everything)))
    walked = iter(results)

    def take(count: int) -> list[tuple[Scenario, Walk, float]]:
        return [
            (each, *result) for each, result in (next(walked) for _ in range(count))
        ]

    if holds:
        print(
            "Held: every reachable state was visited, each fault any number of times."
        )
        for scenario, result, seconds in take(len(holds)):
            about = f"{scenario.name} ({scenario.about})"
            print(f"  {about:66} {_said(result)}  {seconds:.0f} s")
            bad += not result.exhausted
            _print_trace(result)
    if needless:
        print("\nNothing breaks without these, under the faults that are modelled.")
        for scenario, result, _ in take(len(needless)):
            print(f"  {scenario.name:42} {_said(result)}; {scenario.about}")
            bad += not result.exhausted
    if breaks:
        print(
            "\nFound: one rule less, or another protocol; the shortest trace of each."
        )
        for scenario, result, _ in take(len(breaks)):
            print(f"  {scenario.name:42} {_said(result)}")
            bad += result.found is None
            if not options.no_traces:
                _print_trace(result)
    if cells:
        bad += _print_table("Protocol", list(COLUMNS), take(len(cells)))
        bad += _print_table("Strict", list(STRICT_COLUMNS), take(len(strict_cells)))
        bad += _print_table("Writes", list(FLIGHT_COLUMNS), take(len(flight_cells)))
    states = sum(result.states for _, (result, _) in results)
    print(
        f"\n{len(results)} walks, {states:,} states, {time.monotonic() - began:.0f} s:"
        f" {'as it must be' if not bad else f'{bad} are not as they must be'}"
    )
    return 1 if bad else 0


def _said(result: Walk) -> str:
    if result.found is not None:
        return f"after {len(result.trace)} steps, {result.found}"
    ended = "exhausted" if result.exhausted else "NOT EXHAUSTED"
    return f"{ended}: {result.states:,} states, {result.steps:,} steps"


def _print_trace(result: Walk) -> None:
    for number, (what, after) in enumerate(result.trace, start=1):
        print(f"     {number:2} {what:58} {after}")


def _print_table(
    title: str, columns: list[str], cells: list[tuple[Scenario, Walk, float]]
) -> int:
    """Print a table in Markdown; return how many cells of ours are broken."""
    print(f"\n| {title} | " + " | ".join(columns) + " |")
    print("| --- " * (len(columns) + 1) + "|")
    bad = 0
    for start in range(0, len(cells), len(columns)):
        row = cells[start : start + len(columns)]
        name = row[0][0].name
        said = []
        for scenario, result, _ in row:
            assumed = scenario.about == "hold-off ends early"
            if result.found is not None:
                said.append(f"{result.found[:2]} in {len(result.trace)}")
                bad += name == "**ours**" and not assumed
            else:
                some = f"none in {result.states:,} states"
                said.append("safe" if result.exhausted else some)
                bad += name == "**ours**" and not result.exhausted
        print(f"| {name} | " + " | ".join(said) + " |")
    return bad


if __name__ == "__main__":
    sys.exit(main())
