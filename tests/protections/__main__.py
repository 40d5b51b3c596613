"""Take each protection out of a copy of the code, and see a test fail.

    PYTHONPATH=tests python -m protections              all of them, some minutes
    PYTHONPATH=tests python -m protections P5 snapshot  those with such a word

Exit code 1: a test has not noticed, or fails with the protection in place, too.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from protections.taken_away import PROTECTIONS, Protection

ROOT = Path(__file__).resolve().parent.parent.parent

#: Seconds of one run of pytest.
LONGEST = 280

#: Exit codes of pytest.
ALL_PASSED, SOME_FAILED = 0, 1


def main(words: list[str]) -> int:
    chosen = [
        each
        for each in PROTECTIONS
        if not words
        or any(word in (each.promise, *each.rule.split()) for word in words)
    ]
    unnoticed = 0
    with tempfile.TemporaryDirectory(prefix="hydracache-protections-") as name:
        folder = Path(name)
        for part in ("tests", "examples", "docs"):
            shutil.copytree(ROOT / part, folder / part)
        if (ROOT / ".servers").exists():
            # The MySQL that was put there for the tests.
            (folder / ".servers").symlink_to(ROOT / ".servers")
        for file in ("setup.cfg", "README.md"):
            shutil.copy(ROOT / file, folder)
        for each in chosen:
            noticed = _notices(folder, each)
            unnoticed += not noticed
            said = "noticed" if noticed else "NOT NOTICED"
            print(f"{said:11} {each.promise} {each.rule}: {each.test}", flush=True)
        _renew(folder)
        for test in sorted({each.test for each in chosen}):
            if _run(folder, test) != ALL_PASSED:
                unnoticed += 1
                print(f"fails with all protections in place, too: {test}")
    print(f"{len(chosen)} taken away in turn, {unnoticed} unnoticed")
    return 1 if unnoticed else 0


def _notices(folder: Path, protection: Protection) -> bool:
    _renew(folder)
    path = folder / "hydracache_sync" / protection.file
    code = path.read_text("utf-8")
    if code.count(protection.code) != 1:
        print(f"{protection.file} has not exactly once: {protection.code!r}")
        return False
    path.write_text(code.replace(protection.code, protection.without), "utf-8")
    return _run(folder, protection.test) == SOME_FAILED


def _renew(folder: Path) -> None:
    package = folder / "hydracache_sync"
    shutil.rmtree(package, ignore_errors=True)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "hydracache_sync", package, ignore=ignored)


def _run(folder: Path, test: str) -> int:
    file, _, name = test.partition("::")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
        + [file, "-k", name],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=LONGEST,
    ).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
