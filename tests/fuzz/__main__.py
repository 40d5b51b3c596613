"""Fuzz with atheris, which looks at the coverage to find its next input.

    PYTHONPATH=tests python -m fuzz replies --seconds 30 --seed 1
    PYTHONPATH=tests python -m fuzz all --seconds 60

Exit code 0: nothing found. 77: found, with the input in ``crash-...`` and its traceback
above. 2: atheris is not installed (extra ``fuzz``; it has wheels for CPython 3.11 to
3.13).
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("target", help="one of them, or all")
    parser.add_argument("--seconds", type=int, default=60, help="in all")
    parser.add_argument("--seed", type=int, help="printed if it is not given")
    options = parser.parse_args()
    try:
        import atheris
    except ImportError:
        print(
            "fuzz: atheris is not installed: pip install '.[fuzz]', on"
            " CPython 3.11 to 3.13",
            file=sys.stderr,
        )
        return 2
    seed = random.randrange(1, 2**31) if options.seed is None else options.seed
    # Under its eyes from the first import on.
    with atheris.instrument_imports(include=["hydracache_sync"]):
        from fuzz import targets
    if options.target == "all":
        return _each(list(targets.TARGETS), options.seconds, seed)
    if options.target not in targets.TARGETS:
        parser.error(f"no target {options.target}; there are: {list(targets.TARGETS)}")
    with tempfile.TemporaryDirectory(prefix="fuzz-") as corpus:
        for number, data in enumerate(targets.SEEDS[options.target]):
            (Path(corpus) / str(number)).write_bytes(data)
        print(f"fuzz: {options.target}, {options.seconds} s, --seed {seed}", flush=True)
        atheris.Setup(
            [
                sys.argv[0],
                f"-max_total_time={options.seconds}",
                f"-seed={seed}",
                "-max_len=2000",
                "-print_final_stats=1",
                "-verbosity=0",
                corpus,
            ],
            targets.TARGETS[options.target],
        )
        # Ends the process itself, with libFuzzer's exit code.
        atheris.Fuzz()
    return 0


def _each(names: list[str], seconds: int, seed: int) -> int:
    worst = 0
    for name in names:
        part = max(1, seconds // len(names))
        command = [sys.executable, "-m", "fuzz", name, "--seconds", str(part)]
        ended = subprocess.run(command + ["--seed", str(seed)])
        print(f"fuzz: {name} ended with exit code {ended.returncode}", flush=True)
        worst = worst or ended.returncode
    return worst


if __name__ == "__main__":
    sys.exit(main())
