"""Finds variables that look like settings and are none."""

from __future__ import annotations

import difflib
import re
from typing import Iterable, Iterator

from hydracache_sync.app.app_settings import APP_SETTINGS
from hydracache_sync.app.setting import PREFIX
from hydracache_sync.app.settings import SETTINGS

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
