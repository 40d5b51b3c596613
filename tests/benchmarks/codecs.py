"""What it costs to keep a value with its types, against the same value in JSON.

    python tests/benchmarks/codecs.py [--rounds 101] [--slice-ms 2]

A value is packed to an entry and read back, without a store. Each slice of a contender
follows a slice of its base in the same process, and the medians are those of the
ratios. ``cbor2`` (extra ``bench``) does what it does by itself, without an entry, and
gives back a list for a tuple; it is left out where it is not installed.

Goal: ten fields, of them a decimal and a moment, within 1.3 of ten texts by the JSON of
the standard library.
"""

from __future__ import annotations

import argparse
import sys
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any, Callable

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _results import Results, add_save, tell, versions  # noqa: E402
from reads import RATIOS, Meter  # noqa: E402

from hydracache_sync import Codec, PickleCodec, SignedCodec  # noqa: E402
from hydracache_sync.cache.codecs import typed  # noqa: E402
from hydracache_sync.cache.codecs.signed import InnerCodec  # noqa: E402
from hydracache_sync.cache.entry_format import (  # noqa: E402
    tag_digest,
    token_prefix_of,
)
from hydracache_sync.cache.tokens.token import fresh_tokens  # noqa: E402

TOKENS = fresh_tokens(4, 1_700_000_000_000)
DIGEST = tag_digest(["a", "b"])
BASIS = token_prefix_of(DIGEST, TOKENS)

FIELDS = {f"field {number}": f"text {number}" for number in range(8)}
MOMENT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=timezone.utc)
TEXTS = {**FIELDS, "price": "19.90", "at": MOMENT.isoformat()}
TYPES = {**FIELDS, "price": Decimal("19.90"), "at": MOMENT}
#: A page's rows as a driver gives them: tuples.
ROWS = [
    (number, f"user {number}", Decimal(number) / 4, MOMENT) for number in range(100)
]
TEXT_ROWS = [[row[0], row[1], str(row[2]), row[3].isoformat()] for row in ROWS]
PAGE = "".join(f"<li><a href='/item/{n}'>item {n}</a> {n * 7}</li>" for n in range(400))

KEY = bytes(32)


def both_ways(codec: InnerCodec, value: Any) -> Callable[[], Any]:
    def run() -> Any:
        entry = codec.encode(value, BASIS)
        return codec.decode(entry, DIGEST, TOKENS)

    assert run() == value
    return run


def reading(codec: InnerCodec, value: Any) -> Callable[[], Any]:
    entry = codec.encode(value, BASIS)
    return lambda: codec.decode(entry, DIGEST, TOKENS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=101)
    parser.add_argument("--slice-ms", type=float, default=2.0)
    add_save(parser)
    args = parser.parse_args()
    results = Results()
    standard, fast = Codec(use_orjson=False), Codec(use_orjson=True)
    texts = both_ways(standard, TEXTS)
    by_msgspec = [
        (lambda v=value: typed.load(typed.dump(v))) for value in (TYPES, ROWS)
    ]
    pairs: list[Any] = [
        (
            "types, both ways / texts, json",
            both_ways(standard, TYPES),
            texts,
            1.3,
        ),
        (
            "the same / texts, orjson",
            both_ways(fast, TYPES),
            both_ways(fast, TEXTS),
            None,
        ),
        (
            "types, a hit alone / texts, json",
            reading(standard, TYPES),
            reading(standard, TEXTS),
            1.3,
        ),
        (
            "100 rows, types / texts, json",
            both_ways(standard, ROWS),
            both_ways(standard, TEXT_ROWS),
            None,
        ),
        (
            "types, signed / unsigned",
            both_ways(SignedCodec(key=KEY), TYPES),
            both_ways(fast, TYPES),
            None,
        ),
        (
            "types, signed pickle / unsigned types",
            both_ways(PickleCodec(key=KEY), TYPES),
            both_ways(fast, TYPES),
            None,
        ),
        (
            "a page of 18 KB, by zlib / as it is",
            both_ways(Codec(compress_over=1000, compression="zlib"), PAGE),
            both_ways(fast, PAGE),
            None,
        ),
        (
            "the same by zstandard / by zlib",
            both_ways(Codec(compress_over=1000, compression="zstd"), PAGE),
            both_ways(Codec(compress_over=1000, compression="zlib"), PAGE),
            None,
        ),
    ]
    try:
        import cbor2
    except ImportError:
        print("cbor2 is not installed: left out")
    else:
        for name, value, ours in zip(
            ("ten fields", "100 rows"), (TYPES, ROWS), by_msgspec
        ):
            theirs = lambda v=value: cbor2.loads(cbor2.dumps(v))  # noqa: E731
            pairs.append((f"{name}, cbor2 alone / typed", theirs, ours, None))
    saved = results.table("A value packed to an entry and read back:", RATIOS)
    Meter(args.rounds, args.slice_ms / 1000).compare(pairs, saved)
    sizes = results.table("The page of 18 KB:", ["compressed by", "bytes"])
    tell(sizes, "nothing", f"{len(PAGE):,}")
    for by in ("zlib", "zstd"):
        small = Codec(compress_over=1000, compression=by).encode(PAGE, b"")
        tell(sizes, by, f"{len(small):,}")
    if args.save:
        results.save(args.save, **versions("msgspec", "orjson", "cbor2"))


if __name__ == "__main__":
    main()
