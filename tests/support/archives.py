"""Whether the wheel and the sdist have all that belongs in them, and nothing else.

    python tests/support/archives.py dist

ends with 0 if so, and names what is missing or should not be there.
"""

from __future__ import annotations

import sys
import tarfile
import zipfile
from glob import glob
from typing import Any

#: Beside the package, what the sdist must have.
BESIDE = (
    "tests/**/*.py",
    "tests/*.sh",
    "tests/locked/*",
    "tests/axe/*",
    "tests/mysql56/*",
    "docs/*.md",
    "docs/*/*.md",
    "docs/conf.py",
    "docs/_ext/*.py",
    "docs/_root/*",
    "docs/_static/*",
    "docs/figures/*",
    "examples/**/*.py",
    "*.md",
    ".ci/run",
    "noxfile.py",
    "Makefile",
    "LICENSE",
    "setup.cfg",
    "setup.py",
)


def found(*patterns: str) -> set[str]:
    """Files of the checkout, which is the current directory.

    :raises FileNotFoundError: there is none of a pattern.
    """
    names: set[str] = set()
    for pattern in patterns:
        matching = glob(pattern, recursive=True)
        if not matching:
            raise FileNotFoundError(f"no {pattern} in the checkout")
        names.update(matching)
    return names


def main(arguments: list[str]) -> Any:
    if len(arguments) != 1:
        return __doc__
    [wheel] = glob(f"{arguments[0]}/*.whl")
    [sdist] = glob(f"{arguments[0]}/*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = set(archive.namelist())
    with tarfile.open(sdist) as packed:
        in_sdist = {name.partition("/")[2] for name in packed.getnames()}

    package = found(
        "hydracache_sync/**/*.py",
        "hydracache_sync/outbox/schema/*.sql",
        "hydracache_sync/console/templates/*.html",
        "hydracache_sync/console/static/*.css",
        "hydracache_sync/py.typed",
        "hydracache_pytest.py",
    )
    lines = [f"missing from {wheel}: {name}" for name in package - in_wheel]
    lines += [
        f"missing from {sdist}: {name}"
        for name in (package | found(*BESIDE)) - in_sdist
    ]
    lines += [
        f"should not be in {wheel}: {name}"
        for name in in_wheel
        if not name.startswith("hydracache_sync") and name not in package
    ]
    print("\n".join(sorted(lines)) or f"{wheel} and {sdist} are complete")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
