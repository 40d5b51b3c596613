"""A driver for each process of the suite, a new browser for each test."""

from __future__ import annotations

import contextlib
from typing import Any, Callable, Iterator

import pytest

from support.browser import Browser, ChromeDriver


@pytest.fixture(scope="session")
def chromedriver() -> Iterator[ChromeDriver]:
    with ChromeDriver() as driver:
        yield driver


@pytest.fixture
def open_browser(chromedriver: ChromeDriver) -> Iterator[Callable[..., Browser]]:
    """Open a browser with the arguments of ``Browser``; it ends with the test."""
    with contextlib.ExitStack() as opened:

        def open_(**options: Any) -> Browser:
            return opened.enter_context(Browser(chromedriver, **options))

        yield open_


@pytest.fixture
def browser(open_browser: Callable[..., Browser]) -> Browser:
    return open_browser()
