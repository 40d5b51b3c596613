"""The file by which processes agree on which of them runs the one pool of a machine.

Whoever holds its lock keeps all others from carrying rows, so only processes of the
same user may: the directory for temporary files is everybody's.
"""

from __future__ import annotations

import os
import stat
import tempfile

from hydracache_sync.errors import ConfigurationError


class LockRefusedError(OSError):
    """The file, or its directory, may be in the hands of another user."""


class PoolLock:
    """A POSIX file lock; not for threads. Ends with the process that took it.

    :param path: the file; None for one in a directory of this user's own, below the
        directory for temporary files.
    :param name: tells one pool from another there.
    :raises ConfigurationError: there is no directory for temporary files.
    """

    def __init__(self, path: str | None, name: str) -> None:
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
        self._file = -1
        self._pid = 0

    def take(self) -> bool:
        """Take the lock, unless another process has it; tell whether it is ours now.

        :raises LockRefusedError: file or directory belong to another user, or are not
            what they should be. Nobody can tell then who carries rows.
        :raises OSError: they could not be made or opened.
        """
        import fcntl

        if self._file >= 0 and self._pid == os.getpid():
            return True
        if self._directory is not None:
            _own_directory(self._directory)
        file = _own_file(self.path)
        try:
            # Not flock: a forked child would share that lock, and keep it for as long
            # as it lives.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            os.close(file)
            return False
        self._file, self._pid = file, os.getpid()
        return True

    def release(self) -> None:
        """Let another process have it."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


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
