"""The lock that lets only one process at a time write to a folder."""

import os
from pathlib import Path

from ..errors import FolderInUseError

try:
    import fcntl
except ImportError:  # Windows: two writers are not detected
    fcntl = None  # type: ignore[assignment]


class FolderLock:
    """A lock that is held from its creation until `release`, or until the process ends in any way.

    It locks the folder itself. The package `filelock` would lock a file instead, in the folder or beside it, which
    cannot be removed safely afterwards: zoo folders would hold a file that is none of theirs.
    """

    def __init__(self, folder: Path) -> None:
        """Acquire the lock; raises FolderInUseError where another process holds it."""
        self._handle: int | None = None
        if fcntl is None:
            return
        handle = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise FolderInUseError(
                f"another process is writing {folder}; wait until it ends, or choose another --out"
            ) from None
        except OSError:  # the file system has no locks: two writers are not detected
            os.close(handle)
            return
        self._handle = handle

    def release(self) -> None:
        """Let other processes write to the folder."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
