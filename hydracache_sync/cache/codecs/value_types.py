"""Classes of an app whose objects the default codec keeps, as the app has said.

To read an entry makes no object of a class that was not named here. It runs no code of
a class that was named, except what ``enum`` itself does to join flags.
"""

from __future__ import annotations

import dataclasses
from enum import Enum, Flag
from functools import cached_property, partial
from types import MemberDescriptorType
from typing import Any, Callable, Iterable, Mapping, NamedTuple, TypeVar

C = TypeVar("C", bound=type)


class ValueType(NamedTuple):
    """How objects of one class are kept.

    :ivar name: what stands for the class in an entry.
    :ivar take: returns what to keep of an object, made of values that are kept;
        raises TypeError if the object cannot come back from it.
    :ivar make: returns the object again; raises if this is not what ``take`` returns.
    """

    name: str
    take: Callable[[Any], Any]
    make: Callable[[Any], Any]


#: Written when a module is imported, and read at any time from any thread.
BY_CLASS: dict[type, ValueType] = {}
BY_NAME: dict[str, ValueType] = {}


def cacheable(kind: C) -> C:
    """Have the default codec keep objects of this class; a decorator, or a call.

    An entry names the class by its module and name. It comes back in processes that
    have said the same of a class with the same fields, without a call of ``__init__``,
    ``__new__`` or ``__post_init__``; in others it is a miss. Subclasses are classes of
    their own. An object with attributes beside its fields is refused when it is stored,
    but for what a ``functools.cached_property`` keeps, which is made again.

    :param kind: an ``Enum``, a dataclass or a named tuple.
    :raises TypeError: it is of no such kind.
    :raises ValueError: another class of this name has been given.
    """
    if not isinstance(kind, type):
        raise TypeError(f"cacheable takes a class, not {kind!r}")
    if issubclass(kind, Flag):
        register(kind, partial(_names_of, kind), partial(_flags, kind))
    elif issubclass(kind, Enum):
        register(kind, partial(_name_of, kind), kind.__members__.__getitem__)
    elif dataclasses.is_dataclass(kind) and kind.__new__ is object.__new__:
        names = tuple(field.name for field in dataclasses.fields(kind))
        take = partial(_fields_of, names, _other_attributes(kind, names))
        register(kind, take, partial(_object, kind, names))
    elif issubclass(kind, tuple) and hasattr(kind, "_fields"):
        names = kind._fields
        take = partial(_items_of, names, _other_attributes(kind, names))
        register(kind, take, partial(_named_tuple, kind, names))
    else:
        raise TypeError(
            f"{kind.__name__} is no Enum, dataclass or named tuple, which is what"
            " cacheable takes; or it has a __new__ of its own"
        )
    return kind


def register(
    kind: type, take: Callable[[Any], Any], make: Callable[[Any], Any]
) -> None:
    """Keep objects of ``kind`` by these two, see :class:`ValueType`.

    :raises ValueError: another class of this name has been given.
    """
    name = f"{kind.__module__}:{kind.__qualname__}"
    if name in BY_NAME and kind not in BY_CLASS:
        raise ValueError(f"there is another class {name}, and entries name it so")
    BY_CLASS[kind] = BY_NAME[name] = ValueType(name, take, make)


def _name_of(kind: type[Enum], member: Enum) -> str:
    if kind.__members__.get(member.name) is not member:
        raise TypeError("it is no member of its class")
    return member.name


def _names_of(kind: type[Flag], flags: Flag) -> str | list[str]:
    """The name of one flag, or those of all that are set; of none an empty list."""
    # Its name is None in some versions of Python if it is none or several.
    if kind.__members__.get(flags.name or "") is flags:
        return flags.name or ""
    names, found = [], 0
    for name, each in kind.__members__.items():
        if each.value and each.value & flags.value == each.value:
            names.append(name)
            found |= each.value
    if found != flags.value:
        raise TypeError(f"its value {flags.value} has bits that have no name")
    return names


def _flags(kind: type[Flag], names: str | list[str]) -> Flag:
    if isinstance(names, str):
        return kind.__members__[names]
    value = 0
    for name in names:
        value |= kind.__members__[name].value
    return kind(value)


def _other_attributes(
    kind: type, names: tuple[str, ...]
) -> Callable[[object], Iterable[str]]:
    """Return what tells the attributes of an object that are none of its fields."""
    parts = [vars(each) for each in kind.__mro__]
    made_anew = {"__orig_class__", *names}.union(
        name
        for part in parts
        for name, each in part.items()
        if isinstance(each, cached_property)
    )
    # What a name in __slots__ has become: of a private one, another name.
    slots = {
        name
        for part in parts
        for name, each in part.items()
        if isinstance(each, MemberDescriptorType) and name not in names
    }

    def others(value: object) -> Iterable[str]:
        kept = [
            name for name in getattr(value, "__dict__", ()) if name not in made_anew
        ]
        return kept + [name for name in slots if hasattr(value, name)]

    return others


def _fields_of(
    names: tuple[str, ...], others: Callable[[object], Iterable[str]], value: object
) -> dict[str, Any]:
    _require_none(others(value))
    try:
        return {name: getattr(value, name) for name in names}
    except AttributeError as exc:
        raise TypeError(f"one of its fields is not set: {exc}") from exc


def _items_of(
    names: tuple[str, ...],
    others: Callable[[object], Iterable[str]],
    value: tuple[Any, ...],
) -> dict[str, Any]:
    _require_none(others(value))
    # Not by name: a class may have a property of this name, which shows another value.
    items = tuple(tuple.__iter__(value))
    if len(items) != len(names):
        raise TypeError(f"it has {len(items)} items, and its class {len(names)} fields")
    return dict(zip(names, items))


def _require_none(others: Iterable[str]) -> None:
    lost = sorted(others)
    if lost:
        raise TypeError(f"its attribute {lost[0]!r} is no field, and would be lost")


def _object(kind: type, names: tuple[str, ...], found: Mapping[str, Any]) -> object:
    _check_fields(names, found)
    made: object = object.__new__(kind)
    for name in names:
        object.__setattr__(made, name, found[name])
    return made


def _named_tuple(kind: Any, names: tuple[str, ...], found: Mapping[str, Any]) -> Any:
    _check_fields(names, found)
    return tuple.__new__(kind, [found[name] for name in names])


def _check_fields(names: tuple[str, ...], found: Mapping[str, Any]) -> None:
    # Written by a version of the app that had other fields.
    if found.keys() != set(names):
        raise ValueError("the class has other fields now")
