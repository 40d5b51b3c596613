"""What a service manager is told: ready, alive, stopping (systemd's sd_notify).

A few lines over a datagram socket; the protocol is stable and documented in
sd_notify(3). Without $NOTIFY_SOCKET everything here does nothing.
"""

from __future__ import annotations

import os
import socket
from typing import Mapping

from hydracache_sync.printable import printable_logger

logger = printable_logger(__name__)

#: Pings in the time after which systemd takes the service for hung. Two are what
#: sd_watchdog_enabled(3) says; a third lets one come late.
PINGS = 3


class ServiceManager:
    """Tells systemd how the process is. Never raises: it is no reason to stop work.

    :param environ: of the process, as systemd has set it.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._address = _address(environ.get("NOTIFY_SOCKET", ""))
        #: Seconds between two pings; None if the service has no watchdog.
        self.ping_interval = None if not self._address else _ping_interval(environ)
        self._failing = False

    def ready(self) -> None:
        self._send("READY=1")

    def status(self, text: str) -> None:
        """Set the line that ``systemctl status`` shows."""
        self._send("STATUS=" + " ".join(text.split()))

    def ping(self) -> None:
        """Say that the process does what it is for; without it systemd restarts it."""
        self._send("WATCHDOG=1")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
                # A manager that reads nothing must not hold up the worker.
                connection.settimeout(1.0)
                connection.sendto(message.encode("utf-8"), self._address)
            self._failing = False
        except OSError as exc:
            if not self._failing:
                logger.warning("systemd could not be notified of %r: %s", message, exc)
            self._failing = True


def _address(name: str) -> str:
    """The socket's address; empty if there is none, or none that we can send to."""
    if name.startswith("@"):
        return "\0" + name[1:]  # in the abstract namespace
    if name and not name.startswith("/"):
        logger.warning("NOTIFY_SOCKET is %r, which is no unix socket: not used", name)
        return ""
    return name


def _ping_interval(environ: Mapping[str, str]) -> float | None:
    usec, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if pid and pid != str(os.getpid()):
        return None  # meant for the process that started us
    if not usec.isdecimal() or int(usec) == 0:
        return None
    return int(usec) / 1e6 / PINGS
