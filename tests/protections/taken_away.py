"""What protects each promise: the code that does, without it, and who notices.

Who changes one of these places changes it here too, and takes the new rule away once:
``PYTHONPATH=tests python -m protections P3``.
"""

from __future__ import annotations

from typing import NamedTuple


class Protection(NamedTuple):
    """A rule, as one place in the code.

    :ivar promise: P1 to P5, as in the README's guarantee.
    :ivar rule: in words.
    :ivar file: of ``hydracache_sync``.
    :ivar code: text that is there exactly once.
    :ivar without: the same with the rule taken away.
    :ivar test: that must fail then.
    """

    promise: str
    rule: str
    file: str
    code: str
    without: str
    test: str


_STALE = "tests/cache/test_cache_staleness.py::"
_HERD = "tests/cache/test_cache_herd.py::"
_STRICT = "tests/cache/test_cache_strict.py::"
_BOUND = "tests/cache/test_cache_bound.py::"
_MEMORY = "tests/outbox/test_memory_outbox.py::"
_MYSQL = "tests/on_mysql/test_mysql_snapshots.py::"
_LATE = "tests/cache/test_cache_late_tokens.py::"
_UNCOMMITTED = "tests/web/test_uncommitted.py::"
_AUTO = "tests/web/test_auto_snapshot.py::"

#: How a token is stored, and how it was before anything was compared.
_STORED_ON_CONDITION = r"""
    return _each(len(keys), b"cas ", keys, head, uniques, b"\r\n", values, b"\r\n")
"""
_STORED_IN_ANY_CASE = r"""
    return _each(len(keys), b"set ", keys, b" 0 0 %d\r\n" % size, values, b"\r\n")
"""

#: What a reader does who looks the tokens up once the value is there.
_READ_TOKENS_NOW = """
            now = entries.tokens_of(decision.lookup.key, decision.lookup.tag_set.tags)
            decision = entries.check_fill(entries.with_missing([now], None)[0][0], None)
"""

#: The loop in which a token's write begins again, and what keeps the first stamp in it.
_REPLACED = """\
    while copies:
        added = placeholders(len(copies), kind)
        outcomes = store.replace_many(copies, added, make)
"""
_REPLACED_WITH_ONE_STAMP = """\
    kept = {}
    while copies:
        added = placeholders(len(copies), kind)
        outcomes = store.replace_many(
            copies,
            added,
            lambda some, found: [
                kept.setdefault(copy, token)
                for copy, token in zip(some, make(some, found))
            ],
        )
"""

PROTECTIONS = [
    Protection(
        "P1",
        "rows are committed by the caller's commit and by nothing else",
        "outbox/enqueue.py",
        "        block = self._database.open_block()\n        if block",
        "        connection.commit()\n"
        "        block = self._database.open_block()\n        if block",
        "tests/outbox/test_sqlite_outbox.py::"
        "test_rows_are_rolled_back_with_the_data_in_each_mode",
    ),
    Protection(
        "P2",
        "a row that is enqueued again has no claim any more",
        "outbox/statements.py",
        "    claim_token = null,\n    tried_alone = 0,\n    state = 0",
        "    state = 0",
        _MEMORY
        + "test_a_worker_that_holds_a_row_has_it_no_more_when_it_is_enqueued_again",
    ),
    Protection(
        "P2",
        "a death counts only where the row was tried alone and its cache was there",
        "outbox/statements.py",
        '    "attempts": "attempts + tried_alone",\n',
        '    "attempts": "attempts + (claim_token is not null)",\n',
        "tests/worker/test_worker_faults.py::"
        "test_no_number_of_deaths_in_an_outage_kills_a_row",
    ),
    Protection(
        "P2",
        "a row that is dated ahead is found and made due",
        "outbox/claims.py",
        "        self.make_dated_ahead_due((namespace,))\n",
        "",
        _MEMORY + "test_a_row_from_the_future_is_due_at_once",
    ),
    Protection(
        "P3",
        "an inline publish finishes rows only as it has seen them",
        "outbox/statements.py",
        "  and created_at_ms = :created_at_ms\n",
        "",
        _MEMORY + "test_a_row_that_was_enqueued_again_since_it_was_seen_is_left",
    ),
    Protection(
        "P4",
        "that a transaction is over is known of its own session",
        "drivers/pymysql.py",
        "            and socket is self._socket()\n"
        "            and connection.server_thread_id == self._thread_id\n",
        "",
        "tests/on_mysql/test_mysql_late_commit.py::"
        "test_a_commit_that_is_still_on_its_way_is_not_taken_for_done",
    ),
    Protection(
        "P2",
        "a mark changes only what its own claim holds",
        "outbox/statements.py",
        "  and claim_token = :token\n  and state = 0",
        "  and state = 0",
        "tests/outbox/test_memory_outbox.py"
        "::test_mark_of_a_claim_taken_over_changes_nothing",
    ),
    Protection(
        "P2",
        "a row is published only when its node has acknowledged it",
        "worker/appliers.py",
        "        return [failures.get(address) for address in addresses]\n",
        "        return [None] * len(intents)\n",
        "tests/worker/test_appliers.py"
        "::test_only_the_rows_that_were_not_acknowledged_wait",
    ),
    Protection(
        "P3",
        "an entry is served under the very tokens it was loaded under",
        "cache/entry_format.py",
        "    if not entry.startswith(token_prefix) or",
        "    if not entry.startswith(_MAGIC + digest) or",
        _STALE + "test_each_invalidation_makes_the_next_read_a_miss",
    ),
    Protection(
        "P3",
        "a missing token equals nothing",
        "cache/entry_format.py",
        "    if entry is None:\n        return None\n",
        "    if entry is None:\n        return None\n"
        "    held = tokens_in(entry, len(tokens))\n"
        "    tokens = [now or then for now, then in zip(tokens, held)]\n",
        _STALE + "test_an_entry_without_one_of_its_tokens_is_a_miss_for_good",
    ),
    Protection(
        "P3",
        "no token comes twice",
        "cache/tokens/token.py",
        "os.urandom(8 * count)\n",
        "bytes(8 * count)\n",
        "tests/worker/test_appliers.py::test_each_attempt_makes_a_token_of_its_own",
    ),
    Protection(
        "P3",
        "tokens are read before the load",
        "cache/loads/coalescer.py",
        "shared=decision.refused is None)\n"
        "            loaded, decision = self._loaded(decision, call)\n",
        "shared=decision.refused is None)\n"
        "            loaded, decision = self._loaded(decision, call)"
        + _READ_TOKENS_NOW,
        _STALE + "test_a_value_loaded_before_an_invalidation_is_not_served_after_it",
    ),
    Protection(
        "P3",
        "an early refresh stores under the tokens of the hit",
        "cache/loads/coalescer.py",
        "            self._refreshing.end()\n",
        "            self._refreshing.end()" + _READ_TOKENS_NOW,
        "tests/cache/test_cache_api.py::"
        "test_what_is_invalidated_while_it_is_loaded_anew_is_not_served",
    ),
    Protection(
        "P3",
        "an old snapshot fills only under older tokens",
        "cache/tokens/policy.py",
        "        return _all_before(tokens, since - self._cooling)\n",
        "        return True\n",
        _MYSQL + "test_a_reader_in_an_old_snapshot_never_stores_after_the_apply",
    ),
    Protection(
        "P3",
        "... older by more than clocks differ",
        "cache/tokens/policy.py",
        "        return _all_before(tokens, since - self._cooling)\n",
        "        return _all_before(tokens, since)\n",
        _STALE + "test_a_value_is_stored_only_if_its_snapshot_is_younger",
    ),
    Protection(
        "P3",
        "... and by the millisecond that stamps count",
        "cache/tokens/policy.py",
        "(stamp_ms(token) + 1) / 1000 < moment",
        "stamp_ms(token) / 1000 < moment",
        _STALE + "test_a_value_is_stored_only_if_its_snapshot_is_younger",
    ),
    Protection(
        "P3",
        "who is writing goes round the cache",
        "cache/tagged.py",
        "        if not self._pending_writes.affects(*texts):\n",
        "        if True:\n",
        _MYSQL + "test_what_a_transaction_has_written_goes_round_the_cache",
    ),
    Protection(
        "P3",
        "a load that has met other tags than it was read under is not stored",
        "cache/functions/inherited_tags.py",
        "            if met != known:\n",
        "            if False:\n",
        "tests/cache/test_inherited_tags.py::"
        "test_what_is_invalidated_while_it_is_shown_is_not_served",
    ),
    Protection(
        "P3",
        "a transaction of SQLite that has written is older than anything",
        "snapshots.py",
        "        if changes is not None and changes != self._changes:\n",
        "        if False:\n",
        "tests/cache/test_snapshots.py::"
        "test_what_a_transaction_has_written_itself_is_never_stored",
    ),
    Protection(
        "P3",
        "an apply reaches every ring that may be read",
        "worker/appliers.py",
        "for each in (store, *also)\n",
        "for each in (store,)\n",
        "tests/web/test_app_rings.py::"
        "test_an_app_publishes_to_the_ring_before_the_last_change_too",
    ),
    Protection(
        "P3",
        "a token is stored on condition that nothing has changed",
        "memcached/commands.py",
        _STORED_ON_CONDITION,
        _STORED_IN_ANY_CASE,
        _LATE + "test_a_late_apply_lets_no_old_snapshot_in",
    ),
    Protection(
        "P5",
        "... a mark of a quarantine, too",
        "memcached/commands.py",
        _STORED_ON_CONDITION,
        _STORED_IN_ANY_CASE,
        _LATE + "test_a_late_quarantine_does_not_undo_another",
    ),
    Protection(
        "P3",
        "... and the stamp that a reader gives a token",
        "memcached/replacement.py",
        "            use.data = commands.compare_and_set(\n",
        "            if [each[:9] for each in use.values] == [\n"
        "                each[:9] for each in found[stop - len(use.keys) : stop]\n"
        "            ]:\n"
        '                use.data = b"".join(\n'
        '                    b"set %b 0 0 17\\r\\n%b\\r\\n" % each\n'
        "                    for each in zip(use.keys, use.values)\n"
        "                )\n"
        "                continue\n"
        "            use.data = commands.compare_and_set(\n",
        _LATE + "test_a_late_token_of_a_reader_lets_no_old_snapshot_in",
    ),
    Protection(
        "P3",
        "a stamp is taken after what is there was read",
        "cache/tokens/replacing.py",
        "        outcomes = store.replace_many(copies, added, make)\n",
        "        early = dict(zip(copies, make(copies, added)))\n"
        "        outcomes = store.replace_many(\n"
        "            copies, added, lambda some, _: [early[each] for each in some]\n"
        "        )\n",
        _LATE + "test_an_apply_whose_reading_is_late_takes_its_stamp_after_it",
    ),
    Protection(
        "P3",
        "... and so it is by a process that was stopped before it read",
        "cache/tokens/replacing.py",
        "        outcomes = store.replace_many(copies, added, make)\n",
        "        early = dict(zip(copies, make(copies, added)))\n"
        "        outcomes = store.replace_many(\n"
        "            copies, added, lambda some, _: [early[each] for each in some]\n"
        "        )\n",
        _LATE + "test_an_apply_of_a_process_that_was_stopped_lets_no_old_snapshot_in",
    ),
    Protection(
        "P3",
        "a write that begins again takes a new stamp",
        "cache/tokens/replacing.py",
        _REPLACED,
        _REPLACED_WITH_ONE_STAMP,
        _LATE + "test_an_apply_that_another_was_faster_than_takes_a_new_stamp",
    ),
    Protection(
        "P5",
        "... a quarantine as well",
        "cache/tokens/replacing.py",
        _REPLACED,
        _REPLACED_WITH_ONE_STAMP,
        _LATE + "test_a_quarantine_that_another_was_faster_than_takes_a_new_stamp",
    ),
    Protection(
        "P3",
        "a token that another has stored meanwhile is not the own one",
        "memcached/replacement.py",
        "            self.outcomes[place] = False\n",
        '            self.outcomes[place] = overtaken[place] == b"EXISTS"\n',
        _LATE + "test_a_token_that_another_has_stored_is_not_taken_for_the_own_one",
    ),
    Protection(
        "P3",
        "... and one that is gone has not been stored",
        "memcached/replacement.py",
        "            self.outcomes[place] = False\n",
        '            self.outcomes[place] = overtaken[place] == b"NOT_FOUND"\n',
        _LATE + "test_a_token_that_is_evicted_between_the_trips_is_made_anew",
    ),
    Protection(
        "P3",
        "a placeholder has no stamp",
        "cache/tokens/replacing.py",
        "        added = placeholders(len(copies), kind)\n",
        "        added = make(copies, placeholders(len(copies), kind))\n",
        _LATE + "test_a_late_apply_after_an_eviction_lets_no_old_snapshot_in",
    ),
    Protection(
        "P3",
        "... nor has the one of a reader that needs none",
        "cache/entries.py",
        "        tokens = placeholders(len(missing), self._policy.kind)\n",
        "        now_ms = int(self._clock() * 1000)\n"
        "        tokens = [\n"
        "            stamped(token, now_ms)\n"
        "            for token in placeholders(len(missing), self._policy.kind)\n"
        "        ]\n",
        _LATE + "test_a_late_token_of_a_reader_lets_no_old_snapshot_in",
    ),
    Protection(
        "P3",
        "... which is later than every moment",
        "cache/tokens/token.py",
        "UNKNOWN_MS = 2**64 - 1\n",
        "UNKNOWN_MS = 1\n",
        _LATE + "test_a_late_token_of_a_reader_lets_no_old_snapshot_in",
    ),
    Protection(
        "P5",
        "... so that it is never warm",
        "cache/tokens/token.py",
        "UNKNOWN_MS = 2**64 - 1\n",
        "UNKNOWN_MS = 1\n",
        _LATE + "test_a_late_token_of_a_reader_does_not_undo_a_quarantine",
    ),
    Protection(
        "P3",
        "a condition is sent where the version was read",
        "memcached/replacement.py",
        "            use.node.send_more(use.connection, use.data, monotonic())\n",
        "            use.node.put_back(use.connection)\n"
        "            use.connection = use.node.send_writes(use.data, monotonic())\n",
        "tests/cache/test_cache_replacing.py::"
        "test_a_condition_is_not_carried_over_to_a_server_that_was_restarted",
    ),
    Protection(
        "P3",
        "a flush is on every node",
        "memcached/store.py",
        "                found += [(address, node) for node in self._nodes]\n",
        "                found += [(address, node) for node in self._nodes[:1]]\n",
        _LATE + "test_a_flush_that_one_node_of_three_gets_late_lets_no_old_snapshot_in",
    ),
    Protection(
        "P4",
        "a flight is joined under the same tokens only",
        "cache/loads/coalescer.py",
        "            (lookup.addresses[0], lookup.token_prefix),\n",
        '            (lookup.addresses[0], b""),\n',
        _HERD + "test_who_comes_after_an_invalidation_does_not_join",
    ),
    Protection(
        "P4",
        "who has waited for the lock compares tokens again",
        "cache/entries.py",
        "        value = self._decode(entry, lookup.tag_set.digest, tokens, name)\n"
        "        return lookup._replace(value=value",
        "        then = tokens_in(entry, len(tokens)) if entry else tokens\n"
        "        value = self._decode(entry, lookup.tag_set.digest, then, name)\n"
        "        return lookup._replace(value=value",
        _HERD + "test_who_waits_for_the_lock_does_not_take_what_was_invalidated",
    ),
    Protection(
        "P4",
        "who may not store takes what began after it asked, and nothing else",
        "cache/loads/limit.py",
        "self.snapshot is not None and other.asked_at < self.snapshot\n",
        "self.snapshot is not None\n",
        _HERD + "test_who_waits_takes_no_value_that_may_be_older_than_its_own",
    ),
    Protection(
        "P4",
        "who shows rows of its own takes nothing of others",
        "cache/loads/coalescer.py",
        "            or (since is not None and since <= NEVER)\n",
        "",
        _HERD + "test_who_shows_rows_of_its_own_takes_nothing_of_others",
    ),
    Protection(
        "P4",
        "a wait is satisfied by rows that are seen published",
        "worker/wait.py",
        "return _Poll(pending == 0 and dead == 0, dead > 0, pending, dead)\n",
        "return _Poll(True, False, pending, dead)\n",
        "tests/worker/test_wait.py"
        "::test_a_pending_row_is_waited_for_until_the_time_is_up",
    ),
    Protection(
        "P4",
        "an inline publish counts what was applied",
        "worker/publish.py",
        "            if failure is None:\n                applied.intent(intent)\n",
        "            if True:\n                applied.intent(intent)\n",
        "tests/worker/test_publish.py::"
        "test_what_cannot_be_applied_now_is_left_to_a_worker_unharmed",
    ),
    Protection(
        "P4",
        "an answer that was not read to its end is nobody's",
        "memcached/node.py",
        "            return False\n"
        "        except BaseException:\n"
        "            self._pool.drop(connection)\n",
        "            return False\n"
        "        except BaseException:\n"
        "            self._pool.put(connection)\n",
        "tests/memcached/test_transport_interruptions.py::"
        "test_a_signal_handler_that_raises_anywhere_leaves_no_answer_behind",
    ),
    Protection(
        "P5",
        "tokens are replaced before the commit",
        "cache/tokens/strict.py",
        "        failure = self._mark()\n        if failure is None:\n",
        "        failure = None\n        if failure is None:\n",
        _STRICT + "test_a_read_after_the_commit_gets_the_new_value_before_any_worker",
    ),
    Protection(
        "P5",
        "... by cold ones",
        "cache/tokens/strict.py",
        "        return fresh_tokens(len(found), int(self._clock() * 1000), COLD)\n",
        "        return fresh_tokens(len(found), 0, COLD)\n",
        _STRICT + "test_what_is_read_between_quarantine_and_commit_is_not_stored",
    ),
    Protection(
        "P5",
        "an apply stores cold ones as well",
        "worker/appliers.py",
        "        return fresh_tokens(len(found), int(self._clock() * 1000), self._kind)"
        "\n",
        "        return fresh_tokens(len(found), 0, self._kind)\n",
        _STRICT + "test_of_two_writers_of_a_tag_the_applied_one",
    ),
    Protection(
        "P5",
        "what a reader makes in place of a missing one is cold, too",
        "cache/entries.py",
        "            now_ms = int(self._clock() * 1000)\n",
        "            now_ms = int(self._clock() * (not self._policy.strict) * 1000)\n",
        _STRICT + "test_a_marker_that_is_lost_does_not_let_an_old_value_in",
    ),
    Protection(
        "P5",
        "cold for as long again as clocks may differ",
        "cache/tokens/policy.py",
        "        self._cooling = clock_skew + (",
        "        self._cooling = 0.0 + (",
        _STRICT + "test_a_writer_whose_clock_differs_is_waited_for_all_the_same",
    ),
    Protection(
        "P5",
        "cold is judged by when the snapshot began",
        "cache/tokens/policy.py",
        "        return _all_before(tokens, since - self._cooling)\n",
        "        return _all_before(tokens, since - self._skew)\n",
        _STRICT + "test_a_new_token_is_cold_for_snapshots_from_before_that_too",
    ),
    Protection(
        "P5",
        "while a token is cold nobody joins a load that has started",
        "cache/loads/coalescer.py",
        "begin(flight, shared=decision.refused is None)",
        "begin(flight, shared=True)",
        _HERD + "test_who_comes_after_a_commit_does_not_join_a_load_that_had_started",
    ),
    Protection(
        "P5",
        "a COMMIT is not sent too late",
        "cache/tokens/strict.py",
        "        if elapsed > self._hold_off.latest_commit:\n",
        "        if False:\n",
        _STRICT + "test_a_commit_that_would_be_too_late_is_not_sent",
    ),
    Protection(
        "P5",
        "one that ended too late is held off again",
        "cache/tokens/strict.py",
        "        if not self.strict or self._elapsed() <= self._hold_off.seconds:\n",
        "        if True:\n",
        _STRICT + "test_a_commit_that_took_too_long_is_held_off_anew_and_said",
    ),
    Protection(
        "P5",
        "without the cache there is no commit, unless allowed",
        "cache/tokens/strict.py",
        "        if not self._degrade:\n",
        "        if False:\n",
        _STRICT + "test_without_the_cache_the_commit_is_not_sent",
    ),
    Protection(
        "P3",
        "what an open transaction of the request has changed is not stored",
        "app/snapshot_guard.py",
        "        return writes is not None and not writes.may_store()\n",
        "        return False\n",
        _UNCOMMITTED + "test_what_may_be_rolled_back_is_not_stored",
    ),
    Protection(
        "P3",
        "what a load was not seen to read where all is known is as old as its request",
        "app/snapshot_guard.py",
        "        if self._is_elsewhere or not (",
        "        if False and not (",
        _AUTO + "test_nor_what_is_read_on_a_connection_that_was_not_named",
    ),
    Protection(
        "P3",
        "so is what it also read on a connection that nobody has named",
        "app/snapshot_guard.py",
        "        self._is_elsewhere |= self._has_strangers()\n",
        "",
        "tests/on_mysql/test_mysql_unnamed_reads.py::"
        "test_so_it_is_if_the_request_had_not_read_there_before",
    ),
    Protection(
        "P3",
        "what a load makes of an outdated value is not stored",
        "cache/unstorable.py",
        "        if this.is_withheld:\n",
        "        if False:\n",
        "tests/cache/test_loads_within_loads.py::"
        "test_what_is_made_of_an_outdated_value_is_not_stored",
    ),
    Protection(
        "P3",
        "what the request may have read on a connection of its own is as old as it",
        "app/known_connections.py",
        "        if any(answered != 0 for _, answered in self._before):\n",
        "        if False:\n",
        _AUTO + "test_a_row_that_the_request_had_read_before_is_not",
    ),
    Protection(
        "P3",
        "what it got from the cache may lack what was on its way then",
        "cache/entries.py",
        "            or self._had_hits_under_others(found)\n",
        "",
        _AUTO + "test_are_not_stored_under_a_token_that_was_another_then",
    ),
    Protection(
        "P3",
        "so may what another reader has loaded for it",
        "cache/entries.py",
        "            hits.note(lookup.addresses, tokens)\n",
        "            pass\n",
        _AUTO + "test_nor_if_another_thread_has_loaded_them",
    ),
    Protection(
        "P3",
        "and an outdated value that it has asked for",
        "cache/entries.py",
        "            self._hits.note(lookup.addresses, tokens)\n",
        "            pass\n",
        _AUTO + "test_nor_if_they_were_out_of_date",
    ),
    Protection(
        "P3",
        "a flush replaces each node's copy again: a hit where it has not come yet",
        "worker/appliers.py",
        "        if len(store.nodes_of(flush)) > 1:\n",
        "        if False:\n",
        "tests/cache/test_cache_late_tokens.py::"
        "test_nor_does_what_a_loader_has_made_of_it",
    ),
    Protection(
        "P3",
        "of more hits than are remembered nothing is known",
        "cache/tokens/seen.py",
        "        if len(hits) == hits.maxlen and hits[0][0] >= began:\n",
        "        if False:\n",
        "tests/cache/test_earlier_hits.py::"
        "test_of_more_hits_than_are_remembered_nothing_is_stored",
    ),
    Protection(
        "P3",
        "so is what it has read in an attached session",
        "app/open_transactions.py",
        "    mine.read_at = time.monotonic()\n",
        "",
        _AUTO + "test_a_row_that_the_request_had_read_before_is_not",
    ),
    Protection(
        "P3",
        "so is what it has got from the cache",
        "app/own_reads.py",
        "        open_transactions.note_read()\n\n\ndef get_many_or_load(\n",
        "        pass\n\n\ndef get_many_or_load(\n",
        _AUTO + "test_nor_is_the_value_of_another_read",
    ),
    Protection(
        "P3",
        "a connection that a pool hands out may be in a transaction",
        "app/known_connections.py",
        "        if any(each.has_snapshot() for each in new):\n",
        "        if False:\n",
        _AUTO + "test_nor_what_is_read_beside_a_connection_that_the_load_has_opened",
    ),
    Protection(
        "P3",
        "a token that was found after a snapshot began may be younger",
        "cache/tokens/seen.py",
        "            or known[1] >= began\n",
        "",
        "tests/cache/test_seen_tokens.py::test_one_that_began_before_is_not",
    ),
    Protection(
        "P3",
        "so may one that has taken the place of what was found",
        "cache/tokens/seen.py",
        "            or known[0] != token[:TOKEN_ID_SIZE]\n",
        "",
        "tests/cache/test_seen_tokens.py::"
        "test_nor_one_that_began_before_a_token_was_replaced",
    ),
    Protection(
        "P5",
        "in a strict namespace a token says nothing of the commit that it announces",
        "cache/entries.py",
        "            if not policy.strict:\n",
        "            if True:\n",
        "tests/cache/test_seen_tokens.py::"
        "test_in_a_strict_namespace_tokens_are_older_than_the_commit",
    ),
    Protection(
        "P3",
        "so is one that another thread has begun",
        "app/snapshot_guard.py",
        '        if getattr(began, "steady", 0.0) < self._made_at.steady:\n',
        "        if False:\n",
        _AUTO + "test_nor_what_a_session_shows_that_another_thread_has_begun",
    ),
    Protection(
        "P3",
        "what a load turned out to read decides whether it is stored",
        "cache/loads/coalescer.py",
        "        if decision.refused is None and call.snapshot.since != since:\n",
        "        if False:\n",
        _AUTO + "test_nor_what_is_read_by_another_thread",
    ),
    Protection(
        "P3",
        "nor is it served in place of what the cache has",
        "app/own_reads.py",
        "    if has_written and (collected is None or not"
        " collected.may_be_uncommitted):\n",
        "    if False:\n",
        _UNCOMMITTED + "test_its_own_change_is_seen_though_another_value_is_cached",
    ),
    Protection(
        "P3",
        "nor is what a loader has changed itself",
        "app/own_reads.py",
        "        if not has_written and _has_uncommitted(app):\n",
        "        if False:\n",
        _UNCOMMITTED + "test_nor_what_a_loader_has_changed_itself",
    ),
    Protection(
        "P3",
        "what a session keeps over a commit is as old as its transaction",
        "integrations/sqlalchemy/orm.py",
        "                state.kept.add(current.began)\n",
        "                pass\n",
        "tests/web/test_sqlalchemy_reads.py"
        "::test_what_it_kept_is_not_stored_after_an_invalidation",
    ),
    Protection(
        "P2",
        "what was written after the commit is looked for at the end",
        "app/teardown.py",
        "        runtime.fallback.save_missing(collected.written, collected.where)\n",
        "        pass\n",
        "tests/web/test_late_writes.py"
        "::test_what_is_written_after_the_commit_goes_out_with_a_warning",
    ),
    Protection(
        "P8",
        "a reader allows for its clock's being behind",
        "cache/bound.py",
        "        self.seconds = seconds - clock_skew\n",
        "        self.seconds = seconds\n",
        _BOUND + "test_clock_of_a_reader_may_be_off_by_the_skew",
    ),
    Protection(
        "P8",
        "a read goes by the watermark that it knew before it asked for tokens",
        "cache/entries.py",
        """\
            holds = bound is None or bound.holds(addresses[0])
            entry, *tokens = self._store.get_many(addresses)
""",
        """\
            entry, *tokens = self._store.get_many(addresses)
            holds = bound is None or bound.holds(addresses[0])
""",
        _BOUND
        + "test_watermark_that_comes_while_an_entry_is_read_is_not_for_that_read",
    ),
    Protection(
        "P8",
        "a load of others that began before the bound is not joined",
        "cache/loads/coalescer.py",
        "not leading and entries.is_too_old(flight.began_at)",
        "False",
        _BOUND + "test_load_that_began_before_the_bound_is_not_joined",
    ),
    Protection(
        "P8",
        "a dead letter holds the watermark back",
        "outbox/statements.py",
        "      and state = 2\n      and coalesce(claimed_at_ms, at_ms) >= ",
        "      and state = 3\n      and coalesce(claimed_at_ms, at_ms) >= ",
        _MEMORY + "test_dead_letter_holds_it_until_a_later_flush_is_published",
    ),
    Protection(
        "P8",
        "a flush makes up for what had been claimed before it was",
        "outbox/statements.py",
        "        select max(coalesce(flush.claimed_at_ms, flush.created_at_ms))\n",
        "        select max(flush.at_ms)\n",
        _MEMORY + "test_flush_that_was_claimed_before_makes_up_for_nothing",
    ),
    Protection(
        "P8",
        "the flush of a dead letter that was discarded holds the watermark back",
        "outbox/watermark.py",
        "    if flush_waits:\n",
        "    if flush_waits and dead:\n",
        _MEMORY + "test_discarded_dead_letter_holds_it_by_its_flush",
    ),
]
