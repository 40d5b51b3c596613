"""Tables are made, checked and refused."""

from __future__ import annotations

import traceback

import pytest

from hydracache_sync.errors import (
    SchemaError,
)
from outbox_contract.common import SHOP, OutboxHooks, batch_of, keys_of


class SchemaContract(OutboxHooks):
    """Tables are made once, and those of another version are left alone."""

    def test_schema_can_be_installed_again(self, outbox):
        outbox.enqueue(SHOP, batch_of("a"))

        outbox.install_schema()

        outbox.check_schema()
        assert keys_of(outbox.rows(SHOP)) == ["a"]

    @pytest.mark.parametrize("table", ["hydracache_outbox", "hydracache_outbox_paused"])
    def test_a_table_that_is_missing_is_all_that_an_error_tells_of(self, outbox, table):
        self.sql(outbox, f"drop table {table}")

        with pytest.raises(SchemaError, match="schema install") as caught:
            if table == "hydracache_outbox":
                outbox.enqueue(SHOP, batch_of("a"))
            else:
                outbox.pause(SHOP)

        error = caught.value
        lines = traceback.format_exception(type(error), error, error.__traceback__)
        assert table in str(error)
        assert len([line for line in lines if line.startswith("Traceback")]) == 1

    def test_newer_tables_are_refused(self, outbox):
        self.sql(outbox, "update hydracache_outbox_schema set version = 99")

        with pytest.raises(SchemaError, match="99.*newer.*upgrade") as caught:
            outbox.check_schema()

        assert (caught.value.found, caught.value.expected) == (99, 1)

    def test_older_tables_are_refused(self, outbox):
        self.sql(outbox, "update hydracache_outbox_schema set version = 0")

        with pytest.raises(SchemaError, match="older.*CHANGELOG") as caught:
            outbox.check_schema()

        assert (caught.value.found, caught.value.expected) == (0, 1)

    @pytest.mark.parametrize("version", [0, 99])
    def test_install_does_not_touch_another_version(self, outbox, version):
        outbox.enqueue(SHOP, batch_of("a"))
        before = outbox.rows(SHOP)
        self.sql(outbox, "update hydracache_outbox_schema set version = ?", (version,))

        with pytest.raises(SchemaError) as caught:
            outbox.install_schema()

        assert caught.value.found == version
        versions = self.sql(outbox, "select version from hydracache_outbox_schema")
        assert versions == [(version,)]
        assert outbox.rows(SHOP) == before
