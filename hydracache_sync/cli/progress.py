"""A progress bar for people who watch; nothing for cron, pipes and log files."""

from __future__ import annotations

import contextlib
import sys
from typing import Any, Callable, Iterator, Sequence

from hydracache_sync.cli.logs import LOGGER
from hydracache_sync.outbox.row import OutboxStatus


@contextlib.contextmanager
def row_progress(
    backlogs: Sequence[OutboxStatus] | None,
) -> Iterator[Callable[[int], None]]:
    """Show how many rows are done, until the block ends.

    :param backlogs: what there is to do; None shows no bar.
    :return: call it with the rows that were done since the last call.
    """
    tqdm = None if backlogs is None else _tqdm()
    if backlogs is None or tqdm is None:
        yield lambda rows: None
        return
    # Counted up to a cap only: then the bar says how far and how fast, not how long.
    total = (
        None
        if any(status.capped for status in backlogs)
        else sum(status.pending for status in backlogs)
    )
    # tqdm's watching thread is for loops that stall; ours ends in seconds or reports.
    tqdm.tqdm.monitor_interval = 0
    with tqdm.tqdm(total=total, unit=" rows", file=sys.stderr) as bar:
        with tqdm.contrib.logging.logging_redirect_tqdm([LOGGER]):
            yield bar.update


def _tqdm() -> Any:
    """The package, or None: without a bar a drain drains all the same."""
    try:
        import tqdm
        import tqdm.contrib.logging
    except ImportError:
        return None
    return tqdm
