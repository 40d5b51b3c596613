"""Print each fault of the project's English with its file and line.

    PYTHONPATH=tests python -m prose            all that is looked at
    PYTHONPATH=tests python -m prose FILE ...   these

From the checkout. The rules are in ``rules.py``, the words to avoid in ``words.txt``;
spelling is codespell's, see setup.cfg. Ends with 1 if there is a fault.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Iterable, Iterator

from prose.rules import faults
from prose.texts import texts

ROOT = Path(__file__).resolve().parents[2]

#: What is looked at.
LOOKED_AT = """
    *.md *.py Makefile setup.cfg docs/**/*.md docs/**/*.py
    examples/**/*.md examples/**/*.py examples/**/*.html examples/**/*.service
    examples/**/*.timer examples/**/*.env examples/**/*.ini examples/**/*.yml
    examples/cron/crontab
    hydracache_sync/**/*.py hydracache_sync/**/*.sql hydracache_sync/**/*.html
    tests/README.md
""".split()


def files() -> list[Path]:
    """Return what is looked at, without what a build has left there."""
    found = {path for pattern in LOOKED_AT for path in ROOT.glob(pattern)}
    return sorted(path for path in found if "_build" not in path.parts)


def complaints(paths: Iterable[Path]) -> Iterator[str]:
    """Yield the faults of files as lines that an editor understands."""
    for path in paths:
        for text in texts(path):
            for fault in faults(text):
                yield f"{path}:{text.line}: {fault}"


def main() -> int:
    """Look at the files of the command line, or at all."""
    named = [Path(name) for name in sys.argv[1:]]
    found = list(complaints(named or [path.relative_to(ROOT) for path in files()]))
    print("\n".join(found), end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
