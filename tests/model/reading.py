"""The steps of a reader: ``TaggedCache.get_or_load``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Iterator

from .promises import floor, of_read, servable
from .state import (
    ADDED,
    IDLE,
    LATER,
    LIVE,
    LOADED,
    MISSED,
    READING,
    RESERVED,
    STAMPING,
    UNCOMMITTED,
    UNREAD,
    Reader,
    State,
    fresh,
    put_token,
    sent_late,
)

if TYPE_CHECKING:
    from .protocol import Protocol, Step

#: A token that was made and was gone again, or that the node would not tell.
UNKNOWN = ("?", 0, 0)


def steps(protocol: Protocol, state: State, number: int) -> Iterator[Step]:
    """What reader ``number`` may do next."""
    reader = state.readers[number]
    for what, after, reader_after, complaint in _steps(protocol, state, reader):
        readers = state.readers[:number] + (reader_after,) + state.readers[number + 1 :]
        yield f"reader {number + 1}: {what}", after._replace(readers=readers), complaint


def _steps(protocol: Protocol, state: State, reader: Reader) -> Iterator[Any]:
    if reader.at == IDLE:
        yield from _snapshot(protocol, state, reader)
        yield from _look_up(protocol, state, reader)
    elif reader.at == READING:
        yield from _read_on(protocol, state, reader)
    elif reader.at == MISSED:
        yield from _add_missing(protocol, state, reader)
    elif reader.at == ADDED:
        yield from _read_back(state, reader)
    elif reader.at == RESERVED:
        yield from _stamp(protocol, state, reader)
        yield from _join(protocol, state, reader)
        yield from _load(protocol, state, reader)
    elif reader.at == STAMPING:
        yield from _tokens_after_load(state, reader)
    elif reader.at == LOADED:
        yield from _fill(protocol, state, reader)


def _snapshot(protocol: Protocol, state: State, reader: Reader) -> Iterator[Any]:
    """Begin and end a transaction that the loader will read in."""
    if not protocol.snapshots:
        return
    if reader.snapshot is None:
        begun = reader._replace(snapshot=(state.now, state.committed))
        yield f"begin a snapshot of v{state.committed}", state, begun, None
        return
    yield "end the transaction", state, reader._replace(snapshot=None), None
    if protocol.own_writes and reader.snapshot[1] != UNCOMMITTED:
        written = reader._replace(snapshot=(reader.snapshot[0], UNCOMMITTED))
        yield "write in the transaction", state, written, None


def _look_up(protocol: Protocol, state: State, reader: Reader) -> Iterator[Any]:
    """One multi-get of the entry and its tokens."""
    begun = reader._replace(floor=floor(protocol, state))
    if not protocol.one_by_one:
        yield from _looked_up(
            protocol, state, begun._replace(tokens=state.slots, entry=state.entry)
        )
        return
    unread = (UNREAD,) * protocol.tags
    begun = begun._replace(at=READING, tokens=unread, version=UNREAD)
    yield from _read_on(protocol, state, begun)


def _read_on(protocol: Protocol, state: State, reader: Reader) -> Iterator[Any]:
    # ``version`` says whether the entry has been read.
    if not reader.version:
        read = reader._replace(entry=state.entry, version=1)
        yield from _read_one(protocol, state, read, "the entry")
    for index, token in enumerate(reader.tokens):
        if token == UNREAD:
            read = reader._replace(
                tokens=_put(reader.tokens, index, state.slots[index])
            )
            yield from _read_one(protocol, state, read, f"the token of tag {index + 1}")


def _read_one(
    protocol: Protocol, state: State, reader: Reader, what: str
) -> Iterator[Any]:
    if not reader.version or UNREAD in reader.tokens:
        yield f"look up: read {what}", state, reader, None
        return
    for done, after, reader_after, complaint in _looked_up(
        protocol, state, reader._replace(version=0)
    ):
        yield f"read {what}, {done}", after, reader_after, complaint


def _looked_up(protocol: Protocol, state: State, reader: Reader) -> Iterator[Any]:
    entry, tokens = reader.entry, reader.tokens
    has_written = reader.snapshot is not None and reader.snapshot[1] == UNCOMMITTED
    reader = reader._replace(entry=None)
    if entry is not None and servable(protocol, entry, tokens):
        if not (has_written and protocol.rules.writers_do_not_read):
            version = entry[0]
            complaint = of_read(protocol, reader, version)
            yield f"look up: hit, v{version}", state, _idle(reader), complaint
            if protocol.refresh:
                kept = tokens if protocol.rules.refresh_under_hit else ()
                anew = reader._replace(at=RESERVED, tokens=kept)
                yield f"look up: hit, v{version}, refresh early", state, anew, complaint
            return
    if not protocol.rules.tokens_before_load:
        yield "look up: miss", state, reader._replace(at=RESERVED, tokens=()), None
        return
    if not protocol.rules.losers_validate and entry is not None:
        taken = of_read(protocol, reader, entry[0])
        yield "miss, wait for the lock, take the entry", state, _idle(reader), taken
    at = MISSED if None in tokens else RESERVED
    if at == MISSED and not protocol.rules.missing_equals_nothing:
        at = RESERVED
    yield "look up: miss", state, reader._replace(at=at), None


def _add_missing(protocol: Protocol, state: State, reader: Reader) -> Iterator[Any]:
    """``with_missing``: store a token where none is; another may have been faster."""
    index = reader.tokens.index(None)
    added = reader._replace(at=ADDED)
    if state.slots[index] is not None:
        yield f"add the token of tag {index + 1}: not stored", state, added, None
        return
    name = -1 if protocol.rules.token == "counter" else fresh(state)
    stamp = LATER if protocol.timed else 0
    if protocol.strict and not protocol.rules.made_is_cold:
        stamp = state.now - protocol.horizon
    token = (LIVE, name, stamp)
    after = put_token(state, index, token)
    if not protocol.rules.never_sent_twice and state.sent[index] is None:
        after = after._replace(sent=_put(state.sent, index, token))
    yield f"add the token of tag {index + 1}: stored", after, added, None


def _read_back(state: State, reader: Reader) -> Iterator[Any]:
    index = reader.tokens.index(None)
    there = state.slots[index]
    tokens = _put(reader.tokens, index, UNKNOWN if there is None else there)
    at = MISSED if None in tokens else RESERVED
    yield "read the token back", state, reader._replace(at=at, tokens=tokens), None


def _stamp(protocol: Protocol, state: State, reader: Reader) -> Iterator[Any]:
    """A load that looks at stamps gives a placeholder one, for the loads after it."""
    if not (protocol.strict or reader.snapshot is not None):
        return
    for index, (seen, token) in enumerate(zip(reader.tokens, state.slots)):
        if seen is not None and seen[2] == LATER and seen == token:
            stamped = put_token(state, index, (LIVE, seen[1], state.now))
            yield f"stamp the placeholder of tag {index + 1}", stamped, reader, None
            sent = sent_late(state, index, state.now)
            if protocol.faults.late and sent is not state:
                what = f"send a stamp for the placeholder of tag {index + 1}"
                yield what, sent, reader, None


def _join(protocol: Protocol, state: State, reader: Reader) -> Iterator[Any]:
    """Take what another's loader has read. (One not started is as good as our own.)"""
    if not protocol.flights:
        return
    if reader.snapshot is not None and reader.snapshot[1] == UNCOMMITTED:
        # It must see its own rows.
        return
    rules = protocol.rules
    for other in state.readers:
        if other.at != LOADED:
            continue
        if rules.since_leads_if_it_fills and other.snapshot is not None:
            # An entry of the same tokens would be a hit for this reader.
            if not other.fills:
                continue
        if rules.join_same_tokens and _names(reader.tokens) != _names(other.tokens):
            continue
        if rules.join_known_tokens and UNKNOWN in reader.tokens:
            continue
        if protocol.strict and rules.join_cold_unstarted:
            if _kinds(other.tokens, LIVE, all):
                warm = other.fills
                if not rules.join_judged_at_start:
                    warm = _all_warm(protocol, reader.tokens, state.now)
                if not warm:
                    continue
        complaint = of_read(protocol, reader, other.version)
        yield f"join a flight: v{other.version}", state, _idle(reader), complaint


def _load(protocol: Protocol, state: State, reader: Reader) -> Iterator[Any]:
    """The reservation is judged, and then the loader reads the database."""
    version = state.committed
    if reader.snapshot is not None:
        version = reader.snapshot[1]
    loaded = reader._replace(version=version)
    if not reader.tokens:
        yield f"load v{version}", state, loaded._replace(at=STAMPING), None
        return
    fills = _may_fill(protocol, state, reader)
    if not fills and not protocol.flights:
        yield "load, and store nothing", state, _idle(reader), None
        return
    tokens = reader.tokens
    if protocol.rules.cold_before_load or not protocol.strict:
        tokens = tuple(
            token if token is None else (token[0], token[1], 0) for token in tokens
        )
    loaded = loaded._replace(at=LOADED, tokens=tokens, fills=fills)
    yield f"load v{version}", state, loaded, None


def _may_fill(protocol: Protocol, state: State, reader: Reader) -> bool:
    rules = protocol.rules
    if rules.missing_equals_nothing and not _kinds(reader.tokens, LIVE, all):
        return False
    snapshot = reader.snapshot
    if snapshot is not None:
        if rules.writers_do_not_fill and snapshot[1] == UNCOMMITTED:
            return False
        if rules.guard and not _all_before(protocol, reader.tokens, snapshot[0]):
            return False
    if protocol.strict and rules.cold_before_load:
        began = state.now
        if snapshot is not None and rules.cold_before_snapshot:
            began = snapshot[0]
        return _all_warm(protocol, reader.tokens, began)
    return True


def _all_before(protocol: Protocol, tokens: tuple[Any, ...], since: int) -> bool:
    # ``stamp + clock_skew < since``, on clocks that may differ by the skew. The
    # stamps of the model are true: what the comparison lets pass at worst is said.
    rules = protocol.rules
    grace = (0 if rules.guard_skew else protocol.skew) + (not rules.guard_strictly)
    return all(token[2] < since + grace for token in tokens)


def _all_warm(protocol: Protocol, tokens: tuple[Any, ...], began: int) -> bool:
    """Whether every live one was made a hold-off before a snapshot that ``began``."""
    # Again at worst: the two clocks differ by the skew, to the bad side.
    age = protocol.hold_off - (0 if protocol.rules.cold_skew else protocol.skew)
    return all(began - token[2] >= age for token in tokens if token[0] == LIVE)


def _tokens_after_load(state: State, reader: Reader) -> Iterator[Any]:
    """What Symfony and others do: the entry is stamped when it is stored."""
    for index, token in enumerate(state.slots):
        if token is None:
            state = put_token(state, index, (LIVE, fresh(state), state.now))
    stamped = reader._replace(at=LOADED, tokens=state.slots, fills=True)
    yield "read the tokens", state, stamped, None


def _fill(protocol: Protocol, state: State, reader: Reader) -> Iterator[Any]:
    fills = reader.fills
    if protocol.strict and not protocol.rules.cold_before_load:
        if fills and not _all_warm(protocol, reader.tokens, state.now):
            # Looked at too late: at the fill, when the load has long begun.
            yield "give up the fill", state, _idle(reader), None
            return
    if not fills:
        yield "store nothing", state, _idle(reader), None
        return
    names = _names(reader.tokens)
    if protocol.late_writes and names == _names(state.slots):
        # Under other tokens it would never be served, whenever it arrives.
        fills = tuple(sorted({*state.fills, reader.version}))
        sent = state._replace(fills=fills)
        yield f"send a fill of v{reader.version}, no answer", sent, _idle(reader), None
    entry = reader.version, names
    filled = state._replace(entry=entry)
    yield f"fill v{reader.version}", filled, _idle(reader), None


def _idle(reader: Reader) -> Reader:
    return Reader(snapshot=reader.snapshot)


def _names(tokens: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(None if token is None else token[1] for token in tokens)


def _kinds(tokens: tuple[Any, ...], kind: str, quantity: Any = any) -> bool:
    return bool(quantity(token is not None and token[0] == kind for token in tokens))


def _put(items: tuple[Any, ...], index: int, item: Any) -> tuple[Any, ...]:
    return items[:index] + (item,) + items[index + 1 :]
