"""The lock of an output: only one process at a time writes a folder or a file.

While a process writes the output NAME, a hidden file `.NAME.lock` lies beside it, or within a folder whose own parent
cannot be written. Its text names the owner. The operating system locks the file (flock), so that a lock ends with its
process, however that ends: a lock file that a killed process left is taken over.

Some network disks refuse such locks, or lock for one machine only. There the existence of the file is the lock, and
the file of a killed process stays until somebody deletes it; the message says who owned it.

The package `filelock` leaves its files behind after a normal end, and they cannot name an owner while the operating
system locks them. Whether they are removed, and what is done where locks are refused, differs between its releases.

This module imports neither torch nor pyarrow.
"""

import errno
import json
import logging
import os
import socket
import stat
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .._util import one_line
from ..errors import FolderInUseError
from .atomic_io import remove_abandoned, translate_disk_errors

try:
    import fcntl
except ImportError:  # Windows: the existence of the file is the lock
    fcntl = None  # type: ignore[assignment]

LOCK_FILE = ".lock"  # its name within a folder
_MAX_BYTES = 4096  # for the text of a lock file
_OCCUPIED = (errno.EACCES, errno.EAGAIN)  # what file systems say of a file that another process has locked
_READS, _PAUSE = 10, 0.02  # seconds between reads of a lock file whose text its owner is about to write
_log = logging.getLogger(__name__)
_warnings: set[str] = set()


@dataclass(frozen=True, kw_only=True)
class LockOwner:
    """The process that holds a lock."""

    host: str
    boot: str  # identifies the running kernel: equal in all containers of a machine, empty where unknown
    pid: int
    command: str
    since: str  # in UTC, to the second
    ends_with_process: bool  # whether the operating system ends the lock; else only its release does

    @classmethod
    def from_this_process(cls, *, ends_with_process: bool) -> Self:
        """Describe this process."""
        name, *arguments = [*(sys.argv or ["python"])][:2]
        command = " ".join([Path(name).name, *(word for word in arguments if not word.startswith("-"))])
        return cls(
            host=socket.gethostname(),
            boot=_read_boot_id(),
            pid=os.getpid(),
            command=one_line(command)[:200],
            since=datetime.now(UTC).isoformat(" ", "seconds"),
            ends_with_process=ends_with_process,
        )

    @classmethod
    def from_json(cls, text: bytes) -> Self | None:
        """Read the text of a lock file; return None for any other text."""
        try:
            values: Any = json.loads(text)
            texts = {name: one_line(str(values[name]))[:200] for name in ("host", "boot", "command", "since")}
            return cls(**texts, pid=int(values["pid"]), ends_with_process=bool(values["ends_with_process"]))
        except (ValueError, TypeError, LookupError):
            return None

    def to_json(self) -> bytes:
        """Return the text of a lock file."""
        return (json.dumps(asdict(self)) + "\n").encode()

    @property
    def is_on_this_machine(self) -> bool:
        """True if the process runs, or ran, on this machine."""
        return self.host == socket.gethostname() or (self.boot != "" and self.boot == _read_boot_id())

    def may_live_unlocked(self) -> bool:
        """Return whether the process may still write, although the operating system has given us the lock."""
        if not self.is_on_this_machine:
            return True  # its lock may hold on its own machine only
        return not self.ends_with_process and _is_alive(self.pid)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since[:19]} UTC ({self.command})"


class OutputLock:
    """A lock that is held from its creation until `release`, or until the process ends in any way.

    Use it as a context manager. Partial files that killed writers of the output left beside it are removed.
    """

    def __init__(self, out: Path) -> None:
        """Acquire the lock, and make the folders above the output.

        Raises:
            FolderInUseError: Another process holds the lock, or may hold it. The message names that process.
            OSError: The lock file cannot be made.
        """
        self._out, self._path = out, locate_lock(out)
        self._pid, self._handle = os.getpid(), -1
        with translate_disk_errors(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            while self._handle < 0:
                self._handle = self._acquire()
        remove_abandoned(Path(os.path.realpath(out)))

    def _acquire(self) -> int:
        """Return the handle of the locked file; -1 to try again, because another process has just removed the file."""
        handle, is_new = _open_file(self._path)
        try:
            refusal = _lock_file(handle)
            if refusal is None and not _is_at(handle, self._path):
                os.close(handle)
                return -1
            owner = None if is_new else LockOwner.from_json(os.pread(handle, _MAX_BYTES, 0))
            if not is_new and (refusal is not None or (owner is not None and owner.may_live_unlocked())):
                raise FolderInUseError(self._describe(owner or _wait_for_owner(handle), can_be_gone=True))
            if refusal is not None:
                self._warn(refusal)
            self._write_owner(handle, ends_with_process=refusal is None)
        except BlockingIOError:
            owner = _wait_for_owner(handle)
            os.close(handle)
            is_far = owner is not None and not owner.is_on_this_machine
            raise FolderInUseError(self._describe(owner, can_be_gone=is_far)) from None
        except BaseException:
            os.close(handle)
            raise
        return handle

    def _describe(self, owner: LockOwner | None, *, can_be_gone: bool) -> str:
        text = f"another process is writing {self._out}: {owner or 'it has not written its name'}; "
        text += "wait until it ends, or choose another --out"
        return f"{text}; if that process is gone, delete {self._path}" if can_be_gone else text

    def _warn(self, refusal: str) -> None:
        if refusal not in _warnings:
            _warnings.add(refusal)
            _log.warning(
                "the file system of %s refuses to lock files (%s); %s protects it: if this process is killed, delete "
                "that file",
                self._out,
                refusal,
                self._path,
            )

    def _write_owner(self, handle: int, *, ends_with_process: bool) -> None:
        try:
            os.ftruncate(handle, 0)
            os.pwrite(handle, LockOwner.from_this_process(ends_with_process=ends_with_process).to_json(), 0)
        except OSError:
            if not ends_with_process:
                raise
            # A full disk: the file is locked without a text, and the next write says that the disk is full.

    def release(self) -> None:
        """Remove the lock file, so that other processes can write the output. Forked processes keep the lock."""
        handle, self._handle = self._handle, -1
        if handle < 0 or os.getpid() != self._pid:
            return
        with suppress(OSError):
            if _is_at(handle, self._path):
                self._path.unlink(missing_ok=True)
        os.close(handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def locate_lock(out: Path) -> Path:
    """Return the lock file of an output: beside it, or within a folder whose own parent cannot be written."""
    real = Path(os.path.realpath(out))
    if real.is_dir() and not os.access(real.parent, os.W_OK):
        return real / LOCK_FILE
    return real.with_name(f".{real.name}{LOCK_FILE}")


def _open_file(path: Path) -> tuple[int, bool]:
    """Open a lock file and return its handle, and whether it was made for it."""
    flags = os.O_RDWR | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    while True:
        with suppress(FileExistsError):
            return os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o644), True
        try:
            handle = os.open(path, flags)
        except FileNotFoundError:  # removed meanwhile
            continue
        except PermissionError:  # another user made it: it can be locked and read, though not written
            handle = os.open(path, flags ^ os.O_RDWR)
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise FolderInUseError(f"{path} is no lock file, but lies where one must be; remove it")
        return handle, False


def _lock_file(handle: int) -> str | None:
    """Lock a file; return why the file system refuses, or None. Raises BlockingIOError if another process has it."""
    if fcntl is None:
        return "this operating system has no flock"
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _OCCUPIED:
            raise BlockingIOError(*error.args) from None
        return str(error.strerror)
    return None


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.lstat())
    except FileNotFoundError:
        return False


def _wait_for_owner(handle: int) -> LockOwner | None:
    """Read the owner, who may be about to write its name."""
    for _ in range(_READS):
        if owner := LockOwner.from_json(os.pread(handle, _MAX_BYTES, 0)):
            return owner
        time.sleep(_PAUSE)
    return None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # it belongs to another user
        return True
    return True


def _read_boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
