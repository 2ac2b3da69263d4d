"""Revisions of repos: each is resolved to its commit once per process, without network if the cache knows it."""

import re
from pathlib import Path

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from ..errors import DiskFullError
from ..zoo import write_bytes
from .errors import is_transport_error, with_retries

_COMMIT = re.compile(r"[0-9a-f]{40}")
_commits: dict[tuple[str, str, str | None], str] = {}  # by repo type, repo id and revision


def resolve_revision(api: HfApi, repo_id: str, revision: str | None, repo_type: str = "dataset") -> str:
    """Return the commit of a revision, resolved once per process; errors are those of the client.

    The client's cache records the commit of each branch and tag. If the Hub cannot be reached, that record is used.

    Args:
        api: The Hub's client.
        repo_id: ORG/NAME.
        revision: Branch, tag or commit; None for the main branch.
        repo_type: `dataset` or `model`.
    """
    key = (repo_type, repo_id, revision)
    if key not in _commits:
        _commits[key] = with_retries(lambda: _request_commit(api, repo_id, revision, repo_type))
    return _commits[key]


def get_commit(repo_id: str, revision: str | None = None, repo_type: str = "dataset") -> str | None:
    """Return the commit that this process downloaded from a repo, None if it downloaded nothing."""
    return _commits.get((repo_type, repo_id, revision))


def clear_revisions(repo_id: str) -> None:
    """Resolve the revisions of a repo again when they are next used, because the repo has changed."""
    for key in [key for key in _commits if key[1] == repo_id]:
        del _commits[key]


def _request_commit(api: HfApi, repo_id: str, revision: str | None, repo_type: str) -> str:
    if revision is not None and _COMMIT.fullmatch(revision):
        return revision
    record = _find_record(repo_id, revision or constants.DEFAULT_REVISION, repo_type)
    try:
        commit = api.repo_info(repo_id, repo_type=repo_type, revision=revision).sha or ""
    except Exception as error:
        if _is_unreachable(error) and record is not None and record.is_file():
            return record.read_text().strip()
        raise
    if record is not None:
        _write_record(record, commit)
    return commit


def _find_record(repo_id: str, revision: str, repo_type: str) -> Path | None:
    """Return the file `refs/REVISION` of the repo's folder in the client's cache; None for no name of a revision."""
    if ".." in revision or revision.startswith("/"):
        return None
    return repo_cache(repo_id, repo_type) / "refs" / revision


def repo_cache(repo_id: str, repo_type: str) -> Path:
    """Return the folder of a repo in the client's cache: `refs/REVISION` are commits, `snapshots/COMMIT` the files."""
    return Path(constants.HF_HUB_CACHE) / f"{repo_type}s--{repo_id.replace('/', '--')}"


def _write_record(record: Path, commit: str) -> None:
    try:
        if not record.is_file() or record.read_text().strip() != commit:
            record.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(record, commit.encode())
    except (OSError, DiskFullError):
        pass  # without the record, the revision needs the network again; a full disk is reported by the download


def _is_unreachable(error: Exception) -> bool:
    """Tell whether the Hub did not answer, or answered that it is out of order."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code >= 500
    return isinstance(error, OfflineModeIsEnabled) or is_transport_error(error)
