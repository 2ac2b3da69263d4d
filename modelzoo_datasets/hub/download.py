"""A repo as a local folder: what is asked for, in the cache that all of the client's users share."""

import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from huggingface_hub import HfApi, ResolvedRevision

from .errors import translate_hub_errors, with_retries

_PREFIX = "hf://datasets/"
REPO_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_resolved: dict[tuple[str, str, str | None], ResolvedRevision] = {}  # (type, name, revision) ->


def client() -> HfApi:
    """The Hub's own client, which finds the token in HF_TOKEN or where `hf auth login` put it."""
    return HfApi(library_name="modelzoo-datasets", library_version=version("modelzoo-datasets"))


def repo_id_of(source: str | Path) -> str | None:
    """The repo that a source names: `hf://datasets/ORG/NAME` always, `ORG/NAME` where there is no such folder."""
    text = str(source)
    if text.startswith(_PREFIX):
        return text.removeprefix(_PREFIX)
    return text if REPO_ID.fullmatch(text) and not Path(text).exists() else None


def fetch(repo_id: str, patterns: Sequence[str], *, revision: str | None = None, repo_type: str = "dataset") -> Path:
    """A folder with all files of a repo that match one of the patterns; what is in the cache is not asked for.

    A branch or tag is looked up once in the life of a process, so that all that is read in it is of one commit. A
    commit that is named by its 40 digits and is in the cache takes no network at all.

    Raises:
        HubAccessError: there is no such repo, or none that may be seen.
        HubUnavailableError: the Hub cannot be reached and not all of it is in the cache.
        HubError: it has no such revision.
        DiskFullError: there is no room for the files.
    """
    with translate_hub_errors(repo_id, revision, f"loading {repo_id} from the Hub"):
        commit, api = resolve(repo_id, revision, repo_type), client()
        return Path(
            with_retries(
                lambda: api.snapshot_download(
                    repo_id, repo_type=repo_type, revision=commit, allow_patterns=list(patterns)
                )
            )
        )


def resolve(repo_id: str, revision: str | None, repo_type: str = "dataset") -> ResolvedRevision:
    """The commit that a revision is, looked up once in the life of a process; raises what the client does."""
    key, api = (repo_type, repo_id, revision), client()
    if key not in _resolved:
        _resolved[key] = with_retries(lambda: api.resolve_revision(repo_id, repo_type=repo_type, revision=revision))
    return _resolved[key]


def resolved(repo_id: str, revision: str | None = None, repo_type: str = "dataset") -> str | None:
    """The commit that a repo was fetched at in this process; None where it was not."""
    found = _resolved.get((repo_type, repo_id, revision))
    return None if found is None else str(found.resolved)


def forget(repo_id: str) -> None:
    """Look up the revisions of a repo again, which was changed."""
    for key in [key for key in _resolved if key[1] == repo_id]:
        del _resolved[key]
