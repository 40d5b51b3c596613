"""What is walked, and what must come of it.

``HOLDS`` are walked to the end. ``BREAKS`` take one rule away, or are another protocol
altogether, and must be found to break; ``NEEDLESS`` are the exceptions, said openly.
The tables set protocols against single faults.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from .bounded import LEFT_OUT, Bounded
from .earlier_reads import EarlierReads
from .explore import Model
from .in_flight import InFlight
from .older_ways import OlderWay
from .protocol import Protocol
from .replicas import Replicas
from .rings import RingChange
from .rules import Faults

#: Nothing goes wrong but what always may: any order of steps.
NO_FAULTS = Faults(
    evict=False,
    restart=False,
    duplicate=False,
    rollback=False,
    late=False,
    stops=False,
)

#: Messages arrive when they are sent, or never: ``in_flight`` has the others.
ON_TIME = Faults(late=False)

DEFAULT = Protocol()
SNAPSHOTS = Protocol(snapshots=True, readers=1)
OWN_WRITES = Protocol(snapshots=True, own_writes=True, readers=1, writers=((0,),))
FLIGHTS = Protocol(flights=True)
STRICT = Protocol(strict=True, readers=1)

#: Two tags of one entry, or two copies of a token: each of an entry of its own.
TAGS, COPIES = ((0, 1),), ((0,), (1,))
IN_FLIGHT = InFlight()
IN_FLIGHT_STRICT = InFlight(strict=True, snapshots=False)
IN_FLIGHT_FLUSH = InFlight(entries=COPIES, writers=((0, 1), (0, 1)), eager=True)
IN_FLIGHT_RINGS = replace(IN_FLIGHT_FLUSH, rings=True)

BOUNDED = Bounded()

#: Entry 2 has the tags of entry 1, which its value is made of, or one more, or another.
EARLIER = EarlierReads()
EARLIER_MORE = EarlierReads(entries=((0,), (0, 1)), writers=((0, 1),), eager=True)
EARLIER_OTHER = replace(EARLIER_MORE, entries=((0,), (1,)))

#: A flush of two nodes: each entry rests on the copy of its own.
FLUSH_TWICE = replace(EARLIER_OTHER, twice=True, rows=False)
FLUSH_NESTED = replace(FLUSH_TWICE, nested=True)


REPLICAS = Replicas()
REPLICAS_LAG = Replicas(read_lag=True)
REPLICAS_ONE = Replicas(writers=1)
REPLICAS_LAG_ONE = Replicas(read_lag=True, writers=1)
REPLICAS_PROMOTED = replace(REPLICAS_ONE, promotes=True)
REPLICAS_TWO = replace(REPLICAS_PROMOTED, replicas=2)
REPLICAS_HOLD = {
    "a heartbeat": (REPLICAS, "1 replica, 2 writers"),
    "a heartbeat, promoted": (REPLICAS_TWO, "2 replicas, 1 writer"),
    "promoted without the last commits, a flush": (
        REPLICAS_TWO.without("keeps_commits"),
        "2 replicas, 1 writer",
    ),
    "read_lag": (REPLICAS_LAG, "1 replica, 2 writers"),
}


@dataclass(frozen=True)
class Scenario:
    """One walk.

    :ivar name: what is different about it.
    :ivar about: its sizes, in words.
    :ivar limit: states after which it is given up: 1.5 million need about 2 GB.
    """

    name: str
    model: Model
    about: str = ""
    limit: int = 1_500_000


def _sizes(model: Protocol) -> str:
    rows = len(model.writers)
    tags = f"{model.tags} tag{'s'[: model.tags > 1]}"
    on_time = ", on time" if model.faults == ON_TIME else ""
    return (
        f"{model.readers} reader{'s'[: model.readers > 1]},"
        f" {rows} writer{'s'[: rows > 1]}, {tags}{on_time}"
    )


def _holds(name: str, model: Protocol) -> Scenario:
    return Scenario(name, model, _sizes(model))


def _in_flight(name: str, model: InFlight) -> Scenario:
    rows, places = len(model.writers), model.places
    what = "tag" if len(model.entries) == 1 else "ring" if model.rings else "node"
    about = (
        f"{rows} writer{'s'[: rows > 1]}, {places} {what}{'s'[: places > 1]}"
        f"{', eager' if model.eager else ''}"
    )
    return Scenario(f"in flight: {name}", model, about, 3_000_000)


ONE, TWO, THREE = ((0,),), ((0,), (0,)), ((0,), (0,), (0,))
MIXED = ((0,), (1,), (0, 1))

STRICT_THREE = replace(STRICT, writers=THREE)
STRICT_TAGS = replace(STRICT, tags=2, writers=TAGS, one_by_one=True)


def _earlier_holds(*, eager: bool) -> list[Scenario]:
    def found(name: str, model: EarlierReads, sizes: str) -> Scenario:
        about = f"a request, {sizes}{', eager' if eager else ''}"
        return Scenario(name, replace(model, eager=eager), about)

    rows = replace(EARLIER_OTHER, hits=False)
    return [
        found("earlier reads, a tag more", EARLIER_MORE, "1 writer, 2 tags"),
        found("earlier reads of rows, another tag", rows, "1 writer, 2 tags"),
        found("earlier reads, a flush", FLUSH_TWICE, "1 flush, 2 nodes"),
        found("a loader's reads, a flush", FLUSH_NESTED, "1 flush, 2 nodes"),
    ]


#: Our protocol, with every fault any number of times.
HOLDS = [
    _holds("default", replace(DEFAULT, writers=THREE)),
    _holds("default, tokens read one by one", Protocol(one_by_one=True)),
    _holds(
        "default, two tags read one by one",
        Protocol(tags=2, readers=1, writers=((0,), (1,)), one_by_one=True),
    ),
    _holds(
        "default, a writer of two tags",
        Protocol(tags=2, readers=1, writers=((0, 1), (0,))),
    ),
    _holds("default, early refresh", Protocol(refresh=True)),
    _holds("default, flights", FLIGHTS),
    _holds("default, late fills and deletes", Protocol(late_writes=True)),
    _holds(
        "old snapshots, late fills and deletes",
        Protocol(late_writes=True, snapshots=True, readers=1),
    ),
    _holds(
        "strict, late fills and deletes",
        Protocol(late_writes=True, strict=True, readers=1),
    ),
    _holds("old snapshots, more writers", SNAPSHOTS),
    _holds("old snapshots, own writes", OWN_WRITES),
    _holds(
        "old snapshots, early refresh",
        Protocol(snapshots=True, refresh=True, readers=1),
    ),
    _holds(
        "old snapshots, flights",
        Protocol(snapshots=True, flights=True, writers=ONE, faults=ON_TIME),
    ),
    _holds("strict", Protocol(strict=True, faults=ON_TIME)),
    _holds("strict, more writers", replace(STRICT_THREE, faults=ON_TIME)),
    _holds(
        "strict, tokens read one by one",
        Protocol(strict=True, writers=ONE, one_by_one=True),
    ),
    _holds("strict, a writer of two tags", replace(STRICT_TAGS, faults=ON_TIME)),
    _holds("strict, early refresh", Protocol(strict=True, refresh=True, writers=ONE)),
    _holds("strict, flights", Protocol(strict=True, flights=True, writers=ONE)),
    _holds(
        "strict, old snapshots",
        Protocol(strict=True, snapshots=True, readers=1, writers=ONE),
    ),
    Scenario("a change of rings and back", RingChange(writers=1), "1 reader, 1 writer"),
    _in_flight("old snapshots", replace(IN_FLIGHT, writers=THREE)),
    _in_flight(
        "old snapshots, two tags",
        replace(IN_FLIGHT, entries=TAGS, writers=((0, 1), (0, 1))),
    ),
    _in_flight(
        "old snapshots, two tags",
        replace(IN_FLIGHT, entries=TAGS, writers=MIXED, eager=True),
    ),
    _in_flight("flush", replace(IN_FLIGHT_FLUSH, writers=((0, 1),) * 3)),
    _in_flight("rings", replace(IN_FLIGHT_RINGS, writers=((0, 1),), eager=False)),
    _in_flight("strict", IN_FLIGHT_STRICT),
    _in_flight("strict", replace(IN_FLIGHT_STRICT, writers=THREE, eager=True)),
    _in_flight(
        "strict, two tags",
        replace(IN_FLIGHT_STRICT, entries=TAGS, writers=((0,), (0, 1)), eager=True),
    ),
    _in_flight(
        "strict, old snapshots", replace(IN_FLIGHT_STRICT, snapshots=True, eager=True)
    ),
    Scenario("bounded", BOUNDED, "1 writer, a flush, 3 moments"),
    Scenario(
        "bounded, two writers",
        Bounded(writers=2, flushes=False),
        "2 writers, 3 moments",
    ),
    Scenario("bounded, longer", Bounded(flushes=False, last=3), "1 writer, 4 moments"),
    Scenario("earlier reads", EARLIER, "a request, 2 writers, 1 tag"),
    *_earlier_holds(eager=True),
    *(
        Scenario(f"replicas, {name}", model, about)
        for name, (model, about) in REPLICAS_HOLD.items()
    ),
]

#: Larger, for whoever has minutes.
LONG = [
    _holds("default, 3 readers", Protocol(readers=3)),
    _holds("strict, a writer of two tags", STRICT_TAGS),
    _holds("strict, more writers", STRICT_THREE),
    *_earlier_holds(eager=False),
    Scenario(
        "replicas, promoted",
        replace(REPLICAS, promotes=True),
        "1 replica, 2 writers",
    ),
    _holds("default, 4 writers", Protocol(writers=(*THREE, (0,)))),
    _holds(
        "default, two tags read one by one, 2 readers",
        Protocol(tags=2, writers=((0,), (1,)), one_by_one=True),
    ),
    _holds("old snapshots, late tokens", Protocol(snapshots=True, writers=ONE)),
    _holds("old snapshots, 2 writers", Protocol(snapshots=True)),
    _holds("strict, late tokens", Protocol(strict=True)),
    _holds("strict, 3 writers", Protocol(strict=True, writers=THREE)),
    _holds("strict, flights, 2 writers", Protocol(strict=True, flights=True)),
    _holds(
        "strict, two tags, 2 writers",
        Protocol(strict=True, tags=2, readers=1, writers=((0,), (0, 1))),
    ),
    Scenario("a change of rings and back", RingChange(), "1 reader, 2 writers"),
    _in_flight(
        "old snapshots, two tags",
        replace(IN_FLIGHT, entries=TAGS, writers=((0,), *MIXED), eager=True),
    ),
    _in_flight("flush", replace(IN_FLIGHT_FLUSH, eager=False)),
    _in_flight("rings", IN_FLIGHT_RINGS),
    _in_flight(
        "strict, two tags",
        replace(IN_FLIGHT_STRICT, entries=TAGS, writers=MIXED, eager=True),
    ),
    _in_flight("strict, old snapshots", replace(IN_FLIGHT_STRICT, snapshots=True)),
    _in_flight(
        "strict, flush",
        replace(IN_FLIGHT_FLUSH, strict=True, snapshots=False),
    ),
]

#: What breaks when messages are late or processes stop, in default namespaces with old
#: snapshots and in strict ones: without which rule, and how that is called.
REPLACING = {
    "tokens set": "replaced_by_cas",
    "stamped before it is read": "stamp_after_read",
    "a stamp kept for the next try": "new_stamp_each_try",
    "EXISTS taken for done": "exists_is_no_ack",
    "a cas id that comes again": "cas_on_one_connection",
    "a stamped add": "placeholder_has_no_stamp",
    "a placeholder stamped by set": "stamped_by_cas",
}


#: What breaks when a request stores what it has read before, and without which rule.
EARLIER_RULES = {
    "a hit's tokens not compared": "compared",
    "a row taken for fresh": "row_is_aged",
    "a token found in the request": "known_before",
    "a token found that is gone": "known_is_there",
}


#: What breaks when readers of replicas leave a rule out.
REPLICAS_RULES = {
    "no heartbeat": REPLICAS_ONE.without("heard"),
    "a heartbeat read after the load": REPLICAS_ONE.without("heard_before_load"),
    "a heartbeat of another server": REPLICAS_ONE.without("same_server"),
    "commits applied out of order": REPLICAS_ONE.without("in_order"),
    "one clock, which is ahead": REPLICAS_ONE.without("two_clocks"),
    "promoted before it has applied all": REPLICAS_PROMOTED.without("received_first"),
    "promoted without the last commits": REPLICAS_PROMOTED.without(
        "keeps_commits", "flushed"
    ),
    "no lag subtracted": REPLICAS_LAG_ONE.without("heard"),
    "a lag greater than its bound": REPLICAS_LAG_ONE.without("bound_holds"),
    "a lag subtracted after the load": REPLICAS_LAG_ONE.without("heard_before_load"),
}


def _replacing() -> list[Scenario]:
    stopped = replace(NO_FAULTS, stops=True)
    found = [
        Scenario(f"{name}{where}", model.without(**{rule: False}))
        for name, rule in REPLACING.items()
        for where, model in (("", IN_FLIGHT), (", strict", IN_FLIGHT_STRICT))
    ]
    for where, model in (
        ("flush", replace(IN_FLIGHT_FLUSH, eager=False)),
        ("two rings", replace(IN_FLIGHT_RINGS, eager=False)),
        ("strict, processes stop", replace(IN_FLIGHT_STRICT, faults=stopped)),
        ("processes stop", replace(IN_FLIGHT, faults=stopped)),
    ):
        broken = model.without(replaced_by_cas=False)
        found.append(Scenario(f"tokens set, {where}", broken))
    return found


#: One rule less, or another protocol: what must be found.
BREAKS = [
    Scenario("delete", OlderWay("delete", "set", NO_FAULTS)),
    Scenario("delete, fill by add", OlderWay("delete", "add", NO_FAULTS)),
    Scenario("tombstone, fill by add or cas", OlderWay("tombstone", "cas")),
    Scenario("tokens not compared", DEFAULT.without(compare_tokens=False)),
    Scenario("tokens read after the load", DEFAULT.without(tokens_before_load=False)),
    Scenario(
        "a missing token equals a missing one",
        DEFAULT.without(missing_equals_nothing=False),
    ),
    Scenario("counters as tokens", DEFAULT.without(token="counter")),
    Scenario("row ids as tokens", DEFAULT.without(token="row id")),
    Scenario("a placeholder sent twice", DEFAULT.without(never_sent_twice=False)),
    Scenario("applied before the commit", DEFAULT.without(apply_after_commit=False)),
    Scenario("published before the ack", DEFAULT.without(publish_after_acks=False)),
    Scenario(
        "refreshed under tokens read later",
        replace(DEFAULT, refresh=True).without(refresh_under_hit=False),
    ),
    Scenario("losers take what they find", DEFAULT.without(losers_validate=False)),
    Scenario("any flight joined", FLIGHTS.without(join_same_tokens=False)),
    Scenario("unknown tokens joined", FLIGHTS.without(join_known_tokens=False)),
    Scenario(
        "a started flight joined while cold",
        replace(FLIGHTS, strict=True, writers=ONE).without(join_cold_unstarted=False),
    ),
    Scenario(
        "cold judged when joining",
        replace(FLIGHTS, strict=True, writers=ONE).without(join_judged_at_start=False),
    ),
    Scenario(
        "an old snapshot leads a flight",
        replace(FLIGHTS, snapshots=True, writers=ONE).without(
            since_leads_if_it_fills=False
        ),
    ),
    Scenario("no snapshot guard", SNAPSHOTS.without(guard=False)),
    Scenario("guard without skew", SNAPSHOTS.without(guard_skew=False)),
    Scenario("guard not strictly", SNAPSHOTS.without(guard_strictly=False)),
    Scenario("stamped before the commit", SNAPSHOTS.without(stamp_after_commit=False)),
    Scenario("a transaction fills", OWN_WRITES.without(writers_do_not_fill=False)),
    Scenario(
        "a transaction reads what it changed",
        OWN_WRITES.without(writers_do_not_read=False),
    ),
    Scenario("strict without quarantine", STRICT.without(quarantine=False)),
    Scenario("quarantine by a plain token", STRICT.without(mark_is_cold=False)),
    Scenario("quarantine lifted by apply", STRICT.without(apply_is_cold=False)),
    Scenario("hold-off without cold tokens", STRICT.without(made_is_cold=False)),
    Scenario("cold without skew", STRICT.without(cold_skew=False)),
    Scenario("cold judged at the fill", STRICT.without(cold_before_load=False)),
    Scenario(
        "cold judged at the load of an old snapshot",
        replace(STRICT, snapshots=True, writers=ONE).without(
            cold_before_snapshot=False
        ),
    ),
    Scenario("COMMIT without a deadline", STRICT.without(commit_deadline=False)),
    Scenario(
        "hold-off ends before COMMIT does",
        replace(STRICT, faults=Faults(early_end=True)),
    ),
    Scenario("applied to one ring only", RingChange(apply_to_both=False)),
    Scenario("readers change rings first", RingChange(appliers_first=False)),
    Scenario("a ring's id used again", RingChange(new_id=False)),
    *_replacing(),
    *(
        Scenario(f"bounded, {name}", BOUNDED.without(rule))
        for name, rule in LEFT_OUT.items()
    ),
    *(
        Scenario(f"earlier reads, {name}", EARLIER.without(rule))
        for name, rule in EARLIER_RULES.items()
    ),
    *(Scenario(f"replicas, {name}", model) for name, model in REPLICAS_RULES.items()),
    Scenario("earlier reads, a tag of the hit left out", EARLIER_OTHER),
    Scenario("a loader's reads, a flush in one go", FLUSH_NESTED.without("twice")),
]

#: Rules that nothing breaks without, under these faults; and why they are kept.
NEEDLESS = [
    Scenario(
        "the token deleted by the apply",
        DEFAULT.without(token="deleted"),
        "costs the next reader a round trip, and a strict namespace needs the mark",
    ),
    Scenario(
        "NOT_FOUND taken for done",
        IN_FLIGHT.without(not_found_is_no_ack=False),
        "saves a round trip after an eviction, and needs a rule more",
    ),
    Scenario(
        "NOT_FOUND taken for done, strict",
        IN_FLIGHT_STRICT.without(not_found_is_no_ack=False),
        "as above",
    ),
    Scenario(
        "a stamped placeholder gets a new random part",
        replace(IN_FLIGHT, keeps_name=False),
        "costs what fresh readers have filled under the old one",
    ),
    Scenario(
        "earlier reads, a hit taken for fresh",
        EARLIER_MORE.without("hit_is_aged"),
        "stores less of a value that lacks a tag of the hit",
    ),
]


def _one_fault(name: str) -> Faults:
    return replace(NO_FAULTS, **{name: True})


#: States of one cell. Ours need a tenth of it; counters grow without an end.
TABLE_LIMIT = 50_000

#: Columns of the first table: the faults, and whether readers have old snapshots.
COLUMNS = {
    "none": (NO_FAULTS, False),
    "eviction": (_one_fault("evict"), False),
    "restart": (_one_fault("restart"), False),
    "late duplicate": (_one_fault("duplicate"), False),
    "old snapshot": (NO_FAULTS, True),
}

_UNGUARDED = DEFAULT.without(guard=False)

#: Rows of the first table.
ROWS: dict[str, Protocol | OlderWay] = {
    "**ours**": DEFAULT,
    "ours, the token deleted by the apply": DEFAULT.without(token="deleted"),
    "delete": OlderWay("delete", "set"),
    "delete, fill by add": OlderWay("delete", "add"),
    "tombstone, fill by add or cas": OlderWay("tombstone", "cas"),
    "tokens read after the load": _UNGUARDED.without(tokens_before_load=False),
    "a missing token equals a missing one": _UNGUARDED.without(
        missing_equals_nothing=False
    ),
    "counters as tokens": _UNGUARDED.without(token="counter"),
    "row ids as tokens": _UNGUARDED.without(token="row id"),
    "ours without the snapshot guard": _UNGUARDED,
}

#: Columns of the second.
STRICT_COLUMNS = {
    "none": NO_FAULTS,
    "eviction": _one_fault("evict"),
    "restart": _one_fault("restart"),
    "late duplicate": _one_fault("duplicate"),
    "rollback": _one_fault("rollback"),
    "hold-off ends early": replace(_one_fault("early_end"), evict=True),
}

STRICT_ROWS = {
    "**ours**": STRICT,
    "no quarantine": STRICT.without(quarantine=False),
    "quarantine by a plain token": STRICT.without(mark_is_cold=False),
    "quarantine lifted by apply": STRICT.without(apply_is_cold=False),
    "no cold tokens": STRICT.without(made_is_cold=False),
    "cold without skew": STRICT.without(cold_skew=False),
    "cold judged at the fill": STRICT.without(cold_before_load=False),
    "COMMIT without a deadline": STRICT.without(commit_deadline=False),
}


#: Columns of the third: both kinds of namespaces, against messages that are late.
_SOME_LATE = replace(NO_FAULTS, late=True)
FLIGHT_COLUMNS: dict[str, tuple[InFlight, Faults]] = {
    "none": (IN_FLIGHT, NO_FAULTS),
    "stopped processes": (IN_FLIGHT, replace(NO_FAULTS, stops=True)),
    "late messages": (IN_FLIGHT, _SOME_LATE),
    "... and evictions": (IN_FLIGHT, replace(_SOME_LATE, evict=True)),
    "... and restarts": (IN_FLIGHT, replace(_SOME_LATE, restart=True)),
    "strict: none": (IN_FLIGHT_STRICT, NO_FAULTS),
    "strict: stopped processes": (IN_FLIGHT_STRICT, replace(NO_FAULTS, stops=True)),
    "strict: all": (IN_FLIGHT_STRICT, Faults()),
}

FLIGHT_ROWS: dict[str, dict[str, object]] = {
    "**ours**": {},
    **{name: {rule: False} for name, rule in REPLACING.items()},
}


def flight_table() -> list[Scenario]:
    """The cells of the third."""
    return [
        Scenario(
            row, replace(model, faults=faults).without(**without), column, TABLE_LIMIT
        )
        for row, without in FLIGHT_ROWS.items()
        for column, (model, faults) in FLIGHT_COLUMNS.items()
    ]


def table() -> list[Scenario]:
    """The cells of the first table, row by row."""
    return [
        Scenario(row, _with(model, faults, snapshots), column, TABLE_LIMIT)
        for row, model in ROWS.items()
        for column, (faults, snapshots) in COLUMNS.items()
    ]


def _with(model: Model, faults: Faults, snapshots: bool) -> Model:
    assert isinstance(model, (Protocol, OlderWay))
    if snapshots:
        # Moments multiply the states; one reader is enough to be late.
        return replace(model, faults=faults, snapshots=True, readers=1)
    return replace(model, faults=faults)


def strict_table() -> list[Scenario]:
    """The cells of the second."""
    return [
        Scenario(row, replace(model, faults=faults), column, TABLE_LIMIT)
        for row, model in STRICT_ROWS.items()
        for column, faults in STRICT_COLUMNS.items()
    ]
