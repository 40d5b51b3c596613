"""The one pool's lock: of this user alone, and whoever has no pool says so."""

from __future__ import annotations

import logging
import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Iterator

import pytest

from hydracache_sync import ConfigurationError, MemoryStore, SQLiteOutbox
from hydracache_sync.app.pool_lock import LockRefusedError, PoolLock
from hydracache_sync.integrations.wsgi import HydraCache

HOLDER = """
import fcntl, sys
file = open(sys.argv[1], "a")
fcntl.lockf(file, fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What stands for the directory for temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp").chmod(0o1777)
    return tmp_path / "tmp"


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Any]:
    """Makes apps, and stops their pools."""
    apps: list[HydraCache] = []

    def make(**config: Any) -> HydraCache:
        outbox = SQLiteOutbox(tmp_path / "shop.db")
        outbox.install_schema()
        apps.append(
            HydraCache(
                {
                    "HYDRACACHE_OUTBOX": outbox,
                    "HYDRACACHE_NAMESPACE": "shop",
                    "HYDRACACHE_MEMCACHED": MemoryStore(),
                    **config,
                }
            )
        )
        return apps[-1]

    yield make
    for app in apps:
        app.stop_pool()


def no_temporary_directory() -> str:
    raise FileNotFoundError("No usable temporary directory found")


class TestDirectory:
    @pytest.mark.parametrize("where", ["none", "every"])
    def test_only_the_one_pool_needs_one_for_temporary_files(
        self, made: Any, where: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tempfile, "gettempdir", no_temporary_directory)

        app = made(HYDRACACHE_POOL=where)

        assert (app.start_pool() is None) == (where == "none")

    def test_without_one_the_setting_is_named(
        self, made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tempfile, "gettempdir", no_temporary_directory)

        with pytest.raises(ConfigurationError, match="set HYDRACACHE_POOL_LOCK"):
            made(HYDRACACHE_POOL="one")
        app = made(
            HYDRACACHE_POOL="one", HYDRACACHE_POOL_LOCK=str(tmp_path / "pool.lock")
        )

        assert app.start_pool() is not None

    def test_directory_and_file_are_for_this_user_alone(
        self, made: Any, shared: Path
    ) -> None:
        umask = os.umask(0)
        try:
            made(HYDRACACHE_POOL="one").start_pool()
        finally:
            os.umask(umask)

        [directory] = shared.iterdir()
        [file] = directory.iterdir()
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


class TestRefused:
    """What another user can have put there before."""

    def directory(self, shared: Path) -> Path:
        return shared / f"hydracache-{os.getuid()}"

    def refused(self, path: str | None = None) -> str:
        lock = PoolLock(path, "shop")
        with pytest.raises(LockRefusedError) as caught:
            lock.take()
        return str(caught.value)

    def test_a_directory_that_is_a_link(self, shared: Path, tmp_path: Path) -> None:
        (tmp_path / "elsewhere").mkdir()
        self.directory(shared).symlink_to(tmp_path / "elsewhere")

        assert "is no directory" in self.refused()
        assert list((tmp_path / "elsewhere").iterdir()) == []

    def test_a_directory_that_is_open_to_others(self, shared: Path) -> None:
        self.directory(shared).mkdir()
        self.directory(shared).chmod(0o777)

        assert "is open to others, mode 777" in self.refused()

    def test_a_directory_of_another_user(
        self, shared: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        me = os.getuid()
        monkeypatch.setattr(os, "getuid", lambda: me + 1)

        assert f"belongs to user {me}, not to {me + 1}" in self.refused()

    def test_a_file_of_another_user(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "pool.lock").touch()
        me = os.getuid()
        monkeypatch.setattr(os, "getuid", lambda: me + 1)

        assert "belongs to user" in self.refused(str(tmp_path / "pool.lock"))

    def test_a_link(self, tmp_path: Path) -> None:
        (tmp_path / "pool.lock").symlink_to(tmp_path / "planted")

        assert "symbolic link" in self.refused(str(tmp_path / "pool.lock"))
        assert not (tmp_path / "planted").exists()

    def test_a_second_name_of_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "mine").touch()
        os.link(tmp_path / "mine", tmp_path / "pool.lock")

        assert "has 2 links" in self.refused(str(tmp_path / "pool.lock"))

    def test_what_is_no_file(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pool.lock")

        assert "no regular file" in self.refused(str(tmp_path / "pool.lock"))


class TestNobodyCarries:
    def test_it_is_logged_once_and_seen_in_health(
        self, made: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = tmp_path / "pool.lock"
        path.symlink_to(tmp_path / "planted")
        app = made(HYDRACACHE_POOL="one", HYDRACACHE_POOL_LOCK=str(path))

        app.start_pool()
        app.start_pool()

        [line] = [each for each in caplog.records if each.levelno >= logging.WARNING]
        assert (
            "is a symbolic link; perhaps no process applies rows" in line.getMessage()
        )
        assert app.pool is None
        assert "symbolic link" in app.pool_problem

    def test_a_pool_begins_when_the_reason_is_gone(
        self, made: Any, tmp_path: Path
    ) -> None:
        path = tmp_path / "pool.lock"
        path.symlink_to(tmp_path / "planted")
        app = made(HYDRACACHE_POOL="one", HYDRACACHE_POOL_LOCK=str(path))
        app.start_pool()
        path.unlink()

        app.start_pool()

        assert app.pool.health().running
        assert app.pool_problem is None

    def test_another_process_that_has_the_pool_is_no_problem(
        self, made: Any, tmp_path: Path
    ) -> None:
        path = tmp_path / "pool.lock"
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        with holder:
            assert holder.stdout is not None and holder.stdin is not None
            holder.stdout.readline()
            app = made(HYDRACACHE_POOL="one", HYDRACACHE_POOL_LOCK=str(path))

            app.start_pool()

            assert (app.pool, app.pool_problem) == (None, None)
            holder.stdin.close()
        assert app.start_pool() is not None

    def test_a_process_that_cannot_run_it_leaves_it_to_another(
        self, made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "pool.lock"
        app = made(HYDRACACHE_POOL="one", HYDRACACHE_POOL_LOCK=str(path))

        def no_thread(*arguments: object) -> None:
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patched:
            patched.setattr("threading.Thread.start", no_thread)
            app.start_pool()

        assert app.pool_problem == "can't start new thread"
        program = HOLDER.replace("LOCK_EX", "LOCK_EX | fcntl.LOCK_NB")
        other = subprocess.run(
            [sys.executable, "-c", program, str(path)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
        )
        assert other.stdout == b"locked\n", other.stderr


class TestSeveralInOneProcess:
    """To the system they are one holder, and closing a file gives all of it up."""

    def test_two_apps_have_one_pool(self, shared: Path, made: Any) -> None:
        first, second = made(HYDRACACHE_POOL="one"), made(HYDRACACHE_POOL="one")

        assert first.start_pool() is not None
        assert second.start_pool() is None
        assert second.pool_problem is None

        first.stop_pool()
        assert second.start_pool() is not None

    def test_what_is_closed_is_not_the_lock_of_another(self, tmp_path: Path) -> None:
        path = tmp_path / "pool.lock"
        (tmp_path / "link").symlink_to(tmp_path)
        holder = PoolLock(str(path), "name")
        assert holder.take()
        other = PoolLock(str(tmp_path / "link" / "pool.lock"), "name")

        assert not other.take()
        other.release()

        assert not _another_process_takes(path)
        holder.release()
        assert _another_process_takes(path)

    def test_a_child_closes_what_it_has_inherited(self, tmp_path: Path) -> None:
        lock = PoolLock(str(tmp_path / "pool.lock"), "name")
        assert lock.take()
        pid = os.fork()
        if pid == 0:
            taken = lock.take()
            os._exit(2 * taken + _is_open(tmp_path / "pool.lock"))

        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert not _another_process_takes(tmp_path / "pool.lock")
        lock.release()

    @pytest.mark.parametrize("end", ["take", "release"])
    def test_a_childs_own_lock_outlives_what_another_has_inherited(
        self, tmp_path: Path, end: str
    ) -> None:
        path = tmp_path / "pool.lock"
        inherited, own = PoolLock(str(path), "name"), PoolLock(str(path), "name")
        assert inherited.take()
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.read(reader, 1)  # until the parent has let it go
            good = own.take()
            if end == "take":
                good = good and not inherited.take()
            else:
                inherited.release()
            os._exit(not good or _another_process_takes(path))
        inherited.release()
        os.write(writer, b"x")

        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        os.close(reader)
        os.close(writer)


def _is_open(path: Path) -> bool:
    """Whether this process has a descriptor of the file."""
    numbers = os.listdir("/proc/self/fd")
    links = [f"/proc/self/fd/{number}" for number in numbers]
    return str(path) in [os.readlink(each) for each in links if os.path.lexists(each)]


def _another_process_takes(path: Path) -> bool:
    program = (
        "import sys; from hydracache_sync.app.pool_lock import PoolLock;"
        "sys.exit(not PoolLock(sys.argv[1], 'name').take())"
    )
    return subprocess.run([sys.executable, "-c", program, path]).returncode == 0


class TestOtherPools:
    """A path that two namespaces share would leave one of them without a pool."""

    def test_another_namespace_of_the_process_is_refused(
        self, tmp_path: Path, made: Any
    ) -> None:
        path = str(tmp_path / "pool.lock")
        first = made(HYDRACACHE_POOL="one", HYDRACACHE_POOL_LOCK=path)
        other = made(
            HYDRACACHE_POOL="one",
            HYDRACACHE_POOL_LOCK=path,
            HYDRACACHE_NAMESPACE="blog",
        )

        assert first.start_pool() is not None
        assert other.start_pool() is None
        assert "locked by the pool of namespace shop" in str(other.pool_problem)

    def test_and_one_of_another_process(self, tmp_path: Path) -> None:
        path = tmp_path / "pool.lock"
        program = (
            "import sys; from hydracache_sync.app.pool_lock import PoolLock;"
            "print(PoolLock(sys.argv[1], 'name', 'blog').take(), flush=True);"
            "sys.stdin.read()"
        )
        with subprocess.Popen(
            [sys.executable, "-c", program, path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as holder:
            assert holder.stdout is not None and holder.stdin is not None
            assert holder.stdout.readline() == b"True\n"

            assert not PoolLock(str(path), "name", "blog").take()
            with pytest.raises(LockRefusedError, match="of namespace blog"):
                PoolLock(str(path), "name", "shop").take()
            holder.stdin.close()


def test_a_file_that_is_removed_while_it_is_locked_is_not_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    path = tmp_path / "pool.lock"
    plain = fcntl.lockf

    def removed(file: int, flags: int) -> None:
        plain(file, flags)
        path.unlink()

    monkeypatch.setattr(fcntl, "lockf", removed)
    lock = PoolLock(str(path), "name")

    assert not lock.take()

    monkeypatch.setattr(fcntl, "lockf", plain)
    assert lock.take()
    lock.release()
