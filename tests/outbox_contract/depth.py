"""From a public call to the driver it is not far."""

from __future__ import annotations

from outbox_contract.common import SHOP, OutboxHooks, batch_of
from support.frames import frames_to_driver


class DepthContract(OutboxHooks):
    """A reader who follows a call passes few functions; so does the processor."""

    def test_an_enqueue_is_four_functions_from_the_driver(self, outbox):
        with outbox.transaction() as connection:
            outbox.enqueue_in(connection, SHOP, batch_of("a"))

            frames = frames_to_driver(
                lambda: outbox.enqueue_in(connection, SHOP, batch_of("b"))
            )

        assert frames <= 4

    def test_a_claim_is_five_functions_from_the_driver(self, outbox):
        outbox.enqueue(SHOP, batch_of("a", "b"))
        # The first looks for rows dated ahead, and checks the tables.
        outbox.claim(SHOP, "w", limit=1, claim_ttl=30)

        frames = frames_to_driver(
            lambda: outbox.claim(SHOP, "w", limit=9, claim_ttl=30)
        )

        assert frames <= 5
