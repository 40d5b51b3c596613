"""Writes of tokens as messages in flight, and any number of readers.

``protocol`` follows each reader through its steps, so it can afford few of them, and no
messages. Here the readers are left out: what they could store is worked out, for as
many as one likes, reading and loading at every moment. What remains is small enough
for three writers of two tokens with every message late.

A token is written in these steps, and its sender may stop between any two of them, die,
give up and begin again: read what is there (``gets``), take stamp and random part,
send. The message arrives at any later moment or never, also after its sender gave up.
Its acknowledgement counts if the sender still waits.

What keeps it finite, and loses nothing:

- A ``cas`` that expects what is no longer there, and never comes back, does nothing
  when it arrives. It is dropped, and its sender is where it begins again.
- So every message that is left expects what is there now, which need not be said. To
  have read what is there now is to be able to read it now; to have stamped is to have
  sent what leaves later. The random part is drawn at the arrival: not seen before.
- Of two late messages that expect the same, the one with the older stamp allows all
  that the other allows, and either is the end of the other. That one is kept.
- A placeholder says nothing of its sender or its moment. It may arrive whenever there
  is nothing, as if one had been sent for each moment.
- An entry's fills may arrive at any moment and any number of times. So what matters is
  the oldest value that could be: loaded by a fresh reader since these tokens are there,
  or in an old snapshot that the guard lets pass. That one is ``stored``.

Larger walks are ``eager``: whoever may read, stamp and send does so at once, and sends
another that is given up. A later stamp would allow less and change nothing else.

In default namespaces a stamp is only ever compared with when a snapshot began, and of
that it only matters which commits came before: so the stamp is the number of commits
there were. Strict namespaces count ticks.

One file, longer than others, since each step reads and changes the same few fields.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Iterator, NamedTuple, Optional, Tuple

from .rings import BACK, PHASES
from .rules import Faults, Rules

#: The stamp of a placeholder: later than every moment.
LATER = 1 << 20

#: What a message is: a ``set``; a ``cas`` of a new token; an ``add`` with a stamp; a
#: ``cas`` that stamps the placeholder it expects; a ``cas`` whose id came again.
SET, CAS, ADD, STAMP, AGAIN = "set", "cas", "add", "stamp", "cas of a former life"
_CONDITIONAL = (CAS, STAMP)

#: Where the write of one token is: not begun; stamped before it was read; sent, and its
#: sender waits; sent in vain, which the sender does not know yet.
Attempt = Tuple[str, int]
UNREAD, SENT, IN_VAIN = "unread", "sent", "in vain"
BEGIN: Attempt = ("begin", 0)

BEFORE, MARKING, MARKED, PENDING, CLAIMED, DONE = range(6)

#: Nothing can have been stored under the tokens that are there.
NOTHING = -1


class Row(NamedTuple):
    """A writer, and the row of its outbox.

    :ivar tags: the slots that it invalidates.
    :ivar left: slots without an acknowledgement, and where the write of each is.
    :ivar moment: when the quarantine began.
    """

    tags: tuple[int, ...]
    at: int = BEFORE
    left: tuple[tuple[int, Any], ...] = ()
    moment: int = 0
    version: int = 0


class Flying(NamedTuple):
    """Everything, at one moment.

    :ivar commits: when each version was committed, if that matters.
    :ivar slots: the stamp of each token, None where there is none.
    :ivar late: for each slot, messages whose sender no longer waits: kind and stamp.
    :ivar stored: for each entry the oldest version it can have under these tokens.
    :ivar phase, opened: of a change of rings; when readers began to use each.
    """

    now: int
    committed: int
    published: int
    commits: tuple[int, ...]
    slots: tuple[Any, ...]
    late: tuple[tuple[tuple[str, int], ...], ...]
    stored: tuple[int, ...]
    rows: tuple[Row, ...]
    phase: int = 0
    opened: tuple[int, ...] = ()


Step = Tuple[str, Flying, Optional[str]]


@dataclass(frozen=True)
class InFlight:
    """Writers, workers and messages.

    :ivar writers: for each the slots that it invalidates; each entry rests on one of
        them at least.
    :ivar entries: for each the slots that it rests on. Two that rest on one each are
        the copies of a namespace's token on two nodes, or two rings.
    :ivar snapshots: there are readers in old snapshots beside the fresh ones.
    :ivar rings: the list of servers changes, from slot 0 to slot 1 and back.
    :ivar eager: whoever may stamp and send does so at once: see above.
    :ivar keeps_name: a placeholder that is stamped keeps its random part.
    """

    rules: Rules = field(default_factory=Rules)
    faults: Faults = field(default_factory=Faults)
    writers: tuple[tuple[int, ...], ...] = ((0,), (0,))
    entries: tuple[tuple[int, ...], ...] = ((0,),)
    strict: bool = False
    snapshots: bool = True
    rings: bool = False
    eager: bool = False
    keeps_name: bool = True
    hold_off: int = 2

    def without(self, **rules: object) -> InFlight:
        """The same with rules taken away, or changed."""
        return replace(self, rules=replace(self.rules, **rules))  # type: ignore

    @property
    def places(self) -> int:
        return 1 + max(slot for entry in self.entries for slot in entry)

    def initial(self) -> Flying:
        """Nothing is cached, version 0 is in the database."""
        return Flying(
            now=1 if self.strict else 0,
            committed=0,
            published=0,
            commits=(),
            slots=(None,) * self.places,
            late=((),) * self.places,
            stored=(NOTHING,) * len(self.entries),
            rows=tuple(sorted(Row(tags) for tags in self.writers)),
            opened=(0,) * len(self.entries) if self.rings else (),
        )

    # Who may do what

    def steps(self, state: Flying) -> Iterator[Step]:
        """Everything that may happen next."""
        for what, after in self._steps(state):
            yield what, self._settled(after), None

    def _steps(self, state: Flying) -> Iterator[tuple[str, Flying]]:
        for number, row in enumerate(state.rows):
            if number and row == state.rows[number - 1]:
                continue
            if row.at in (BEFORE, MARKING, MARKED):
                yield from self._write(state, number, row)
            else:
                yield from self._carry(state, number, row)
        for slot in range(len(state.slots)):
            yield from self._readers(state, slot)
            yield from self._arrivals(state, slot)
        yield from self._events(state)

    def _write(
        self, state: Flying, number: int, row: Row
    ) -> Iterator[tuple[str, Flying]]:
        who = f"writer {number + 1}"
        if not self.strict:
            yield f"{who}: COMMIT v{state.committed + 1}", self._commit(state, number)
            return
        if row.at == BEFORE:
            left = tuple((slot, BEGIN) for slot in row.tags)
            row = row._replace(at=MARKING, left=left, moment=state.now)
        elif self.faults.rollback:
            gone = self._given_up(state, row)
            yield f"{who}: roll back, or die", _put_row(gone, number, Row((), DONE))
        if row.at == MARKING:
            yield from self._send(state, number, row, f"{who}: quarantine")
        elif state.now - row.moment < self.hold_off:
            yield f"{who}: COMMIT v{state.committed + 1}", self._commit(state, number)

    def _commit(self, state: Flying, number: int) -> Flying:
        row = state.rows[number]
        version = state.committed + 1
        commits = state.commits
        if self.strict and self.snapshots:
            commits += (state.now,)
        left = tuple((slot, BEGIN) for slot in row.tags)
        after = Row(row.tags, CLAIMED, left, 0, version)
        if self.rings:
            after = Row(row.tags, PENDING, (), 0, version)
        state = state._replace(committed=version, commits=commits)
        return _put_row(state, number, after)

    def _carry(
        self, state: Flying, number: int, row: Row
    ) -> Iterator[tuple[str, Flying]]:
        who = f"worker, row of v{row.version}"
        if row.at == PENDING:
            for rings in self._phase(state)[1]:
                left = tuple((slot, BEGIN) for slot in rings)
                names = " and ".join("AB"[ring] for ring in rings)
                claimed = row._replace(at=CLAIMED, left=left)
                yield f"{who}: claim, to apply to {names}", _put_row(
                    state, number, claimed
                )
        elif row.at == CLAIMED:
            yield from self._send(state, number, row, f"{who}: apply")
            if not row.left:
                published = max(state.published, row.version)
                done = Row(row.tags, DONE, (), 0, 1)
                yield f"{who}: mark published", _put_row(
                    state._replace(published=published), number, done
                )
        elif self.faults.duplicate and self.faults.late and row.version:
            kind = CAS if self.rules.replaced_by_cas else SET
            for slot in row.tags:
                if kind == SET or state.slots[slot] is not None:
                    yield f"a late worker: send a token of tag {slot + 1}", self._sent(
                        state, slot, (kind, self._stamp(state))
                    )

    def _send(
        self, state: Flying, number: int, row: Row, who: str
    ) -> Iterator[tuple[str, Flying]]:
        """The steps of one write of a token: of a quarantine, an apply or a flush."""
        rules, faults = self.rules, self.faults
        for place, (slot, attempt) in enumerate(row.left):
            tag = f"tag {slot + 1}"

            def at(new: Attempt) -> Row:
                left = row.left[:place] + ((slot, new),) + row.left[place + 1 :]
                return row._replace(left=left)

            there = state.slots[slot] is not None
            conditional = rules.replaced_by_cas
            unread = conditional and not rules.stamp_after_read
            stamp = self._stamp(state)
            if attempt == BEGIN:
                if unread and (faults.late or faults.stops):
                    yield f"{who}: stamp {tag}", _put_row(
                        state, number, at((UNREAD, stamp))
                    )
                elif there or not conditional:
                    read = f"read {tag}, stamp" if conditional else f"stamp {tag}"
                    if faults.late or faults.stops:
                        yield f"{who}: {read}, send", _put_row(
                            state, number, at((SENT, stamp))
                        )
                    else:
                        yield f"{who}: {read}, store it, acknowledged", self._stored(
                            state, number, at((SENT, stamp)), slot, stamp
                        )
            elif attempt[0] == UNREAD:
                if there:
                    yield f"{who}: read {tag}, send", _put_row(
                        state, number, at((SENT, attempt[1]))
                    )
            elif attempt[0] == SENT:
                stamp = attempt[1]
                yield f"{who}: {tag} arrives, acknowledged", self._stored(
                    state, number, row, slot, stamp
                )
                if faults.late:
                    kind = CAS if conditional else SET
                    again = BEGIN if rules.new_stamp_each_try else (UNREAD, stamp)
                    if again != BEGIN and not conditional:
                        again = SENT, stamp
                    yield f"{who}: no answer for {tag}", self._sent(
                        _put_row(state, number, at(again)), slot, (kind, stamp)
                    )
            else:
                answer = "EXISTS" if there else "NOT_FOUND"
                counts = not (
                    rules.exists_is_no_ack if there else rules.not_found_is_no_ack
                )
                after = at(BEGIN)
                if counts:
                    after = self._acknowledged(row, slot)
                yield f"{who}: {answer} for {tag}", _put_row(state, number, after)

    def _stored(
        self, state: Flying, number: int, row: Row, slot: int, stamp: int
    ) -> Flying:
        """The message of the sender that waits has arrived."""
        state = _put_row(state, number, self._acknowledged(row, slot))
        return self._put(state, slot, stamp)

    def _acknowledged(self, row: Row, slot: int) -> Row:
        left = tuple(one for one in row.left if one[0] != slot)
        at = MARKED if row.at == MARKING and not left else row.at
        return row._replace(at=at, left=left)

    def _given_up(self, state: Flying, row: Row) -> Flying:
        """What ``row`` has sent is on its way still."""
        if self.faults.late or self.faults.stops:
            kind = CAS if self.rules.replaced_by_cas else SET
            for slot, attempt in row.left:
                if attempt[0] == SENT:
                    state = self._sent(state, slot, (kind, attempt[1]))
        return state

    def _readers(self, state: Flying, slot: int) -> Iterator[tuple[str, Flying]]:
        """What readers send for a token that is missing, or has no stamp."""
        rules, faults = self.rules, self.faults
        tag = f"tag {slot + 1}"
        token = state.slots[slot]
        stamp = self._stamp(state)
        if token is None:
            if rules.placeholder_has_no_stamp:
                yield f"a placeholder for {tag} arrives", self._put(state, slot, LATER)
            elif faults.late or faults.stops:
                yield f"a reader: stamp a token of {tag}, add it", self._sent(
                    state, slot, (ADD, stamp)
                )
            else:
                yield f"a reader: add a token of {tag}", self._put(state, slot, stamp)
        elif token == LATER and (self.strict or self.snapshots):
            kind = STAMP if rules.stamped_by_cas else SET
            if faults.late or faults.stops:
                yield f"a reader: read {tag}, stamp its placeholder, send", self._sent(
                    state, slot, (kind, stamp)
                )
            else:
                yield f"a reader: stamp the placeholder of {tag}", self._put(
                    state, slot, stamp, keeps_name=self.keeps_name
                )

    def _arrivals(self, state: Flying, slot: int) -> Iterator[tuple[str, Flying]]:
        for message in state.late[slot]:
            kind, stamp = message
            there = state.slots[slot]
            if kind != SET and (there is None) != (kind == ADD):
                continue
            after = state
            if kind != ADD:
                # Of these each reader may have sent one of the same moment.
                late = tuple(one for one in state.late[slot] if one != message)
                after = state._replace(late=_put(state.late, slot, late))
            yield f"a late {kind} arrives at tag {slot + 1}", self._put(
                after, slot, stamp, keeps_name=kind == STAMP and self.keeps_name
            )

    def _events(self, state: Flying) -> Iterator[tuple[str, Flying]]:
        faults = self.faults
        if self.strict:
            yield "a tick passes", state._replace(now=state.now + 1)
        if faults.evict:
            for slot, token in enumerate(state.slots):
                if token is not None:
                    yield f"the token of tag {slot + 1} is evicted", self._put(
                        state, slot, None
                    )
        if faults.restart and any(token is not None for token in state.slots):
            after = state
            for slot in range(len(state.slots)):
                former: list[tuple[str, int]] = []
                if not self.rules.cas_on_one_connection:
                    former = [(AGAIN, s) for k, s in state.late[slot] if k == CAS]
                    for row in state.rows:
                        former += [
                            (AGAIN, attempt[1])
                            for place, attempt in row.left
                            if place == slot and attempt[0] == SENT
                        ]
                after = self._put(after, slot, None)
                for message in former:
                    after = self._sent(after, slot, message)
            yield "the node restarts, empty", after
        if self.rings and state.phase + 1 < len(_PHASES):
            yield "the change of rings goes on", self._next_phase(state)

    # What it does

    def _stamp(self, state: Flying) -> int:
        return state.now if self.strict else state.committed

    @staticmethod
    def _sent(state: Flying, slot: int, message: tuple[str, int]) -> Flying:
        messages = {kind: stamp for kind, stamp in state.late[slot]}
        kind, stamp = message
        if messages.get(kind, LATER) <= stamp:
            # One with an older stamp is on its way, which allows all that this does.
            return state
        messages[kind] = stamp
        late = tuple(sorted(messages.items()))
        return state._replace(late=_put(state.late, slot, late))

    def _put(
        self, state: Flying, slot: int, token: int | None, keeps_name: bool = False
    ) -> Flying:
        """Change what a slot holds: what expected another token has come too late."""
        rules = self.rules
        late = tuple(one for one in state.late[slot] if one[0] not in _CONDITIONAL)
        rows = state.rows
        if rules.replaced_by_cas:
            rows = tuple(self._overtaken(row, slot) for row in rows)
        stored = state.stored
        if not keeps_name:
            stored = tuple(
                NOTHING if slot in entry else oldest
                for entry, oldest in zip(self.entries, stored)
            )
        return state._replace(
            slots=_put(state.slots, slot, token),
            late=_put(state.late, slot, late),
            rows=rows,
            stored=stored,
        )

    def _overtaken(self, row: Row, slot: int) -> Row:
        for place, (other, attempt) in enumerate(row.left):
            if other == slot and attempt[0] == SENT:
                rules = self.rules
                again = BEGIN
                if not rules.new_stamp_each_try:
                    again = UNREAD, attempt[1]
                elif not (rules.exists_is_no_ack and rules.not_found_is_no_ack):
                    again = IN_VAIN, 0
                left = row.left[:place] + ((slot, again),) + row.left[place + 1 :]
                return row._replace(left=left)
        return row

    def _settled(self, state: Flying) -> Flying:
        if self.eager:
            state = self._with_all_sent(state)
        return self._with_fills(state)

    def _with_all_sent(self, state: Flying) -> Flying:
        """Let everybody who may send a token by now have sent one, and one in vain."""
        stamp = self._stamp(state)
        rows = list(state.rows)
        for number, row in enumerate(rows):
            left = row.left
            for place, (slot, attempt) in enumerate(left):
                if state.slots[slot] is None:
                    continue
                if attempt == BEGIN:
                    attempt = SENT, stamp
                    left = _put(left, place, (slot, attempt))
                state = self._sent(state, slot, (CAS, attempt[1]))
            if left is not row.left:
                rows[number] = row._replace(left=left)
            if row.at == DONE and row.version and self.faults.duplicate:
                for slot in row.tags:
                    if state.slots[slot] is not None:
                        state = self._sent(state, slot, (CAS, stamp))
        if self.strict or self.snapshots:
            for slot, token in enumerate(state.slots):
                if token == LATER:
                    state = self._sent(state, slot, (STAMP, stamp))
        return state._replace(rows=tuple(rows))

    def _with_fills(self, state: Flying) -> Flying:
        """Let every reader that may store something by now have stored it."""
        stored = state.stored
        for number, (entry, oldest) in enumerate(zip(self.entries, stored)):
            tokens = [state.slots[slot] for slot in entry]
            if oldest == 0 or None in tokens:
                continue
            if self.rings and number not in self._phase(state)[0]:
                if oldest == NOTHING:
                    continue
            found = self._fillable(state, max(tokens), number)
            if found is not None and not 0 <= oldest <= found:
                stored = _put(stored, number, found)
        return state if stored is state.stored else state._replace(stored=stored)

    def _fillable(self, state: Flying, stamp: int, entry: int) -> int | None:
        """The oldest version that may be stored under tokens of ``stamp`` at most."""
        if not self.strict:
            version = state.committed
            if self.snapshots and stamp < version:
                # A snapshot is newer than a stamp taken before the commit after it.
                version = stamp
                if self.rings and version < state.opened[entry]:
                    version = state.opened[entry]
            return version
        for version, moment in enumerate(state.commits):
            # Version 0 was read until the first of ``commits``.
            if moment - stamp >= self.hold_off:
                return version
        return state.committed if state.now - stamp >= self.hold_off else None

    def _phase(self, state: Flying) -> Any:
        return _PHASES[state.phase]

    def _next_phase(self, state: Flying) -> Flying:
        before, after = _PHASES[state.phase][0], _PHASES[state.phase + 1][0]
        opened = state.opened
        for ring in set(after) - set(before):
            if state.phase >= len(PHASES):
                # Its id is another one this time, and none of the keys the same.
                state = self._put(state, ring, None)
                state = state._replace(late=_put(state.late, ring, ()))
            # Its readers are new processes, whose snapshots begin later.
            opened = _put(opened, ring, state.committed)
        return state._replace(phase=state.phase + 1, opened=opened)

    # What must hold

    def broken(self, state: Flying) -> str | None:
        """Name what is served now, or will be when it arrives, and must not be."""
        for number, oldest in enumerate(state.stored):
            if oldest == NOTHING:
                continue
            if self.rings and number not in self._phase(state)[0]:
                continue
            if oldest < state.published:
                return f"P3: v{oldest} is served, v{state.published} is published"
            if self.strict and oldest < state.committed:
                return f"P5: v{oldest} is served, v{state.committed} is committed"
        return None

    def canonical(self, state: Flying) -> Flying:
        """Sort the rows, and move moments together that are merely apart."""
        if self.strict:
            state = self._moved(state)
        return state._replace(rows=tuple(sorted(state.rows)))

    def _moved(self, state: Flying) -> Flying:
        moments = {state.now, *state.commits}
        moments.update(token for token in state.slots if token is not None)
        for messages in state.late:
            moments.update(stamp for _, stamp in messages)
        for row in state.rows:
            if row.moment:
                moments.add(row.moment)
            moments.update(attempt[1] for _, attempt in row.left)
        moments.discard(LATER)
        moments.discard(0)
        places: dict[Any, Any] = {0: 0, LATER: LATER, None: None}
        place, before = 1, 0
        for moment in sorted(moments):
            if before and (self.snapshots or before > state.now - self.hold_off):
                place += min(moment - before, self.hold_off)
            elif before and moment > state.now - self.hold_off:
                # Nothing but the age is looked at, and up to a hold-off.
                place += moment - (state.now - self.hold_off)
            places[moment] = place
            before = moment

        def moved(row: Row) -> Row:
            left = tuple(
                (slot, (attempt[0], places[attempt[1]])) for slot, attempt in row.left
            )
            moment = places[row.moment] if row.at in (MARKING, MARKED) else 0
            return row._replace(left=left, moment=moment)

        return state._replace(
            now=places[state.now],
            commits=tuple(places[moment] for moment in state.commits),
            slots=tuple(places[token] for token in state.slots),
            late=tuple(
                tuple(sorted((kind, places[stamp]) for kind, stamp in messages))
                for messages in state.late
            ),
            rows=tuple(map(moved, state.rows)),
        )

    def describe(self, state: Flying) -> str:
        """What is in the store, in the database and on its way, for a trace."""

        def shown(token: int | None) -> str:
            if token is None:
                return "-"
            return "placeholder" if token == LATER else f"of {token}"

        tokens = ", ".join(map(shown, state.slots))
        late = ", ".join(
            f"{kind} of {stamp}" for messages in state.late for kind, stamp in messages
        )
        entries = ", ".join(
            "-" if oldest == NOTHING else f"v{oldest}" for oldest in state.stored
        )
        clock = f"  clock {state.now}" if self.strict else ""
        return (
            f"database v{state.committed}  published v{state.published}"
            f"  tokens {tokens}  late {late or '-'}  oldest entry {entries}{clock}"
        )


_PHASES = PHASES + BACK


def _put_row(state: Flying, number: int, row: Row) -> Flying:
    return state._replace(rows=_put(state.rows, number, row))


def _put(items: tuple[Any, ...], index: int, item: Any) -> tuple[Any, ...]:
    return items[:index] + (item,) + items[index + 1 :]
