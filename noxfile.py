"""What must pass before a change lands, as sessions: for CI and for whoever changes it.

    .ci/run                        all of them, the first that fails ends it
    .ci/run lint type              some of them
    .venv-nox/bin/nox --list       which there are
    .venv-nox/bin/nox -s test -- -k keys    what follows is for pytest

A session calls make, or a program of the suite, which is how to run its parts by hand.

Each has a budget in seconds and fails beyond it; it is generous, so that a busy machine
makes no red build. All together end by LIMIT; what they take should stay under GOAL,
now and later, and the last line says so if not.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import glob
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Iterator

import nox

# At the end, so that no folder of the suite is taken for somebody's package.
sys.path.append(str(Path(__file__).resolve().parent / "tests"))

from support import server_counts  # noqa: E402
from support.pythons import minor_of, pythons  # noqa: E402
from support.servers import SQL_SERVERS  # noqa: E402

nox.options.default_venv_backend = "none"
nox.options.stop_on_first_error = True

LIMIT = 5400
GOAL = 3600

#: Which servers a session runs the suite on, each one on one Python: on all of them on
#: all Pythons it would take the time of three suites more.
RUNS_ON = {
    "test": "mariadb mysql9",
    "oldest": "mariadb105 mysql56",
    "newest": "mariadb118 memcached-unstable",
}

#: What is of processes, servers, pages or this checkout, and the same on each Python:
#: "test" runs it, the other Pythons do not.
ON_ONE_PYTHON = "browser chaos faults fuzz model project protections servers_web"

#: What `make test-web-oldest` runs on the oldest Python with the oldest Flask. With the
#: newest, only the other Pythons run it.
WEB_OLDEST = " ".join(
    f"tests/web/test_{what}*" for what in ("flask", "sqlalchemy", "console")
)

#: Extras that the other Pythons need for the rest.
EXTRAS = "test test-mysql test-web"

#: Processes that share the tests. More than there are cores, as half of the time of a
#: test is waiting: for a server, another process, the end of a claim.
JOBS = "3"

#: Programs of faults and loads that are too long for a test, each with the seconds that
#: it may take. They run in the environment of the session "test", which itself has the
#: storms on SQLite and on its own servers.
PROGRAMS = {
    "tests/faults/kill_storm.py --database mariadb118 --transactions 2000": 120,
    "tests/soak/soak.py --seconds 120": 180,
    "tests/chaos/consistency.py --seconds 60": 150,
    "tests/faults/pool_backlog.py --dead 1000 --pending 20000 --seconds 6": 80,
    "-m fuzz all --seconds 60": 150,
}

#: The one that only computes: on what those leave of the cores while they wait.
BESIDE = "-m tests.model"
BESIDE_SECONDS = 1100

#: On a slow machine the other Pythons run only what differs most between Pythons,
#: drivers and servers: if their session begins later than this, in seconds. It takes
#: less than ESSENTIAL_SECONDS, and with less time left nothing is run.
LATE = {"oldest": 2900, "newest": 3700}
ESSENTIAL = "tests/on_mysql tests/outbox tests/memcached tests/values"
ESSENTIAL_SECONDS = 700

#: What "newest" runs on a Python of Debian's unstable, if there is one, and then not on
#: the newest one here; and the extras for that.
ON_UNSTABLE = "tests/outbox tests/cache tests/worker tests/memcached tests/values"
UNSTABLE_EXTRAS = "test test-web"

#: For pytest: a test that fails is run once more. Of the tests of processes and servers
#: one in ten thousand meets a moment that it was not written for, and three sessions
#: run them all. What the summary calls RERUN is to be fixed all the same.
ONCE_MORE = "--reruns=1 -rfER"

#: Seconds for what the session of the programs installs.
PROGRAMS_SETUP = 60

#: Seconds from the request to end until what still runs is killed.
PATIENCE = 20

# What `make ci` was called with is not for the makes below, PYTHON excepted.
for _name in (
    "VENV ARGS SERVERS HYDRACACHE_TEST_SERVERS MAKEFLAGS MAKEOVERRIDES MFLAGS"
).split():
    os.environ.pop(_name, None)
PYTHON = os.environ.setdefault("PYTHON", "python3")

# An end by TERM ends what runs, as Ctrl-C does. And a handler, unlike a signal that is
# ignored since a shell's "&", is not inherited: tests of Ctrl-C would wait for ever.
for _number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(_number, signal.default_int_handler)

SCRATCH = tempfile.mkdtemp(prefix="hydracache-nox-")
COUNTS = os.environ[server_counts.VARIABLE] = os.path.join(SCRATCH, "counts")

budgets: dict[str, int] = {}
#: Name, budget, seconds and result of what has run.
results: list[tuple[str, int, float, str]] = []
started = time.monotonic()


class Stage:
    """A session that runs, with the time that is left of its budget."""

    def __init__(self, session: nox.Session, ends: float) -> None:
        self.session = session
        self._ends = ends

    def run(self, *command: str, seconds: float = LIMIT, **options: Any) -> None:
        """Run a command, which fails the session unless it ends with 0 in time."""
        left = min(seconds, self.left())
        # Not 0, with which timeout would know no end.
        limit = ["timeout", f"--kill-after={PATIENCE}", str(max(1, math.ceil(left)))]
        self.session.run(*limit, *command, terminate_timeout=PATIENCE + 5, **options)

    @contextlib.contextmanager
    def beside(self, *command: str, seconds: float, **options: Any) -> Iterator[None]:
        """Run a command behind all that the block runs; then tell what it has said.

        It fails the session as in :meth:`run`. If the block fails it is killed, with
        all that it has started; so it must have nothing to clear up.
        """
        ends = time.monotonic() + seconds
        with tempfile.TemporaryFile("w+") as said:
            process = subprocess.Popen(
                ["nice", "-n19", *command],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **options,
            )
            code = None
            try:
                yield
                with contextlib.suppress(subprocess.TimeoutExpired):
                    code = process.wait(max(1, ends - time.monotonic()))
            finally:
                # Not by timeout: one that has just begun ends without its command.
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
            said.seek(0)
            print(said.read(), flush=True)
        if code != 0:
            why = "too slow" if code is None else f"exit code {code}"
            self.session.error(f"{shlex.join(command)}: {why}")

    def left(self) -> float:
        """Seconds of the budget that are left."""
        return self._ends - time.monotonic()

    def make(self, *targets: str, **variables: str) -> None:
        """Run make."""
        self.run("make", *targets, *(f"{name}={variables[name]}" for name in variables))

    def make_tests(self, target: str, args: str = "", **variables: str) -> None:
        """Run a target of tests; what follows the session's name is for pytest."""
        args = " ".join([ONCE_MORE, args, *map(shlex.quote, self.session.posargs)])
        self.make(target, ARGS=args, JOBS=JOBS, **variables)


def session(*, budget: int) -> Callable[[Callable[[Stage], None]], Any]:
    """Make a session of a function, with ``budget`` seconds."""

    def session_of(body: Callable[[Stage], None]) -> Any:
        name = body.__name__
        budgets[name] = budget

        @functools.wraps(body)
        def timed(of_nox: nox.Session) -> None:
            began = time.monotonic()
            of_nox.log(f"{body.__doc__} Budget: {budget} s.")
            result = "failed"
            try:
                body(Stage(of_nox, min(began + budget, started + LIMIT)))
                result = "ok"
            finally:
                spent = time.monotonic() - began
                if result != "ok" and spent >= budget:
                    result = "over budget"
                results.append((name, budget, spent, result))

        return nox.session(timed)

    return session_of


@session(budget=2300)
def test(stage: Stage) -> None:
    """make test, on the default Python: SQLite, MariaDB and MySQL 9."""
    stage.make_tests("test", SERVERS=RUNS_ON["test"])


@session(budget=300)
def lint(stage: Stage) -> None:
    """flake8, spelling and the words to avoid (and the tools are installed)."""
    stage.make("lint")


@session(budget=300)
def format(stage: Stage) -> None:
    """black and isort would change nothing."""
    stage.make("format-check")


@session(budget=300)
def type(stage: Stage) -> None:
    """mypy --strict."""
    stage.make("type")


@session(budget=400)
def docs(stage: Stage) -> None:
    """The site, without a warning, a dead link or an asset from elsewhere."""
    stage.make("docs", "venv-test-browser")
    stage.run("tests/setup_machine.sh", "browser")
    stage.run(".venv/bin/python", "tests/browser/site.py", env={"PYTHONPATH": "tests"})


@session(budget=200)
def build(stage: Stage) -> None:
    """Wheel and sdist, with all that belongs in them."""
    # Two hundred lines, shown when it fails.
    stage.run("make", "build", silent=True)
    stage.run(PYTHON, "tests/support/archives.py", "dist")


@session(budget=300)
def wheel(stage: Stage) -> None:
    """The quickstart from the wheel of "build", outside the checkout."""
    built = glob.glob("dist/*.whl")
    if len(built) != 1:
        stage.session.error(f"one wheel is wanted, of the session build: {built}")
    home = os.path.join(SCRATCH, "wheel")
    python = os.path.join(home, "bin", "python")
    pip = [python, "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    stage.run(PYTHON, "-m", "venv", home)
    # What it needs is named by hash, itself it is not; so both are told apart.
    stage.run(*pip, "--require-hashes", "-r", "tests/locked/cli.txt")
    stage.run(*pip, "--no-index", f"{os.path.abspath(built[0])}[cli]")
    shutil.copytree("examples", os.path.join(home, "examples"))
    with stage.session.chdir(home):
        where = (
            "import sys, hydracache_sync as package; print(package.__file__);"
            " assert package.__file__.startswith(sys.prefix)"
        )
        stage.run(python, "-W", "error", "-c", where)
        stage.run("bin/hydracache", "--help", silent=True)
        stage.run(python, "examples/quickstart.py")


@session(budget=1300)
def programs(stage: Stage) -> None:
    """Storms, soak, chaos, model and fuzzing, each in its own time."""
    stage.make("venv-test", "venv-test-mysql", "venv-fuzz")
    stage.run("tests/setup_machine.sh", "servers")
    python = os.path.abspath(".venv/bin/python")
    seconds = min(BESIDE_SECONDS, stage.left())
    stage.session.log(f"{BESIDE} ({seconds:.0f} s at most) beside the others")
    with stage.beside(python, *BESIDE.split(), seconds=seconds):
        run_programs(stage, python)


def run_programs(stage: Stage, python: str) -> None:
    """Run what waits for much of its time, one after the other."""
    for program, seconds in PROGRAMS.items():
        database = re.search(r"--database (\w+)", program)
        if database and SQL_SERVERS[database[1]].missing():
            stage.session.warn(f"its server is missing here: no {program}")
            continue
        if "fuzz" in program and subprocess.call([python, "-c", "import atheris"]):
            stage.session.warn(f"no atheris for this Python: no {program}")
            continue
        stage.session.log(f"{program} ({seconds} s at most)")
        environment = {"PYTHONPATH": "tests"}
        stage.run(python, *program.split(), seconds=seconds, env=environment)


@session(budget=1700)
def oldest(stage: Stage) -> None:
    """What depends on Python, on the oldest one, PyMySQL, Flask, MySQL and MariaDB."""
    minor, python = pythons(PYTHON)[0]
    suite_on("oldest", minor, python, stage, WEB_OLDEST)
    stage.make_tests("test-web-oldest", PYTHON=python, VENV=f"{SCRATCH}/venv")


@session(budget=1700)
def newest(stage: Stage) -> None:
    """The same on the newest Pythons, the newest MariaDB and memcached."""
    found = pythons(PYTHON)
    minor, python = found[-1]
    done = ON_UNSTABLE if on_unstable(stage) else ""
    if len(found) == 1:
        stage.session.warn(f"the newest Python here is the oldest one, too: 3.{minor}")
    else:
        suite_on("newest", minor, python, stage, done)


def on_unstable(stage: Stage) -> bool:
    """Run some of the suite on a Python 3.14, where Debian's unstable has one.

    :returns: whether it has run.
    """
    if time.monotonic() - started > LATE["newest"]:
        stage.session.warn("a slow machine: nothing is run on 3.14")
        return False
    had = subprocess.run(
        ["timeout", "120", "tests/setup_machine.sh", "python314"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    if had.returncode:
        stage.session.warn("no Python 3.14 to be had: nothing is run on it")
        return False
    where = {"PYTHON": had.stdout.strip(), "VENV": f"{SCRATCH}/venv-3.14"}
    stage.session.log(f"some of the suite on Python 3.14, {where['PYTHON']}")
    suite = {"SERVERS": RUNS_ON["newest"], "EXTRAS": UNSTABLE_EXTRAS}
    stage.make_tests("test", args=ON_UNSTABLE, **suite, **where)
    return True


def suite_on(which: str, minor: int, python: str, stage: Stage, done: str = "") -> None:
    """Run the suite on another Python than "test", or only on other servers.

    :param done: patterns of what the session runs on a newer Python or older packages.
    """
    left_out = [f"tests/{folder}" for folder in ON_ONE_PYTHON.split()] + done.split()
    args = " ".join(f"--ignore-glob={each}" for each in [*left_out, "*_kill_storm.py"])
    began = time.monotonic() - started
    if began > LIMIT - ESSENTIAL_SECONDS:
        stage.session.warn(f"too late for more: nothing is run on 3.{minor}")
        return
    if began > LATE[which]:
        stage.session.warn(f"a slow machine: on 3.{minor} only {ESSENTIAL}")
        args = f"--ignore-glob=*_kill_storm.py {ESSENTIAL}"
    suite = {"SERVERS": RUNS_ON[which], "args": args}
    stage.session.log(f"{which} Python here: 3.{minor}, {python}")
    if minor == minor_of(".venv/bin/python"):
        stage.session.log(f"3.{minor} has already run all tests: now on its servers")
        stage.make_tests("test-mysql", **suite)
        return
    venv = os.path.join(SCRATCH, f"venv-3.{minor}")
    where = {"PYTHON": python, "VENV": venv}
    if which == "oldest":
        # After all that `make test` installs, which would bring the newest back.
        stage.make(*(f"venv-{extra}" for extra in EXTRAS.split()), **where)
        pip = [f"{venv}/bin/python", "-m", "pip", "install", "-qq"]
        pip += ["--disable-pip-version-check", "--no-build-isolation"]
        stage.run(*pip, "--require-hashes", "-r", "tests/locked/oldest.txt")
    stage.make_tests("test", EXTRAS=EXTRAS, **where, **suite)


@atexit.register
def finish() -> None:
    """Tell what ran, how long, and on which servers."""
    if results:
        whole = time.monotonic() - started
        print(f"\n{'stage':8} {'budget':>7} {'spent':>6}  result")
        for name, budget, spent, result in results:
            print(f"{name:8} {budget:7} {spent:6.0f}  {result}")
        print(f"{'whole':8} {LIMIT:7} {whole:6.0f}")
        if os.path.exists(COUNTS):
            print("\ntests by server, in all stages:")
            server_counts.main([COUNTS])
        if whole > GOAL:
            print(f"longer than the {GOAL} s it should take")
    shutil.rmtree(SCRATCH, ignore_errors=True)


assert (
    max(sum(PROGRAMS.values()), BESIDE_SECONDS) + PROGRAMS_SETUP <= budgets["programs"]
), "too many programs"
