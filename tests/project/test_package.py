"""The package as a whole: light to import, layered, and documented by its names."""

from __future__ import annotations

import ast
import configparser
import functools
import inspect
import json
import re
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

import hydracache_sync
from hydracache_sync.outbox import statements
from support import ROOT

PACKAGE = Path(hydracache_sync.__file__).parent

#: What only those should pay for who use it.
HEAVY = [
    "pymysql",
    "MySQLdb",
    "mysql",
    "pymemcache",
    "flask",
    "werkzeug",
    "sqlalchemy",
    "click",
    "tqdm",
    "msgspec",
    "orjson",
    "zstandard",
    "ssl",
    "email",
    "asyncio",
]

#: Layers of the package, the lowest first. A part is the first name below the package;
#: it may import what is in lower layers, and itself. Parts that are not named here (the
#: command line, the console, integrations) stand on top of all.
LAYERS = [
    {"errors", "keys", "durations", "backoff", "printable", "version"},
    {"fork", "lending"},
    {"addresses"},
    {"drivers", "subscribers", "outage"},
    {"intents"},
    {"receipts"},
    {"outbox"},
    {"events"},
    {"cache"},
    {"memcached"},
    {"worker"},
    {"pool"},
    {"metrics", "testing", "tracing"},
    {"missing_tags", "snapshots", "statement_recorder", "verify_report", "wording"},
    {"decorated_reads", "replica_snapshot"},
    {"verify"},
    {"app"},
]

#: What only a driver knows of its connections, by the names of attributes, constants
#: and modules. Who wants to know asks the driver's class.
OF_DRIVERS = {
    "server_status",
    "server_thread_id",
    "total_changes",
    "unbuffered_active",
    "_rfile",
    "_force_close",
    "_write_bytes",
    "raise_mysql_exception",
    "SERVER_STATUS_IN_TRANS",
    "SERVER_STATUS_AUTOCOMMIT",
    "MySQLdb",
    "MySQLdb.cursors",
    "mysql.connector",
    "pymysql.cursors",
}

#: Third parties, each of which one module may import, or one folder of integrations.
#: The console is made of pages of Flask, too.
ONE_PLACE = {
    "celery",
    "msgspec",
    "pymemcache",
    "pymysql",
    "flask",
    "rq",
    "sqlalchemy",
}


@functools.lru_cache(maxsize=None)
def modules() -> dict[str, Path]:
    """Every module of the package by its name below it, as ``outbox.sql``."""
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
        for path in PACKAGE.rglob("*.py")
    }


@functools.lru_cache(maxsize=None)
def imports_of(path: Path) -> set[str]:
    """Absolute names of all that a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            assert node.module is not None
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
            names.add(node.module)
    return names


def words_of(path: Path) -> set[str]:
    """Names of attributes and variables, and texts, that a file's code has."""
    words: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Attribute):
            words.add(node.attr)
        if isinstance(node, ast.Name):
            words.add(node.id)
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            words.add(node.value)
    return words


def parts_imported_by(path: Path) -> set[str]:
    """The package's own parts among them."""
    prefix = "hydracache_sync."
    return {
        name[len(prefix) :].split(".")[0]
        for name in imports_of(path)
        if name.startswith(prefix)
    }


def modules_imported_by(path: Path) -> set[str]:
    """Modules of the package that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            module = str(node.module).partition(".")[2]
            for alias in node.names:
                # A folder is imported for what its __init__ has, or a file in it.
                names = [f"{module}.{alias.name}", module, f"{module}.__init__"]
                found.update([name for name in names if name in modules()][:1])
    return found


def layer(part: str) -> int:
    """Place of a part among LAYERS; above them all if it is in none."""
    found = [index for index, parts in enumerate(LAYERS) if part in parts]
    return found[0] if found else len(LAYERS)


def layered() -> list[str]:
    return [name for name in modules() if layer(name.split(".")[0]) < len(LAYERS)]


def folders() -> list[str]:
    """Folders within the package that have folders, by their names with dots.

    The package itself has LAYERS.
    """
    names = {name.rpartition(".")[0] for name in modules()}
    return sorted({name.rpartition(".")[0] for name in names} - {""})


def in_circles(imported: dict[str, set[str]]) -> dict[str, set[str]]:
    """What is left when all that imports none of what is left is taken, repeatedly."""
    left = dict(imported)
    while ends := {name for name in left if not left[name] & left.keys()}:
        for name in ends:
            del left[name]
    return left


def fresh_interpreter(program: str) -> str:
    answer = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


class TestImport:
    def test_it_loads_no_driver_no_framework_and_starts_no_thread(self) -> None:
        program = """if True:
            import json, sys, threading
            before = set(sys.modules)
            import hydracache_sync
            roots = {name.split(".")[0] for name in set(sys.modules) - before}
            print(json.dumps([sorted(roots), threading.active_count()]))
        """

        roots, threads = json.loads(fresh_interpreter(program))

        assert set(roots) & set(HEAVY) == set()
        assert threads == 1

    def test_every_name_can_be_taken_with_a_star(self) -> None:
        program = "from hydracache_sync import *; print(len(dir()))"

        count = int(fresh_interpreter(program))

        assert count >= len(hydracache_sync.__all__)

    def test_it_opens_no_file_socket_or_database_and_reads_no_environment(
        self,
    ) -> None:
        program = """if True:
            import os, pathlib, sqlite3, sys, uuid, random, secrets, ctypes
            import concurrent.futures, hashlib, logging, urllib.parse
            import importlib.resources, json, socket, struct, zlib, contextlib
            seen = []

            def hook(event, arguments):
                if event in ("socket.connect", "socket.bind", "sqlite3.connect"):
                    seen.append((event, arguments))
                if event == "open" and arguments[1] not in ("rb", "r", None):
                    seen.append((event, arguments))

            class Environment(dict):
                def __getitem__(self, name):
                    seen.append(("environment", name))
                    return super().__getitem__(name)

                def get(self, name, default=None):
                    seen.append(("environment", name))
                    return super().get(name, default)

            sys.dont_write_bytecode = True
            sys.addaudithook(hook)
            os.environ = Environment(os.environ)
            import hydracache_sync
            print(seen)
        """

        assert fresh_interpreter(program) == "[]\n"


class TestEnd:
    def test_what_is_simply_dropped_leaves_no_warning_behind(self) -> None:
        program = """if True:
            import gc, pathlib, tempfile
            from hydracache_sync import *

            def use(outbox):
                outbox.install_schema()
                outbox.enqueue("shop", InvalidationIntentBatch().invalidate_key("a"))
                worker = OutboxWorker(outbox, MemcachedApplier(MemoryStore(), "shop"))
                worker.drain()

            with tempfile.TemporaryDirectory() as directory:
                use(MemoryOutbox())
                use(SQLiteOutbox(pathlib.Path(directory) / "app.db"))
                gc.collect()
        """

        # What is raised while something is collected goes to standard error only.
        answer = subprocess.run(
            [sys.executable, "-X", "dev", "-W", "error", "-c", program],
            cwd=PACKAGE.parent,
            capture_output=True,
            text=True,
            timeout=60,
        )

        assert answer.stderr == ""
        assert answer.returncode == 0

    def test_what_is_dropped_in_a_cycle_leaves_no_warning_either(self) -> None:
        program = """if True:
            import gc, pathlib, tempfile
            from hydracache_sync import *

            class App:
                pass

            def use(outbox):
                outbox.install_schema()
                app = App()
                app.itself, app.outbox = app, outbox

            with tempfile.TemporaryDirectory() as directory:
                use(SQLiteOutbox(pathlib.Path(directory) / "app.db"))
                gc.collect()
        """

        answer = subprocess.run(
            [sys.executable, "-X", "dev", "-W", "error", "-c", program],
            cwd=PACKAGE.parent,
            capture_output=True,
            text=True,
            timeout=60,
        )

        assert answer.stderr == ""


class TestNames:
    def test_all_names_are_there_and_told_once(self) -> None:
        names = hydracache_sync.__all__

        assert len(set(names)) == len(names)
        assert [name for name in names if not hasattr(hydracache_sync, name)] == []

    def test_what_is_imported_into_the_package_is_told(self) -> None:
        public = {
            name
            for name, value in vars(hydracache_sync).items()
            if not name.startswith("_") and not inspect.ismodule(value)
        }

        assert public - {"annotations"} == set(hydracache_sync.__all__)

    @pytest.mark.parametrize("name", hydracache_sync.__all__)
    def test_each_has_a_docstring_of_its_own(self, name: str) -> None:
        thing = getattr(hydracache_sync, name)

        text = vars(thing).get("__doc__") if inspect.isclass(thing) else thing.__doc__

        # What dataclasses, named tuples and enumerations write by themselves says
        # nothing.
        assert text and not text.startswith(f"{name}(")
        assert text != "An enumeration."
        assert len(text.split("\n")[0]) > 10

    @pytest.mark.parametrize("name", sorted(modules()))
    def test_each_module_says_what_it_is_for(self, name: str) -> None:
        module = ast.parse(modules()[name].read_text("utf-8"))

        assert ast.get_docstring(module)

    def test_the_names_of_the_design_are_all_there(self) -> None:
        names = """
            InvalidationIntent InvalidationIntentBatch CacheKeyBuilder CommitPosition
            InvalidationReceipt OutboxState OutboxRow OutboxStatus InvalidationOutbox
            MemoryOutbox SQLiteOutbox open_outbox InvalidationApplier MemcachedApplier
            PlainKeyApplier RecordingApplier OutboxWorker PublishReport
            WorkerDiagnostics ConsistencyMode InvalidationWait WaitOutcome
            MemcachedStore MemoryStore TaggedCache HydraCacheError ConfigurationError
            OutboxError OutboxBusyError SchemaError NotInTransactionError ApplyError
            ApplyUnavailable ApplyTransient ApplyPermanent QuarantineError
        """.split()

        assert [name for name in names if name not in hydracache_sync.__all__] == []

    @pytest.mark.parametrize("name", sorted(hydracache_sync.__all__))
    def test_each_has_an_entry_in_the_reference(self, name: str) -> None:
        """Add `.. autoclass:: hydracache_sync.NAME` to a page of docs/reference."""
        entry = re.compile(rf"^\.\. auto\w+:: hydracache_sync\.{name}$", re.M)
        pages = (ROOT / "docs" / "reference").glob("*.md")

        assert sum(len(entry.findall(page.read_text("utf-8"))) for page in pages) == 1

    def test_every_error_has_the_one_root(self) -> None:
        errors = [
            thing
            for thing in vars(hydracache_sync).values()
            if inspect.isclass(thing) and issubclass(thing, BaseException)
        ]

        assert len(errors) >= 11
        assert all(issubclass(each, hydracache_sync.HydraCacheError) for each in errors)

    def test_the_version_is_a_version(self) -> None:
        assert re.fullmatch(r"\d+\.\d+\.\d+\S*", hydracache_sync.__version__)


class TestData:
    def test_a_wheel_has_each_file_of_the_package(self) -> None:
        setup = configparser.ConfigParser()
        setup.read(PACKAGE.parent / "setup.cfg", "utf-8")
        patterns = setup["options.package_data"]["hydracache_sync"].split()
        named = {path for pattern in patterns for path in PACKAGE.glob(pattern)}

        there = {
            path
            for path in PACKAGE.rglob("*")
            if path.is_file() and path.suffix not in (".py", ".pyc")
        }

        assert there == named
        assert PACKAGE / "console" / "templates" / "base.html" in named


class TestLayers:
    @pytest.mark.parametrize("name", layered())
    def test_imports_point_one_way(self, name: str) -> None:
        part = name.split(".")[0]
        imported = parts_imported_by(modules()[name]) - {part}

        assert {each for each in imported if layer(each) >= layer(part)} == set()

    def test_no_two_modules_import_each_other(self) -> None:
        """Not by others between, nor for their types alone, nor in a function."""
        left = {name: modules_imported_by(path) for name, path in modules().items()}

        assert in_circles(left) == {}

    @pytest.mark.parametrize("folder", folders())
    def test_no_two_folders_import_each_other(self, folder: str) -> None:
        """Each folder within another counts as one, and so does a file beside it."""
        depth = folder.count(".") + 1
        inside = {
            name: ".".join(name.split(".")[: depth + 1])
            for name in modules()
            if name.startswith(f"{folder}.") and name.split(".")[depth] != "__init__"
        }
        left: dict[str, set[str]] = {place: set() for place in inside.values()}
        for name, place in inside.items():
            imported = modules_imported_by(modules()[name])
            left[place] |= {inside[each] for each in imported & inside.keys()} - {place}

        assert in_circles(left) == {}

    def test_the_outbox_knows_no_applier_and_no_cache(self) -> None:
        known = {
            part
            for name, path in modules().items()
            if name.startswith("outbox")
            for part in parts_imported_by(path)
        }

        assert known & {"cache", "memcached", "worker"} == set()

    def test_the_cache_knows_no_outbox(self) -> None:
        known = {
            part
            for name, path in modules().items()
            if name.startswith("cache")
            for part in parts_imported_by(path)
        }

        assert known & {"outbox", "memcached", "worker", "receipts"} == set()

    def test_the_client_knows_the_contract_of_a_store_and_nothing_else(self) -> None:
        # The seam between the token protocol and a memory for bytes: what a store must
        # do, and how keys are spelled. A store knows no token and no entry.
        known = {
            ".".join(each.split(".")[2:3])
            for name, path in modules().items()
            if name.startswith("memcached")
            for each in imports_of(path)
            if each.startswith("hydracache_sync.cache")
        }

        assert known == {"store", "keyspace"}

    def test_hooks_at_a_fork_are_registered_in_one_file(self) -> None:
        registers = [
            name
            for name, path in modules().items()
            if "register_at_fork" in path.read_text("utf-8")
        ]

        assert registers == ["fork"]

    def test_what_is_a_threads_own_is_a_greenlets_too(self) -> None:
        # gevent may replace threading.local after the import: see fork.ProcessLocal.
        users = {
            name
            for name, path in modules().items()
            for node in ast.walk(ast.parse(path.read_text("utf-8")))
            if (
                isinstance(node, ast.Attribute)
                and ast.unparse(node) == "threading.local"
            )
            or (isinstance(node, ast.ImportFrom) and node.module == "threading")
        }

        assert users == {"fork"}

    def test_what_only_a_driver_knows_is_used_among_the_drivers_alone(self) -> None:
        users = {
            name.partition(".")[0]
            for name, path in modules().items()
            if words_of(path) & OF_DRIVERS
        }

        assert users == {"drivers"}

    def test_drivers_know_values_alone(self) -> None:
        known = {
            part
            for name, path in modules().items()
            if name.startswith("drivers")
            for part in parts_imported_by(path)
        }

        assert known == {"addresses", "drivers", "errors", "fork"}

    def test_apps_and_commands_know_no_framework_of_ours(self) -> None:
        importers = [
            name
            for name, path in modules().items()
            if name.partition(".")[0] in ("app", "cli")
            and "integrations" in parts_imported_by(path)
        ]

        assert importers == []

    def test_nothing_below_imports_the_package_itself(self) -> None:
        importers = [
            name
            for name in layered()
            if "hydracache_sync" in imports_of(modules()[name])
        ]

        assert importers == []

    @pytest.mark.parametrize("third_party", sorted(ONE_PLACE))
    def test_a_third_party_is_imported_in_one_place_at_most(
        self, third_party: str
    ) -> None:
        importers = {
            ".".join(name.split(".")[:2])
            for name, path in modules().items()
            if third_party in {each.split(".")[0] for each in imports_of(path)}
            and not (third_party == "flask" and name.startswith("console."))
        }

        assert len(importers) <= 1


def bases_of_ours(path: Path) -> dict[str, list[str]]:
    """The bases of each class in a file that are classes of the package, too."""
    tree = ast.parse(path.read_text("utf-8"))
    ours = {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            if node.module.startswith("hydracache_sync"):
                ours |= {alias.asname or alias.name for alias in node.names}
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            names = [
                base.value if isinstance(base, ast.Subscript) else base
                for base in node.bases
            ]
            found[node.name] = [
                name.id
                for name in names
                if isinstance(name, ast.Name) and name.id in ours
            ]
    return found


class TestClasses:
    @pytest.mark.parametrize("name", sorted(modules()))
    def test_none_has_more_than_one_base_of_ours(self, name: str) -> None:
        found = bases_of_ours(modules()[name])

        assert {each: bases for each, bases in found.items() if len(bases) > 1} == {}


#: What asks for the words of an error: in SQL, and in Python.
READS_AN_ERROR = re.compile(
    r"""last_error \s+ (like|glob|regexp|rlike|in|between|collate) \b
    | last_error \s* (!=|<>|<|>|==|\|\|)
    | \b(and|or|where|when|on|not|having) \s+ \(? last_error \s* (=|is \s+ not \s+ '|\()
    | \b(instr|locate|position|substr|substring|left|right|length|strcmp)
      \s* \( [^()]* last_error
    | \.last_error \s* (\[|\.|in\b|not \s+ in\b)
    | \bin \s+ [\w.]* \.last_error \b
    """,
    re.VERBOSE,
)

#: Errors, and texts that are written as such, by their names in Python.
TEXTS = ("last_error", "ABANDONED", "ENQUEUED_AGAIN")

#: An operator looks for dead letters by their errors: the words are for people.
SEARCHED_BY_PEOPLE = "    matches="


class TestErrorsAreForPeople:
    @pytest.mark.parametrize("name", sorted(modules()))
    def test_no_program_decides_by_the_words_of_an_error(self, name: str) -> None:
        lines = modules()[name].read_text("utf-8").splitlines()
        text = "\n".join(
            line for line in lines if not line.startswith(SEARCHED_BY_PEOPLE)
        )

        assert [found.group() for found in READS_AN_ERROR.finditer(text)] == []
        assert [
            ast.unparse(node)
            for node in ast.walk(ast.parse(text))
            if isinstance(node, (ast.Compare, ast.Subscript))
            and any(
                getattr(each, "attr", getattr(each, "id", None)) in TEXTS
                for each in ast.walk(node)
            )
        ] == []

    def test_only_those_statements_search_that_operators_run(self) -> None:
        searching = [
            name
            for name, text in vars(statements).items()
            if isinstance(text, str) and "{matches}" in text
        ]

        assert searching == ["ROW_IDS", "FIND"]


class TestFiles:
    def test_types_are_shipped(self) -> None:
        assert (resources.files("hydracache_sync") / "py.typed").is_file()

    def test_the_tables_are_in_a_file_that_a_dba_can_read(self) -> None:
        schema = resources.files("hydracache_sync.outbox") / "schema" / "sqlite.sql"

        assert "create table" in schema.read_text("utf-8")

    def test_no_file_is_named_for_nothing(self) -> None:
        names = {path.stem for path in modules().values()}

        assert names & {"utils", "helpers", "common", "models"} == set()
