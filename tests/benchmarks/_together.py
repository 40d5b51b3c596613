"""How many rows a second 1, 2 and 4 processes drain together."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from typing import Any, Callable, Mapping

from _results import Results

#: Returns how many rows it has published, when none is left.
Drain = Callable[[], int]

COUNTS = 1, 2, 4


def serve(make: Callable[..., Drain], place: Any, batch: int, orders: Any) -> None:
    """Drain at each order and answer with how many rows were published."""
    run = make(place, batch)
    orders.send("ready")
    while orders.recv():
        orders.send(run())


def drain_together(
    kinds: Mapping[str, Callable[..., Drain]],
    place: Any,
    batch: int,
    fill: Callable[[], None],
    rounds: int,
    rows: int,
    results: Results,
) -> None:
    """Let the processes of each kind drain the same rows in turn; print the medians.

    :param kinds: by their names; each is called in a process, with place and batch.
    :param fill: makes the rows again.
    :param results: gets a table of them.
    """
    context = multiprocessing.get_context("spawn")
    processes = []
    pipes: dict[str, list[Any]] = {kind: [] for kind in kinds}
    for kind, make in kinds.items():
        for _ in range(COUNTS[-1]):
            mine, theirs = context.Pipe()
            process = context.Process(
                target=serve, args=(make, place, batch, theirs), daemon=True
            )
            process.start()
            processes.append(process)
            pipes[kind].append(mine)
    for kind in kinds:
        for pipe in pipes[kind]:
            pipe.recv()
    saved = results.table(
        f"Rows a second of all processes together, {rows:,} rows, and the ratio to the"
        " column before:",
        ["processes", *kinds],
    )
    for count in COUNTS:
        rates: dict[str, list[float]] = {kind: [] for kind in kinds}
        for round_ in range(rounds):
            for kind in list(kinds) if round_ % 2 else reversed(list(kinds)):
                fill()
                started = time.perf_counter()
                for pipe in pipes[kind][:count]:
                    pipe.send(True)
                done = sum(pipe.recv() for pipe in pipes[kind][:count])
                rates[kind].append(done / (time.perf_counter() - started))
                if done != rows:
                    raise RuntimeError(f"{done} of {rows} rows were published")
        cells: list[str] = []
        before: list[float] = []
        for rate in rates.values():
            cells.append(f"{statistics.median(rate):,.0f}")
            if before:
                ratio = statistics.median(b / a for a, b in zip(before, rate))
                cells[-1] += f", {ratio:.2f}"
            before = rate
        saved.append([str(count), *cells])
        told = "; ".join(map(" ".join, zip(kinds, cells)))
        print(f"{count} processes drain, rows/s: {told}", flush=True)
    for kind in kinds:
        for pipe in pipes[kind]:
            pipe.send(False)
    for process in processes:
        process.join()
