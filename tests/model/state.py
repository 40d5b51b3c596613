"""What there is at one moment: the database, the node, and where everybody is.

Tokens are named by numbers in the order in which they appear, and moments are counted
from the oldest that still matters: a token is only ever compared with another for
equality, a moment with another by a bounded distance. So any number of evictions,
restarts, applies and reads comes to finitely many states, and the walk is over all of
them and not over those within some number of faults. Readers are alike, and so are
writers of the same tags: their order is of no account.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Optional, Tuple

#: A token: kind, name, and the moment of its stamp. A counter or a row id is LIVE as
#: well; the other kind is the reader's word for what it does not know.
Token = Tuple[str, int, int]
LIVE = "L"

#: The stamp of a placeholder: later than every moment.
LATER = 1 << 20

#: An entry: the version of its value, and the names of the tokens it rests on.
Entry = Tuple[int, Tuple[Any, ...]]


class Reader(NamedTuple):
    """A caller of ``get_or_load``, between two of its steps.

    :ivar at: IDLE, READING, MISSED, ADDED, RESERVED, STAMPING, LOADED.
    :ivar floor: the version that it must not be given less than.
    :ivar snapshot: when the snapshot began that it reads in, and its version; None for
        a fresh one at each load.
    :ivar tokens: as it has read them: None for missing, UNREAD for not yet.
    :ivar entry: as it has read it.
    :ivar version: what it has loaded.
    :ivar fills: whether it may store that.
    """

    at: str = "idle"
    floor: int = 0
    snapshot: Optional[Tuple[int, int]] = None
    tokens: Tuple[Any, ...] = ()
    entry: Any = None
    version: int = 0
    fills: bool = False


IDLE, READING, MISSED, ADDED = "idle", "reading", "missed", "added"
RESERVED, STAMPING, LOADED = "reserved", "stamping", "loaded"
UNREAD = 0

#: The version of what a transaction has written and not committed.
UNCOMMITTED = -1


class Writer(NamedTuple):
    """One change of the data, and the outbox row that goes with it.

    :ivar tags: the numbers of the tags it invalidates.
    :ivar at: BEFORE, MARKING, MARKED, COMMITTING, PENDING_ROW, DONE.
    :ivar left: tags not yet marked, or not yet acknowledged.
    :ivar moment: when it marked, or wrote.
    :ivar version: what its commit made the data.
    """

    tags: Tuple[int, ...]
    at: str = "before"
    left: Tuple[int, ...] = ()
    moment: int = 0
    version: int = 0


BEFORE, MARKING, MARKED, COMMITTING = "before", "marking", "marked", "committing"
PENDING_ROW, DONE = "pending row", "done"


class State(NamedTuple):
    """Everything, at one moment.

    :ivar now: the time.
    :ivar committed: version of the data.
    :ivar published: the highest version whose row is published.
    :ivar entry: the entry in the store.
    :ivar slots: the token of each tag in the store.
    :ivar sent: a placeholder sent for each tag; kept where copies may come late.
    :ivar late: for each tag the stamp of a message that may arrive there late, or None.
        It expects what is there now; of several that with the oldest stamp is kept,
        which allows all that the others allow.
    :ivar fills: versions of entries under these tokens that may arrive late.
    :ivar readers, writers: in no order that matters.
    """

    now: int
    committed: int
    published: int
    entry: Optional[Entry]
    slots: Tuple[Optional[Token], ...]
    sent: Tuple[Optional[Token], ...]
    late: Tuple[Optional[int], ...]
    fills: Tuple[int, ...]
    readers: Tuple[Reader, ...]
    writers: Tuple[Writer, ...]


def put_token(state: State, tag: int, token: Optional[Token]) -> State:
    """Change what a slot holds: what expected another token has come too late."""
    slots, late = state.slots, state.late
    there = slots[tag]
    same = token is not None and there is not None and token[1] == there[1]
    return state._replace(
        slots=slots[:tag] + (token,) + slots[tag + 1 :],
        late=late[:tag] + (None,) + late[tag + 1 :],
        fills=state.fills if same else (),
    )


def sent_late(state: State, tag: int, stamp: int) -> State:
    """Send a token that expects what is there now, and give up."""
    if state.slots[tag] is None or state.late[tag] is not None:
        return state
    return state._replace(late=state.late[:tag] + (stamp,) + state.late[tag + 1 :])


def fresh(state: State) -> int:
    """A name that no token in ``state`` has: what 64 random bits are."""
    used = 0
    for token in state.slots + state.sent:
        if token is not None and token[1] > used:
            used = token[1]
    if state.entry is not None:
        for name in state.entry[1]:
            if name is not None and name > used:
                used = name
    for reader in state.readers:
        for token in reader.tokens:
            if token and token[1] > used:
                used = token[1]
        if reader.entry is not None:
            for name in reader.entry[1]:
                if name is not None and name > used:
                    used = name
    return used + 1
