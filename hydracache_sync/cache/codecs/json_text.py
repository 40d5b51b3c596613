"""JSON that gives back what went in, whichever library wrote it and whichever reads it.

orjson is several times as fast as the standard library, so it is used where it is
installed. The two differ at the edges: orjson turns an integer over 64 bits into a
float, writes NaN as null, and takes neither a lone surrogate nor a deep nesting. What
they would not read alike is *wide* text, which the standard library alone reads; what
JSON would change in silence is refused. Knows no entry.
"""

from __future__ import annotations

import json
import re
from math import isfinite
from typing import Any, Callable

_encoder = json.JSONEncoder(
    # Escapes would join two lone surrogates to one character on the way back.
    ensure_ascii=False,
    allow_nan=False,
    separators=(",", ":"),
)


def _finite(text: str) -> float:
    number = float(text)
    if not isfinite(number):
        raise ValueError("a number is not finite")
    return number


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is no number that is written here")


#: Takes no NaN and no Infinity, and no number beyond them: dump() writes none, so it is
#: not ours. As orjson.
_decoder = json.JSONDecoder(parse_float=_finite, parse_constant=_no_constant)

#: Found in every text with an integer outside of 64 bits, and in hardly any other.
_maybe_wide = re.compile(rb"[0-9]{19}").search

_SCALARS = frozenset([str, int, bool, type(None)])


class JsonText:
    """Values to JSON and back. Immutable, safe to share.

    :param use_orjson: None for "if it is installed"; no process needs to know what the
        others have.
    """

    def __init__(self, *, use_orjson: bool | None = None) -> None:
        self._fast_dumps: Callable[[Any], bytes] | None = None
        self._fast_loads: Callable[[bytes], Any] | None = None
        if use_orjson is False:
            return
        try:
            # Here and not above: whoever caches nothing need not have it loaded.
            import orjson
        except ImportError:
            if use_orjson:
                raise
            return
        self._fast_dumps = orjson.dumps
        self._fast_loads = orjson.loads

    def dump(self, value: object) -> tuple[bytes, bool]:
        """Return the text of ``value`` in UTF-8, and whether it is wide.

        :raises TypeError: JSON has no such type, or would give back another one; the
            message says what and where.
        :raises ValueError: a number is not finite, or the value holds itself, is
            nested too deeply, or has an integer too long for text.
        """
        _check(value)
        if self._fast_dumps is not None:
            try:
                return self._fast_dumps(value), False
            except TypeError:
                # One of its edges. Of what the check lets pass the standard library
                # can write almost all, and says what is wrong with the rest.
                pass
        kind = type(value).__name__
        try:
            text = _encoder.encode(value)
        except RecursionError as exc:
            raise ValueError(
                f"cannot cache this {kind}: it is nested too deeply"
            ) from exc
        except ValueError as exc:
            # It holds itself, or has an integer of more digits than Python turns to
            # text.
            raise ValueError(f"cannot cache this {kind}: {exc}") from exc
        data = text.encode("utf-8", "surrogatepass")
        return data, _maybe_wide(data) is not None

    def load(self, data: bytes, wide: bool) -> Any:
        """Return the value that :meth:`dump` was given.

        :raises ValueError, RecursionError: it is no text of :meth:`dump`, or deeper or
            longer than this process's limits, which may be tighter than the writer's.
        """
        if not wide and self._fast_loads is not None:
            try:
                return self._fast_loads(data)
            except ValueError:
                # A lone surrogate or a deep nesting, if it is ours.
                pass
        return _decoder.decode(data.decode("utf-8", "surrogatepass"))


def _check(value: object) -> None:
    """Raise unless JSON gives back ``value`` with the types it has now.

    JSON itself would turn a tuple into a list and the key 1 into "1" without an error.
    The second reader of a page would get another value than the first.
    """
    # A stack of our own: values may be nested deeper than Python's recursion goes.
    pending: list[tuple[object, tuple[Any, ...] | None]] = [(value, None)]
    seen = set()
    while pending:
        item, path = pending.pop()
        kind = type(item)
        if kind in _SCALARS:
            continue
        if isinstance(item, float) and kind is float:
            if not isfinite(item):
                raise ValueError(
                    f"cannot cache {item!r}{_where(path)}: JSON has no such number"
                )
        elif isinstance(item, dict) and kind is dict:
            if id(item) in seen:
                continue
            seen.add(id(item))
            for key, child in item.items():
                if type(key) is not str:
                    raise TypeError(
                        f"cannot cache a dict with the key {key!r}{_where(path)}: it"
                        f" is {type(key).__name__} and would come back as str"
                    )
                if type(child) not in _SCALARS:
                    pending.append((child, (path, key)))
        elif isinstance(item, list) and kind is list:
            if id(item) in seen:
                continue
            seen.add(id(item))
            for index, child in enumerate(item):
                if type(child) not in _SCALARS:
                    pending.append((child, (path, index)))
        else:
            raise TypeError(
                f"cannot cache {kind.__name__}{_where(path)}: it would not come back"
                " as the same type; return bytes, str, None, bool, int, float, or list"
                " and dict of these, from the loader"
            )


def _where(path: tuple[Any, ...] | None) -> str:
    steps: list[str] = []
    while path is not None:
        path, step = path
        steps.append(f"[{step!r}]")
    return " at value" + "".join(reversed(steps)) if steps else ""
