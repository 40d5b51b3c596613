"""The examples of docs/how_to/testing.md, run as their readers would."""

from __future__ import annotations

import re
import sys

import pytest

from support import ROOT

pytest_plugins = ["pytester"]

FILES = dict(
    re.findall(
        r"^```python\n# (\S+\.py)\n(.*?)^```$",
        (ROOT / "docs/how_to/testing.md").read_text("utf-8"),
        re.MULTILINE | re.DOTALL,
    )
)


@pytest.fixture
def folder(pytester: pytest.Pytester) -> pytest.Pytester:
    for name, text in FILES.items():
        path = pytester.path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return pytester


@pytest.mark.parametrize("name, passed", [("test_shop", 3), ("test_raw_shop", 2)])
def test_an_example_passes_with_the_plugin(
    folder: pytest.Pytester, name: str, passed: int
) -> None:
    result = folder.runpytest_subprocess(
        "-p", "hydracache_pytest", "-W", "error", f"{name}.py"
    )

    result.assert_outcomes(passed=passed)


def test_the_example_of_django_passes(folder: pytest.Pytester) -> None:
    (folder.path / "shop/__init__.py").touch()

    result = folder.run(
        *(sys.executable, "-W", "error", "-m", "django"),
        *("test", "shop", "--settings=test_settings"),
    )

    assert result.ret == 0
    result.stderr.fnmatch_lines(["Ran 3 tests in *", "OK"])


def test_every_example_of_the_page_is_run() -> None:
    assert sorted(FILES) == [
        "raw_shop.py",
        "shop.py",
        "shop/models.py",
        "shop/tests.py",
        "shop/views.py",
        "test_raw_shop.py",
        "test_settings.py",
        "test_shop.py",
        "urls.py",
    ]
