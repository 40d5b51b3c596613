"""The question which server it is, for fake servers: answered, and taken off the rest.

A client begins each new connection with it, in front of its first request. Knows
nothing of pytest and nothing of the library.
"""

from __future__ import annotations

import re

_question = re.compile(
    rb"add hc1::node 0 0 ([0-9]+)\r\n([^\r\n]*)\r\nget hc1::node\r\n"
).match


def take_off(data: bytes, identity: bytes = b"a fake one") -> tuple[bytes, bytes]:
    """Return the answer to the question and what comes after it.

    :return: nothing and ``data`` itself if it does not begin with the question.
    """
    found = _question(data)
    if found is None:
        return b"", data
    answer = b"NOT_STORED\r\nVALUE hc1::node 0 %d\r\n%b\r\nEND\r\n"
    return answer % (len(identity), identity), data[found.end() :]
