"""Entry point of ``hydracache`` and of ``python -m hydracache_sync``."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; say what to install if its packages are missing."""
    try:
        from hydracache_sync.cli import hydracache
    except ModuleNotFoundError as exc:
        if exc.name != "click":
            raise
        print(
            "hydracache needs click: install hydracache_sync with its extra 'cli'",
            file=sys.stderr,
        )
        sys.exit(2)
    hydracache()


if __name__ == "__main__":
    main()
