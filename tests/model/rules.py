"""The rules of the protocol, each with a switch that takes it away.

All on is what the library does. A scenario that takes one away must find what breaks
without it: that is why the rule is there. Which faults are looked at is in ``Faults``.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rules:
    """What readers, writers and workers keep to."""

    # Reading (``TaggedCache``)
    #: An entry is served only if the tokens it was loaded under are the ones there now.
    compare_tokens: bool = True
    #: Tokens are read before the loader starts, and the fill is under those.
    tokens_before_load: bool = True
    #: A token that is missing equals nothing, not even another one that is missing.
    missing_equals_nothing: bool = True
    #: Who loses the lock and waits compares tokens before it takes what it finds.
    losers_validate: bool = True
    #: Early refresh stores under the tokens of the hit, not under tokens read later.
    refresh_under_hit: bool = True

    # Snapshots (``since``)
    #: A value of an older snapshot is stored only if every token is older still.
    guard: bool = True
    #: ... by more than clocks differ.
    guard_skew: bool = True
    #: ... strictly: of the same moment is not older.
    guard_strictly: bool = True
    #: The stamp of an apply is taken after the row was seen committed.
    stamp_after_commit: bool = True
    #: A transaction that has written does not store what it reads.
    writers_do_not_fill: bool = True
    #: ... and does not take from the cache what it may have changed.
    writers_do_not_read: bool = True

    # Flights (one load per herd)
    #: A flight is joined only by who has read the same tokens.
    join_same_tokens: bool = True
    #: ... and only if those are known.
    join_known_tokens: bool = True
    #: While a token is cold only a flight whose loader has not started is joined.
    join_cold_unstarted: bool = True
    #: ... as judged when the flight started, not when it is joined.
    join_judged_at_start: bool = True
    #: Who reads an older snapshot leads a flight only if it may fill.
    since_leads_if_it_fills: bool = True

    # Applying (``MemcachedApplier``, ``OutboxWorker``)
    #: A row is applied after its commit is seen.
    apply_after_commit: bool = True
    #: A row is published after every acknowledgement.
    publish_after_acks: bool = True
    #: No placeholder is sent twice: a copy that comes late would bring it back.
    never_sent_twice: bool = True
    #: An apply stores a token that is "random" and made for this attempt. Else it is a
    #: "counter", or the row's own, such as its "row id"; or the token is "deleted".
    token: str = "random"

    # Replacing tokens (``replacing.py``)
    #: A token is stored by ``cas``, only over what was read. Else by ``set``.
    replaced_by_cas: bool = True
    #: Its stamp is taken after that was read, not before.
    stamp_after_read: bool = True
    #: ... and again at each try, also after no answer.
    new_stamp_each_try: bool = True
    #: EXISTS says that another was faster, not that the row is applied.
    exists_is_no_ack: bool = True
    #: NOT_FOUND says that the token is gone, not that the row is applied.
    not_found_is_no_ack: bool = True
    #: ``gets`` and ``cas`` go over one connection, which ends with the node's process:
    #: the next one counts its cas ids from 1 again.
    cas_on_one_connection: bool = True
    #: What is added where nothing is has a stamp later than every moment.
    placeholder_has_no_stamp: bool = True
    #: A reader that looks at stamps stamps a placeholder by ``cas``, not by ``set``.
    stamped_by_cas: bool = True

    # Strict namespaces
    #: Tokens are marked before the commit; its committed values are never overtaken.
    quarantine: bool = True
    #: The mark is a fresh token that is cold for T_q: nothing is filled under it.
    mark_is_cold: bool = True
    #: An apply stores a cold one too; else its token would lift the mark of another.
    apply_is_cold: bool = True
    #: And so is one made for a missing one, which may be a mark that was evicted.
    made_is_cold: bool = True
    #: Cold for as long again as clocks may differ.
    cold_skew: bool = True
    #: ... as judged before the load, not at the fill.
    cold_before_load: bool = True
    #: ... and for an older snapshot, when that began.
    cold_before_snapshot: bool = True
    #: COMMIT is not sent when T_q has nearly passed since the mark.
    commit_deadline: bool = True


@dataclass(frozen=True)
class Faults:
    """What may happen, any number of times, at any moment."""

    #: An entry or a token is evicted.
    evict: bool = True
    #: The node restarts and has lost everything.
    restart: bool = True
    #: A row is applied again: its acknowledgement was lost, or the worker comes late.
    duplicate: bool = True
    #: A writer rolls back, or dies before its commit.
    rollback: bool = True
    #: A message arrives at any later moment or never, and its sender may give up.
    late: bool = True
    #: A process stops between two steps, for any time.
    stops: bool = True
    #: The hold-off ends before COMMIT does. An assumption excludes it.
    early_end: bool = False
