"""What every store promises, once: each store's own file subclasses the contract."""

from __future__ import annotations

import threading
from typing import Sequence

import pytest

from hydracache_sync.cache import Address, CacheStore, Copy, Keyspace, app_address
from hydracache_sync.cache.store import GONE
from hydracache_sync.errors import ApplyError, ApplyPermanent

#: Texts that end a value, a command or a parser that looks for them.
AWKWARD_VALUES = [
    b"",
    b"\r\n",
    b"END\r\n",
    b"\r\nEND\r\n",
    b"VALUE other 0 3\r\nabc\r\nEND\r\n",
    b"STORED\r\n",
    b"SERVER_ERROR out of memory\r\n",
    b"\x00\xff" * 10,
    b"ends with a carriage return\r",
    bytes(range(256)) * 300,
]


class StoreContract:
    """Subclasses give ``store`` and ``seconds_left``."""

    @pytest.fixture
    def store(self) -> CacheStore:
        raise NotImplementedError

    def seconds_left(self, store: CacheStore, address: Address) -> int | None:
        """How long the value at ``address`` will be kept, None for no limit."""
        raise NotImplementedError

    def clock_error(self, store: CacheStore) -> float:
        """Seconds between the clock by which ``store`` keeps dates and the host's."""
        return 0.0

    def rival(self, store: CacheStore) -> CacheStore:
        """Another client of what ``store`` keeps."""
        return store

    @pytest.fixture
    def addresses(self, store: CacheStore, unique: str) -> list[Address]:
        keyspace = Keyspace(store.ring, unique)
        return [keyspace.entry(f"key {number}") for number in range(5)]

    def test_what_was_never_stored_is_none(
        self, store: CacheStore, addresses: list[Address]
    ) -> None:
        assert store.get_many(addresses) == [None] * 5

    @pytest.mark.parametrize("value", AWKWARD_VALUES, ids=range(len(AWKWARD_VALUES)))
    def test_any_bytes_come_back_as_they_were(
        self, store: CacheStore, addresses: list[Address], value: bytes
    ) -> None:
        neighbours = [(address, b"neighbour", None) for address in addresses[1:]]

        failures = store.set_many([(addresses[0], value, None), *neighbours])

        assert failures == {}
        assert store.get_many(addresses) == [value] + [b"neighbour"] * 4

    def test_answers_come_in_the_order_of_the_question(
        self, store: CacheStore, addresses: list[Address]
    ) -> None:
        store.set_many([(addresses[3], b"three", None), (addresses[1], b"one", None)])

        asked = [addresses[n] for n in (3, 0, 1, 3, 2)]

        assert store.get_many(asked) == [b"three", None, b"one", b"three", None]

    def test_set_replaces(self, store: CacheStore, addresses: list[Address]) -> None:
        store.set_many([(addresses[0], b"old", None)])

        store.set_many([(addresses[0], b"new", None)])

        assert store.get_many(addresses[:1]) == [b"new"]

    def test_a_write_whose_seconds_are_gone_removes(
        self, store: CacheStore, addresses: list[Address]
    ) -> None:
        store.set_many([(addresses[0], b"old", None), (addresses[1], b"old", None)])

        failures = store.set_many(
            [(addresses[0], b"new", 60), (addresses[1], b"", GONE)]
        )

        assert failures == {}
        assert store.get_many(addresses[:2]) == [b"new", None]
        assert store.add_many([(addresses[1], b"mine", None)]) == [b"mine"]

    def test_the_last_of_two_writes_to_one_address_wins(
        self, store: CacheStore, addresses: list[Address]
    ) -> None:
        store.set_many([(addresses[0], b"old", None), (addresses[0], b"new", None)])

        assert store.get_many(addresses[:1]) == [b"new"]

    def test_add_stores_only_where_nothing_is_and_tells_what_is_there(
        self, store: CacheStore, addresses: list[Address]
    ) -> None:
        store.set_many([(addresses[0], b"there before", None)])

        now_there = store.add_many(
            [(addresses[0], b"mine", None), (addresses[1], b"mine", None)]
        )

        assert now_there == [b"there before", b"mine"]
        assert store.get_many(addresses[:2]) == [b"there before", b"mine"]

    def test_of_many_who_add_at_once_all_get_the_same(
        self, store: CacheStore, addresses: list[Address]
    ) -> None:
        barrier = threading.Barrier(8)
        answers: list[bytes | None] = []

        def add(own: bytes) -> None:
            barrier.wait()
            answers.extend(store.add_many([(addresses[0], own, None)]))

        threads = [
            threading.Thread(target=add, args=(b"of thread %d" % number,))
            for number in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert len(answers) == 8
        assert set(answers) == set(store.get_many(addresses[:1]))

    # Replacing

    def test_what_is_there_is_replaced_by_what_is_made_of_it(
        self, store: CacheStore, addresses: list[Address]
    ) -> None:
        store.set_many([(addresses[1], b"two", None), (addresses[2], b"t\r\n", 60)])
        copies = store.copies(addresses[:3])
        placeholders = [b"one", b"p 1", b"p 2"]

        outcomes = store.replace_many(
            copies, placeholders, lambda _, found: [b"new " + v for v in found]
        )

        assert outcomes == [True] * 3
        assert store.get_many(addresses[:3]) == [b"new one", b"new two", b"new t\r\n"]

    def test_what_is_made_none_of_is_left(
        self, store: CacheStore, addresses: list[Address]
    ) -> None:
        store.set_many([(addresses[0], b"there", None)])
        copies = store.copies(addresses[:3])

        made = {addresses[2]: b"new"}

        outcomes = store.replace_many(
            copies,
            [b"p0", b"p1", b"p2"],
            lambda copies, _: [made.get(address) for address, _ in copies],
        )

        assert outcomes == [True] * 3
        assert store.get_many(addresses[:3]) == [b"there", b"p1", b"new"]

    def test_what_another_writer_has_changed_since_the_reading_is_not_replaced(
        self, store: CacheStore, addresses: list[Address]
    ) -> None:
        rival = self.rival(store)
        store.set_many([(address, b"old", None) for address in addresses[:3]])

        def make(copies: Sequence[Copy], found: Sequence[bytes]) -> list[bytes | None]:
            # The same bytes again are another version too.
            rival.set_many([(addresses[0], b"old", None), (addresses[3], b"his", None)])
            rival.delete_many([addresses[1]])
            return [b"new"] * 4

        outcomes = store.replace_many(store.copies(addresses[:4]), [b"p"] * 4, make)

        assert outcomes == [False, False, True, False]
        assert store.get_many(addresses[:4]) == [b"old", None, b"new", b"his"]

    def test_the_moment_is_taken_after_everything_was_read(
        self, store: CacheStore, addresses: list[Address]
    ) -> None:
        rival = self.rival(store)
        seen: list[bytes | None] = []

        def make(copies: Sequence[Copy], found: Sequence[bytes]) -> list[bytes | None]:
            seen.extend(rival.get_many(addresses))
            return [None] * len(found)

        store.replace_many(store.copies(addresses), [b"p"] * 5, make)

        assert seen == [b"p"] * 5

    def test_of_many_who_replace_at_once_one_is_told_that_it_has(
        self, store: CacheStore, addresses: list[Address]
    ) -> None:
        rivals = [self.rival(store) for _ in range(8)]
        barrier = threading.Barrier(8)
        outcomes: list[bool | ApplyError] = []

        def make(copies: Sequence[Copy], found: Sequence[bytes]) -> list[bytes | None]:
            barrier.wait(10)
            return [b"of thread %d" % threading.get_ident()]

        def run(rival: CacheStore) -> None:
            copies = rival.copies(addresses[:1])
            outcomes.extend(rival.replace_many(copies, [b"p"], make))

        threads = [threading.Thread(target=run, args=(rival,)) for rival in rivals]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert sorted(outcomes) == [False] * 7 + [True]  # type: ignore[type-var]

    def test_twenty_thousand_are_replaced_in_one_call(
        self, store: CacheStore, unique: str
    ) -> None:
        keyspace = Keyspace(store.ring, unique)
        addresses = [keyspace.tag_token(str(number)) for number in range(20_000)]
        values: list[bytes | None] = [b"%017d" % number for number in range(20_000)]
        of_address = dict(zip(addresses, values))

        outcomes = store.replace_many(
            store.copies(addresses),
            [b"p%016d" % number for number in range(20_000)],
            lambda copies, _: [of_address[address] for address, _ in copies],
        )

        assert outcomes == [True] * 20_000
        assert store.get_many(addresses) == values

    def test_delete_removes_and_removing_nothing_is_success(
        self, store: CacheStore, addresses: list[Address]
    ) -> None:
        store.set_many([(addresses[0], b"value", None)])

        failures = store.delete_many(addresses)

        assert failures == {}
        assert store.get_many(addresses) == [None] * 5

    def test_an_applications_own_key_can_be_deleted(
        self, store: CacheStore, unique: str
    ) -> None:
        address = app_address(f"{unique}:user:42:ü")
        store.set_many([(address, b"value", None)])

        failures = store.delete_many([address])

        assert failures == {}
        assert store.get_many([address]) == [None]

    @pytest.mark.parametrize(
        "key",
        [
            b"",
            b"a b",
            b"a\r\nflush_all",
            b"a\nb",
            b"a\x00b",
            b"a\tb",
            b"\x7f",
            b"k" * 251,
        ],
    )
    def test_a_key_that_is_none_fails_alone_and_is_never_sent(
        self, store: CacheStore, addresses: list[Address], key: bytes
    ) -> None:
        bad = (key, key)
        store.set_many([(addresses[1], b"value", None)])

        set_failures = store.set_many([(bad, b"v", None), (addresses[0], b"v", None)])
        delete_failures = store.delete_many([addresses[1], bad])

        assert list(set_failures) == list(delete_failures) == [bad]
        assert isinstance(set_failures[bad], ApplyPermanent)
        assert isinstance(delete_failures[bad], ApplyPermanent)
        assert store.get_many(addresses[:2]) == [b"v", None]

    def test_a_value_over_the_item_limit_fails_alone(
        self, store: CacheStore, addresses: list[Address]
    ) -> None:
        large = b"x" * (1024 * 1024)

        failures = store.set_many(
            [(addresses[0], b"a", None), (addresses[1], large, None)]
            + [(addresses[2], b"c", None)]
        )

        assert list(failures) == [addresses[1]]
        assert isinstance(failures[addresses[1]], ApplyPermanent)
        assert store.get_many(addresses[:3]) == [b"a", None, b"c"]

    def test_adding_a_value_over_the_item_limit_raises(
        self, store: CacheStore, addresses: list[Address]
    ) -> None:
        with pytest.raises(ApplyPermanent, match="item limit"):
            store.add_many([(addresses[0], b"x" * (1024 * 1024), None)])

        assert store.get_many(addresses[:1]) == [None]

    def test_nothing_asked_is_nothing_done(self, store: CacheStore) -> None:
        assert store.get_many([]) == []
        assert store.add_many([]) == []
        assert store.replace_many([], [], lambda *_: []) == []
        assert store.set_many([]) == {}
        assert store.delete_many([]) == {}

    def test_twenty_thousand_small_writes_in_one_call(
        self, store: CacheStore, unique: str
    ) -> None:
        keyspace = Keyspace(store.ring, unique)
        addresses = [keyspace.entry(str(number)) for number in range(20_000)]
        value = b"x" * 96

        failures = store.set_many(
            [
                (address, b"%04d" % (n % 1000) + value, 60)
                for n, address in enumerate(addresses)
            ]
        )

        assert failures == {}
        assert store.get_many(addresses) == [
            b"%04d" % (n % 1000) + value for n in range(20_000)
        ]
        assert store.delete_many(addresses) == {}
        assert store.get_many(addresses[:1000]) == [None] * 1000

    def test_large_values_in_one_call(self, store: CacheStore, unique: str) -> None:
        keyspace = Keyspace(store.ring, unique)
        addresses = [keyspace.entry(str(number)) for number in range(30)]
        values = [bytes([number]) * 700_000 for number in range(30)]

        failures = store.set_many(
            [(address, value, 60) for address, value in zip(addresses, values)]
        )
        found = store.get_many(addresses)

        assert failures == {}
        assert found == values
        assert store.delete_many(addresses) == {}

    def test_adding_more_than_one_command_line_holds(
        self, store: CacheStore, unique: str
    ) -> None:
        keyspace = Keyspace(store.ring, unique)
        addresses = [keyspace.tag_token("t" * 170 + str(n)) for n in range(1000)]

        found = store.add_many([(address, address[1], 60) for address in addresses])

        assert found == [key for _, key in addresses]

    @pytest.mark.parametrize(
        ("ttl", "expected"),
        [(None, None), (0, None), (0.0, None), (100, 100), (99.01, 100)]
        + [(2_592_000, 2_592_000), (2_592_001, 2_592_001), (31_536_000, 31_536_000)],
    )
    def test_ttl_is_kept_in_whole_seconds_rounded_up(
        self,
        store: CacheStore,
        addresses: list[Address],
        ttl: float | None,
        expected: int | None,
    ) -> None:
        store.set_many([(addresses[0], b"set", ttl)])
        store.add_many([(addresses[1], b"added", ttl)])

        for address in addresses[:2]:
            left = self.seconds_left(store, address)
            if expected is None:
                assert left is None
            else:
                # memcached's own clock may be two seconds behind the date it is told,
                # and more where it was slow to start.
                error = 3 + self.clock_error(store)
                assert left is not None and abs(left - expected) <= error

    @pytest.mark.parametrize(
        "ttl", [-1, -0.001, float("nan"), float("inf"), "60", True]
    )
    def test_a_ttl_that_is_none_is_refused_before_anything_is_sent(
        self, store: CacheStore, addresses: list[Address], ttl: float
    ) -> None:
        writes = [(addresses[0], b"v", None), (addresses[1], b"v", ttl)]

        for call in (store.set_many, store.add_many):
            with pytest.raises((TypeError, ValueError), match="ttl"):
                call(writes)

        assert store.get_many(addresses[:2]) == [None, None]

    @pytest.mark.parametrize("value", ["text", None, 5, bytearray(b"x")])
    def test_what_is_not_bytes_is_refused_before_anything_is_sent(
        self, store: CacheStore, addresses: list[Address], value: bytes
    ) -> None:
        writes = [(addresses[0], b"v", None), (addresses[1], value, None)]

        for call in (store.set_many, store.add_many):
            with pytest.raises(TypeError, match="bytes"):
                call(writes)

        assert store.get_many(addresses[:2]) == [None, None]

    def test_every_node_tells_its_version(self, store: CacheStore) -> None:
        answers = store.ping()

        assert len(answers) >= 1
        assert all(isinstance(answer, str) and answer for answer in answers.values())

    def test_a_closed_store_can_be_used_again(
        self, store: CacheStore, addresses: list[Address]
    ) -> None:
        store.set_many([(addresses[0], b"value", None)])

        with store:
            pass
        store.close()

        assert store.get_many(addresses[:1]) == [b"value"]
