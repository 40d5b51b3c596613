"""Readers whose loader reads a replica, which lags, and which may be promoted.

The primary has a log of commits and heartbeats. Each replica applies it in order, any
time later. A reader hears a heartbeat on a server, looks up the token, loads on that
server, and stores the value if the token was stamped before the moment it has heard.
Or it has heard nothing but a bound of the lag.

Moments are the number of commits and promotions so far: of a stamp and a heartbeat it
only matters which commits came before. A commit is numbered by its moment, and a value
by the last commit that it has. So a promotion that loses commits leaves a gap.

One reader is enough: a fill is wrong by itself, whatever others do meanwhile. Writes of
the token are messages in flight as in ``in_flight``. All that expect the token which is
there, a stamp for a placeholder included, may be late; the oldest is kept. Nothing is
stored under a placeholder before it has a stamp.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Iterator, NamedTuple, Optional, Tuple

#: The stamp of a placeholder: later than every moment.
LATER = 1 << 20

BEFORE, PENDING, SENT, APPLIED, PUBLISHED, GONE = range(6)

#: In place of a commit's number, of the row of a flush.
FLUSH = -1

#: An entry of the primary's log: a commit's number, or what a heartbeat says.
Logged = Tuple[str, int]
COMMIT, BEAT = "commit", "beat"

#: Where a reader is: the primary, the one before it; else the number of a replica.
PRIMARY, FORMER = -1, -2


class Row(NamedTuple):
    """A commit with its row, or the row of a flush."""

    at: int = BEFORE
    number: int = 0
    stamp: int = 0


class Replica(NamedTuple):
    """What a replica shows, and what it has yet to apply.

    :ivar version: the last commit that it shows with all before it.
    :ivar beat: the heartbeat that it shows.
    :ivar follows: it has nothing that the primary has lost.
    """

    version: int = 0
    beat: int = 0
    ahead: tuple[Logged, ...] = ()
    follows: bool = True


class Reader(NamedTuple):
    """A transaction of a reader.

    :ivar server: where it reads; None until it has heard or loaded.
    :ivar since: the moment that it has heard.
    :ivar snapshot: the version that it saw then; it may go on to see just that.
    :ivar stamp: that of the token which it has looked up, and which is there still.
    :ivar version: what it has loaded.
    """

    server: Optional[int] = None
    since: Optional[int] = None
    snapshot: Optional[int] = None
    stamp: Optional[int] = None
    version: Optional[int] = None


class Moment(NamedTuple):
    """Everything, at one moment.

    :ivar moment: how many commits and promotions there were.
    :ivar committed, beat: what the primary's log ends with.
    :ivar shown: what a primary shows that has yet to apply what it has received.
    :ivar beating: a moment that a worker has read, for the heartbeat it writes.
    :ivar aged: the commits up to this number are older than the bound of the lag.
    :ivar lost: the first and the last moment of what a promotion has lost.
    :ivar slot, late: the token's stamp; that of the oldest message in flight.
    :ivar stored: the oldest version that may be stored under this token.
    :ivar ghost: a value of a lost commit may be.
    """

    moment: int
    committed: int
    beat: int
    published: int
    rows: tuple[Row, ...]
    replicas: tuple[Replica, ...]
    reader: Reader = Reader()
    shown: Optional[int] = None
    beating: Optional[int] = None
    aged: int = 0
    lost: Optional[tuple[int, int]] = None
    promoted: bool = False
    slot: Optional[int] = None
    late: Optional[int] = None
    stored: Optional[int] = None
    ghost: bool = False


@dataclass(frozen=True)
class Replicas:
    """Readers of replicas, with a switch for each rule.

    :ivar heard: a reader compares stamps with the moment that it has heard.
    :ivar heard_before_load: it hears before it loads.
    :ivar same_server: it loads where it has heard.
    :ivar in_order: replicas apply commits and heartbeats in the log's order.
    :ivar two_clocks: a heartbeat is the earlier of two clocks. The other one is ahead.
        Readers refuse it while it is ahead of theirs, with this rule and without.
    :ivar received_first: a promoted replica applies what it has received before it
        takes writes.
    :ivar keeps_commits: it has received all commits.
    :ivar flushed: what it has not received is judged after a flush.
    :ivar bound_holds: with ``read_lag``, no replica is behind by more.
    :ivar read_lag: a reader hears no heartbeat: it knows what is older than the bound.
    :ivar promotes: a replica may be promoted, once.
    """

    heard: bool = True
    heard_before_load: bool = True
    same_server: bool = True
    in_order: bool = True
    two_clocks: bool = True
    received_first: bool = True
    keeps_commits: bool = True
    flushed: bool = True
    bound_holds: bool = True
    read_lag: bool = False
    promotes: bool = False
    replicas: int = 1
    writers: int = 2

    def without(self, *rules: str) -> Replicas:
        return replace(self, **dict.fromkeys(rules, False))  # type: ignore[arg-type]

    def initial(self) -> Moment:
        rows = (Row(),) * self.writers
        return Moment(0, 0, 0, 0, rows, (Replica(),) * self.replicas)

    def steps(self, state: Moment) -> Iterator[tuple[str, Moment, str | None]]:
        for what, after in self._steps(state):
            yield what, after, None

    def _steps(self, state: Moment) -> Iterator[tuple[str, Moment]]:
        for place, row in enumerate(state.rows):
            if not place or row != state.rows[place - 1]:
                yield from self._carry(state, place, row)
        yield from self._token(state)
        if self.read_lag:
            yield from self._age(state)
        else:
            yield from self._beat(state)
        for place, replica in enumerate(state.replicas):
            for what, after in self._apply(replica):
                replicas = _put(state.replicas, place, after)
                what = f"replica {place + 1}: apply {what}"
                yield what, state._replace(replicas=replicas)
            if self.promotes and not state.promoted:
                yield from self._promote(state, place)
        if state.shown is not None:
            what = "the primary has applied what it had received"
            yield what, state._replace(shown=None)
        yield from self._read(state)

    # Writers and workers

    def _carry(
        self, state: Moment, place: int, row: Row
    ) -> Iterator[tuple[str, Moment]]:
        def at(after: Row) -> Moment:
            return state._replace(rows=_put(state.rows, place, after))

        who = (
            f"worker, row of v{row.number}" if row.number != FLUSH else "worker, flush"
        )
        if row.at == BEFORE:
            moment = state.moment + 1
            committed = at(Row(PENDING, moment))
            yield f"a writer: COMMIT v{moment}", _logged(
                committed._replace(moment=moment, committed=moment), (COMMIT, moment)
            )
        elif row.at == PENDING and state.slot is not None:
            sent = row._replace(at=SENT, stamp=state.moment)
            yield f"{who}: read the token, stamp, send", at(sent)
        elif row.at == SENT:
            applied = at(Row(APPLIED, row.number))
            yield f"{who}: arrives, acknowledged", _replaced(applied, row.stamp)
            again = at(Row(PENDING, row.number))
            yield f"{who}: no answer", _sent(again, row.stamp)
        elif row.at == APPLIED:
            published = max(state.published, row.number)
            done = Row(PUBLISHED, min(row.number, 0))
            yield f"{who}: mark published", at(done)._replace(published=published)
        elif row.at == PUBLISHED and state.slot is not None:
            yield "a late worker: send a token", _sent(state, state.moment)

    @staticmethod
    def _token(state: Moment) -> Iterator[tuple[str, Moment]]:
        if state.slot is None:
            yield "a placeholder arrives", _replaced(state, LATER)
            return
        yield "the token is evicted", _replaced(state, None)
        if state.late is not None:
            yield "a late token arrives", _replaced(state, state.late)
        if state.slot == LATER:
            yield "a reader: send a stamp for it", _sent(state, state.moment)

    def _beat(self, state: Moment) -> Iterator[tuple[str, Moment]]:
        if state.beating is None:
            moment = state.moment + (0 if self.two_clocks else 1)
            if moment > state.beat:
                yield f"heartbeat: read the clock, {moment}", state._replace(
                    beating=moment
                )
            return
        yield "heartbeat: its writer stops", state._replace(beating=None)
        beat = max(state.beat, state.beating)
        after = state._replace(beating=None, beat=beat)
        if beat > state.beat:
            after = _logged(after, (BEAT, beat))
            yield f"heartbeat: COMMIT, {beat}", after

    def _age(self, state: Moment) -> Iterator[tuple[str, Moment]]:
        aged = state.aged + 1
        behind = any((COMMIT, aged) in replica.ahead for replica in state.replicas)
        if aged <= state.moment and not (behind and self.bound_holds):
            yield f"v{aged} becomes older than the bound", state._replace(aged=aged)

    # Replicas

    def _apply(self, replica: Replica) -> Iterator[tuple[str, Replica]]:
        for place, (kind, number) in enumerate(replica.ahead):
            if place and (self.in_order or kind == COMMIT):
                continue
            ahead = replica.ahead[:place] + replica.ahead[place + 1 :]
            if kind == COMMIT:
                yield f"v{number}", replica._replace(version=number, ahead=ahead)
            else:
                yield f"the heartbeat {number}", replica._replace(
                    beat=number, ahead=ahead
                )

    def _promote(self, state: Moment, place: int) -> Iterator[tuple[str, Moment]]:
        ahead = state.replicas[place].ahead
        for received in range(len(ahead) + 1):
            lost = ahead[received:]
            if not lost or not self.keeps_commits:
                less = "".join(f" without {kind} {number}" for kind, number in lost)
                what = f"replica {place + 1} is promoted{less}"
                yield what, self._promoted(state, place, received)

    def _promoted(self, state: Moment, place: int, received: int) -> Moment:
        promoted = state.replicas[place]
        lost = len(promoted.ahead) - received
        version, beat = promoted.version, promoted.beat
        for kind, number in promoted.ahead[:received]:
            if kind == COMMIT:
                version = number
            else:
                beat = number
        shown = None
        if not self.received_first and promoted.version < version:
            shown = promoted.version
        moment = state.moment + 1
        rows = [
            Row(GONE) if version < row.number and row.at != PUBLISHED else row
            for row in state.rows
        ]
        lost_moments = None
        if version < state.committed:
            lost_moments = (version + 1, state.committed)
            if self.flushed:
                rows.append(Row(PENDING, FLUSH))
        others = [
            (
                other._replace(ahead=other.ahead[: len(other.ahead) - lost])
                if lost <= len(other.ahead)
                else other._replace(ahead=(), follows=False)
            )
            for other in state.replicas[:place] + state.replicas[place + 1 :]
        ]
        reader = state.reader
        if reader.server == place:
            reader = reader._replace(server=PRIMARY)
        elif reader.server == PRIMARY:
            reader = reader._replace(server=FORMER)
        elif reader.server is not None and reader.server > place:
            reader = reader._replace(server=reader.server - 1)
        return state._replace(
            moment=moment,
            committed=version,
            beat=beat,
            # A worker writes on, at the new one; the former one takes no writes.
            beating=None,
            published=min(state.published, version),
            rows=tuple(rows),
            replicas=tuple(others),
            reader=reader,
            shown=shown,
            lost=lost_moments,
            promoted=True,
            ghost=self._is_ghost(state.stored, lost_moments),
        )

    @staticmethod
    def _is_ghost(version: int | None, lost: tuple[int, int] | None) -> bool:
        return (
            version is not None and lost is not None and (lost[0] <= version <= lost[1])
        )

    # Reading

    def _read(self, state: Moment) -> Iterator[tuple[str, Moment]]:
        reader = state.reader
        servers = {number: each for number, each in enumerate(state.replicas)}
        shown = state.committed if state.shown is None else state.shown
        servers[PRIMARY] = Replica(shown, state.beat)

        def at(**changes: Any) -> Moment:
            return state._replace(reader=reader._replace(**changes))

        if reader != Reader():
            yield "reader: end the transaction", state._replace(reader=Reader())
        needs_loaded = not self.heard_before_load
        if self.heard and reader.since is None:
            if needs_loaded == (reader.version is not None):
                for where, server in servers.items():
                    if reader.server in (None, where):
                        since = state.aged if self.read_lag else server.beat
                        if since > state.moment:
                            # It is ahead of this host's clock.
                            continue
                        yield f"reader: hear {since} on {_name(where)}", at(
                            server=None if self.read_lag else where,
                            since=since,
                            snapshot=None if self.read_lag else server.version,
                        )
        if reader.stamp is None and state.slot not in (None, LATER):
            yield "reader: look up: miss", at(stamp=state.slot)
        if reader.stamp is None:
            return
        if reader.version is None:
            if not self.heard or needs_loaded or reader.since is not None:
                yield from self._load(reader, servers, at)
        elif not self.heard or (
            reader.since is not None and reader.stamp <= reader.since
        ):
            version, stored = reader.version, state.stored
            yield f"reader: store v{version}", at(
                server=None, since=None, snapshot=None, stamp=None, version=None
            )._replace(
                stored=version if stored is None else min(stored, version),
                ghost=state.ghost or self._is_ghost(version, state.lost),
            )

    def _load(
        self, reader: Reader, servers: dict[int, Replica], at: Any
    ) -> Iterator[tuple[str, Moment]]:
        if reader.snapshot is not None:
            version = reader.snapshot
            yield f"reader: load v{version} in its snapshot", at(version=version)
        for where, server in servers.items():
            if reader.server in (None, where) or not self.same_server:
                version = server.version
                yield f"reader: load v{version} on {_name(where)}", at(
                    server=where, version=version
                )

    # What must hold

    def broken(self, state: Moment) -> str | None:
        if state.stored is not None and state.stored < state.published:
            return f"P3: v{state.stored} is served, v{state.published} is published"
        if state.ghost and (not self.flushed or Row(PUBLISHED, FLUSH) in state.rows):
            return "P3: a value is served that the database has lost"
        return None

    def canonical(self, state: Moment) -> Moment:
        return state._replace(rows=tuple(sorted(state.rows)))

    def describe(self, state: Moment) -> str:
        token = "placeholder" if state.slot == LATER else f"of {state.slot}"
        replicas = ", ".join(
            f"v{each.version} heartbeat {each.beat}" for each in state.replicas
        )
        return (
            f"primary v{state.committed} heartbeat {state.beat}"
            f"  published v{state.published}  replicas {replicas}"
            f"  token {'-' if state.slot is None else token}"
            f"  oldest entry {'-' if state.stored is None else f'v{state.stored}'}"
        )


def _logged(state: Moment, entry: Logged) -> Moment:
    replicas = tuple(
        each._replace(ahead=(*each.ahead, entry)) if each.follows else each
        for each in state.replicas
    )
    return state._replace(replicas=replicas)


def _sent(state: Moment, stamp: int) -> Moment:
    """Send a token that expects what is there now, and give up."""
    late = stamp if state.late is None else min(state.late, stamp)
    return state._replace(late=late)


def _replaced(state: Moment, token: int | None) -> Moment:
    """Change the token: what expected another one has come too late."""
    rows = tuple(
        Row(PENDING, row.number) if row.at == SENT else row for row in state.rows
    )
    reader = state.reader
    if reader.stamp is not None:
        reader = reader._replace(stamp=None, version=None)
    return state._replace(
        slot=token, late=None, rows=rows, reader=reader, stored=None, ghost=False
    )


def _name(server: int) -> str:
    return "the primary" if server == PRIMARY else f"replica {server + 1}"


def _put(items: tuple[Any, ...], index: int, item: Any) -> tuple[Any, ...]:
    return items[:index] + (item,) + items[index + 1 :]
