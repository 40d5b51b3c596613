"""A memcached that speaks TLS, and certificates for it."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
from pathlib import Path

import pytest

from support.servers import Memcached


def self_signed(directory: Path, *, name: str = "both") -> Path:
    """Make a certificate and its key for 127.0.0.1, in one file."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed: apt-get install openssl")
    key, certificate = directory / f"{name}.key", directory / f"{name}.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
        + ["-keyout", str(key), "-out", str(certificate), "-subj", "/CN=cache"]
        + ["-addext", "subjectAltName=IP:127.0.0.1"],
        check=True,
        capture_output=True,
    )
    with certificate.open("a") as both:
        both.write(key.read_text())
    return certificate


class TLSMemcached(Memcached):
    """Asked for its process id over TLS: it speaks nothing else.

    :param certificate: its own, with the key.
    :param clients: certificates of clients; with them it takes no other client.
    """

    def __init__(self, certificate: Path, *, clients: Path | None = None) -> None:
        chosen = [f"ssl_chain_cert={certificate}", f"ssl_key={certificate}"]
        if clients is not None:
            # 2: it asks for one, and takes none without.
            chosen += [f"ssl_ca_cert={clients}", "ssl_verify_mode=2"]
        self._clients = clients
        options = [part for each in chosen for part in ("-o", each)]
        super().__init__(arguments=["-Z", *options])

    def _answering_pid(self) -> int | None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        if self._clients is not None:
            context.load_cert_chain(self._clients)
        try:
            with socket.create_connection(("127.0.0.1", self.port), 5) as plain:
                with context.wrap_socket(plain) as connection:
                    connection.sendall(b"stats\r\n")
                    text = connection.recv(65536)
        except OSError:
            return None
        return int(text.partition(b"STAT pid ")[2].split()[0])
