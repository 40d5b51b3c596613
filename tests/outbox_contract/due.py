"""When a row is due."""

from __future__ import annotations

import pytest

from outbox_contract.common import (
    SHOP,
    OutboxHooks,
    batch_of,
    claims,
    keys_of,
    numbered,
)


class DueContract(OutboxHooks):
    """One question tells which namespaces a claim would find rows in."""

    def test_namespaces_with_a_row_due_are_told_in_the_order_asked(self, outbox):
        for namespace in (SHOP, "blog", "wiki"):
            outbox.enqueue(namespace, batch_of("a", "b"))

        due = outbox.due_namespaces(["wiki", "empty", SHOP])

        assert due == ["wiki", SHOP]

    def test_namespaces_are_told_once_each(self, outbox):
        outbox.enqueue(SHOP, batch_of("a"))

        assert outbox.due_namespaces([SHOP, "blog", SHOP]) == [SHOP]

    def test_only_what_a_claim_would_take_is_due(self, outbox, clock):
        for namespace in ("claimed", "backoff", "published", "dead"):
            outbox.enqueue(namespace, batch_of("a"))
        names = ["claimed", "backoff", "published", "dead"]
        held, failed, done, given_up = (
            outbox.claim(name, "w", limit=1, claim_ttl=30) for name in names
        )
        outbox.mark_failed(failed, "e", backoff=60, dead=False)
        outbox.mark_published(done)
        outbox.mark_failed(given_up, "e", backoff=0, dead=True)

        at_once = outbox.due_namespaces(names)
        clock.advance(31)
        after_the_claim = outbox.due_namespaces(names)
        clock.advance(31)
        after_the_backoff = outbox.due_namespaces(names)

        assert at_once == []
        assert after_the_claim == ["claimed"]
        assert after_the_backoff == ["claimed", "backoff"]

    def test_paused_namespace_is_not_due(self, outbox):
        for namespace in (SHOP, "blog"):
            outbox.enqueue(namespace, batch_of("a"))

        outbox.pause(SHOP)
        while_paused = outbox.due_namespaces([SHOP, "blog"])
        outbox.resume(SHOP)

        assert while_paused == ["blog"]
        assert outbox.due_namespaces([SHOP, "blog"]) == [SHOP, "blog"]

    @pytest.mark.parametrize("look", ["claim", "due_namespaces"])
    def test_a_row_from_the_future_is_due_at_once(self, outbox, clock, caplog, look):
        clock.advance(86_400)
        outbox.enqueue(SHOP, batch_of("a", "b"))
        clock.advance(-86_400)

        if look == "due_namespaces":
            assert outbox.due_namespaces(["other", SHOP]) in ([], [SHOP])
            assert outbox.due_namespaces(["other", SHOP]) == [SHOP]
        rows = outbox.claim(SHOP, "w", limit=9, claim_ttl=30)

        assert keys_of(rows) == ["a", "b"]
        [record] = [each for each in caplog.records if "ahead" in each.getMessage()]
        assert record.levelname == "WARNING"
        assert "2 rows of namespace shop were dated up to 86400.0 s" in (
            record.getMessage()
        )

    def test_a_row_from_the_future_that_is_enqueued_again_is_due_at_once(
        self, outbox, clock
    ):
        for finished in (False, True):
            clock.advance(86_400)
            first = outbox.enqueue(SHOP, batch_of("a"), commit_position=str(finished))
            if finished:
                outbox.publish_commit(first)
            outbox.enqueue(SHOP, batch_of("a"), commit_position=str(finished))
            clock.advance(-86_400)

        assert len(outbox.claim(SHOP, "w", limit=9, claim_ttl=30)) == 2

    def test_more_rows_from_the_future_than_a_statement_takes_are_due(
        self, outbox, clock
    ):
        clock.advance(86_400)
        outbox.enqueue(SHOP, batch_of(*numbered(1200)))
        clock.advance(-86_400)

        taken = [row for rows in claims(outbox, limit=300) for row in rows]

        assert sorted(keys_of(taken)) == sorted(numbered(1200))

    def test_what_waits_for_a_moment_of_its_own_is_left_to_it(self, outbox, clock):
        clock.advance(86_400)
        outbox.enqueue(SHOP, batch_of("from the future"))
        clock.advance(-86_400)
        outbox.escalate(SHOP)
        outbox.enqueue(SHOP, batch_of("failed", "released"))
        rows = outbox.claim(SHOP, "w", limit=9, claim_ttl=30)
        by_key = dict(zip(keys_of(rows), rows))
        outbox.mark_published([by_key[None]])
        outbox.mark_failed(
            [by_key["failed"], by_key["from the future"]], "e", backoff=60, dead=False
        )
        outbox.release([by_key["released"]], delay=60)
        outbox.escalate(SHOP)  # a minute later
        outbox._claims._ahead_at.clear()

        assert outbox.claim(SHOP, "w", limit=9, claim_ttl=30) == []

    def test_rows_from_the_future_are_not_looked_for_at_each_claim(
        self, storage, clock, monkeypatch
    ):
        outbox, statements = self.spied_outbox(storage, clock, monkeypatch)

        for _ in range(3):
            outbox.claim(SHOP, "w", limit=1, claim_ttl=1)

        assert len(statements) == 3
        outbox.close()

    def test_question_is_one_statement(self, storage, clock, monkeypatch):
        outbox, statements = self.spied_outbox(storage, clock, monkeypatch)

        names = [f"namespace:{n}" for n in range(60)]
        for _ in names:
            outbox.due_namespaces(names)
        # Each has been looked at for rows that are dated ahead, which is done for now.
        statements.clear()
        clock.advance(1)

        outbox.due_namespaces(names)

        assert len(statements) == 1

    def test_hundreds_of_namespaces_can_be_asked_for(self, outbox):
        names = [f"namespace:{n}" for n in range(450)]
        for name in (names[3], names[449]):
            outbox.enqueue(name, batch_of("a"))

        assert outbox.due_namespaces(names) == [names[3], names[449]]

    def test_question_for_nothing_does_not_touch_storage(
        self, storage, clock, monkeypatch
    ):
        outbox, statements = self.spied_outbox(storage, clock, monkeypatch)

        assert outbox.due_namespaces([]) == []
        assert statements == []

    def test_namespace_beyond_its_limits_is_refused(self, outbox):
        with pytest.raises(ValueError, match="namespace"):
            outbox.due_namespaces([SHOP, "x" * 65])
