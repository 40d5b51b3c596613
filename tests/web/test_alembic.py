"""Alembic, Flask-Migrate: the tables stay what `hydracache schema check` accepts."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any, Iterator

import pytest
import sqlalchemy
from alembic.autogenerate import compare_metadata, produce_migrations
from alembic.autogenerate import render_python_code as rendered
from alembic.migration import MigrationContext
from alembic.operations import Operations
from fresh_mariadb import fresh_mariadb

from hydracache_sync import (
    InvalidationIntentBatch,
    InvalidationOutbox,
    SchemaError,
    open_outbox,
)
from hydracache_sync.integrations.alembic import CreateOutbox, include_name, tables
from hydracache_sync.outbox.schema import install_statements
from support import ROOT
from support.forked import ForkedCommands
from support.servers import SQL_SERVERS, MariaDB, servers_of_this_run

#: One of each kind, for what does not depend on the server's version.
SOME = ["sqlite", "shared"]

OTHERS = [
    kind
    for kind, server in servers_of_this_run().items()
    if server is not MariaDB.of_this_run()
]
DATABASES = [*SOME, *OTHERS]

PAGE = (ROOT / "docs" / "how_to" / "migrations.md").read_text("utf-8")

#: What the page says to write: into env.py, a revision, env.py again, and an app.
INCLUDED, BY_HAND, PASSED_OVER, IN_FLASK = re.findall(
    r"```python\n(.*?)```", PAGE.partition("## Django")[0], re.S
)


class Place:
    """An empty database, by the URLs of SQLAlchemy and of an outbox."""

    def __init__(self, url: str, table: str = "hydracache_outbox") -> None:
        self.url = url
        self.table = table
        self.engine = sqlalchemy.create_engine(url)
        self.metadata = sqlalchemy.MetaData()
        tables(self.metadata, table)

    @property
    def outbox_url(self) -> str:
        return re.sub(r"^\w+\+pymysql", "mysql", self.url)

    def outbox(self) -> InvalidationOutbox:
        return open_outbox(self.outbox_url, table=self.table)

    def check(self) -> None:
        """The judge of all: what `hydracache schema check` does."""
        with closing(self.outbox()) as outbox:
            outbox.check_schema()

    def install(self) -> None:
        with closing(self.outbox()) as outbox:
            outbox.install_schema()

    def create(self) -> None:
        with self.engine.begin() as connection:
            operations(connection).create_hydracache_outbox(table=self.table)

    def create_all(self) -> None:
        self.metadata.create_all(self.engine)

    def drop(self) -> None:
        with self.engine.begin() as connection:
            operations(connection).drop_hydracache_outbox(table=self.table)

    def execute(self, statement: str) -> None:
        with self.engine.begin() as connection:
            connection.execute(sqlalchemy.text(statement))

    def differences(self, metadata: sqlalchemy.MetaData, **options: Any) -> list[Any]:
        with self.engine.connect() as connection:
            found: list[Any] = compare_metadata(
                context_of(connection, **options), metadata
            )
            return found

    def revision(self) -> tuple[str, str]:
        """What autogenerate writes into a revision, to go up and to go down."""
        with self.engine.connect() as connection:
            script = produce_migrations(context_of(connection), self.metadata)
        return rendered(script.upgrade_ops), rendered(script.downgrade_ops)


def context_of(connection: Any, **options: Any) -> MigrationContext:
    compared = {"compare_type": True, "compare_server_default": True}
    return MigrationContext.configure(connection, opts={**compared, **options})


def operations(connection: Any) -> Any:
    return Operations(context_of(connection))


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """A database of the kind that the test is parametrized with."""
    with contextlib.ExitStack() as stack:
        if request.param == "sqlite":
            url = f"sqlite:///{tmp_path}/app.db"
        elif request.param == "shared":
            server = request.getfixturevalue("mariadb")
            url, _ = stack.enter_context(fresh_mariadb(server))
        else:
            server = stack.enter_context(SQL_SERVERS[request.param]())
            url, _ = stack.enter_context(fresh_mariadb(server))
        place = Place(url)
        stack.callback(place.engine.dispose)
        yield place


on_each = pytest.mark.parametrize("place", DATABASES, indirect=True)
on_some = pytest.mark.parametrize("place", SOME, indirect=True)


class TestAutogenerate:
    @on_each
    def test_finds_no_difference_however_the_tables_were_made(
        self, place: Place
    ) -> None:
        for make in (place.install, place.create, place.create_all):
            make()

            place.check()
            assert place.differences(place.metadata) == [], make
            place.drop()
        assert len(sqlalchemy.inspect(place.engine).get_table_names()) == 0

    @on_some
    def test_the_dialect_that_is_named_mariadb_is_no_other(self, place: Place) -> None:
        place.install()
        url = re.sub("^mysql", "mariadb", place.url)

        other = Place(url)

        assert other.differences(other.metadata) == []
        other.create()
        other.engine.dispose()

    @on_some
    def test_a_column_that_is_altered_is_found(self, place: Place) -> None:
        place.install()

        place.execute("alter table hydracache_outbox drop column last_error")

        [(what, _, table, column)] = place.differences(place.metadata)
        assert (what, table, column.name) == (
            "add_column",
            "hydracache_outbox",
            "last_error",
        )

    @on_some
    def test_names_keep_it_from_the_tables_where_no_metadata_has_them(
        self, place: Place
    ) -> None:
        place.install()
        place.execute("create table other (id integer primary key)")
        nothing = sqlalchemy.MetaData()

        unasked = place.differences(nothing)
        asked = place.differences(nothing, include_name=include_name)

        names = {each[1].name for each in unasked if each[0] == "remove_table"}
        assert names == {*place.metadata.tables, "other"}
        assert [(each[0], each[1].name) for each in asked] == [
            ("remove_table", "other")
        ]

    def test_names_follow_the_name_of_the_table(self) -> None:
        include = functools.partial(include_name, table="mine")

        assert not include("mine_paused", "table", {})
        assert include("hydracache_outbox", "table", {})
        assert include("mine", "column", {})

    @on_some
    def test_tables_that_are_missing_become_one_operation(self, place: Place) -> None:
        up, down = place.revision()

        assert up.count("op.") == down.count("op.") == 1
        assert "op.create_hydracache_outbox()" in up
        assert "op.drop_hydracache_outbox()" in down

    def test_of_another_name_it_says_so(self, tmp_path: Path) -> None:
        place = Place(f"sqlite:///{tmp_path}/app.db", "mine")

        up, down = place.revision()
        place.create()

        assert "op.create_hydracache_outbox(table='mine')" in up
        assert "op.drop_hydracache_outbox(table='mine')" in down
        place.check()
        assert place.differences(place.metadata) == []
        place.engine.dispose()

    @on_some
    def test_one_table_that_is_missing_is_made_by_itself(self, place: Place) -> None:
        place.install()
        place.execute("drop table hydracache_outbox_paused")

        up, down = place.revision()

        assert "op.create_table('hydracache_outbox_paused'" in up
        assert "op.drop_table('hydracache_outbox_paused')" in down
        assert up.count("create_") == down.count("op.") == 1


class TestOperation:
    @on_some
    def test_is_harmless_to_repeat_and_keeps_rows(self, place: Place) -> None:
        for _ in range(2):
            place.create()
        with closing(place.outbox()) as outbox:
            outbox.enqueue("shop", InvalidationIntentBatch().invalidate_key("a"))

        place.create()

        place.check()
        with closing(place.outbox()) as outbox:
            assert len(outbox.rows("shop")) == 1

    @on_some
    def test_a_drop_leaves_nothing_and_may_be_repeated(self, place: Place) -> None:
        place.create()

        for _ in range(2):
            place.drop()

        assert sqlalchemy.inspect(place.engine).get_table_names() == []
        with pytest.raises(SchemaError):
            place.check()

    def test_is_of_the_transaction_of_the_migration(self, tmp_path: Path) -> None:
        place = Place(f"sqlite:///{tmp_path}/app.db")
        place.execute("create table item (name text)")
        with place.engine.connect() as connection:
            connection.exec_driver_sql("begin")
            connection.exec_driver_sql("insert into item values ('uncommitted')")

            operations(connection).create_hydracache_outbox()
            inside = sqlalchemy.inspect(connection).has_table("hydracache_outbox")
            connection.rollback()

        assert inside
        assert sqlalchemy.inspect(place.engine).get_table_names() == ["item"]
        with place.engine.connect() as connection:
            assert not connection.exec_driver_sql("select * from item").all()
        place.engine.dispose()

    @on_some
    def test_two_processes_at_once_make_one_outbox(self, place: Place) -> None:
        with contextlib.ExitStack() as stack:
            processes = [stack.enter_context(migrating(place.url)) for _ in range(2)]
            for _ in range(10):
                for process in processes:
                    tell(process, "create")
                answers = [process.stdout.readline() for process in processes]

                assert answers == ["done\n", "done\n"]
                place.check()
                place.drop()

    def test_a_table_that_has_no_name_is_refused(self) -> None:
        with pytest.raises(ValueError, match="no table's name"):
            CreateOutbox("a b")
        with pytest.raises(ValueError, match="no table's name"):
            tables(sqlalchemy.MetaData(), "a b")

    def test_a_database_without_an_outbox_is_refused(self) -> None:
        context = MigrationContext.configure(dialect_name="postgresql")

        with pytest.raises(ValueError, match="not in postgresql"):
            Operations(context).create_hydracache_outbox()


class Project:
    """A folder with an app's migrations, in which commands are typed."""

    def __init__(self, folder: Path, place: Place, commands: ForkedCommands) -> None:
        self.folder = folder
        self.url = place.url
        self._place = place
        self._commands = commands

    def run(self, *words: str) -> str:
        code, output, errors = self._commands.run(
            self.folder, *words, env={"DATABASE": self.url}
        )
        assert code == 0, errors
        return output

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", *words],
            cwd=self.folder,
            env={**os.environ, "DATABASE": self.url},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def tables(self) -> set[str]:
        return set(sqlalchemy.inspect(self._place.engine).get_table_names())


@pytest.fixture(scope="module")
def commands() -> Iterator[ForkedCommands]:
    imports = ["alembic.command", "alembic.config", "flask_migrate", "flask_sqlalchemy"]
    with ForkedCommands([*imports, "pymysql", "hydracache_sync.cli"]) as commands:
        yield commands


@pytest.fixture
def empty(place: Place, tmp_path: Path, commands: ForkedCommands) -> Project:
    folder = tmp_path / "project"
    folder.mkdir()
    return Project(folder, place, commands)


@pytest.fixture
def project(empty: Project) -> Project:
    """As `alembic init` makes it, with one table of its own."""
    project = empty
    project.run("alembic", "init", "migrations")
    (project.folder / "models.py").write_text(
        "import sqlalchemy as sa\n\nmetadata = sa.MetaData()\n"
        "sa.Table('item', metadata, sa.Column('id', sa.Integer, primary_key=True))\n"
    )
    ini = project.folder / "alembic.ini"
    text = ini.read_text("utf-8")
    ini.write_text(re.sub("(?m)^(sqlalchemy.url =).*", rf"\1 {project.url}", text))
    return project


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new))


class TestAlembic:
    @on_some
    def test_autogenerate_makes_what_is_checked_and_then_nothing(
        self, place: Place, project: Project
    ) -> None:
        edit(project.folder / "migrations/env.py", "target_metadata = None", INCLUDED)
        outbox = set(place.metadata.tables)

        project.run("alembic", "revision", "--autogenerate", "-m", "all")
        for _ in range(2):
            project.run("alembic", "upgrade", "head")

        place.check()
        assert project.tables() == {"item", "alembic_version", *outbox}
        project.run("alembic", "check")
        project.run("alembic", "downgrade", "base")
        assert project.tables() == {"alembic_version"}

    @on_some
    def test_a_revision_by_hand_runs_and_is_written_as_sql(
        self, place: Place, project: Project
    ) -> None:
        env = project.folder / "migrations/env.py"
        edit(env, "target_metadata = None", "from models import metadata")
        wanted = PASSED_OVER.replace("=target_metadata", "=metadata")
        edit(env, "target_metadata=target_metadata", "target_metadata=metadata")
        imported, _, configured = wanted.partition("\n\n")
        edit(
            env,
            "from alembic import context",
            f"from alembic import context\n{imported}",
        )
        indented = configured.strip().replace("\n", "\n        ")
        plain = re.search(
            r"context\.configure\(\s+connection=.*?\n {8}\)",
            env.read_text("utf-8"),
            re.S,
        )
        assert plain is not None
        edit(env, plain[0], indented)
        project.run("alembic", "revision", "-m", "outbox")
        [path] = (project.folder / "migrations/versions").glob("*.py")
        text = path.read_text("utf-8")
        path.write_text(text[: text.index("def upgrade")] + BY_HAND)

        written = project.run("alembic", "upgrade", "head", "--sql")
        before = project.tables()
        project.run("alembic", "upgrade", "head")

        dialect = place.engine.dialect.name
        for statement in install_statements(dialect):
            assert statement in written
        assert before == set()
        place.check()
        project.run("alembic", "revision", "--autogenerate", "-m", "item")
        [item] = (project.folder / "migrations/versions").glob("*_item.py")
        assert "hydracache" not in item.read_text("utf-8")
        project.run("alembic", "downgrade", "base")
        assert project.tables() == {"alembic_version"}

    @on_some
    def test_two_upgrades_at_once_leave_what_one_does(
        self, place: Place, project: Project
    ) -> None:
        edit(project.folder / "migrations/env.py", "target_metadata = None", INCLUDED)
        project.run("alembic", "revision", "--autogenerate", "-m", "all")

        both = [project.start("alembic", "upgrade", "head") for _ in range(2)]
        for each in both:
            each.communicate(timeout=100)
        # Alembic's own table and the app's are made by one: the other may have failed.
        if any(each.returncode for each in both):
            place.create()

        place.check()
        outbox = [
            each for each in place.differences(place.metadata) if "hydra" in str(each)
        ]
        assert outbox == []


class TestFlaskMigrate:
    @on_some
    def test_the_commands_make_what_is_checked(
        self, place: Place, empty: Project
    ) -> None:
        project = empty
        (project.folder / "app.py").write_text(FLASK_APP + IN_FLASK)

        project.run("flask", "db", "init")
        project.run("flask", "db", "migrate")
        for _ in range(2):
            project.run("flask", "db", "upgrade")

        place.check()
        project.run("flask", "db", "check")
        project.run("flask", "hydracache", "schema", "check")
        project.run("flask", "db", "downgrade")
        assert project.tables() == {"alembic_version"}


FLASK_APP = """import os
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from hydracache_sync.integrations.flask import HydraCache

app = Flask(__name__)
url = app.config["SQLALCHEMY_DATABASE_URI"] = os.environ["DATABASE"]
app.config["HYDRACACHE_OUTBOX"] = url.replace("mysql+pymysql", "mysql")
app.config["HYDRACACHE_NAMESPACE"] = "shop"
app.config["HYDRACACHE_POOL"] = "none"
db = SQLAlchemy(app)
hydracache = HydraCache(app)

class Item(db.Model):
    id = db.Column(db.Integer, primary_key=True)

"""


#: Makes an outbox at each line that it reads.
MIGRATING = """if True:
    import sys, sqlalchemy
    from alembic.migration import MigrationContext
    from alembic.operations import Operations
    import hydracache_sync.integrations.alembic

    engine = sqlalchemy.create_engine(sys.argv[1])
    for _ in sys.stdin:
        with engine.begin() as connection:
            context = MigrationContext.configure(connection)
            Operations(context).create_hydracache_outbox()
        print("done", flush=True)
"""


@contextlib.contextmanager
def migrating(url: str) -> Iterator[Any]:
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", MIGRATING, url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait(60) == 0
        finally:
            process.kill()


def tell(process: Any, line: str) -> None:
    process.stdin.write(f"{line}\n")
    process.stdin.flush()
