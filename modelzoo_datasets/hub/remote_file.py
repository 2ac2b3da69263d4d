"""Files of a repo that are read where they are, in ranges, without a copy of the whole."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import RepoFile, constants, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # the client's own way to make requests
    build_hf_headers,
    hf_raise_for_status,
    http_backoff,
)

from ..errors import HubUnavailableError
from .download import client, resolve
from .errors import translate_hub_errors, with_retries


@dataclass(frozen=True)
class RemoteFile:
    """A file of a dataset repo, of the commit that its revision is."""

    repo_id: str
    path: str
    size: int  # bytes
    revision: str | None = None

    def read(self, begin: int, end: int) -> bytes:
        """The bytes in [begin, end), in one request.

        Raises:
            HubError: the Hub cannot be reached, or does not serve it.
        """
        url = hf_hub_url(
            self.repo_id,
            self.path,
            repo_type="dataset",
            revision=resolve(self.repo_id, self.revision).resolved,
            endpoint=constants.ENDPOINT,
        )
        with translate_hub_errors(self.repo_id, self.revision, f"reading {self.path} of {self.repo_id} from the Hub"):
            return with_retries(lambda: _get(url, begin, end))

    def open(self) -> "RangeReader":
        """As a file object that fetches what it is asked for."""
        return RangeReader(self.read, self.size)


def _get(url: str, begin: int, end: int) -> bytes:
    headers = {**build_hf_headers(), "Range": f"bytes={begin}-{end - 1}"}
    answer = http_backoff("GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT)
    hf_raise_for_status(answer)
    content: bytes = answer.content
    if len(content) != end - begin:
        raise HubUnavailableError(f"{url}: expected {end - begin} bytes, got {len(content)}; do the same again")
    return content


def cached_file(repo_id: str, path: str, *, revision: str | None = None) -> Path | None:
    """Where a file of a dataset repo lies on this machine, if it was downloaded before.

    Raises:
        HubError: as `fetch` does.
    """
    with translate_hub_errors(repo_id, revision, f"loading {repo_id} from the Hub"):
        commit = resolve(repo_id, revision).resolved
    found = try_to_load_from_cache(repo_id, path, repo_type="dataset", revision=commit)
    return Path(found) if isinstance(found, str) else None


def remote_files(repo_id: str, folder: str, *, revision: str | None = None) -> list[RemoteFile]:
    """The files of one folder of a dataset repo, by path; none where there is no such folder.

    Raises:
        HubError: as `fetch` does.
    """
    with translate_hub_errors(repo_id, revision, f"loading {repo_id} from the Hub"):
        commit = resolve(repo_id, revision)
        try:
            listed = with_retries(
                lambda: list(client().list_repo_tree(repo_id, folder, repo_type="dataset", revision=commit))
            )
        except EntryNotFoundError:
            return []
    files = sorted((file for file in listed if isinstance(file, RepoFile)), key=lambda file: file.path)
    return [RemoteFile(repo_id, file.path, file.size, revision) for file in files]


class RangeReader(io.RawIOBase):
    """A file object over ranges: what was fetched ahead is given from memory, everything else is one request."""

    def __init__(self, fetch: Callable[[int, int], bytes], size: int) -> None:
        self._fetch, self._size, self._position = fetch, size, 0
        self._begin, self._window = 0, b""

    def fetch_ahead(self, begin: int, end: int) -> None:
        """Hold the bytes in [begin, end), and no others, unless they are held already."""
        if not self._holds(begin, end):
            self._begin, self._window = begin, self._fetch(begin, end)

    def _holds(self, begin: int, end: int) -> bool:
        return self._begin <= begin and end <= self._begin + len(self._window)

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Where the next read begins."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to an offset."""
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def read(self, size: int = -1) -> bytes:
        """The next bytes, as many as there are."""
        begin = self._position
        end = self._size if size < 0 else min(begin + size, self._size)
        self._position = max(begin, end)
        if begin >= end:
            return b""
        if self._holds(begin, end):
            return self._window[begin - self._begin : end - self._begin]
        return self._fetch(begin, end)
