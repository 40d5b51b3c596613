"""How own connections come about: TLS, sockets, logins, and what they are set to."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import subprocess
import threading
from pathlib import Path
from typing import Any, Iterator
from urllib.parse import quote

import pymysql
import pytest
from mysql_databases import (
    KINDS,
    PATIENCE,
    Database,
    fresh_database,
    one_of,
    spy_on_statements,
    started,
)

from hydracache_sync.errors import ConfigurationError, OutboxBusyError, OutboxError
from hydracache_sync.outbox import MySQLOutbox, open_outbox
from outbox_contract.common import SHOP, batch_of, keys_of
from support.processes import Child
from support.servers import SQL_SERVERS, SQLServer


class Certificates:
    """A private CA, what it signed, and a CA of strangers; made by openssl."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ca = self._authority("ca")
        self.strangers_ca = self._authority("strangers")
        self.server, self.server_key = self._signed("server", "IP:127.0.0.1")
        self.elsewhere, self.elsewhere_key = self._signed("elsewhere", "DNS:db.example")
        self.client, self.client_key = self._signed("client", "DNS:client")

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(
            ["openssl", *arguments], cwd=self.directory, check=True, capture_output=True
        )

    def _authority(self, name: str) -> str:
        self._openssl(
            *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *(
                "-subj",
                f"/CN=private {name}",
                "-addext",
                "keyUsage=critical,keyCertSign",
            ),
            *("-keyout", f"{name}.key", "-out", f"{name}.pem"),
        )
        return str(self.directory / f"{name}.pem")

    def _signed(self, name: str, host: str) -> tuple[str, str]:
        (self.directory / "extensions").write_text(f"subjectAltName={host}\n")
        self._openssl(
            *("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}"),
            *("-keyout", f"{name}.new", "-out", f"{name}.csr"),
        )
        self._openssl(
            *("x509", "-req", "-days", "2", "-in", f"{name}.csr", "-CAcreateserial"),
            *("-CA", "ca.pem", "-CAkey", "ca.key", "-extfile", "extensions"),
            *("-out", f"{name}.pem"),
        )
        # The form that MySQL 5.6 reads.
        self._openssl(
            "rsa", "-traditional", "-in", f"{name}.new", "-out", f"{name}.rsa"
        )
        return tuple(str(self.directory / f"{name}.{end}") for end in ("pem", "rsa"))

    def arguments(self, certificate: str, key: str) -> list[str]:
        return [f"--ssl-ca={self.ca}", f"--ssl-cert={certificate}", f"--ssl-key={key}"]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls"))


@contextlib.contextmanager
def with_tls(kind: str, certificates: Certificates, *which: str) -> Iterator[Database]:
    """A database on a server with this certificate and key, or with the good ones."""
    pair = which or (certificates.server, certificates.server_key)
    with started(kind, *certificates.arguments(*pair)) as server:
        with pymysql.connect(
            host=server.host, port=server.port, user=server.user, ssl_disabled=True
        ) as connection:
            connection.cursor().execute("create database app")
        yield Database(server, "app")


#: Kinds whose TLS this Python speaks.
WITH_TLS = [kind for kind in SQL_SERVERS if kind != "mysql56"]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(kind, marks=pytest.mark.needs_server(kind)) for kind in WITH_TLS
    ],
)
def encrypted(
    request: pytest.FixtureRequest, certificates: Certificates
) -> Iterator[Database]:
    """A database on each server with TLS."""
    with with_tls(request.param, certificates) as database:
        yield database


def url_of(database: Database, **query: str) -> str:
    pairs = "&".join(f"{name}={quote(value)}" for name, value in query.items())
    return f"{database.server.url(str(database.name))}?{pairs}"


def cipher_of(outbox: Any) -> str:
    outbox.install_schema()
    with outbox.transaction() as connection, connection.cursor() as cursor:
        cursor.execute("show session status like 'ssl_cipher'")
        return str(cursor.fetchone()[1])


# TLS


def test_server_that_the_ca_vouches_for_is_spoken_to_by_tls(encrypted, certificates):
    with contextlib.closing(
        open_outbox(url_of(encrypted, ssl_ca=certificates.ca))
    ) as outbox:
        outbox.install_schema()
        outbox.enqueue(SHOP, batch_of("a"))

        assert keys_of(outbox.claim(SHOP, "w", limit=9, claim_ttl=30)) == ["a"]
        assert cipher_of(outbox)


def test_context_of_the_app_will_do(encrypted, certificates):
    context = ssl.create_default_context(cafile=certificates.ca)
    with contextlib.closing(encrypted.outbox(ssl=context)) as outbox:
        assert cipher_of(outbox)


def test_user_who_must_show_a_certificate_gets_in_with_it(encrypted, certificates):
    with encrypted.connect(ssl_ca=certificates.ca) as root:
        root.cursor().execute("create user strict@'%' require x509")
        root.cursor().execute("grant all on app.* to strict@'%'")
    shown = {"ssl_cert": certificates.client, "ssl_key": certificates.client_key}
    with_it, without = (
        open_outbox(url_of(encrypted, ssl_ca=certificates.ca, **files), user="strict")
        for files in (shown, {})
    )

    with contextlib.closing(with_it):
        assert cipher_of(with_it)
    with pytest.raises(OutboxError, match="1045"):
        without.install_schema()


def test_server_of_another_ca_is_refused(encrypted, certificates):
    outbox = open_outbox(url_of(encrypted, ssl_ca=certificates.strangers_ca))

    with pytest.raises(OutboxError, match="not of the CA in ssl_ca"):
        outbox.check_schema()


@pytest.mark.needs_server(*WITH_TLS)
def test_server_with_the_certificate_of_another_host_is_refused(certificates):
    pair = certificates.elsewhere, certificates.elsewhere_key
    with with_tls(one_of(*WITH_TLS), certificates, *pair) as database:
        outbox = open_outbox(url_of(database, ssl_ca=certificates.ca))

        with pytest.raises(OutboxError, match="another host"):
            outbox.check_schema()


@pytest.mark.parametrize("kind", KINDS)
def test_server_without_tls_is_refused_where_tls_was_asked_for(kind, certificates):
    # By the second of the two from MySQL 8 on.
    without = "--loose-skip-ssl", "--loose-tls-version="
    with started(kind, *without) as server:
        outbox = open_outbox(url_of(Database(server, "mysql"), ssl_ca=certificates.ca))

        with pytest.raises(OutboxError, match="TLS|SSL is req|handshake"):
            outbox.check_schema()


def test_tls_can_be_switched_off(encrypted):
    with contextlib.closing(
        open_outbox(url_of(encrypted, ssl_disabled="true"))
    ) as outbox:
        assert cipher_of(outbox) == ""


@pytest.fixture
def new_contexts(monkeypatch):
    """Undo what spares the suite time: have PyMySQL make one for each connection."""

    def make(connection: Any, options: Any) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context

    monkeypatch.setattr(pymysql.connections.Connection, "_create_ssl_ctx", make)


def test_connections_that_verify_nothing_share_a_tls_context(encrypted, new_contexts):
    """Made again for each connection, it is a megabyte and most of its time."""
    first, second = encrypted.outbox(), encrypted.outbox()
    first.install_schema()
    contexts = []
    for outbox in (first, second):
        with contextlib.closing(outbox), outbox.transaction() as connection:
            contexts.append(getattr(connection, "ctx", None))

    assert contexts[0] is contexts[1] is not None


def test_a_child_makes_a_tls_context_of_its_own(encrypted, new_contexts):
    """A thread of the parent may have locked the parent's at the fork."""
    with contextlib.closing(encrypted.outbox()) as outbox:
        outbox.install_schema()

        def context_in_use() -> int:
            with outbox.transaction() as connection:
                return id(getattr(connection, "ctx", None))

        mine = context_in_use()
        childs = Child(context_in_use).result()

        assert childs != mine


@pytest.mark.needs_server("mysql56")
def test_tls_of_mysql_5_6_is_told_to_be_too_old_and_what_to_do(certificates):
    """It is TLS 1.0, which no OpenSSL of today speaks by default."""
    with with_tls("mysql56", certificates) as database:
        asking = open_outbox(url_of(database, ssl_ca=certificates.ca))
        with pytest.raises(OutboxError, match="ssl_disabled=true"):
            asking.install_schema()
        with contextlib.closing(open_outbox(url_of(database))) as unasked:
            with pytest.raises(OutboxError, match="ssl_disabled=true"):
                unasked.install_schema()

        with contextlib.closing(
            open_outbox(url_of(database, ssl_disabled="true"))
        ) as outbox:
            assert cipher_of(outbox) == ""


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("ssl_disabled=1", "ssl_disabled must be true"),
        ("ssl_disabled=true&ssl_ca=/ca.pem", "asks for TLS"),
        ("ssl_mode=required", "unknown option 'ssl_mode'"),
        ("read_timeout=soon", "read_timeout must be seconds"),
    ],
)
def test_query_that_says_nothing_is_an_error_without_the_password(query, said):
    with pytest.raises(ConfigurationError, match=said) as caught:
        open_outbox(f"mysql://app:s3cret@host/shop?{query}")

    assert "s3cret" not in str(caught.value)


# What a URL says


def test_url_names_user_password_port_and_database(sql_server: SQLServer) -> None:
    with fresh_database(sql_server, "d-\xe9 b") as database:
        user, password = "us@r", "p:/?#@%\xe9 s"
        database.sql(f"create user '{user}'@'%%' identified by ?", [password])
        database.sql(f"grant all on `{database.name}`.* to '{user}'@'%'")
        login = f"{quote(user, safe='')}:{quote(password, safe='')}"
        url = f"mysql://{login}@{sql_server.address}/{quote(str(database.name))}"
        try:
            with contextlib.closing(open_outbox(url)) as outbox:
                outbox.install_schema()

                assert outbox.enqueue(SHOP, batch_of("a")).inserted == 1
                assert password not in repr(outbox)
        finally:
            database.sql(f"drop user '{user}'@'%'")


@pytest.mark.parametrize("kind", KINDS)
def test_url_may_name_a_unix_socket(kind: str) -> None:
    with started(kind) as server, fresh_database(server) as database:
        path = quote(server.unix_socket, safe="")
        url = f"mysql://root@/{database.name}?unix_socket={path}"
        with contextlib.closing(open_outbox(url)) as outbox:
            outbox.install_schema()

            with outbox.transaction() as connection:
                assert "socket" in connection.host_info
            assert outbox.enqueue(SHOP, batch_of("a")).inserted == 1


# What own connections are set to


def test_own_connection_is_read_committed_strict_and_commits_by_itself(
    database: Database,
) -> None:
    outbox = database.outbox()
    outbox.install_schema()

    outbox.enqueue(SHOP, batch_of("a"))
    with outbox._database.session() as connection, connection.cursor() as cursor:
        cursor.execute(
            "show variables where variable_name in ('tx_isolation', 'sql_mode',"
            " 'transaction_isolation', 'autocommit', 'innodb_snapshot_isolation')"
        )
        settings = dict(cursor.fetchall())

    # Servers call it so, or so, or both.
    isolations = {
        settings.pop(n, None) for n in ("tx_isolation", "transaction_isolation")
    }
    assert isolations - {None} == {"READ-COMMITTED"}
    # Not every MariaDB has it, and no MySQL.
    assert settings.pop("innodb_snapshot_isolation", "OFF") == "OFF"
    assert settings == {"sql_mode": "STRICT_ALL_TABLES", "autocommit": "ON"}
    outbox.close()


def test_server_is_asked_what_it_can_once_per_connection(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    statements = spy_on_statements(monkeypatch)
    outbox = database.outbox()
    outbox.install_schema()

    for name in "abc":
        outbox.enqueue(SHOP, batch_of(name))
        outbox.claim(SHOP, "w", limit=1, claim_ttl=30)
        outbox.status(SHOP)

    assert len([text for text in statements if text.startswith("show variables")]) == 1
    outbox.close()


@pytest.mark.parametrize("kind", KINDS)
def test_statement_that_the_server_never_reads_is_given_up_in_time(kind: str) -> None:
    with started(kind) as server, fresh_database(server) as database:
        outbox = database.outbox(write_timeout=0.3)
        with pytest.raises(OutboxError):
            with outbox.transaction() as connection:
                server.pause()
                try:
                    # More than the system keeps for a receiver that does not read.
                    connection.cursor().execute("select '%s'" % ("x" * (12 << 20)))
                finally:
                    server.resume()
        outbox.close()


# What a server is told that is not the one it should be


class Impostor:
    """Speaks the handshake of a server, asks for the password, and keeps what it hears.

    :param asks: the login that it wants the client to switch to.
    :param tls: what it shows who it is with, if it has TLS.
    """

    def __init__(self, asks: bytes, tls: ssl.SSLContext | None = None) -> None:
        self._asks = asks
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(PATIENCE)
        self.port = self._listener.getsockname()[1]
        self.heard = b""
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Impostor:
        self._thread.start()
        return self

    def __exit__(self, *of_the_block: object) -> None:
        self.end()

    def end(self) -> None:
        self._thread.join(PATIENCE)
        self._listener.close()

    def url(self, **query: str) -> str:
        pairs = "&".join(f"{name}={quote(value)}" for name, value in query.items())
        return f"mysql://app:s3cret@127.0.0.1:{self.port}/app?{pairs}"

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        connection.settimeout(PATIENCE)
        try:
            number = 1
            connection.sendall(self._greeting())
            if self._tls is not None:
                self._hear(connection, 36)  # it asks for TLS
                connection = self._tls.wrap_socket(connection, server_side=True)
                number = 2
            if not self._hear(connection):
                return
            # Of the prompt of PAM the first byte says that it is the last one.
            text = b"\x05Password: " if self._asks == b"dialog" else b""
            body = b"\xfe" + self._asks + b"\0" + text
            header = struct.pack("<I", len(body))[:3] + bytes([number + 1])
            connection.sendall(header + body)
            self._hear(connection)
        except OSError:
            pass  # it was refused in the middle of TLS
        finally:
            # Who comes again is refused, and need not wait for a greeting.
            self._listener.close()
            connection.close()

    def _hear(self, connection: socket.socket, size: int = 4096) -> bytes:
        data = connection.recv(size)
        self.heard += data
        return data

    def _greeting(self) -> bytes:
        # long password, database, protocol 4.1, secure connection, plugins named
        flags = 0x1 | 0x8 | 0x200 | 0x8000 | 0x80000 | (0x800 if self._tls else 0)
        body = b"\x0a8.4.0\0" + struct.pack("<I", 1) + b"12345678\0"
        body += struct.pack("<HBHH", flags & 0xFFFF, 45, 2, flags >> 16)
        body += struct.pack("<B", 21) + bytes(10) + b"abcdefghijkl\0"
        body += b"mysql_native_password\0"
        return struct.pack("<I", len(body))[:3] + b"\0" + body


CLEAR = [b"mysql_clear_password", b"dialog"]


@pytest.mark.parametrize("asks", CLEAR)
def test_server_that_hides_its_tls_is_told_nothing(certificates, asks):
    with Impostor(asks) as impostor:
        with pytest.raises(OutboxError, match="no TLS, but ssl was given"):
            open_outbox(impostor.url(ssl_ca=certificates.ca)).check_schema()

    assert impostor.heard == b""


@pytest.mark.parametrize("asks", CLEAR)
def test_password_itself_is_not_sent_in_plain_text(asks):
    with Impostor(asks) as impostor:
        with pytest.raises(OutboxError, match="wants the password itself.*ssl_ca"):
            open_outbox(impostor.url()).check_schema()

    assert impostor.heard  # the user's name, and what a password hides in
    assert b"s3cret" not in impostor.heard


def shown_with(certificate: str, key: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


@pytest.mark.parametrize("asks", CLEAR)
def test_password_itself_is_not_sent_to_whom_nobody_vouches_for(certificates, asks):
    tls = shown_with(certificates.server, certificates.server_key)
    with Impostor(asks, tls) as impostor:
        with pytest.raises(OutboxError, match="wants the password itself.*ssl_ca"):
            open_outbox(impostor.url()).check_schema()

    assert b"app\0" in impostor.heard
    assert b"s3cret" not in impostor.heard


def test_impostor_of_another_host_is_told_nothing_but_that_tls_is_wanted(certificates):
    tls = shown_with(certificates.elsewhere, certificates.elsewhere_key)
    with Impostor(CLEAR[0], tls) as impostor:
        with pytest.raises(OutboxError, match="another host"):
            open_outbox(impostor.url(ssl_ca=certificates.ca)).check_schema()

    assert b"app" not in impostor.heard
    assert len(impostor.heard) == 36


@pytest.mark.parametrize("asks", CLEAR)
def test_password_itself_is_sent_to_who_has_proven_to_be_the_server(certificates, asks):
    tls = shown_with(certificates.server, certificates.server_key)
    with Impostor(asks, tls) as server:
        with pytest.raises(OutboxError):  # it says no more
            open_outbox(server.url(ssl_ca=certificates.ca)).check_schema()

    assert server.heard.endswith(b"s3cret\0")


# caching_sha2_password: neither server has it


class Sha2Server:
    """Speaks the handshake of a MySQL 8 that wants the whole password, and its end."""

    version = b"8.4.0"
    nonce = b"12345678abcdefghijkl"

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(PATIENCE)
        self.port = self._listener.getsockname()[1]
        self.asked_for_key = False
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Sha2Server:
        self._thread.start()
        return self

    def __exit__(self, *of_the_block: object) -> None:
        self._thread.join(PATIENCE)
        self._listener.close()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            connection.settimeout(PATIENCE)
            # long password, protocol 4.1, secure connection, plugins named; no TLS
            capabilities = 0x1 | 0x200 | 0x8000 | 0x80000
            self._send(
                connection,
                0,
                b"\x0a"
                + self.version
                + b"\0"
                + struct.pack("<I", 1)
                + self.nonce[:8]
                + b"\0"
                + struct.pack("<HBHH", capabilities & 0xFFFF, 45, 2, capabilities >> 16)
                + struct.pack("<B", 21)
                + bytes(10)
                + self.nonce[8:]
                + b"\0"
                + b"caching_sha2_password\0",
            )
            connection.recv(4096)
            self._send(connection, 2, b"\x01\x04")  # the password is not cached
            self.asked_for_key = connection.recv(4096)[4:] == b"\x02"
            self._send(connection, 4, b"\x01-----BEGIN PUBLIC KEY-----\n")
            connection.recv(4096)  # until PyMySQL hangs up

    @staticmethod
    def _send(connection: socket.socket, number: int, payload: bytes) -> None:
        header = struct.pack("<I", len(payload))[:3] + bytes([number])
        connection.sendall(header + payload)


def test_login_of_mysql_8_without_its_extra_names_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pymysql._auth, "_have_cryptography", False)
    with Sha2Server() as server:
        outbox = MySQLOutbox(
            database="app",
            host="127.0.0.1",
            port=server.port,
            user="app",
            password="s3cret",
        )

        with pytest.raises(OutboxError, match="with its extra .mysql8.") as caught:
            outbox.check_schema()

    assert server.asked_for_key
    assert not isinstance(caught.value, OutboxBusyError)
    assert "s3cret" not in str(caught.value)
