"""The README works when it is pasted, and what it quotes is what the library says."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any, Iterator

import pytest
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import Session

from hydracache_sync import MemoryStore, NotInTransactionError
from hydracache_sync.integrations.flask import HydraCache
from support import ROOT
from support.badges import FOLDER, badges
from support.examples import shows
from support.pasted import Terminal, blocks
from support.servers import Memcached

README = (ROOT / "README.md").read_text("utf-8")

#: What the README quotes, by the mistake.
QUOTED = {
    mistake: re.findall("`([^`]+(?:`[^`]+)*?)`", said)[0]
    for mistake, said in re.findall(
        r"^\| (.+?) \| (`(?:WARNING|PROBLEM|\w+Error).*) \|$", README, re.M
    )
}


def test_all_that_it_shows_comes_when_it_is_pasted(tmp_path: Path) -> None:
    with Terminal(tmp_path) as terminal:
        count = terminal.paste(README)

    assert count >= 10


def test_it_is_short_and_leads_to_the_docs() -> None:
    assert len(README.encode()) < 16_000
    assert README.count("\n") <= 220
    assert "](docs/index.md)" in README


def test_the_app_has_15_lines_beside_its_imports() -> None:
    [app] = [body for language, body in blocks(README) if language == "python"]
    lines = [
        line
        for line in app.splitlines()
        if line and not re.match("#|from |import ", line)
    ]

    assert len(lines) == 15


def test_its_badges_say_what_the_package_does() -> None:
    for name, svg in badges().items():
        assert (FOLDER / name).read_text("utf-8") == svg, "python -m support.badges"
        assert README.count(f"](docs/images/{name})") == 1


class Shop:
    """An app in whose views the mistakes are made."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.app = Flask("shop")
        self.app.config.update(
            SECRET_KEY="of tests",
            SQLALCHEMY_DATABASE_URI=f"sqlite:///{path}",
            HYDRACACHE_OUTBOX=f"sqlite:///{path}",
            HYDRACACHE_NAMESPACE="shop",
            HYDRACACHE_MEMCACHED=MemoryStore(),
            HYDRACACHE_POOL="none",
        )
        self.db = db = SQLAlchemy(self.app)
        self.hydracache = HydraCache(self.app)

        class User(db.Model):  # type: ignore[name-defined]
            __tablename__ = "users"
            id = db.Column(db.Integer, primary_key=True)

        self.User = User
        sessions = self.hydracache.attach(db.session)
        sessions.watch(User, entity="user")
        with self.app.app_context():
            self.hydracache.outbox.install_schema()
            db.create_all()

    def serve(self, view: Any) -> None:
        self.app.post("/")(view)
        self.app.test_client().post("/")


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(tmp_path / "shop.db")
    yield shop
    with shop.app.app_context():
        shop.hydracache.outbox.close()
        shop.db.session.remove()
        shop.db.engine.dispose()


def test_five_mistakes_are_quoted() -> None:
    assert list(QUOTED) == [
        "commit first, invalidate afterwards",
        "a connection in autocommit",
        "a change past the attached session",
        "a page for Ann that Bob gets",
        "no worker runs",
    ]


def test_commit_first_invalidate_afterwards(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    def rename() -> str:
        with closing(sqlite3.connect(shop.path)) as db:
            db.execute("insert into users values (7)")
            db.commit()
        shop.hydracache.invalidate_entity("user", 7)
        return "done"

    shop.serve(rename)

    [record] = caplog.records
    said = f"{record.levelname} {record.getMessage()}"
    assert shows(QUOTED["commit first, invalidate afterwards"], said), said


def test_a_connection_in_autocommit(shop: Shop) -> None:
    raised = []

    def rename() -> str:
        with closing(sqlite3.connect(shop.path, isolation_level=None)) as db:
            shop.hydracache.invalidate_entity("user", 7)
            with pytest.raises(NotInTransactionError) as info:
                shop.hydracache.write(db)
        raised.append(info.value)
        return "done"

    shop.serve(rename)

    said = f"NotInTransactionError: {raised[0]}"
    assert shows(QUOTED["a connection in autocommit"], said), said


def test_a_change_past_the_attached_session(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    def add() -> str:
        with Session(shop.db.engine) as session:
            session.add(shop.User())
            session.commit()
        return "done"

    shop.serve(add)

    # Apps of other tests in this process watch a table of that name, too.
    [said] = {
        f"{record.levelname} {record.getMessage()}".replace(__file__, "shop.py")
        for record in caplog.records
    }
    assert shows(QUOTED["a change past the attached session"], said), said


def page(user: object) -> str:
    return "for Ann"


def test_a_page_for_ann_that_bob_gets(shop: Shop) -> None:
    cached = shop.hydracache.cached(tags=())(page)

    with shop.app.test_request_context(), pytest.raises(TypeError) as info:
        cached(shop.User(id=1))

    said = f"TypeError: {info.value}"
    assert shows(QUOTED["a page for Ann that Bob gets"], said), said


def test_no_worker_runs(shop: Shop) -> None:
    def rename() -> str:
        with closing(sqlite3.connect(shop.path)) as db, shop.hydracache.transaction(db):
            shop.hydracache.invalidate_entity("user", 7)
        return "done"

    shop.serve(rename)
    with closing(sqlite3.connect(shop.path)) as db:
        db.execute(
            "update hydracache_outbox set created_at_ms = created_at_ms - 600000"
        )
        db.commit()

    with Memcached() as server:
        said = hydracache("doctor", f"--memcached={server.address}", shop=shop)
    alert = hydracache("status", "--max-age=60", shop=shop)

    quoted = QUOTED["no worker runs"]
    assert any(shows(quoted, line) for line in said.splitlines()), said
    assert "\nALERT shop: the oldest pending row is " in alert


def hydracache(*arguments: str, shop: Shop) -> str:
    return subprocess.run(
        [sys.executable, "-m", "hydracache_sync", *arguments]
        + [f"--outbox=sqlite:///{shop.path}", "--namespace=shop"],
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
