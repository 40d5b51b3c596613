"""The file by which processes agree on which of them runs the one pool of a machine.

Whoever holds its lock keeps all others from carrying rows, so only processes of the
same user may: the directory for temporary files is everybody's.
"""

from __future__ import annotations

import os
import stat
import tempfile

from hydracache_sync.errors import ConfigurationError
from hydracache_sync.fork import ProcessLock

#: Files that a lock of this process holds: the process and the namespace. To the system
#: a process has one lock on a file, however often it takes it, and gives it up by
#: closing any of its descriptors of it.
_held: dict[str, tuple[int, str]] = {}
_held_lock = ProcessLock()

#: Bytes of a namespace that are read.
_MAX_NAME = 256


class LockRefusedError(OSError):
    """The file, or its directory, may be in the hands of another user, or pool."""


class PoolLock:
    """A POSIX file lock, held by one object of one process. Ends with the process.

    :param path: the file; None for one in a directory of this user's own, below the
        directory for temporary files.
    :param name: tells one pool from another there.
    :param namespace: whose rows its holder carries; written into the file.
    :raises ConfigurationError: there is no directory for temporary files.
    """

    def __init__(self, path: str | None, name: str, namespace: str = "") -> None:
        self._directory: str | None = None
        if path is None:
            try:
                shared = tempfile.gettempdir()
            except FileNotFoundError as exc:
                raise ConfigurationError(
                    "HYDRACACHE_POOL one needs a file to lock, and there is no"
                    " directory for temporary files: set HYDRACACHE_POOL_LOCK to a"
                    f" path; {exc}"
                ) from exc
            self._directory = os.path.join(shared, f"hydracache-{os.getuid()}")
            path = os.path.join(self._directory, f"{name}.lock")
        self.path = path
        self._namespace = namespace
        #: The same file by whatever way it was named.
        self._real_path = os.path.join(
            os.path.realpath(os.path.dirname(path) or "."), os.path.basename(path)
        )
        self._file = -1
        self._pid = 0

    def take(self) -> bool:
        """Take the lock, unless another has it; tell whether it is ours now.

        Another process, or another app of this one.

        :raises LockRefusedError: file or directory belong to another user, or are not
            what they should be. Which process applies rows is not known then.
        :raises OSError: they could not be made or opened.
        """
        with _held_lock.mine():
            if self._file >= 0 and self._pid == os.getpid():
                return True
            pid, namespace = _held.get(self._real_path, (0, ""))
            if pid == os.getpid():
                self._require_same(namespace)
                return False
            if self._file >= 0:
                # The parent's: to close it here takes nothing from there, nor from
                # another lock of this process, which there is none of.
                os.close(self._file)
                self._file = -1
            return self._take()

    def _take(self) -> bool:
        import fcntl

        if self._directory is not None:
            _own_directory(self._directory)
        file = _own_file(self.path)
        try:
            # Not flock: a forked child would share that lock, and keep it for as long
            # as it lives.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            with open(file, "rb") as held:
                namespace = held.read(_MAX_NAME).decode("utf-8", "replace")
            self._require_same(namespace)
            return False
        if not _is_at(self.path, file):
            # Removed meanwhile: whoever comes next would lock another file.
            os.close(file)
            return False
        self._file, self._pid = file, os.getpid()
        _held[self._real_path] = self._pid, self._namespace
        os.ftruncate(file, 0)
        os.pwrite(file, self._namespace.encode(), 0)
        return True

    def _require_same(self, namespace: str) -> None:
        """Refuse to leave the rows to a pool that does not carry them.

        An older version writes nothing into the file.
        """
        if namespace and self._namespace and namespace != self._namespace:
            raise LockRefusedError(
                f"{self.path} is locked by the pool of namespace {namespace}, which"
                f" applies no rows of {self._namespace}: set HYDRACACHE_POOL_LOCK to"
                " another path for each"
            )

    def release(self) -> None:
        """Let another have it."""
        with _held_lock.mine():
            if self._file < 0 or self._pid != os.getpid():
                # Not the parent's: to close it would give up a lock of this process.
                return
            file, self._file = self._file, -1
            os.close(file)
            _held.pop(self._real_path, None)


def _is_at(path: str, file: int) -> bool:
    """Whether the open file is still the one of that name."""
    try:
        return os.path.samestat(os.lstat(path), os.fstat(file))
    except FileNotFoundError:
        return False


def _own_directory(path: str) -> None:
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode):
        raise LockRefusedError(f"{path} is no directory")
    _require_own(path, found)
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise LockRefusedError(
            f"{path} is open to others, mode {stat.S_IMODE(found.st_mode):o}: make it"
            " 700, or remove it"
        )


def _own_file(path: str) -> int:
    """Open the file, made if it is not there; no link is followed."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    if os.path.islink(path):
        raise LockRefusedError(f"{path} is a symbolic link")
    file = os.open(path, flags, 0o600)
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            raise LockRefusedError(f"{path} is no regular file")
        _require_own(path, found)
        if found.st_nlink != 1:
            raise LockRefusedError(f"{path} has {found.st_nlink} links, not 1")
        if stat.S_IMODE(found.st_mode) & 0o077:
            # Of an older version, say. Who can open it can lock it.
            os.fchmod(file, 0o600)
    except BaseException:
        os.close(file)
        raise
    return file


def _require_own(path: str, found: os.stat_result) -> None:
    if found.st_uid != os.getuid():
        raise LockRefusedError(
            f"{path} belongs to user {found.st_uid}, not to {os.getuid()}: set"
            " HYDRACACHE_POOL_LOCK to a path where no other user can make files"
        )
