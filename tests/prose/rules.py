"""What is wrong with a text: words to be avoided, sentences that are too long."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Iterator

from prose.texts import CODE, Text

#: Words in a sentence, beyond which it is two. Aim at 25.
MAX_WORDS = 30

WORDS = Path(__file__).with_name("words.txt")

#: Ends a sentence: not the point of a version, of "e.g." or of what is left out.
END = re.compile(
    r"(?<=[.!?])(?<!e\.g\.)(?<!i\.e\.)(?<!\.\.\.)[\")]?\s+"
    r"|(?<=:)\s+(?=[\"(]?[A-Z])|;\s+|\s+-\s+"
)


def word_list(lines: str) -> list[tuple[re.Pattern[str], str]]:
    """Read lines of ``expression | what to say instead``.

    :raises ValueError: a line without one of both.
    """
    found = []
    for line in lines.splitlines():
        if line.strip() and not line.startswith("#"):
            avoided, bar, instead = (part.strip() for part in line.partition(" | "))
            if not avoided or not instead:
                raise ValueError(
                    f"a line without a word or what to say instead: {line}"
                )
            found.append((re.compile(rf"\b(?:{avoided})\b", re.I), instead))
    return found


AVOIDED = word_list(WORDS.read_text("utf-8"))

#: Whether a text has any of them, which takes a fifth of the time.
ANY = re.compile("|".join(f"(?:{each.pattern})" for each, _ in AVOIDED), re.I)


def faults(text: Text) -> Iterator[str]:
    """Yield what is wrong with a text, each in a few words."""
    if ANY.search(text.words):
        for avoided, instead in AVOIDED:
            for found in avoided.finditer(text.words):
                yield f'"{found[0]}": {instead}'
    for sentence in END.split(text.words):
        words = [word for word in sentence.split() if CODE not in word]
        if len(words) > MAX_WORDS:
            beginning = " ".join(sentence.split()[:6])
            yield f'{len(words)} words in "{beginning} ...": {MAX_WORDS} at most'
