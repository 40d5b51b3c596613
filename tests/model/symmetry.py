"""The one state that stands for all that differ in names only.

Sound, because nothing looks at a name but to compare it: tokens are renamed in the
order in which they appear, alike readers and writers are sorted, moments are moved to
begin with 0, and two moments further apart than any rule looks are put just so far
apart. A poorer choice of representative would cost states, never a missed one.
"""

from __future__ import annotations

from itertools import permutations
from operator import itemgetter
from typing import Any, Callable, Iterable

from .state import LATER, LIVE, Reader, State, Token

_LAST = 1 << 30

#: What stands for no stamp, and for one that is later than every moment.
_NO_MOMENTS = {0, LATER}


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

    def named(order: Iterable[Reader]) -> tuple[Reader, ...]:
        readers = []
        for reader in order:
            if reader.tokens:
                tokens = tuple(map(token, reader.tokens))
                read = reader.entry
                if read is not None:
                    read = (read[0], tuple(map(name, read[1])))
                at, floor, snapshot, _, _, version, fills = reader
                reader = Reader(at, floor, snapshot, tokens, read, version, fills)
            readers.append(reader)
        return tuple(readers)

    return State(
        state.now,
        state.committed,
        state.published,
        entry,
        slots,
        sent,
        state.late,
        state.fills,
        _ordered(state.readers, names, named),
        tuple(sorted(state.writers)),
    )


def _ordered(
    readers: tuple[Reader, ...],
    names: dict[int | None, int | None],
    named: Callable[[Iterable[Reader]], tuple[Reader, ...]],
) -> tuple[Reader, ...]:
    """Sort and rename readers; ``names`` has those of what is in the store."""
    if len(readers) == 1:
        return named(readers)
    places = list(map(_place, readers))
    if len(set(places)) == len(places):
        return named([reader for _, reader in sorted(zip(places, readers))])

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
        return *_place(reader), tokens, read

    ranked = sorted(((rank(reader), reader) for reader in readers), key=itemgetter(0))
    ranks = [place for place, _ in ranked]
    if all(one != other for one, other in zip(ranks, ranks[1:])):
        return named([reader for _, reader in ranked])
    # Some differ in names alone: the order that gives the smallest is taken.
    known = dict(names)
    candidates = []
    for other in permutations(ranked):
        if [place for place, _ in other] == ranks:
            names.clear()
            names.update(known)
            candidates.append(named([reader for _, reader in other]))
    return min(candidates, key=repr)


def _place(reader: Reader) -> tuple[Any, ...]:
    """Where a reader is, without the tokens that it has read."""
    at, floor, snapshot, _, _, version, fills = reader
    return at, floor, snapshot or (), version, fills


def _moved(protocol: Any, state: State) -> State:
    horizon = protocol.horizon
    moments = {state.now}
    for reader in state.readers:
        if reader.snapshot is not None:
            moments.add(reader.snapshot[0])
    oldest = min(moments) - horizon
    for one in state.slots:
        if one is not None:
            moments.add(one[2])
    for one in state.sent:
        if one is not None:
            moments.add(one[2])
    for reader in state.readers:
        for one in reader.tokens:
            if one and one[0] == LIVE:
                moments.add(one[2])
    for writer in state.writers:
        moments.add(writer.moment)
    for stamp in state.late:
        if stamp:
            moments.add(stamp)
    moments -= _NO_MOMENTS
    places: dict[int, int] = {}
    place, before = 1, None
    for moment in sorted(moments):
        if moment >= oldest:
            if before is None:
                place += 0 if moment <= oldest else min(moment - oldest, horizon)
            else:
                place += min(moment - before, horizon)
            before = moment
        places[moment] = place
    if all(moment == place for moment, place in places.items()):
        return state
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
