"""Whoever tries passwords waits, and makes nobody else wait."""

from __future__ import annotations

import threading
from contextlib import closing
from typing import Any

from hydracache_sync import MemoryOutbox
from hydracache_sync.console.login import Logins
from hydracache_sync.console.server import console_app
from support.processes import DEADLINE
from support.waiting import eventually

#: Logins of one address that are answered at a time.
MOST = 10


def log_in(app: Any, address: str, password: str) -> int:
    answer = app.test_client().post(
        "/login",
        data={"user": "ada", "password": password},
        environ_overrides={"REMOTE_ADDR": address},
    )
    return int(answer.status_code)


def test_many_wrong_logins_hold_back_those_of_their_address_alone() -> None:
    go_on = threading.Event()
    logins = Logins(
        9322,
        user="ada",
        password="s3cr3t",
        sleep=lambda seconds: go_on.wait(DEADLINE),
    )
    answers: list[int] = []
    with closing(MemoryOutbox()) as outbox:
        app = console_app({"outbox": outbox}, logins, writable=False)
        threads = [
            threading.Thread(
                target=lambda: answers.append(log_in(app, "10.0.0.1", "wrong"))
            )
            for _ in range(MOST + 1)
        ]
        for thread in threads:
            thread.start()
        # All but this one wait for the end of the first one's pause.
        eventually(lambda: answers == [429])
        other = log_in(app, "10.0.0.2", "s3cr3t")
        go_on.set()
        for thread in threads:
            thread.join(DEADLINE)

        assert other == 303
        assert answers == [429] + [403] * MOST
        assert log_in(app, "10.0.0.1", "s3cr3t") == 303
