"""What must hold: P3 and P5 in every state, P4 and P5 in every read.

A state in which an old entry would be served is broken whether or not a reader of the
scenario comes by: so the two readers that are walked are two beside any number of
others that only look.
"""

from __future__ import annotations

from typing import Any

from .state import LIVE, UNCOMMITTED, Reader, State


def floor(protocol: Any, state: State) -> int:
    """The version that a read beginning now must not be given less than."""
    return state.committed if protocol.strict else state.published


def broken(protocol: Any, state: State) -> str | None:
    """Name what is served now and must not be."""
    entry = state.entry
    if entry is None or not servable(protocol, entry, state.slots):
        return None
    version = entry[0]
    if version == UNCOMMITTED:
        return "what a transaction has written and not committed is served to others"
    if version < state.published:
        return f"P3: v{version} is served, v{state.published} is published"
    if protocol.strict and version < state.committed:
        return f"P5: v{version} is served, v{state.committed} is committed"
    return None


def servable(protocol: Any, entry: Any, tokens: tuple[Any, ...]) -> bool:
    """Whether ``entry`` is a hit under ``tokens``."""
    rules = protocol.rules
    if not rules.compare_tokens:
        return True
    for token, name in zip(tokens, entry[1]):
        if token is None:
            if rules.missing_equals_nothing or name is not None:
                return False
        elif token[0] != LIVE or token[1] != name:
            return False
    return True


def of_read(protocol: Any, reader: Reader, version: int) -> str | None:
    """Name what is wrong with ``reader`` being given ``version``."""
    if reader.snapshot is not None and reader.snapshot[1] == UNCOMMITTED:
        return "a transaction that has written is given what was before"
    if version == UNCOMMITTED:
        return "a reader is given what a transaction has not committed"
    if version >= reader.floor:
        return None
    if protocol.strict:
        return f"P5: given v{version}, v{reader.floor} was committed before it began"
    return f"P4: given v{version}, v{reader.floor} was published before it began"
