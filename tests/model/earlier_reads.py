"""What one request has read goes into an entry that it stores afterwards.

The request begins, reads a row or gets the value of entry 1 as a hit, and then loads
entry 2, whose value is made of that. What it has read may lack a commit whose tokens
are on their way: stamped before the request began, perhaps, and held up for any time.
Under which tokens may entry 2 be stored?

Writes of tokens are messages in flight as in ``in_flight``, and fresh readers are left
out in the same way: ``stored`` is the oldest version that each entry can have under the
tokens that are there. The guard only asks whether a token was stamped before the
request began, so a stamp is just that: all are ``EARLIER`` when one begins. One request
follows another; one that has not begun yet is as good as any number.

A lookup of several nodes is one step here. The tokens of a hit are those of its entry,
and none comes back: it is as if all were read when the first one was. A fill under
tokens of which one was replaced before the last was read serves nobody.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Iterator, NamedTuple, Optional

#: When a token was stamped. A placeholder has no stamp yet.
EARLIER, MEANWHILE, UNSTAMPED = 0, 1, 2

#: Nothing can have been stored under the tokens that are there.
NOTHING = -1

#: Of a token that this process knows: found before the request began, or in it.
BEFORE, WITHIN = "before", "within"


class Row(NamedTuple):
    """A commit, and the rows of its outbox.

    :ivar left: slots without an acknowledgement, and the stamp of what was sent there.
    :ivar round: how often all of its slots have been acknowledged.
    """

    version: int = 0
    left: tuple[tuple[int, Optional[int]], ...] = ()
    published: bool = False
    round: int = 0


class Request(NamedTuple):
    """What the request has read.

    :ivar value: the version of it, None for nothing yet.
    :ivar hit: it was a hit of entry 1, not a row.
    :ivar seen: for each slot whether the token of the hit is still the one there; None
        where the hit did not rest on it.
    :ivar under: whether the tokens are there that a loader's entry 2 was looked up
        under; None before.
    """

    value: Optional[int] = None
    hit: bool = False
    seen: tuple[Optional[bool], ...] = ()
    under: Optional[bool] = None


class Moment(NamedTuple):
    """Everything, at one moment.

    :ivar slots: the stamp of each token, None where there is none.
    :ivar late: for each slot the oldest stamp of an apply that its sender gave up.
    :ivar late_stamps: ... and of a stamp for the placeholder that is there.
    :ivar known: for each slot when this process has found the token that is there.
    :ivar stored: for each entry the oldest version that it can have.
    """

    committed: int
    published: int
    slots: tuple[Optional[int], ...]
    late: tuple[Optional[int], ...]
    late_stamps: tuple[Optional[int], ...]
    known: tuple[Optional[str], ...]
    stored: tuple[int, int]
    rows: tuple[Row, ...]
    request: Optional[Request] = None


@dataclass(frozen=True)
class EarlierReads:
    """Requests that store what they have read, with a switch for each rule.

    :ivar entries: the slots that each of the two entries rests on.
    :ivar writers: for each the slots that it invalidates.
    :ivar hits: what a request reads may be a hit. A row else.
    :ivar compared: a token that the request has seen as another one refuses the fill.
    :ivar row_is_aged: under tokens alone that were stamped before the request began.
    :ivar hit_is_aged: ... also where it has read nothing but hits.
    :ivar known_before: a token needs no stamp that was found before the request began;
        it is not enough that it was found in it.
    :ivar known_is_there: ... and is there still.
    :ivar twice: a row's slots are the copies of one token, and when all of them have
        acknowledged a first replacement they are replaced once more.
    :ivar nested: the read is a loader's: entry 2 is looked up before it. Such a load
        counts as fresh.
    :ivar eager: whoever may stamp and send does so at once, and sends another that is
        given up, as in ``in_flight``. A later stamp would allow less.
    """

    compared: bool = True
    row_is_aged: bool = True
    hit_is_aged: bool = True
    known_before: bool = True
    known_is_there: bool = True
    entries: tuple[tuple[int, ...], tuple[int, ...]] = ((0,), (0,))
    writers: tuple[tuple[int, ...], ...] = ((0,), (0,))
    hits: bool = True
    rows: bool = True
    twice: bool = False
    nested: bool = False
    eager: bool = False

    def without(self, *rules: str) -> EarlierReads:
        return replace(self, **dict.fromkeys(rules, False))  # type: ignore[arg-type]

    def initial(self) -> Moment:
        nothing = (None,) * (1 + max(slot for tags in self.writers for slot in tags))
        rows = (Row(),) * len(self.writers)
        return Moment(
            0, 0, nothing, nothing, nothing, nothing, (NOTHING, NOTHING), rows
        )

    def steps(self, state: Moment) -> Iterator[tuple[str, Moment, str | None]]:
        for what, after in self._steps(state):
            if self.eager:
                after = self._with_all_sent(after)
            yield what, self._with_fills(after), None

    def _steps(self, state: Moment) -> Iterator[tuple[str, Moment]]:
        for number, row in enumerate(state.rows):
            yield from self._carry(state, number, row)
        for slot, token in enumerate(state.slots):
            yield from self._arrivals(state, slot)
            if token is not None:
                yield f"the token of tag {slot + 1} is evicted", self._put(
                    state, slot, None
                )
                yield f"this process finds the token of tag {slot + 1}", (
                    self._found(state, (slot,))
                )
        yield from self._requests(state)

    def _carry(
        self, state: Moment, number: int, row: Row
    ) -> Iterator[tuple[str, Moment]]:
        def at(**changes: Any) -> Moment:
            rows = _put(state.rows, number, row._replace(**changes))
            return state._replace(rows=rows)

        tags = self.writers[number]
        if not row.version:
            version = state.committed + 1
            left = tuple((slot, None) for slot in tags)
            yield f"writer {number + 1}: COMMIT v{version}", at(
                version=version, left=left
            )._replace(committed=version)
            return
        who = f"worker, rows of v{row.version}"
        if row.published:
            for slot in tags:
                yield f"{who}: once more, late, tag {slot + 1}", _sent(
                    state, slot, MEANWHILE
                )
            return
        if not row.left and self.twice and not row.round:
            again = tuple((slot, None) for slot in tags)
            yield f"{who}: once more, all copies", at(left=again, round=1)
        elif not row.left:
            yield f"{who}: mark published", at(published=True)._replace(
                published=max(state.published, row.version)
            )
        for place, (slot, stamp) in enumerate(row.left):
            tag = f"tag {slot + 1}"
            if stamp is None:
                if state.slots[slot] is not None:
                    sent = _put(row.left, place, (slot, MEANWHILE))
                    yield f"{who}: read {tag}, stamp, send", at(left=sent)
                continue
            left = row.left[:place] + row.left[place + 1 :]
            yield f"{who}: {tag} arrives, acknowledged", self._put(
                at(left=left), slot, stamp
            )
            again = at(left=_put(row.left, place, (slot, None)))
            yield f"{who}: no answer for {tag}", _sent(again, slot, stamp)

    def _arrivals(self, state: Moment, slot: int) -> Iterator[tuple[str, Moment]]:
        tag, stamp = f"tag {slot + 1}", state.late[slot]
        if state.slots[slot] is None:
            yield f"a placeholder for {tag} arrives", self._put(state, slot, UNSTAMPED)
            return
        if stamp is not None:
            yield f"a late apply arrives at {tag}", self._put(state, slot, stamp)
        if state.slots[slot] != UNSTAMPED:
            return
        stamps = [MEANWHILE]
        stamp = state.late_stamps[slot]
        if stamp is None:
            late = _put(state.late_stamps, slot, MEANWHILE)
            yield f"a reader: stamp the placeholder of {tag}, send", state._replace(
                late_stamps=late
            )
        else:
            stamps.append(stamp)
        for stamp in stamps:
            # What expected the placeholder as it was has come too late.
            yield f"the stamp of {tag} arrives", self._put(
                state, slot, stamp, keeps_name=True
            )

    def _put(
        self, state: Moment, slot: int, token: int | None, keeps_name: bool = False
    ) -> Moment:
        """Change what a slot holds: what expected another token has come too late."""
        rows = tuple(
            row._replace(
                left=tuple((at, None if at == slot else sent) for at, sent in row.left)
            )
            for row in state.rows
        )
        state = state._replace(
            slots=_put(state.slots, slot, token),
            late=_put(state.late, slot, None),
            late_stamps=_put(state.late_stamps, slot, None),
            rows=rows,
        )
        if keeps_name:
            return state
        request = state.request
        if request is not None and request.seen and request.seen[slot]:
            request = request._replace(seen=_put(request.seen, slot, False))
        if request is not None and request.under and slot in self.entries[1]:
            request = request._replace(under=False)
        known = _put(state.known, slot, None) if self.known_is_there else state.known
        stored = tuple(
            NOTHING if slot in entry else oldest
            for entry, oldest in zip(self.entries, state.stored)
        )
        return state._replace(known=known, stored=stored, request=request)

    @staticmethod
    def _found(state: Moment, slots: tuple[int, ...]) -> Moment:
        known = state.known
        for slot in slots:
            if known[slot] is None:
                known = _put(known, slot, BEFORE if state.request is None else WITHIN)
        return state._replace(known=known)

    def _requests(self, state: Moment) -> Iterator[tuple[str, Moment]]:
        request = state.request
        if request is None:
            yield "the request begins", _begun(state)
            return
        yield "the request ends", state._replace(
            request=None, known=tuple(found and BEFORE for found in state.known)
        )
        if self.nested and request.under is None:
            if all(state.slots[slot] is not None for slot in self.entries[1]):
                yield "a loader of the request begins: entry 2 is looked up", (
                    state._replace(request=request._replace(under=True))
                )
        elif request.value is None:
            if self.rows:
                read = request._replace(value=state.committed)
                yield f"the request reads a row of v{state.committed}", (
                    state._replace(request=read)
                )
            version = state.stored[0]
            if self.hits and version != NOTHING:
                seen = tuple(
                    True if slot in self.entries[0] else None
                    for slot in range(len(state.slots))
                )
                yield f"the request: hit, v{version}", state._replace(
                    request=Request(version, True, seen, request.under)
                )
        elif self.may_store(state, request):
            oldest = state.stored[1]
            if oldest == NOTHING or request.value < oldest:
                yield f"the request stores v{request.value} as entry 2", (
                    state._replace(stored=(state.stored[0], request.value))
                )

    def may_store(self, state: Moment, request: Request) -> bool:
        """Whether the value of ``request`` goes under the tokens that are there."""
        if self.nested:
            return bool(request.under)
        tags = self.entries[1]
        if any(state.slots[slot] is None for slot in tags):
            return False
        if self.compared and request.hit:
            if any(request.seen[slot] is False for slot in tags):
                return False
        if not (self.hit_is_aged if request.hit else self.row_is_aged):
            return True
        known = (BEFORE,) if self.known_before else (BEFORE, WITHIN)
        return all(
            state.slots[slot] == EARLIER or state.known[slot] in known for slot in tags
        )

    def _with_all_sent(self, state: Moment) -> Moment:
        """Let everybody who may send a token by now have sent one, and one in vain."""
        rows = []
        for row, tags in zip(state.rows, self.writers):
            if row.version:
                left = []
                for slot, stamp in row.left:
                    if stamp is None and state.slots[slot] is not None:
                        stamp = MEANWHILE
                    left.append((slot, stamp))
                row = row._replace(left=tuple(left))
                for slot in tags:
                    state = _sent(state, slot, MEANWHILE)
                for slot, stamp in left:
                    if stamp is not None:
                        state = _sent(state, slot, stamp)
            rows.append(row)
        late_stamps = tuple(
            MEANWHILE if token == UNSTAMPED and stamp is None else stamp
            for token, stamp in zip(state.slots, state.late_stamps)
        )
        return state._replace(rows=tuple(rows), late_stamps=late_stamps)

    def _with_fills(self, state: Moment) -> Moment:
        """Let every fresh reader that may store something by now have stored it."""
        stored = tuple(
            (
                state.committed
                if oldest == NOTHING
                and all(state.slots[slot] is not None for slot in entry)
                else oldest
            )
            for entry, oldest in zip(self.entries, state.stored)
        )
        return state._replace(stored=stored)

    def broken(self, state: Moment) -> str | None:
        for oldest in state.stored:
            if NOTHING < oldest < state.published:
                return f"P3: v{oldest} is served, v{state.published} is published"
        return None

    def canonical(self, state: Moment) -> Moment:
        return state

    def describe(self, state: Moment) -> str:
        names = {None: "-", EARLIER: "earlier", MEANWHILE: "new", UNSTAMPED: "no stamp"}
        tokens = ", ".join(names[token] for token in state.slots)
        late = ", ".join(names[stamp] for stamp in state.late)
        entries = ", ".join("-" if v == NOTHING else f"v{v}" for v in state.stored)
        return (
            f"database v{state.committed}  published v{state.published}"
            f"  tokens {tokens}  late {late}  oldest entries {entries}"
        )


def _begun(state: Moment) -> Moment:
    """All that was stamped until now was so before this request."""

    def earlier(stamp: int | None) -> int | None:
        return EARLIER if stamp == MEANWHILE else stamp

    rows = tuple(
        row._replace(left=tuple((slot, earlier(stamp)) for slot, stamp in row.left))
        for row in state.rows
    )
    return state._replace(
        slots=tuple(map(earlier, state.slots)),
        late=tuple(map(earlier, state.late)),
        late_stamps=tuple(map(earlier, state.late_stamps)),
        rows=rows,
        request=Request(),
    )


def _sent(state: Moment, slot: int, stamp: int) -> Moment:
    """Give up a message: that with the oldest stamp allows all that others do."""
    there = state.late[slot]
    if state.slots[slot] is None or (there is not None and there <= stamp):
        return state
    return state._replace(late=_put(state.late, slot, stamp))


def _put(items: tuple[Any, ...], index: int, item: Any) -> tuple[Any, ...]:
    return items[:index] + (item,) + items[index + 1 :]
