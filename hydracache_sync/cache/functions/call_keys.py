"""The default key of a call of a cached function: its name and its arguments.

It reads ``module.name(42, 'ada')``, as the call would be written with all arguments
given, or ``module.name#<SHA-256>`` where they are long. Two different calls never have
the same text: ``f("a b")`` and ``f("a", "b")`` have two, and so have ``f(1)`` and
``f("1")``.

That holds only while a name stands for one function, and a text for one argument. What
does not is refused, and the caller passes ``key=``: a wrong entry is a wrong answer,
perhaps across tenants.
"""

from __future__ import annotations

import datetime
import decimal
import enum
import functools
import inspect
import pickle
import sys
import uuid
import weakref
from hashlib import sha256
from types import ModuleType
from typing import Any, Callable, Iterable, Iterator, Tuple

#: Characters of a key's arguments that stay readable; longer ones are hashed.
MAX_READABLE = 400

#: Modules that are another one in each program: their names identify nothing. The
#: second is what ``multiprocessing`` calls the first in a child.
_PROGRAMS = ("__main__", "__mp_main__")

#: Types whose ``repr`` says all there is, without subclasses: those may say less.
_PLAIN = {
    type(None),
    bool,
    int,
    float,
    str,
    bytes,
    decimal.Decimal,
    uuid.UUID,
    datetime.date,
}

#: Of each cache the functions that have a default key, by their name in it, with the
#: module and its spec. A module that is loaded again has a new spec, and new functions.
_named_functions: weakref.WeakKeyDictionary[
    object, dict[str, tuple[str, object, Callable[..., Any]]]
] = weakref.WeakKeyDictionary()


def default_key(cache: object, function: Callable[..., Any]) -> Callable[..., str]:
    """Return what makes the key of a call of ``function`` from its arguments.

    What that returns raises ``TypeError`` for an argument that cannot be part of a key.

    :param cache: in which no other function may have its name.
    :raises TypeError: the name does not identify the function.
    """
    why = _why_no_name(function)
    if why is not None:
        raise TypeError(
            f"{_shown(function)} {why}: {_moved(function)}give @cached a key= of your"
            " own, which makes the key from the arguments of a call"
        )
    arguments = _Arguments(_signature(function))
    _check_only_one(cache, function)
    name = f"{function.__module__}.{function.__qualname__}"

    def key(*args: Any, **kwargs: Any) -> str:
        parts: list[str] = []
        for parameter, before, value in arguments.of(args, kwargs):
            try:
                parts.append(before + text_of(value))
            except (TypeError, ValueError) as exc:
                raise TypeError(
                    f"argument {parameter} of {function.__qualname__} cannot be part"
                    f" of a key: {exc}; give @cached a key= of your own"
                ) from exc
        text = ", ".join(parts)
        if len(text) > MAX_READABLE:
            return f"{name}#{sha256(text.encode('utf-8')).hexdigest()}"
        return f"{name}({text})"

    return key


#: An argument of a call: its parameter, what a key has before its text, its value.
_Argument = Tuple[str, str, Any]

_MISSING = object()

#: The kinds of parameters that take what has no name.
_ANY = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD


class _Arguments:
    """The arguments of calls of one function, in order, with those left out."""

    def __init__(self, signature: inspect.Signature) -> None:
        self._signature = signature
        parameters = [
            each for each in signature.parameters.values() if each.kind not in _ANY
        ]
        self._names = [each.name for each in parameters]
        self._befores = [
            f"{_word(each.name)}=" if each.kind is each.KEYWORD_ONLY else ""
            for each in parameters
        ]
        self._defaults = [
            _MISSING if each.default is each.empty else each.default
            for each in parameters
        ]
        self._most = self._befores.count("")
        self._places = {
            each.name: place
            for place, each in enumerate(parameters)
            if each.kind is not each.POSITIONAL_ONLY
        }

    def of(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterable[_Argument]:
        """Return the arguments of one call.

        :raises TypeError: the function cannot be called so.
        """
        given = len(args)
        if given > self._most:
            return self._bound(args, kwargs)
        values = [*args, *self._defaults[given:]]
        for name, value in kwargs.items():
            place = self._places.get(name, -1)
            if place < given:
                return self._bound(args, kwargs)
            values[place] = value
        for value in values:
            if value is _MISSING:
                return self._bound(args, kwargs)
        return zip(self._names, self._befores, values)

    def _bound(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Iterator[_Argument]:
        """As Python binds them: with ``*`` and ``**``, or what says what is wrong.

        Takes several times as long as all the rest of a hit.
        """
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        for name, value in bound.arguments.items():
            kind = self._signature.parameters[name].kind
            if kind is inspect.Parameter.VAR_POSITIONAL:
                yield from [(name, "", each) for each in value]
            elif kind is inspect.Parameter.VAR_KEYWORD:
                yield from [(name, f"{_word(k)}=", value[k]) for k in sorted(value)]
            elif kind is inspect.Parameter.KEYWORD_ONLY:
                yield name, f"{_word(name)}=", value
            else:
                yield name, "", value


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    """The signature by which calls of ``function`` are told apart.

    That of what it wraps where it hands on what it is given, and else its own: a
    wrapper may have other defaults than what it wraps, or another order.

    :raises TypeError: it hands on, and has a parameter of its own that differs.
    """
    own = inspect.signature(function, follow_wrapped=False)
    wrapped = inspect.signature(function)
    named = [each for each in own.parameters.values() if each.kind not in _ANY]
    if len(named) == len(own.parameters):
        return own
    places = list(wrapped.parameters)
    for place, each in enumerate(named):
        known = wrapped.parameters.get(each.name)
        if known is None or (
            (type(each.default), each.default) == (type(known.default), known.default)
            and (each.kind is each.KEYWORD_ONLY or place == places.index(each.name))
        ):
            continue
        raise TypeError(
            f"{_shown(function)} is a wrapper whose parameter {each.name} has another"
            " default or place than what it wraps, so that two calls may have one key:"
            " give @cached a key= of your own"
        )
    return wrapped


def _why_no_name(function: Callable[..., Any]) -> str | None:
    """Say why module and name do not tell ``function`` from all others, if so."""
    name = getattr(function, "__qualname__", None)
    module = getattr(function, "__module__", None)
    owner = getattr(function, "__self__", None)
    if isinstance(function, functools.partial) or name is None:
        return "is a partial or another object without a name of its own"
    if name.endswith("<lambda>"):
        return "is a lambda, which has no name that tells it from others"
    if owner is not None and not isinstance(owner, ModuleType):
        kind = owner if isinstance(owner, type) else type(owner)
        return (
            f"is a method of one object ({kind.__name__}) that is not among its"
            " arguments: those of two objects would share their entries"
        )
    if "<locals>" in name:
        return (
            "is defined inside of a function, and each call of that function defines it"
            " again: all of them would share their entries"
        )
    if module in _PROGRAMS:
        return (
            f"is in {module}, which is another module in each program: they would share"
            " entries, or not know those of the server"
        )
    if module is None or (module == "builtins" and hasattr(function, "__code__")):
        return "belongs to no module, so that others have the same name"
    return None


def _moved(function: Callable[..., Any]) -> str:
    """The better remedy for a function that an app factory defines."""
    name = _shown(function)
    if not inspect.isfunction(function) or name.endswith("<lambda>"):
        return ""
    return "move it to the top level of its module, or " if "<locals>" in name else ""


def _check_only_one(cache: object, function: Callable[..., Any]) -> None:
    """Raise if another function of this cache has the same name.

    Two views of two blueprints may both be called ``index`` in one module, and what a
    factory has made by ``functools.wraps`` has the name of what it wraps. Whether two
    wrappers of one function do the same nobody knows but the caller.

    :raises TypeError: there is one.
    """
    module, name = function.__module__, function.__qualname__
    # What is new where the module is loaded again. A file that is run by its path has
    # no spec, and may not be among the modules.
    loaded: Any = sys.modules.get(module)
    spec = (
        getattr(loaded, "__spec__", None)
        or loaded
        or getattr(inspect.unwrap(function), "__globals__", None)
    )
    functions = _named_functions.setdefault(cache, {})
    # The method of a class in a package, and a function of its module of that name.
    text = f"{module}.{name}"
    known_module, known_spec, known = functions.setdefault(
        text, (module, spec, function)
    )
    if known_module != module or (known_spec is spec and known is not function):
        why = "has the name of another function that is cached here"
        if inspect.unwrap(function) is inspect.unwrap(known):
            why = (
                "is cached here already, in another wrapper: a factory of apps that"
                " wraps it makes one at each call. Wrap it once, outside of the factory"
                ", if the wrappers do the same; if not"
            )
        raise TypeError(
            f"{_shown(function)} of {module} {why}, they would share their entries:"
            " give @cached a key= of your own, which makes the key from the arguments"
            " of a call, as in key=lambda user_id: f'user:{user_id}'"
        )
    functions[text] = module, spec, function


def _shown(function: Callable[..., Any]) -> str:
    name: str = getattr(function, "__qualname__", type(function).__name__)
    return name


def text_of(value: object) -> str:
    """Text that only this value of this type has, and that says where it ends.

    With escapes: which characters ``repr`` shows depends on the version of Python.
    """
    kind = type(value)
    if kind in _PLAIN:
        return ascii(value)
    if isinstance(value, datetime.datetime) and kind is datetime.datetime:
        if value.tzinfo is not None:
            _check_zone(value.tzinfo)
        return ascii(value)
    if isinstance(value, tuple) and kind is tuple:
        texts = ", ".join(map(text_of, value))
        return f"({texts},)" if len(value) == 1 else f"({texts})"
    if isinstance(value, enum.Enum):
        # Not ``name``: a class may have its own, the same for two members.
        name: str | None = value._name_
        # Flags that were joined have no name before Python 3.11.
        member = f"({ascii(value._value_)})" if name is None else f"[{ascii(name)}]"
        return _named(kind) + member
    if isinstance(value, type):
        return _named(value)
    own = getattr(value, "cache_key", None)
    if isinstance(own, str):
        return f"{_named(kind)}({ascii(str.__str__(own))})"
    raise TypeError(
        f"it is {kind.__name__}, which has no text of its own, and no cache_key, a text"
        " that tells its objects apart"
    )


def _word(name: str) -> str:
    """The name of an argument; a call with ``**`` may give it any."""
    return name if name.isidentifier() and name.isascii() else ascii(name)


def _named(kind: type) -> str:
    """The name of a class, if it is the only one with this name.

    :raises TypeError: it is not.
    """
    module, name = kind.__module__, kind.__qualname__
    found: Any = None if module in _PROGRAMS else sys.modules.get(module)
    for part in name.split("."):
        # No other name says where it ends.
        found = getattr(found, part, None) if part.isidentifier() else None
    if found is not kind:
        raise TypeError(
            f"its class {module}.{name} cannot be found by this name, so that other"
            " classes may have the same one"
        )
    return f"{module}.{name}"


def _check_zone(zone: datetime.tzinfo) -> None:
    """Raise unless the text of an aware datetime tells its time zone from others.

    ``datetime.timezone`` and ``zoneinfo`` say all there is. The text of another class
    may be the same for two zones, or hold an address that is used again.
    """
    if type(zone) is datetime.timezone:
        return
    zoneinfo = sys.modules.get("zoneinfo")
    if zoneinfo is not None and type(zone) is zoneinfo.ZoneInfo:
        try:
            # Refused for a zone that was read from a file of the caller's.
            zone.__reduce__()
            return
        except pickle.PicklingError:
            pass
    raise TypeError(
        f"its time zone is a {type(zone).__name__}, whose text may be that of another"
        " zone; use datetime.timezone or zoneinfo.ZoneInfo"
    )
