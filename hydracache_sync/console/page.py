"""Renders the console's pages, in a template environment of its own.

That of the app may have escaping turned off, or templates of the same names.
"""

from __future__ import annotations

import datetime
from typing import Any, Mapping

import jinja2
from flask import url_for
from markupsafe import Markup, escape

from hydracache_sync.printable import printable_lines, without_passwords
from hydracache_sync.wording.moments import counted, duration, utc


def _shown(value: Any) -> Any:
    """What is put into a page: no control character, of whatever it comes from."""
    # Markup is what the templates themselves have made.
    return printable_lines(value) if type(value) is str else value


def _raw(value: str) -> Markup:
    """For the value of a hidden field, which goes back as it is."""
    return escape(value)


def _ago(moment_ms: int | None, now_ms: int) -> Markup:
    """How long ago a moment was; its time for a machine, and for a mouse."""
    if moment_ms is None:
        return Markup("-")
    ago = (now_ms - moment_ms) / 1000
    said = f"{duration(ago)} ago" if ago >= 0 else f"in {duration(-ago)}"
    try:
        machine = datetime.datetime.fromtimestamp(
            moment_ms / 1000, datetime.timezone.utc
        ).isoformat("T", "milliseconds")
    except (ValueError, OverflowError, OSError):
        # A foreign hand's: no calendar has it.
        return escape(f"{moment_ms} ms")
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        machine, utc(moment_ms), said
    )


def _when(moment_ms: int | None, now_ms: int) -> Markup:
    """A moment in UTC, and how long ago it was."""
    ago = _ago(moment_ms, now_ms)
    return ago if moment_ms is None else Markup("{}, {}").format(utc(moment_ms), ago)


def _seconds(milliseconds: float) -> str:
    return duration(milliseconds / 1000)


_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("hydracache_sync.console"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    finalize=_shown,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters.update(
    raw=_raw,
    safe_error=without_passwords,
    ago=_ago,
    when=_when,
    seconds=_seconds,
    counted=lambda n, noun: counted(n, noun),
)


def rendered(template: str, **values: Any) -> str:
    return _ENVIRONMENT.get_template(template).render(**values)


def page_url(endpoint: str, query: Any = (), **more: Any) -> str:
    """The URL of a page of the console that answers this request.

    :param query: a dict, or pairs where a name may come several times.
    """
    values: dict[str, Any] = {}
    for key, value in query.items() if isinstance(query, Mapping) else query:
        # Those are arguments of url_for itself: a forged link must not set them.
        if key != "endpoint" and not key.startswith("_"):
            values.setdefault(key, []).append(value)
    values.update(more)
    return url_for(f".{endpoint}", **values)
