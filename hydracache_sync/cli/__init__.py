"""The command line: ``hydracache``, ``python -m hydracache_sync``.

Needs click, which the extra ``cli`` brings, and for progress bars tqdm. A new command
is a file here and a line in ``program.py``.
"""

from hydracache_sync.cli.exit_codes import ExitCode
from hydracache_sync.cli.program import hydracache

__all__ = ["ExitCode", "hydracache"]
