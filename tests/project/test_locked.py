"""Everything that CI installs is known by its hash, and is what setup.cfg asks for."""

from __future__ import annotations

import configparser
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from support import ROOT

#: Folders that say what npm installs.
OF_NPM = [ROOT / "tests" / name for name in ("mysql56", "axe")]

LOCKED = sorted((ROOT / "tests" / "locked").glob("*.txt"))

_SETUP = configparser.ConfigParser()
_SETUP.read(ROOT / "setup.cfg")
BASE = _SETUP["options"]["install_requires"]
EXTRAS = dict(_SETUP["options.extras_require"])

#: Pythons that the files are for.
PYTHONS = [
    text.rpartition(" ")[2]
    for text in _SETUP["metadata"]["classifiers"].splitlines()
    if re.search(r"3\.\d+$", text)
]


def requirements(text: str) -> list[Requirement]:
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [Requirement(line) for line in lines if line]


def entries(path: Path) -> list[tuple[Requirement, list[str]]]:
    """What a file names, each with its hashes."""
    joined = path.read_text("utf-8").replace("\\\n", " ")
    found = []
    for line in joined.splitlines():
        if line.strip() and not line.startswith("#"):
            name, *hashes = re.split(r"\s+--hash=", line.strip())
            found.append((Requirement(name), hashes))
    return found


@pytest.mark.parametrize("path", LOCKED, ids=lambda path: path.stem)
def test_every_package_is_one_version_with_hashes(path: Path) -> None:
    found = entries(path)

    assert found
    for requirement, hashes in found:
        assert re.fullmatch(r"==[^*,]+", str(requirement.specifier)), requirement
        assert hashes, requirement
        for each in hashes:
            assert re.fullmatch("sha256:[0-9a-f]{64}", each)


def test_no_file_says_where_a_package_comes_from() -> None:
    for path in [*LOCKED, *(path for folder in OF_NPM for path in folder.iterdir())]:
        assert "://" not in path.read_text("utf-8"), path


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("extra", [path.stem for path in LOCKED if path.stem in EXTRAS])
def test_a_file_has_what_its_extra_asks_for(extra: str, python: str) -> None:
    environment = {**default_environment(), "python_version": python}
    environment["python_full_version"] = f"{python}.20"
    locked = {
        canonicalize_name(each.name): each
        for each, _ in entries(ROOT / "tests" / "locked" / f"{extra}.txt")
        if each.marker is None or each.marker.evaluate(environment)
    }

    for wanted in requirements(BASE + "\n" + EXTRAS[extra]):
        if wanted.marker is None or wanted.marker.evaluate(environment):
            found = locked.get(canonicalize_name(wanted.name))
            assert found is not None, f"{wanted} is not there: run `make locks`"
            [version] = (each.version for each in found.specifier)
            assert wanted.specifier.contains(version), f"{found}: run `make locks`"


def test_every_extra_that_make_installs_has_a_file() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    installed = set(re.findall(r"venv-([a-z-]+)", makefile)) - {"oldest"}
    named = {path.stem for path in LOCKED}

    assert {each for each in installed if each in EXTRAS} <= named
    assert {"tools", "oldest", "test-web-oldest"} <= named


@pytest.mark.parametrize("name", ["pymysql", "pymemcache", "mysqlclient", "msgspec"])
def test_the_oldest_python_is_tested_with_the_oldest_drivers(name: str) -> None:
    setup = (ROOT / "setup.cfg").read_text("utf-8")
    floors = re.findall(rf"^ *{name}>=([\d.]+)", setup, re.M)
    locked = entries(ROOT / "tests" / "locked" / "oldest.txt")

    [driver] = (each for each, _ in locked if each.name == name)
    [version] = (each.version for each in driver.specifier)
    assert {Version(floor) for floor in floors} == {
        Version(version)
    }, "run `make locks`"


@pytest.mark.parametrize("folder", OF_NPM, ids=lambda path: path.name)
def test_every_archive_of_npm_has_its_hash(folder: Path) -> None:
    lock = json.loads((folder / "package-lock.json").read_text("utf-8"))
    wanted = json.loads((folder / "package.json").read_text("utf-8"))["dependencies"]

    packages = {name: each for name, each in lock["packages"].items() if name}
    assert lock["packages"][""]["dependencies"] == wanted
    assert {f"node_modules/{name}" for name in wanted} <= set(packages)
    for each in packages.values():
        assert re.fullmatch(r"sha512-[A-Za-z0-9+/]{86}==", each["integrity"])


def test_what_is_installed_must_have_one_of_the_hashes(tmp_path: Path) -> None:
    """The option of pip that setup_machine.sh relies on, without an index."""
    archive = tmp_path / "six-1.0-py3-none-any.whl"
    archive.write_bytes(b"not what was locked")
    locked = tmp_path / "locked.txt"
    locked.write_text(f"six==1.0 --hash=sha256:{'0' * 64}\n")

    refused = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps"]
        + ["--require-hashes", "--find-links", str(tmp_path)]
        + ["--target", str(tmp_path / "there"), "-r", str(locked)],
        capture_output=True,
        text=True,
    )

    assert refused.returncode != 0
    assert "DO NOT MATCH THE HASHES" in refused.stderr
