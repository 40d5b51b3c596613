"""URLs of outboxes: which outbox they open, and that they hide their password."""

from __future__ import annotations

import itertools
import os
import ssl
from pathlib import Path

import pytest

from hydracache_sync.errors import ConfigurationError
from hydracache_sync.outbox import MySQLOutbox, SQLiteOutbox, open_outbox
from hydracache_sync.outbox.url import redacted

#: A database that never will be supported, so that these stay errors.
NO_OUTBOX = "oracle"


def test_four_slashes_are_an_absolute_path(tmp_path: Path) -> None:
    outbox = open_outbox(f"sqlite:///{tmp_path}/app.db")

    assert isinstance(outbox, SQLiteOutbox)
    assert outbox.path == str(tmp_path / "app.db")


def test_three_slashes_are_a_path_from_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outbox = open_outbox("sqlite:///data/app.db")

    monkeypatch.chdir("/")

    assert outbox.path == str(tmp_path / "data/app.db")


def test_percent_escapes_in_a_path_are_decoded(tmp_path: Path) -> None:
    outbox = open_outbox(f"sqlite:///{tmp_path}/a%20b%3Fc%23d%25e%C3%A9.db")

    assert outbox.path == f"{tmp_path}/a b?c#d%e\xe9.db"


def test_opening_connects_to_nothing_and_creates_nothing(tmp_path: Path) -> None:
    open_outbox(f"sqlite:///{tmp_path}/app.db")

    assert os.listdir(tmp_path) == []


def test_options_reach_the_outbox(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="busy_timeout"):
        open_outbox(f"sqlite:///{tmp_path}/app.db", busy_timeout=-1.0)
    with pytest.raises(TypeError, match="no_such_option"):
        open_outbox(f"sqlite:///{tmp_path}/app.db", no_such_option=1)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "app.db",
        "/var/lib/app.db",
        "sqlite",
        "sqlite:",
        "sqlite:app.db",
        "sqlite:/app.db",
        "sqlite://",
        "sqlite://app.db",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite:///app.db?mode=ro",
        "sqlite:///app.db#outbox",
        "sqlite:///app%00.db",
        "sqlite+pysqlite:///app.db",
        f"{NO_OUTBOX}://host/db",
        "http://[::1/db",
    ],
)
def test_url_that_names_no_outbox_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigurationError):
        open_outbox(url)


def test_error_shows_the_url_and_the_known_forms() -> None:
    with pytest.raises(ConfigurationError) as caught:
        open_outbox(f"{NO_OUTBOX}://host/db")

    assert f"{NO_OUTBOX}://host/db" in str(caught.value)
    assert "sqlite:///" in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("mysql://app:s3cret@host:3306/db", "mysql://app:***@host:3306/db"),
        ("mysql://app:s3cret@/db", "mysql://app:***@/db"),
        ("mysql://:s3cret@host/db", "mysql://:***@host/db"),
        ("mysql://app:@host/db", "mysql://app:***@host/db"),
        ("mysql://app@host/db", "mysql://app@host/db"),
        ("sqlite:////srv/app.db", "sqlite:////srv/app.db"),
        ("mysql://app:s3@cret@host/db", "mysql://app:***@host/db"),
        ("mysql://app:s3/cret@host/db", "mysql://***"),
        ("oracle://app:s3/cret@host/db", "***"),
        ("mysql://host/db?read_timeout=3", "mysql://host/db?read_timeout=3"),
        ("mysql://host/db?hello=s3cret", "mysql://host/db?***"),
        ("mysql://host/db#s3cret", "mysql://host/db#***"),
        ("mysql://app:s3cret", "mysql://***"),
        ("sqlite://app:s3cret@h", "sqlite://app:***@h"),
        ("sqlite:app.db", "sqlite:app.db"),
        ("app:s3cret", "***"),
        ("app.db", "app.db"),
    ],
)
def test_redacted_url_has_stars_in_place_of_the_password(url: str, shown: str) -> None:
    assert redacted(url) == shown


# People forget to escape what is special in a URL.
@pytest.mark.parametrize(
    "password",
    ["s3cret", "s3:cret", "s3@cret", "s3/cret", "s3?cret", "s3#cret", "[s3cret", "%s3"],
)
@pytest.mark.parametrize("host", ["host", "[::1", "ho\u2100st", "host:port"], ids=ascii)
def test_no_part_of_a_password_is_ever_shown(password: str, host: str) -> None:
    url = f"{NO_OUTBOX}://app:{password}@{host}/db"

    with pytest.raises(ConfigurationError) as caught:
        open_outbox(url)

    for shown in (redacted(url), str(caught.value), str(caught.value.__cause__)):
        assert "s3" not in shown
        assert "cret" not in shown


@pytest.mark.parametrize(
    "url",
    [
        "mysql:u:secret@h/db",
        "mysql:/u:secret@h/db",
        "u:secret@h/db",
        "u:secret",
        "mysql://u:secret",
        "mysql://u:secret/db",
        "sqlite:u:secret@h/db",
        "sqlite://u:secret@h",
        "sqlite://u:secret@h/app.db",
        "sqlite:///app.db?pwd=secret",
        "mysql://u@h/db?pwd=secret",
        "mysql://u@h/db?passwd=secret",
        "mysql://u@h/db?read_timeout=1;pwd=secret",
        "mysql://u@h/db?Secret",
        "mysql://u@h/db?auth=secret",
        "mysql://u@h/a/b#secret",
        "mysql://u:3306/secret@h/db",
        "mysql://u:3306?secret@h/db",
        "mysql://u:3306#secret@h/db",
        "mysql://u:se;cret/secret@h/db",
    ],
)
def test_password_where_none_belongs_is_not_shown(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        open_outbox(url)

    shown = (
        f"{caught.value} {caught.value!r} {caught.value.__cause__!r} {redacted(url)}"
    )
    assert "secret" not in shown.lower()


#: What passwords have in them that people forget to escape, and what is of a URL.
PARTS = ["/", "?", "#", ";", "@", ":", "&", "=", "%", "//", "3306", "db", "h", ".", ""]


@pytest.mark.parametrize("scheme", ["mysql://", "mysql:/", "sqlite:///", "", "x://"])
def test_no_password_is_shown_wherever_it_has_come_to_be(scheme: str) -> None:
    refused = 0
    for before, after, end in itertools.product(PARTS, PARTS, ["@h/db", "@h", "@"]):
        url = f"{scheme}u:{before}SECRET{after}SECRET{end}"
        shown = [redacted(url)] if scheme != "sqlite:///" else []
        try:
            shown.append(repr(open_outbox(url)))
        except ConfigurationError as exc:
            refused += 1
            shown = [*shown, str(exc), repr(exc.__cause__)]
        if scheme == "sqlite:///":
            continue  # it is the name of a file
        assert "SECRET" not in " ".join(shown), url
    assert refused


@pytest.mark.parametrize("value", ["inf", "nan", "-1", "1e300", "soon", ""])
def test_time_limit_that_is_none_is_told(value: str) -> None:
    with pytest.raises(ConfigurationError, match="read_timeout must be seconds"):
        open_outbox(f"mysql://u@h/db?read_timeout={value}")


def test_a_blank_is_no_part_of_the_file_unless_it_is_written_so() -> None:
    with pytest.raises(ConfigurationError, match="begins or ends with a blank.*%20"):
        open_outbox("sqlite:///shop.db ")

    assert "shop.db ')" in repr(open_outbox("sqlite:///shop.db%20"))


@pytest.mark.parametrize(
    "end, told",
    [
        ("#eu", "has a fragment.*%23"),
        ("?pool_size=1&pool_size=2", "has pool_size 2 times"),
        ("?unix_socket=", "unix_socket must be a path, not empty"),
        ("?ssl_ca=", "ca '': it must be a path"),
        ("?ssl_ca=/ca&ssl_key=/key", "key without the cert"),
    ],
)
def test_what_would_be_ignored_is_refused(end: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        open_outbox(f"mysql://web@db.example/shop{end}")


@pytest.mark.parametrize(
    "options, told",
    [
        # Each would verify nothing.
        ({"ssl_ca": "/ca"}, "unknown option 'ssl_ca'; known are ca"),
        ({"ca": None}, "ca None: it must be a path"),
        ({"verify_mode": ssl.CERT_REQUIRED}, "verify_mode .*; known are none"),
        ({"verify_mode": "requird"}, "verify_mode 'requird'"),
        ({"ca": "/ca", "key": "/key"}, "key without the cert"),
        (True, "not bool"),
        ("/ca", "not str"),
    ],
)
def test_tls_that_would_be_ignored_is_refused(options: object, told: str) -> None:
    with pytest.raises((ConfigurationError, TypeError), match=told):
        MySQLOutbox(database="shop", ssl=options)
