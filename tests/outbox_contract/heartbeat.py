"""The heartbeat that readers of replicas rely on."""

from __future__ import annotations

import pytest

from hydracache_sync.errors import SchemaError
from outbox_contract.common import OutboxHooks

BEAT = "select id, beat_ms from hydracache_outbox_heartbeat"


class HeartbeatContract(OutboxHooks):
    """One moment for all readers, which is never later than its own commit."""

    def test_heartbeat_is_the_present_moment_and_one_row(self, outbox, clock):
        outbox.write_heartbeat()
        first = self.sql(outbox, BEAT)
        clock.advance(1)
        outbox.write_heartbeat()

        assert first == [(1, clock.now_ms - 1000)]
        assert self.sql(outbox, BEAT) == [(1, clock.now_ms)]

    def test_heartbeat_that_is_young_enough_is_left(self, outbox, clock):
        outbox.write_heartbeat()
        written = clock.now_ms

        clock.advance(0.999)
        outbox.write_heartbeat(every=1)
        young = self.sql(outbox, BEAT)
        clock.advance(0.001)
        outbox.write_heartbeat(every=1)

        assert young == [(1, written)]
        assert self.sql(outbox, BEAT) == [(1, clock.now_ms)]

    def test_heartbeat_of_a_clock_that_was_ahead_is_replaced(self, outbox, clock):
        clock.advance(3 * 86400)
        outbox.write_heartbeat()
        clock.advance(-3 * 86400)

        outbox.write_heartbeat(every=60)

        assert self.sql(outbox, BEAT) == [(1, clock.now_ms)]

    def test_heartbeat_without_its_table_is_told_and_can_be_installed(self, outbox):
        self.sql(outbox, "drop table hydracache_outbox_heartbeat")

        with pytest.raises(SchemaError, match="heartbeat.*schema install"):
            outbox.write_heartbeat()
        outbox.check_schema()
        outbox.install_schema()

        outbox.write_heartbeat()
        assert len(self.sql(outbox, BEAT)) == 1

    @pytest.mark.parametrize("every", [-1, float("nan"), "1"])
    def test_heartbeat_refuses_what_is_no_duration(self, outbox, every):
        with pytest.raises((TypeError, ValueError), match="every"):
            outbox.write_heartbeat(every=every)

        assert self.sql(outbox, BEAT) == []
