"""Cuts this process's own connections, whatever is under way on them.

By their file descriptors, so that it needs to know nothing of who holds them: a reply
ends in its middle, as when a firewall or a cable does it.
"""

from __future__ import annotations

import os
import random
import socket
import threading
from contextlib import suppress
from typing import Callable


def cut_at_random(
    ports: set[int],
    every: float,
    dice: random.Random,
    tell: Callable[[], None],
    stop: threading.Event,
) -> None:
    """Cut a connection every so often, until told to stop.

    :param every: seconds between two, on average.
    :param tell: called after each.
    """
    while not stop.wait(dice.expovariate(1 / every)):
        if cut_one(ports, dice):
            tell()


def cut_one(ports: set[int], dice: random.Random) -> bool:
    """Cut one of this process's connections to ``ports``; False if there is none."""
    found = [int(name) for name in os.listdir("/proc/self/fd")]
    dice.shuffle(found)
    for number in found:
        with suppress(OSError):
            # A copy, lest its owner closes it and the number becomes another's.
            copy = os.dup(number)
            try:
                connection = socket.socket(fileno=copy)
            except OSError:
                os.close(copy)
                continue
            with connection:
                peer = connection.getpeername()
                if isinstance(peer, tuple) and peer[1] in ports:
                    connection.shutdown(socket.SHUT_RDWR)
                    return True
    return False
