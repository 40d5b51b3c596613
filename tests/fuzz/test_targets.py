"""The fuzzed targets on what Hypothesis thinks of; ``python -m fuzz`` goes further."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz.targets import SEEDS, TARGETS

WORDS = [
    *(b"VALUE ", b"a", b"key:2", b"k" * 40, b" 0 ", b"1", b"12", b"\r\n", b"END\r\n"),
    *(b"STORED\r\n", b"STO", b"ERROR\r\n", b"\x01", b"\x03", b"\x00" * 9),
    *(b"[", b"]", b'"', b"18446744073709551616", b"-0.0", b",", b"1e400", b"nan"),
]


@pytest.mark.parametrize("name", TARGETS)
@given(words=st.lists(st.one_of(st.sampled_from(WORDS), st.binary(max_size=9))))
def test_anything_is_read_rightly_or_refused(name: str, words: list[bytes]) -> None:
    TARGETS[name](b"".join(words))


@pytest.mark.parametrize("name", TARGETS)
def test_what_the_fuzzer_begins_with_is_taken_and_every_change_of_a_byte_too(
    name: str,
) -> None:
    for data in SEEDS[name]:
        TARGETS[name](data)
        for at in range(len(data)):
            for changed in (0, 0x0A, 0x20, 0x30, 0x39, 0x7F, 0xFF, data[at] ^ 1):
                TARGETS[name](data[:at] + bytes([changed]) + data[at + 1 :])


@pytest.mark.needs_python(3, 11)  # the first that atheris has a wheel for
@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None,
    reason="atheris is missing: pip install '.[fuzz]'",
)
def test_the_fuzzer_runs_and_finds_nothing_in_a_few_seconds() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "fuzz", "all", "--seconds", "8", "--seed", "1"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=100,
    )

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.count("ended with exit code 0") == len(TARGETS)
