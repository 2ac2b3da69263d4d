"""Cache folders of a user: what lies there is believed, so nobody else may be able to put a file there."""

import logging
import os
import stat
from pathlib import Path

try:
    import grp
    import pwd
except ImportError:  # Windows has other permissions: a user's cache folder is his own
    grp = pwd = None  # type: ignore[assignment]

_warnings: set[str] = set()
_log = logging.getLogger(__name__)


def is_private(folder: Path) -> bool:
    """Tell whether only this user can put files into a cache folder, which may not exist yet.

    The folder must belong to this user, and each folder above it to this user or to root. Others must not be able to
    write to any of them, but to folders like /tmp, where they cannot replace files of this user. A group that has no
    other member counts as the user. Why a folder is refused is logged once.
    """
    reason = explain_distrust(folder)
    if reason is not None and reason not in _warnings:
        _warnings.add(reason)
        _log.warning("the cache folder %s is not used: %s", folder, reason)
    return reason is None


def explain_distrust(folder: Path) -> str | None:
    """Return why others can put files into a folder, and what to do about it; None if they cannot."""
    if pwd is None:
        return None
    real = Path(os.path.realpath(folder))
    for path in (real, *real.parents):
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        except OSError as error:
            return f"{path} cannot be looked at ({error.strerror})"
        owners = (os.geteuid(),) if path == real else (os.geteuid(), 0)
        if status.st_uid not in owners:
            return f"{path} belongs to another user; set another cache folder"
        is_shared = path != real and status.st_mode & stat.S_ISVTX  # like /tmp: only owners replace files there
        by_group = status.st_mode & stat.S_IWGRP and not _is_own_group(status.st_gid)
        if not is_shared and (by_group or status.st_mode & stat.S_IWOTH):
            return f"other users can write to {path}; run chmod go-w {path}, or set another cache folder"
    return None


def _is_own_group(group: int) -> bool:
    """Tell whether a group is the user's own, as most systems make one for each user."""
    try:
        user, entry = pwd.getpwuid(os.geteuid()), grp.getgrgid(group)
    except KeyError:
        return False
    is_own = user.pw_gid == group and (entry.gr_name == user.pw_name or group == user.pw_uid)
    return is_own and not {*entry.gr_mem} - {user.pw_name}
