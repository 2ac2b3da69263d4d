"""Files of a repo on the Hub: downloaded into the client's shared cache, or read in ranges where they are."""

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

from huggingface_hub import HfApi, constants, errors, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, HFValidationError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # exported, but not declared so
    build_hf_headers,
    hf_raise_for_status,
    http_backoff,
    validate_repo_id,
)

from ..errors import HubUnavailableError
from .errors import translate_hub_errors, with_retries
from .revision import repo_cache, resolve_revision

_PREFIX = "hf://datasets/"
_SHARD = re.compile(r"(.+-)\d{5}(-of-(\d{5})\.[a-z]+)")
# Other clients return what they have of a repo without a word when the Hub cannot be reached.
_CLIENT_CHECKS_CACHE = hasattr(errors, "IncompleteSnapshotError")


def get_client() -> HfApi:
    """Return the Hub's own client, which reads the token from HF_TOKEN or from the file of `hf auth login`."""
    return HfApi(library_name="modelzoo-datasets", library_version=_read_version())


@cache
def _read_version() -> str:
    return version("modelzoo-datasets")  # it reads a file, and every range of a file asks for the client


def is_repo_id(text: str) -> bool:
    """Tell whether a text is a valid ORG/NAME of the Hub."""
    try:
        validate_repo_id(text)
    except HFValidationError:
        return False
    return "/" in text


def parse_repo_id(source: str | Path) -> str | None:
    """Return the dataset repo that a source names, None for a local folder.

    Args:
        source: `hf://datasets/ORG/NAME`, or `ORG/NAME` where there is no such local folder.
    """
    text = str(source)
    if text.startswith(_PREFIX):
        return text.removeprefix(_PREFIX)
    return text if is_repo_id(text) and not Path(text).exists() else None


def download_files(
    repo_id: str, patterns: Sequence[str], *, revision: str | None = None, repo_type: str = "dataset"
) -> Path:
    """Download the files of a repo that match one of some patterns, unless they are in the cache.

    A branch or tag is resolved once per process, so that all files that a process reads are of the same commit. A full
    commit hash that is in the cache needs no network.

    Args:
        repo_id: ORG/NAME.
        patterns: Patterns of paths in the repo, e.g. `seed/train-*.parquet`.
        revision: Branch, tag or commit; None for the main branch.
        repo_type: `dataset` or `model`.

    Returns:
        A folder that holds at least these files.

    Raises:
        HubAccessError: The repo does not exist or is not visible.
        HubUnavailableError: The Hub cannot be reached and some files are not in the cache.
        HubError: The repo has no such revision.
        DiskFullError: The disk has no space for the files.
    """
    with translate_hub_errors(repo_id, revision, f"loading {repo_id} from the Hub"):
        api = get_client()
        commit = resolve_revision(api, repo_id, revision, repo_type)
        folder = repo_cache(repo_id, repo_type) / "snapshots" / commit
        if all(_is_complete(folder, pattern) for pattern in patterns):
            return folder
        folder = Path(
            with_retries(
                lambda: api.snapshot_download(
                    repo_id, repo_type=repo_type, revision=commit, allow_patterns=list(patterns)
                )
            )
        )
        if not _CLIENT_CHECKS_CACHE and not all(_is_complete(folder, pattern) for pattern in patterns):
            with_retries(lambda: api.repo_info(repo_id, repo_type=repo_type, revision=commit))  # is the Hub there?
        return folder


def _is_complete(folder: Path, pattern: str) -> bool:
    """Tell whether a snapshot has the file of this name, or every shard of a pattern, as far as names can tell."""
    if "*" not in pattern:
        return (folder / pattern).is_file()
    names = {path.name for path in folder.glob(pattern) if path.is_file()}
    shard = _SHARD.fullmatch(min(names, default=""))
    return shard is not None and names == {f"{shard[1]}{i:05d}{shard[2]}" for i in range(int(shard[3]))}


def find_cached_file(repo_id: str, path: str, *, revision: str | None = None) -> Path | None:
    """Return the local path of a file of a dataset repo, None if it was not downloaded before.

    Raises:
        HubError: See `download_files`.
    """
    with translate_hub_errors(repo_id, revision, f"loading {repo_id} from the Hub"):
        commit = resolve_revision(get_client(), repo_id, revision)
    cached = try_to_load_from_cache(repo_id, path, repo_type="dataset", revision=commit)
    return Path(cached) if isinstance(cached, str) else None


@dataclass(frozen=True)
class RemoteFile:
    """A file of a dataset repo on the Hub."""

    repo_id: str
    path: str
    size: int  # bytes
    revision: str | None = None

    def read(self, begin: int, end: int) -> bytes:
        """Return the bytes in [begin, end), in one request.

        Raises:
            HubError: See `download_files`.
        """
        url = hf_hub_url(
            self.repo_id,
            self.path,
            repo_type="dataset",
            revision=resolve_revision(get_client(), self.repo_id, self.revision),
            endpoint=constants.ENDPOINT,
        )
        with translate_hub_errors(self.repo_id, self.revision, f"reading {self.path} of {self.repo_id} from the Hub"):
            return with_retries(lambda: _get_range(url, begin, end))

    def open(self) -> "RangeReader":
        """Return a file object that requests the bytes that are read."""
        return RangeReader(self.read, self.size)


def _get_range(url: str, begin: int, end: int) -> bytes:
    headers = {**build_hf_headers(), "Range": f"bytes={begin}-{end - 1}"}
    # The client's own retries end in another class of error before its release 1.0.
    response = http_backoff(
        "GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT, retry_on_status_codes=()
    )
    hf_raise_for_status(response)
    content: bytes = response.content
    if len(content) != end - begin:
        raise HubUnavailableError(f"{url}: expected {end - begin} bytes, got {len(content)}; try again")
    return content


def list_remote_files(repo_id: str, folder: str, *, revision: str | None = None) -> list[RemoteFile]:
    """Return the files of one folder of a dataset repo, sorted by path; none if there is no such folder.

    Raises:
        HubError: See `download_files`.
    """
    with translate_hub_errors(repo_id, revision, f"loading {repo_id} from the Hub"):
        api = get_client()
        commit = resolve_revision(api, repo_id, revision)
        try:
            entries = with_retries(
                lambda: list(api.list_repo_tree(repo_id, folder, repo_type="dataset", revision=commit))
            )
        except EntryNotFoundError:
            return []
    files = sorted((entry for entry in entries if isinstance(entry, RepoFile)), key=lambda file: file.path)
    return [RemoteFile(repo_id, file.path, file.size, revision) for file in files]


class RangeReader(io.RawIOBase):
    """A read-only file object over byte ranges: reads come from one window in memory, or are a request each."""

    def __init__(self, read_range: Callable[[int, int], bytes], size: int) -> None:
        self._read_range, self._size, self._position = read_range, size, 0
        self._begin, self._window = 0, b""

    def fetch_ahead(self, begin: int, end: int) -> None:
        """Replace the window by the bytes in [begin, end), unless it contains them already."""
        if not self._contains(begin, end):
            self._begin, self._window = begin, self._read_range(begin, end)

    def _contains(self, begin: int, end: int) -> bool:
        return self._begin <= begin and end <= self._begin + len(self._window)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to an offset, counted as in `io.IOBase.seek`, and return the new position."""
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def read(self, size: int = -1) -> bytes:
        """Return the next `size` bytes, or fewer at the end of the file; all that remain if negative."""
        begin = self._position
        end = self._size if size < 0 else min(begin + size, self._size)
        self._position = max(begin, end)
        if begin >= end:
            return b""
        if self._contains(begin, end):
            return self._window[begin - self._begin : end - self._begin]
        return self._read_range(begin, end)
