"""Apps that read replicas: what a late one shows is served, and not stored."""

from __future__ import annotations

import contextlib
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from flask import Flask, g
from replicated import Replicated, change, until
from sqlalchemy import Column, String, create_engine, select
from sqlalchemy.orm import Session, registry, sessionmaker
from sqlalchemy.pool import NullPool

from hydracache_sync import ConfigurationError
from hydracache_sync.app.replica_reads import LAGS
from hydracache_sync.integrations.flask import HydraCache as FlaskHydraCache
from hydracache_sync.integrations.wsgi import HydraCache

mapped = registry()
Base: Any = mapped.generate_base()


class Item(Base):
    __tablename__ = "item"
    name = Column(String(40), primary_key=True)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Replicated]:
    site = Replicated(tmp_path, "near", "far")
    yield site
    site.close()


class App:
    """Reads one item through the cache, each time in a request of its own."""

    hydracache: Any

    def __init__(self, site: Replicated) -> None:
        self.site = site

    def request(self) -> Any:
        return self.hydracache.collecting()

    def load(self) -> str:
        raise NotImplementedError

    def read(self) -> str:
        with self.request():
            value: str = self.hydracache.get_or_load("item", self.load)
        return value

    def stored(self) -> Any:
        with self.request():
            return self.hydracache.cache.get("item")

    def keeps_what_is_new(self) -> bool:
        """Whether what is up to date would be stored now."""
        return True

    def rename(self, name: str) -> None:
        with self.request(), closing(sqlite3.connect(self.site.primary)) as connection:
            change(self.hydracache, connection, name)


class FlaskApp(App):
    """A plain connection, that the app names."""

    def __init__(self, site: Replicated, **config: Any) -> None:
        super().__init__(site)
        self.app = Flask("shop")
        self.app.config.update(site.config, **config)
        self.hydracache = FlaskHydraCache()
        self.hydracache.init_app(self.app, connection=self.db)
        self.app.teardown_appcontext(lambda exc: self.db().close())

    def db(self) -> sqlite3.Connection:
        if "db" not in g:
            g.db = sqlite3.connect(self.site.replicas["near"])
        connection: sqlite3.Connection = g.db
        return connection

    def request(self) -> Any:
        return self.app.test_request_context()

    def load(self) -> str:
        [(name,)] = self.db().execute("select name from item")
        return str(name)


class AlchemyApp(App):
    """Sessions that read a replica and write to the primary."""

    def __init__(self, site: Replicated, **config: Any) -> None:
        super().__init__(site)
        self.hydracache = HydraCache({**site.config, **config})
        self.engines = {
            name: create_engine(f"sqlite:///{path}", poolclass=NullPool)
            for name, path in {**site.replicas, "primary": site.primary}.items()
        }
        #: Where reads go.
        self.place = "near"

        class Routing(Session):
            def get_bind(routing: Any, *_: Any, **__: Any) -> Any:
                writes = getattr(routing, "_flushing", False)
                return self.engines["primary" if writes else self.place]

        self.make: Any = sessionmaker(class_=Routing)
        self.hydracache.attach(self.make, bind=self.engines["primary"])

    def keeps_what_is_new(self) -> bool:
        place, self.place = self.place, "primary"
        # What was late before counts for as many loads.
        for _ in range(LAGS + 1):
            self.site.beat()
            with self.request():
                self.hydracache.get_or_load("probe", self.load)
                kept = self.hydracache.cache.get("probe") is not None
                self.hydracache.cache.delete("probe")
        self.place = place
        return kept

    def load(self) -> str:
        with self.make() as session:
            return str(session.execute(select(Item.name)).scalar_one())


MAKERS = [FlaskApp, AlchemyApp]


@pytest.fixture(params=MAKERS, ids=lambda maker: maker.__name__)
def make(request: pytest.FixtureRequest) -> Any:
    return request.param


def keeps(app: App, name: str) -> None:
    """Have the app store the item, with heartbeats that come through."""

    def is_stored() -> bool:
        app.site.beat()
        app.site.replicate()
        assert app.read() == name
        return bool(app.stored() == name)

    until(is_stored)


def never_stores(app: App, read: Callable[[], object]) -> None:
    """Read time and again, where what is up to date would be stored."""
    for _ in range(2):
        until(app.keeps_what_is_new)
        app.site.beat()
        read()
        assert app.stored() is None


def test_what_a_late_replica_shows_is_not_stored(
    site: Replicated, make: Callable[..., App]
) -> None:
    app = make(site)
    keeps(app, "before")
    app.rename("after")

    # Heartbeats are written on the primary alone.
    never_stores(app, app.read)
    assert app.read() == "before"
    keeps(app, "after")


def test_a_heartbeat_from_before_an_invalidation_does_not_vouch_for_it(
    site: Replicated, make: Callable[..., App]
) -> None:
    app = make(site)
    keeps(app, "before")
    app.rename("after")
    site.replicate()

    never_stores(app, app.read)
    assert app.read() == "after"


def test_without_a_word_of_it_the_old_value_comes_back(
    site: Replicated, make: Callable[..., App]
) -> None:
    """What the setting is for."""
    app = make(site, HYDRACACHE_SNAPSHOT="fresh")
    app.rename("after")

    assert app.read() == "before"
    assert app.stored() == "before"


@pytest.mark.parametrize("kind", ["fresh", "request"])
def test_bound_of_the_lag_keeps_the_old_value_out(
    site: Replicated, make: Callable[..., App], kind: str
) -> None:
    app = make(site, HYDRACACHE_SNAPSHOT=kind, HYDRACACHE_READ_LAG=3600)
    app.rename("after")

    assert app.read() == "before"
    assert app.stored() is None


def test_bound_beside_a_heartbeat_is_refused(
    site: Replicated, make: Callable[..., App]
) -> None:
    with pytest.raises(ConfigurationError, match="READ_LAG has no effect"):
        make(site, HYDRACACHE_READ_LAG=1)


def test_without_a_heartbeat_nothing_is_stored(
    site: Replicated, make: Callable[..., App]
) -> None:
    app = make(site)
    with closing(sqlite3.connect(site.primary)) as data:
        data.execute("delete from hydracache_outbox_heartbeat")
        data.commit()
    site.replicate()

    for _ in range(3):
        assert app.read() == "before"
    assert app.stored() is None


def test_named_connections_need_no_load_before(site: Replicated) -> None:
    app = FlaskApp(site)
    keeps(app, "before")
    app.rename("after")
    site.beat()
    site.replicate()

    assert FlaskApp(site).read() == "after"
    assert app.stored() == "after"


# What loads read on


def late(site: Replicated) -> AlchemyApp:
    """An app that has read what a change has made old on both replicas."""
    app = AlchemyApp(site)
    keeps(app, "before")
    app.rename("after")
    return app


def test_objects_of_one_server_are_as_late_as_that(site: Replicated) -> None:
    app = late(site)

    def read() -> None:
        with app.request(), app.make() as session:
            app.place = "far"
            item = session.execute(select(Item)).scalar_one()
            app.place = "primary"

            def load() -> str:
                session.execute(select(Item.name)).scalar_one()
                return str(item.name)

            assert app.hydracache.get_or_load("item", load) == "before"

    never_stores(app, read)


def test_objects_that_outlive_their_transaction_are_not_stored(
    site: Replicated,
) -> None:
    app = late(site)

    def read() -> None:
        with app.request(), app.make(expire_on_commit=False) as session:
            app.place = "far"
            item = session.execute(select(Item)).scalar_one()
            session.commit()
            app.place = "primary"

            def load() -> str:
                session.execute(select(Item.name)).scalar_one()
                return str(item.name)

            assert app.hydracache.get_or_load("item", load) == "before"

    never_stores(app, read)


def test_a_load_within_a_load_is_part_of_it(site: Replicated) -> None:
    app = late(site)

    def outer() -> str:
        app.place = "far"
        inner: str = app.hydracache.get_or_load("inner", app.load)
        app.place = "primary"
        app.load()
        return inner

    def read() -> None:
        with app.request():
            assert app.hydracache.get_or_load("item", outer) == "before"

    never_stores(app, read)


def test_a_load_that_reads_elsewhere_is_not_stored_and_said_once(
    site: Replicated, caplog: pytest.LogCaptureFixture
) -> None:
    app = late(site)

    def load() -> str:
        with closing(sqlite3.connect(site.primary)) as connection:
            [(name,)] = connection.execute("select name from item")
        return str(name)

    def read() -> None:
        with app.request():
            assert app.hydracache.get_or_load("item", load) == "after"

    never_stores(app, read)
    assert caplog.text.count("has read on no connection that is known") == 1


def test_a_load_that_nobody_looks_at_is_not_stored(site: Replicated) -> None:
    app = late(site)
    app.place = "primary"

    def read() -> None:
        with app.request():
            assert app.hydracache.cache.get_or_load("item", app.load) == "after"

    never_stores(app, read)


def test_a_load_that_raises_leaves_nothing_behind(site: Replicated) -> None:
    app = AlchemyApp(site)
    keeps(app, "before")
    app.rename("after")

    def load() -> str:
        app.load()
        raise ZeroDivisionError

    with app.request(), contextlib.suppress(ZeroDivisionError):
        app.hydracache.get_or_load("item", load)
    keeps(app, "after")
