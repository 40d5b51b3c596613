"""Names, positions and owners are kept byte for byte."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hydracache_sync.intents import InvalidationIntent, InvalidationIntentBatch
from outbox_contract.common import (
    EVERY_OUTBOX,
    LOOKALIKES,
    ODD_TEXTS,
    SHOP,
    Name,
    OutboxHooks,
    batch_of,
    keys_of,
)


class IdentifierContract(OutboxHooks):
    """What identifies is kept to the byte, or refused before anything is written."""

    @pytest.mark.parametrize("text", ODD_TEXTS.values(), ids=ODD_TEXTS)
    def test_odd_text_is_kept_in_every_column(self, outbox, text):
        batch = InvalidationIntentBatch(text).invalidate_key(text).invalidate_tag(text)
        batch.invalidate_entity(text, text).invalidate_collection(text).flush()
        outbox.enqueue(text, batch, commit_position=text)

        rows = outbox.claim(text, text, limit=10, claim_ttl=30)
        outbox.mark_failed(rows, text, backoff=0, dead=True)

        stored = outbox.dead_letters(text)
        assert [row.intent for row in rows] == list(batch.intents)
        assert [row.intent for row in stored] == list(batch.intents)
        assert {row.namespace for row in stored} == {text}
        assert {row.commit_position.value for row in stored} == {text}
        assert {row.reason for row in stored} == {text}
        assert {row.claim_owner for row in rows} == {text}
        assert {row.last_error for row in stored} == {text}
        assert outbox.status_for_commit(text, text).dead_lettered == 5
        assert outbox.status(text).dead_lettered == 5

    @settings(max_examples=30, suppress_health_check=EVERY_OUTBOX)
    @given(texts=st.lists(st.text(max_size=50), min_size=1, max_size=8))
    def test_any_text_comes_back_as_it_went_in(self, outbox, texts):
        batch = batch_of(*texts)
        for text in texts:
            batch.invalidate_entity(text, texts[0])

        receipt = outbox.enqueue(SHOP, batch)

        rows = outbox.rows(SHOP, commit_position=receipt.commit_position)
        assert [row.intent for row in rows] == batch.distinct()

    @pytest.mark.parametrize("text", LOOKALIKES, ids=ascii)
    def test_texts_at_their_limits_are_kept_whole(self, outbox, text):
        def filled(limit: int) -> str:
            return text + "x" * (limit - len(text.encode()))

        namespace, position, target = filled(64), filled(128), filled(4096)
        batch = InvalidationIntentBatch(filled(255)).invalidate_key(target)
        batch.invalidate_tag(target).invalidate_entity(target, target)
        batch.invalidate_collection(target)

        outbox.enqueue(namespace, batch, commit_position=position)
        rows = outbox.claim(namespace, filled(255), limit=10, claim_ttl=30)

        assert [row.intent for row in rows] == list(batch.intents)
        assert {row.namespace for row in rows} == {namespace}
        assert {row.commit_position.value for row in rows} == {position}
        assert {row.reason for row in rows} == {filled(255)}
        assert {outbox.row(row.id).claim_owner for row in rows} == {filled(255)}
        assert outbox.status_for_commit(namespace, position).pending == 4

    def test_four_byte_characters_fill_the_limits(self, outbox):
        face = "\N{GRINNING FACE}"

        outbox.enqueue(face * 16, batch_of(face * 1024), commit_position=face * 32)

        [row] = outbox.claim(face * 16, face * 63, limit=1, claim_ttl=30)
        assert keys_of([row]) == [face * 1024]
        assert row.commit_position.value == face * 32

    def test_identifiers_that_look_alike_are_different(self, outbox):
        for text in LOOKALIKES:
            outbox.enqueue(text, batch_of(*LOOKALIKES), commit_position="tx")
            outbox.enqueue(SHOP, batch_of(*LOOKALIKES), commit_position=text)

        for text in LOOKALIKES:
            assert keys_of(outbox.rows(text)) == LOOKALIKES
            assert keys_of(outbox.rows(SHOP, commit_position=text)) == LOOKALIKES
            assert outbox.status(text).pending == len(LOOKALIKES)
            assert outbox.status_for_commit(SHOP, text).pending == len(LOOKALIKES)

    def test_empty_targets_are_targets(self, outbox):
        batch = batch_of("").invalidate_tag("").invalidate_collection("")
        batch.invalidate_entity("", "")

        outbox.enqueue(SHOP, batch)

        rows = outbox.claim(SHOP, "w", limit=10, claim_ttl=30)
        assert [row.intent for row in rows] == list(batch.intents)

    @pytest.mark.parametrize("namespace", ["", "x" * 65, "\xe9" * 33], ids=ascii)
    def test_namespace_beyond_its_limits_is_refused_everywhere(self, outbox, namespace):
        length = len(namespace.encode())
        expected = rf"^namespace is {length} bytes.*\b64$"

        for call in (
            lambda: outbox.enqueue(namespace, batch_of("a")),
            lambda: outbox.enqueue(namespace, InvalidationIntentBatch()),
            lambda: outbox.claim(namespace, "w", limit=1, claim_ttl=30),
            lambda: outbox.claim(namespace, "w", limit=0, claim_ttl=30),
            lambda: outbox.status(namespace),
            lambda: outbox.status_for_commit(namespace, "tx"),
            lambda: outbox.rows(namespace),
            lambda: outbox.dead_letters(namespace),
            lambda: outbox.reset_dead_letters(namespace),
            lambda: outbox.discard_dead_letters(namespace, []),
            lambda: outbox.purge_published(namespace, older_than=0),
            lambda: outbox.escalate(namespace),
        ):
            with pytest.raises(ValueError, match=expected):
                call()

        assert self.sql(outbox, "select count(*) from hydracache_outbox") == [(0,)]

    @pytest.mark.parametrize("position", ["", "x" * 129, "\xe9" * 65], ids=ascii)
    def test_position_beyond_its_limits_is_refused(self, outbox, position):
        length = len(position.encode())
        expected = rf"^commit_position is {length} bytes.*\b128$"

        with pytest.raises(ValueError, match=expected):
            outbox.enqueue(SHOP, batch_of("a"), commit_position=position)
        with pytest.raises(ValueError, match=expected):
            outbox.status_for_commit(SHOP, position)
        with pytest.raises(ValueError, match=expected):
            outbox.rows(SHOP, commit_position=position)

        assert outbox.rows(SHOP) == []

    @pytest.mark.parametrize("owner", ["", "x" * 256, "\xe9" * 128], ids=ascii)
    def test_owner_beyond_its_limits_is_refused(self, outbox, owner):
        outbox.enqueue(SHOP, batch_of("a"))

        with pytest.raises(ValueError, match=r"^owner is \d+ bytes.*\b255$"):
            outbox.claim(SHOP, owner, limit=1, claim_ttl=30)

        assert outbox.rows(SHOP)[0].claim_owner is None

    @pytest.mark.parametrize(
        "intent",
        [
            InvalidationIntent("bogus", "a"),
            InvalidationIntent("entity", "42"),
            InvalidationIntent("key", "x" * 4097),
            InvalidationIntent("key", "\ud800"),
        ],
        ids=["kind", "entity", "too long", "surrogate"],
    )
    def test_intent_made_by_hand_is_checked_like_any_other(self, outbox, intent):
        with pytest.raises(ValueError):
            outbox.enqueue(SHOP, batch_of("a").intent(intent))

        assert outbox.rows(SHOP) == []

    def test_lone_surrogates_are_refused_before_anything_is_written(self, outbox):
        for call in (
            lambda: outbox.enqueue("\ud800", batch_of("a")),
            lambda: outbox.enqueue(SHOP, batch_of("a"), commit_position="tx\udfff"),
            lambda: outbox.enqueue(SHOP, batch_of("a", "\ud83d")),
            lambda: outbox.enqueue(SHOP, batch_of("a", reason="\ud83d")),
            lambda: outbox.claim(SHOP, "\ud800", limit=1, claim_ttl=30),
        ):
            with pytest.raises(ValueError, match="surrogate"):
                call()

        assert self.sql(outbox, "select count(*) from hydracache_outbox") == [(0,)]

    def test_member_of_a_str_enum_means_its_value(self, outbox):
        batch = batch_of(Name.KEY).invalidate_entity(Name.SHOP, Name.KEY)

        outbox.enqueue(Name.SHOP, batch, commit_position=Name.POSITION)

        rows = outbox.claim("shop", Name.OWNER, limit=2, claim_ttl=30)
        assert [row.intent for row in rows] == list(
            batch_of("user:42").invalidate_entity("shop", "user:42")
        )
        assert [row.target_hash for row in rows] == [
            row.intent.target_hash_hex() for row in rows
        ]
        assert {outbox.row(row.id).claim_owner for row in rows} == {"worker"}
        assert outbox.status_for_commit(Name.SHOP, "tx:7").pending == 2

    WRONG_TYPES = {
        "namespace int": lambda outbox: outbox.enqueue(5, batch_of("a")),
        "namespace bytes": lambda outbox: outbox.enqueue(b"shop", batch_of("a")),
        "namespace None": lambda outbox: outbox.status(None),
        "batch list": lambda outbox: outbox.enqueue(SHOP, ["a"]),
        "batch intent": lambda outbox: outbox.enqueue(SHOP, InvalidationIntent.flush()),
        "position int": lambda outbox: outbox.enqueue(
            SHOP, batch_of("a"), commit_position=7
        ),
        "awaited position int": lambda outbox: outbox.status_for_commit(SHOP, 7),
        "owner int": lambda outbox: outbox.claim(SHOP, 7, limit=1, claim_ttl=30),
        "limit float": lambda outbox: outbox.claim(SHOP, "w", limit=1.0, claim_ttl=30),
        "limit str": lambda outbox: outbox.claim(SHOP, "w", limit="1", claim_ttl=30),
        "limit bool": lambda outbox: outbox.claim(SHOP, "w", limit=True, claim_ttl=30),
        "ttl str": lambda outbox: outbox.claim(SHOP, "w", limit=1, claim_ttl="30"),
        "ttl bool": lambda outbox: outbox.claim(SHOP, "w", limit=1, claim_ttl=True),
        "ttl None": lambda outbox: outbox.claim(SHOP, "w", limit=1, claim_ttl=None),
        "backoff None": lambda outbox: outbox.mark_failed(
            [], "e", backoff=None, dead=False
        ),
        "delay str": lambda outbox: outbox.release([], delay="1"),
        "receipt str": lambda outbox: outbox.publish_commit("hc1:shop:tx:5:1"),
        "row id str": lambda outbox: outbox.row("1"),
        "row id bool": lambda outbox: outbox.row(True),
        "rows limit str": lambda outbox: outbox.rows(SHOP, limit="all"),
        "rows after None": lambda outbox: outbox.rows(SHOP, after=None),
        "rows state str": lambda outbox: outbox.rows(SHOP, state="dead"),
        "reset ids str": lambda outbox: outbox.reset_dead_letters(SHOP, ["1"]),
        "discard ids float": lambda outbox: outbox.discard_dead_letters(SHOP, [1.0]),
        "age str": lambda outbox: outbox.purge_published(SHOP, older_than="a day"),
        "purge limit bool": lambda outbox: outbox.purge_published(
            SHOP, older_than=1, limit=True
        ),
    }

    @pytest.mark.parametrize("call", WRONG_TYPES.values(), ids=WRONG_TYPES)
    def test_argument_of_a_wrong_type_is_a_type_error(self, outbox, call):
        outbox.enqueue(SHOP, batch_of("here"))
        before = outbox.rows(SHOP)

        with pytest.raises(TypeError):
            call(outbox)

        assert outbox.rows(SHOP) == before

    @pytest.mark.parametrize(
        "seconds",
        [-0.001, -1, float("nan"), float("inf"), -float("inf"), 1e300, 10**400],
        ids=["-0.001", "-1", "nan", "inf", "-inf", "1e300", "10**400"],
    )
    def test_duration_out_of_range_is_a_value_error(self, outbox, seconds):
        receipt = outbox.enqueue(SHOP, batch_of("a"))
        [row] = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)
        before = outbox.rows(SHOP)

        for field, call in {
            "claim_ttl": lambda: outbox.claim(SHOP, "w", limit=1, claim_ttl=seconds),
            "backoff": lambda: outbox.mark_failed(
                [row], "e", backoff=seconds, dead=False
            ),
            "delay": lambda: outbox.release([row], delay=seconds),
            "older_than": lambda: outbox.purge_published(SHOP, older_than=seconds),
            "timeout": lambda: outbox.publish_commit(receipt, timeout=seconds),
        }.items():
            with pytest.raises(ValueError, match=field):
                call()

        assert outbox.rows(SHOP) == before

    @pytest.mark.parametrize("seconds", [0, 0.0, 0.0004])
    def test_claim_that_would_not_last_a_millisecond_is_refused(self, outbox, seconds):
        outbox.enqueue(SHOP, batch_of("a"))

        with pytest.raises(ValueError, match="claim_ttl"):
            outbox.claim(SHOP, "w", limit=1, claim_ttl=seconds)

        assert outbox.rows(SHOP)[0].claim_token is None

    @pytest.mark.parametrize("number", [-1, -(10**30), 2**63, 10**400], ids=str)
    def test_number_out_of_range_is_a_value_error(self, outbox, number):
        outbox.enqueue(SHOP, batch_of("a"))
        before = outbox.rows(SHOP)

        for call in (
            lambda: outbox.claim(SHOP, "w", limit=number, claim_ttl=30),
            lambda: outbox.rows(SHOP, limit=number),
            lambda: outbox.rows(SHOP, after=number),
            lambda: outbox.row(number),
            lambda: outbox.reset_dead_letters(SHOP, [number]),
            lambda: outbox.discard_dead_letters(SHOP, [number]),
            lambda: outbox.purge_published(SHOP, older_than=0, limit=number),
        ):
            with pytest.raises(ValueError):
                call()

        assert outbox.rows(SHOP) == before
