"""Django with the app installed: migrations, system checks, `manage.py hydracache`."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any, Iterator

import pytest
from fresh_mariadb import fresh_mariadb

from hydracache_sync import InvalidationIntentBatch, SchemaError, open_outbox
from hydracache_sync.cli.exit_codes import ExitCode
from hydracache_sync.outbox.schema import install_statements, table_names
from support import ROOT
from support.forked import ForkedCommands

PAGE = (ROOT / "docs" / "integrations" / "django.md").read_text("utf-8")

#: The line of the settings that the page says to add.
[INSTALLED] = re.findall(r"^INSTALLED_APPS .*$", PAGE, re.M)

SETTINGS = """
SECRET_KEY = "not secret"
USE_TZ = True
INSTALLED_APPS = ["django.contrib.contenttypes"]
MIDDLEWARE = ["cache.middleware", "django.middleware.common.CommonMiddleware"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
HYDRACACHE_NAMESPACE = "shop"
HYDRACACHE_POOL = "none"
"""

MANAGE = """
import os, sys
from django.core.management import execute_from_command_line
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop_settings")
execute_from_command_line(sys.argv)
"""

CACHE = """
from hydracache_sync.integrations.django import HydraCache
hydracache = HydraCache()
middleware = hydracache.middleware
"""


class Project:
    """A folder with a project; its database is empty."""

    def __init__(
        self,
        commands: ForkedCommands,
        folder: Path,
        outbox: str,
        database: dict[str, Any],
    ) -> None:
        self._commands = commands
        self.folder = folder
        self.outbox = outbox
        (folder / "manage.py").write_text(MANAGE)
        (folder / "cache.py").write_text(CACHE)
        self.set(SETTINGS, f"DATABASES = {{'default': {database!r}}}", INSTALLED)
        self.set(f"HYDRACACHE_OUTBOX = {outbox!r}")

    def set(self, *lines: str) -> None:
        with (self.folder / "shop_settings.py").open("a") as settings:
            settings.writelines(f"{line}\n" for line in lines)

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-W", "error", "manage.py", *words],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str, code: int = 0) -> str:
        ended, output, errors = self._commands.run(self.folder, "manage.py", *words)
        assert ended == code, (output, errors)
        return output if code == 0 else errors

    def check_schema(self, table: str = "hydracache_outbox") -> None:
        with closing(open_outbox(self.outbox, table=table)) as outbox:
            outbox.check_schema()


@pytest.fixture(scope="module")
def commands() -> Iterator[ForkedCommands]:
    imports = ["django.core.management.commands.migrate", "django.test", "pymysql"]
    imports += ["django.db.backends.sqlite3.base", "hydracache_sync.cli"]
    with ForkedCommands(imports, "-W", "error") as commands:
        yield commands


@pytest.fixture(params=["sqlite", "shared"])
def project(
    request: pytest.FixtureRequest, tmp_path: Path, commands: ForkedCommands
) -> Iterator[Project]:
    with contextlib.ExitStack() as stack:
        if request.param == "sqlite":
            yield on_sqlite(commands, tmp_path)
            return
        server = request.getfixturevalue("mariadb")
        url, options = stack.enter_context(fresh_mariadb(server))
        database = {name.upper(): value for name, value in options.items()}
        database["NAME"] = database.pop("DATABASE")
        database["ENGINE"] = "django.db.backends.mysql"
        yield Project(commands, tmp_path, url.replace("+pymysql", ""), database)


def on_sqlite(commands: ForkedCommands, folder: Path) -> Project:
    path = str(folder / "shop.db")
    # Django waits 5 seconds for a lock, which a busy machine may need.
    database = {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": path,
        "OPTIONS": {"timeout": 90},
    }
    return Project(commands, folder, f"sqlite:///{path}", database)


@pytest.fixture
def sqlite_project(tmp_path: Path, commands: ForkedCommands) -> Project:
    return on_sqlite(commands, tmp_path)


class TestMigrations:
    def test_they_make_what_is_checked_and_take_it_away(self, project: Project) -> None:
        for _ in range(2):
            project.run("migrate")

        project.check_schema()
        project.run("hydracache", "schema", "check")
        project.run("makemigrations", "--check", "--dry-run")
        for _ in range(2):
            project.run("migrate", "hydracache", "zero")
        with pytest.raises(SchemaError):
            project.check_schema()

    def test_tables_that_are_there_keep_their_rows(self, project: Project) -> None:
        with closing(open_outbox(project.outbox)) as outbox:
            outbox.install_schema()
            outbox.enqueue("shop", InvalidationIntentBatch().invalidate_key("a"))

            project.run("migrate")

            outbox.check_schema()
            assert len(outbox.rows("shop")) == 1

    def test_they_are_written_as_sql(self, project: Project) -> None:
        project.set("HYDRACACHE_TABLE = 'mine'")

        written = project.run("sqlmigrate", "hydracache", "0001")
        project.run("migrate")

        dialect = "sqlite" if project.outbox.startswith("sqlite") else "mysql"
        for statement in install_statements(dialect, "mine"):
            assert statement in written
        project.check_schema("mine")

    def test_two_processes_at_once_make_one_outbox(self, project: Project) -> None:
        project.run("migrate", "contenttypes")  # and Django's own table

        both = [project.start("migrate", "hydracache") for _ in range(2)]

        for each in both:
            output, errors = each.communicate(timeout=100)
            assert each.returncode == 0, (output, errors)
        project.check_schema()

    def test_a_router_says_which_database_has_the_tables(
        self, sqlite_project: Project
    ) -> None:
        project = sqlite_project
        other = project.folder / "other.db"
        project.set(
            "DATABASES['other'] = {'ENGINE': 'django.db.backends.sqlite3',"
            f" 'NAME': {str(other)!r}}}",
            "DATABASE_ROUTERS = ['router.Router']",
        )
        (project.folder / "router.py").write_text(
            "class Router:\n"
            "    def allow_migrate(self, db, app_label, **hints):\n"
            "        return None if app_label != 'hydracache' else db == 'default'\n"
        )

        project.run("migrate", "--database", "other")
        project.run("migrate")

        project.check_schema()
        with closing(open_outbox(f"sqlite:///{other}")) as outbox:
            with pytest.raises(SchemaError):
                outbox.check_schema()


class TestChecks:
    def test_a_project_as_the_page_has_it_is_fine(self, project: Project) -> None:
        said = project.run("check", "--database", "default", "--fail-level", "WARNING")

        assert "no issues" in said

    @pytest.mark.parametrize(
        ("lines", "told"),
        [
            (["HYDRACACHE_OUTBOKS = 'x'"], ["E001", "did you mean HYDRACACHE_OUTBOX"]),
            (["del HYDRACACHE_NAMESPACE"], ["E001", "HYDRACACHE_NAMESPACE is missing"]),
            (["HYDRACACHE_TABLE = 'a b'"], ["E001", "is no table's name"]),
            (
                ["MIDDLEWARE.reverse()"],
                ["W002", "cache.middleware is at place 2", "Put 'cache.middleware'"],
            ),
            (["del MIDDLEWARE[0]"], ["W002", "MIDDLEWARE has no middleware of"]),
            (
                ["HYDRACACHE_OUTBOX = 'sqlite:////nowhere/else.db'"],
                ["W003", "the database of no alias"],
            ),
            (
                ["HYDRACACHE_OUTBOX = 'mysql://shop@127.0.0.1/shop'"],
                ["W003", "the database of no alias"],
            ),
        ],
        ids=["misspelt", "missing", "table", "second", "none", "file", "server"],
    )
    def test_a_slip_is_told_with_a_hint(
        self, sqlite_project: Project, lines: list[str], told: list[str]
    ) -> None:
        sqlite_project.set(*lines)

        said = sqlite_project.run(
            "check", "--database", "default", "--fail-level", "WARNING", code=1
        )

        for each in [*told, "HINT: ", "1 issue"]:
            assert each in said

    def test_on_a_server_the_name_of_the_database_is_compared(
        self, project: Project
    ) -> None:
        project.set("HYDRACACHE_OUTBOX += '_other'")

        said = project.run("check", "--database", "default")

        assert "no issues" not in said


class TestCommands:
    def test_they_have_the_settings_of_the_project(self, project: Project) -> None:
        project.set("HYDRACACHE_MAX_PENDING = 0")
        project.run("migrate")
        with closing(open_outbox(project.outbox)) as outbox:
            outbox.enqueue("shop", InvalidationIntentBatch().invalidate_key("a"))

        started = project.start("hydracache", "status", "--json")
        output, errors = started.communicate(timeout=100)

        assert started.returncode == ExitCode.ALERT, errors
        assert '"shop"' in output and '"pending": 1' in output

    def test_djangos_own_options_may_follow(self, sqlite_project: Project) -> None:
        path = sqlite_project.folder / "shop_settings.py"
        path.rename(sqlite_project.folder / "live.py")

        said = sqlite_project.run(
            "hydracache", "schema", "show", "--settings=live", "--pythonpath", "."
        )

        assert table_names()[-1] in said

    def test_help_and_errors_are_those_of_the_commands(
        self, sqlite_project: Project
    ) -> None:
        said = sqlite_project.run("hydracache", "--help")
        refused = sqlite_project.run("hydracache", "no-such", code=2)

        assert "Usage: manage.py hydracache" in said
        assert "drain" in said and "schema" in said
        assert "No such command 'no-such'" in refused

    def test_they_may_be_called(self, sqlite_project: Project) -> None:
        program = (
            "from django.core.management import call_command\n"
            "call_command('hydracache', 'schema', 'install', '--quiet')\n"
            "call_command('hydracache', 'schema', 'check')\n"
            "try:\n"
            "    call_command('hydracache', 'schema', 'check', '--table', 'other')\n"
            "except SystemExit as ended:\n"
            "    print('ended', int(ended.code))\n"
        )

        said = sqlite_project.run("shell", "-c", program)

        assert said.splitlines()[-1] == f"ended {int(ExitCode.SCHEMA)}"
        sqlite_project.check_schema()

    def test_settings_of_commands_are_refused_where_there_are_none(
        self, sqlite_project: Project
    ) -> None:
        sqlite_project.set("INSTALLED_APPS.pop()", "HYDRACACHE_MAX_PENDING = 0")

        refused = sqlite_project.run("shell", "-c", "import cache", code=1)

        assert "HYDRACACHE_MAX_PENDING is of commands only" in refused
        assert "Unknown command" in sqlite_project.run("hydracache", code=1)


class TestAdmin:
    def test_what_it_saves_and_deletes_is_invalidated(
        self, sqlite_project: Project
    ) -> None:
        folder = sqlite_project.folder / "shop"
        folder.mkdir()
        for name, text in {
            "__init__": "",
            "models": "from django.db import models\nclass Product(models.Model):\n"
            "    name = models.CharField(max_length=50)\n",
            "views": "from cache import hydracache\n",
            "admin": re.findall(r"```python\n(# shop/admin.py\n.*?)```", PAGE, re.S)[0],
        }.items():
            (folder / f"{name}.py").write_text(text)
        sqlite_project.set(
            "INSTALLED_APPS += ['django.contrib.auth', 'django.contrib.messages',"
            " 'django.contrib.admin', 'shop']",
            "SILENCED_SYSTEM_CHECKS = ['admin.E403', 'admin.E408', 'admin.E409',"
            " 'admin.E410']  # of what its pages need",
        )
        sqlite_project.run("migrate", "--run-syncdb")

        said = sqlite_project.run("shell", "-c", WITH_ADMIN)

        # The shell has words of its own before them.
        rows = sorted(line for line in said.splitlines() if line.startswith("row"))
        assert rows == [f"row shop.product {id}" for id in (1, 1, 2, 3)]


WITH_ADMIN = """
from django.contrib.admin import site
from shop.admin import ProductAdmin
from shop.models import Product
from shop.views import hydracache
admin = ProductAdmin(Product, site)
tea, egg, oil = (Product.objects.create(name=name) for name in ("tea", "egg", "oil"))
admin.save_model(None, tea, None, True)
admin.delete_model(None, tea)
admin.delete_queryset(None, Product.objects.order_by("id"))
assert not Product.objects.exists()
for row in hydracache.outbox.rows("shop"):
    print("row", row.intent.entity_name, row.intent.value)
"""
