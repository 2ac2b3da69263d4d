"""One process at a time writes a folder."""

import os
from pathlib import Path

from ..errors import FolderInUseError

try:
    import fcntl
except ImportError:  # not on this system; the folder's own checks remain
    fcntl = None  # type: ignore[assignment]


class FolderLock:
    """Held from its making until `release`; it ends with the process, however that ends, and leaves no file behind."""

    def __init__(self, folder: Path) -> None:
        """Take the lock; raises FolderInUseError where another process holds it."""
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
        except OSError:  # a file system without locks
            os.close(handle)
            return
        self._handle = handle

    def release(self) -> None:
        """Let others write."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
