"""Values of more types than JSON has, as MessagePack that gives back what went in.

MessagePack alone would take a tuple for a list, and knows few types. Each value that it
would change is an extension of its, whose number is never given a second meaning. To
read one makes values, and runs nothing that the bytes could name.
"""

from __future__ import annotations

from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import Any, Callable, FrozenSet, Iterable, Set, Tuple
from uuid import UUID
from zoneinfo import ZoneInfo

from msgspec.msgpack import Decoder, Encoder, Ext

from hydracache_sync.cache.codecs.value_types import BY_CLASS, BY_NAME

TEXT, INTEGER, TUPLE, SET, FROZENSET, DICT, DECIMAL, DATETIME = range(1, 9)
DATE, TIME, TIMEDELTA, UUID_BYTES, OBJECT, NAIVE_DATETIME = range(9, 15)

#: How much is shown of a key in the path of what is refused.
_SHOWN = 60

_KEPT = (
    "None, bool, int, float, str, bytes, Decimal, datetime, date, time, timedelta,"
    " UUID, tuple, list, dict, set, frozenset, and classes given to cacheable()"
)

_MICROSECOND = timedelta(microseconds=1)

_encode = Encoder().encode


class _Refused(Exception):
    """Something within a value cannot be kept; the path grows on its way out."""

    def __init__(self, error: type[Exception], kind: type, why: str) -> None:
        super().__init__(why)
        self.error = error
        self.kind = kind
        self.why = why
        self.path = ""

    def under(self, step: str) -> _Refused:
        self.path = step + self.path
        return self


def dump(value: object) -> bytes:
    """Return bytes of which :func:`load` makes the equal of ``value``, types included.

    :raises TypeError: a part of it is of a type that is not kept, or of a subclass of
        one that is; the message says what and where.
    :raises ValueError: a number is NaN, which equals nothing; or the value holds itself
        or is nested too deeply.
    """
    try:
        return _encode(_plain(value))
    except _Refused as exc:
        at = f" at value{exc.path}" if exc.path else ""
        text = f"cannot cache {exc.kind.__name__}{at}: {exc.why}"
        raise exc.error(text) from None
    except RecursionError as exc:
        raise ValueError(
            f"cannot cache this {type(value).__name__}: it is nested too deeply, or"
            " holds itself"
        ) from exc


def load(data: bytes) -> Any:
    """Return the value that :func:`dump` was given.

    :raises ValueError, RecursionError: it is no result of :func:`dump`, or holds what
        this process does not know: a class, or a time zone.
    """
    try:
        return _decode(data)
    except RecursionError:
        raise
    except Exception as exc:
        # Of bytes that are not ours anything can be wrong that the types look at.
        raise ValueError(f"not to be read here: {exc}") from exc


# Of each type, what stands for its values. Only these are given to the encoder: None,
# bool, int of 64 bits, float, str of UTF-8, bytes, moment in UTC, list, dict with str
# keys, Ext.


def _plain(value: Any) -> Any:
    kind = type(value)
    known = _PLAIN.get(kind)
    if known is not None:
        return known(value)
    declared = BY_CLASS.get(kind)
    if declared is None:
        raise _Refused(
            TypeError,
            kind,
            f"it would not come back as the same type; kept are {_KEPT}",
        )
    try:
        taken = declared.take(value)
    except TypeError as exc:
        raise _Refused(TypeError, kind, str(exc)) from exc
    return Ext(OBJECT, _encode([declared.name, _plain(taken)]))


def _same(value: Any) -> Any:
    return value


def _text(value: str) -> Any:
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            return Ext(TEXT, value.encode("utf-8", "surrogatepass"))
    return value


def _integer(value: int) -> Any:
    if -(2**63) <= value < 2**64:
        return value
    size = value.bit_length() // 8 + 1
    return Ext(INTEGER, value.to_bytes(size, "big", signed=True))


def _float(value: float) -> Any:
    if value != value:
        raise _Refused(ValueError, float, "it is NaN, which equals nothing")
    return value


def _decimal(value: Decimal) -> Any:
    if value.is_nan():
        raise _Refused(ValueError, Decimal, "it is NaN, which equals nothing")
    return Ext(DECIMAL, str(value).encode("ascii"))


def _dict(value: dict[Any, Any]) -> Any:
    # Before any item: one that was made for nothing would be at each level.
    for key in value:
        if type(key) is not str or type(_text(key)) is not str:
            return _pairs(value)
    found = {}
    for key, item in value.items():
        if type(item) is str and item.isascii():
            found[key] = item
            continue
        try:
            found[key] = _plain(item)
        except _Refused as exc:
            raise exc.under(f"[{_shown(key)}]")
    return found


def _pairs(value: dict[Any, Any]) -> Any:
    """A dict with keys that a map of MessagePack has not: keys and values in turn."""
    found = []
    for key, item in value.items():
        try:
            found.append(_plain(key))
        except _Refused as exc:
            raise exc.under(".keys()")
        try:
            found.append(_plain(item))
        except _Refused as exc:
            raise exc.under(f"[{_shown(key)}]")
    return Ext(DICT, _encode(found))


def _list(value: Iterable[Any]) -> list[Any]:
    found: list[Any] = []
    for item in value:
        try:
            found.append(_plain(item))
        except _Refused as exc:
            raise exc.under(f"[{len(found)}]")
    return found


def _set(value: Iterable[Any]) -> list[Any]:
    try:
        return [_plain(item) for item in value]
    except _Refused as exc:
        raise exc.under("{...}")


def _datetime(value: datetime) -> Any:
    if value.tzinfo is timezone.utc and not value.fold:
        return value
    if value.tzinfo is None and not value.fold:
        return Ext(NAIVE_DATETIME, value.isoformat().encode("ascii"))
    return Ext(DATETIME, _moment(value))


def _moment(value: datetime | time) -> bytes:
    """ISO 8601 without the zone, the fold, and the zone.

    That is its key, its microseconds or nothing. ISO 8601 has no keys, and Python reads
    an offset of less than a second as none.
    """
    zone = value.tzinfo
    kept: int | str | None = None
    if zone is timezone.utc:
        kept = 0
    elif type(zone) is ZoneInfo and zone.key:
        kept = zone.key
    elif type(zone) is timezone and zone.tzname(None) == _unnamed(zone).tzname(None):
        kept = zone.utcoffset(None) // _MICROSECOND
    elif zone is not None:
        raise _Refused(
            TypeError,
            type(value),
            f"its time zone is {_shown(zone)}; kept are UTC, fixed offsets without a"
            " name, and zoneinfo's by their key",
        )
    return _encode([value.replace(tzinfo=None).isoformat(), value.fold, kept])


def _unnamed(zone: timezone) -> timezone:
    return timezone(zone.utcoffset(None))


_PLAIN: dict[type, Callable[[Any], Any]] = {
    type(None): _same,
    bool: _same,
    bytes: _same,
    int: _integer,
    float: _float,
    str: _text,
    list: _list,
    dict: _dict,
    tuple: lambda value: Ext(TUPLE, _encode(_list(value))),
    set: lambda value: Ext(SET, _encode(_set(value))),
    frozenset: lambda value: Ext(FROZENSET, _encode(_set(value))),
    Decimal: _decimal,
    datetime: _datetime,
    time: lambda value: Ext(TIME, _moment(value)),
    date: lambda value: Ext(DATE, value.isoformat().encode("ascii")),
    timedelta: lambda value: Ext(
        TIMEDELTA, _encode([value.days, value.seconds, value.microseconds])
    ),
    UUID: lambda value: Ext(UUID_BYTES, value.bytes),
}


def _shown(item: object) -> str:
    text = repr(item)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


# And back. Each is given what the functions above have put into an extension, or
# anything else, and then raises.


def _extension(code: int, data: memoryview) -> Any:
    return _VALUES[code](data)


_decode = Decoder(ext_hook=_extension).decode
_decode_list = Decoder(list, ext_hook=_extension).decode


def _dict_of(data: memoryview) -> dict[Any, Any]:
    found = _decode_list(data)
    made = dict(zip(found[::2], found[1::2]))
    if len(made) * 2 != len(found):
        raise ValueError("a key without a value, or given twice")
    return made


def _moment_of(kind: Any) -> Callable[[memoryview], Any]:
    def make(data: memoryview) -> Any:
        text, fold, kept = _decode_list(data)
        zone: tzinfo | None = None
        if type(kept) is int:
            zone = timezone(timedelta(microseconds=kept)) if kept else timezone.utc
        elif kept is not None:
            zone = ZoneInfo(kept)
        return kind.fromisoformat(text).replace(fold=fold, tzinfo=zone)

    return make


def _object_of(data: memoryview) -> Any:
    name, taken = _decode_list(data)
    return BY_NAME[name].make(taken)


_VALUES: dict[int, Callable[[memoryview], Any]] = {
    TEXT: lambda data: str(data, "utf-8", "surrogatepass"),
    INTEGER: lambda data: int.from_bytes(data, "big", signed=True),
    TUPLE: Decoder(Tuple[Any, ...], ext_hook=_extension).decode,
    SET: Decoder(Set[Any], ext_hook=_extension).decode,
    FROZENSET: Decoder(FrozenSet[Any], ext_hook=_extension).decode,
    DICT: _dict_of,
    DECIMAL: lambda data: Decimal(str(data, "ascii")),
    DATETIME: _moment_of(datetime),
    NAIVE_DATETIME: lambda data: datetime.fromisoformat(str(data, "ascii")),
    TIME: _moment_of(time),
    DATE: lambda data: date.fromisoformat(str(data, "ascii")),
    TIMEDELTA: lambda data: timedelta(*_decode_list(data)),
    UUID_BYTES: lambda data: UUID(bytes=bytes(data)),
    OBJECT: _object_of,
}
