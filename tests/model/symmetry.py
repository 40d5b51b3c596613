"""The one state that stands for all that differ in names only.

Sound, because nothing looks at a name but to compare it: tokens are renamed in the
order in which they appear, alike readers and writers are sorted, moments are moved to
begin with 0, and two moments further apart than any rule looks are put just so far
apart. A poorer choice of representative would cost states, never a missed one.
"""

from __future__ import annotations

from itertools import permutations
from typing import Any, Iterable

from .state import LATER, LIVE, Reader, State, Token

_LAST = 1 << 30


def canonical(protocol: Any, state: State) -> State:
    """Rename, sort, and move in time."""
    if protocol.timed:
        state = _moved(protocol, state)
    names: dict[int | None, int | None] = {None: None}

    def name(old: int | None) -> int | None:
        # Row ids and counters are negative: what they are matters.
        if old is None or old < 0:
            return old
        new = names.get(old)
        if new is None:
            new = names[old] = len(names)
        return new

    def token(old: Any) -> Any:
        return (old[0], name(old[1]), old[2]) if old and old[1] else old

    slots = tuple(map(token, state.slots))
    sent = tuple(map(token, state.sent))
    entry = state.entry
    if entry is not None:
        entry = (entry[0], tuple(map(name, entry[1])))

    def rank(reader: Reader) -> tuple[Any, ...]:
        tokens = tuple(
            (one[0], names.get(one[1], _LAST), one[2]) if one else ("", one == 0, 0)
            for one in reader.tokens
        )
        read: tuple[Any, ...] = ()
        if reader.entry is not None:
            read = (
                reader.entry[0],
                *(names.get(n, _LAST) or 0 for n in reader.entry[1]),
            )
        where = reader.at, reader.floor, reader.snapshot or (), reader.version
        return *where, reader.fills, tokens, read

    def named(order: Iterable[Reader]) -> tuple[Reader, ...]:
        readers = []
        for reader in order:
            if reader.tokens:
                tokens = tuple(map(token, reader.tokens))
                read = reader.entry
                if read is not None:
                    read = (read[0], tuple(map(name, read[1])))
                reader = reader._replace(tokens=tokens, entry=read)
            readers.append(reader)
        return tuple(readers)

    order = sorted(state.readers, key=rank)
    ranks = [rank(reader) for reader in order]
    if all(one != other for one, other in zip(ranks, ranks[1:])):
        readers = named(order)
    else:
        # Some differ in names alone: the order that gives the smallest is taken.
        known = dict(names)
        candidates = []
        for other in permutations(order):
            if [rank(reader) for reader in other] == ranks:
                names.clear()
                names.update(known)
                candidates.append(named(other))
        readers = min(candidates, key=repr)
    return State(
        state.now,
        state.committed,
        state.published,
        entry,
        slots,
        sent,
        state.late,
        state.fills,
        readers,
        tuple(sorted(state.writers)),
    )


def _moved(protocol: Any, state: State) -> State:
    horizon = protocol.horizon
    oldest = state.now
    for reader in state.readers:
        if reader.snapshot is not None and reader.snapshot[0] < oldest:
            oldest = reader.snapshot[0]
    oldest -= horizon
    moments = {state.now}
    for one in state.slots + state.sent:
        if one is not None and one[2]:
            moments.add(one[2])
    for reader in state.readers:
        if reader.snapshot is not None:
            moments.add(reader.snapshot[0])
        for one in reader.tokens:
            if one and one[0] == LIVE and one[2]:
                moments.add(one[2])
    for writer in state.writers:
        if writer.moment:
            moments.add(writer.moment)
    moments.update(stamp for stamp in state.late if stamp)
    moments.discard(LATER)
    places: dict[int, int] = {}
    place, before = 1, None
    for moment in sorted(moments):
        if moment < oldest:
            places[moment] = place
            continue
        if before is None:
            place += 0 if moment <= oldest else min(moment - oldest, horizon)
        else:
            place += min(moment - before, horizon)
        places[moment] = place
        before = moment
    places[LATER] = LATER

    def moved(one: Token | Any) -> Any:
        # 0 is no moment.
        return (one[0], one[1], places.get(one[2], 0)) if one and one[2] else one

    readers = []
    for reader in state.readers:
        snapshot = reader.snapshot
        if snapshot is not None:
            snapshot = (places[snapshot[0]], snapshot[1])
        readers.append(
            reader._replace(snapshot=snapshot, tokens=tuple(map(moved, reader.tokens)))
        )
    writers = [
        writer._replace(moment=places[writer.moment]) if writer.moment else writer
        for writer in state.writers
    ]
    return state._replace(
        now=places[state.now],
        slots=tuple(map(moved, state.slots)),
        sent=tuple(map(moved, state.sent)),
        late=tuple(stamp and places[stamp] for stamp in state.late),
        readers=tuple(readers),
        writers=tuple(writers),
    )
