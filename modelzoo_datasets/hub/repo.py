"""One revision of a repo on the Hub: what it holds, and the requests that change it."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, DatasetInfo, HfApi, ModelInfo
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile

from ..errors import HubError
from .errors import with_retries

_T = TypeVar("_T")
MAIN = "main"
_PULL_REQUEST = re.compile(r"refs/pr/\d+")
_OPEN = ("open", "draft")


def commit_title(repo_type: str, number: int, total: int) -> str:
    """Return the title of one of several commits of a push; a pull request has the title of the first one.

    The title names the command, because `datasets` uses "Upload dataset" for its own uploads.
    """
    return f"Upload {repo_type} with modelzoo-push" + (f" ({number} of {total})" if total > 1 else "")


@dataclass(frozen=True, kw_only=True)
class Repo:
    """A repo of the Hub at a revision. The methods raise the errors of the client."""

    api: HfApi
    repo_id: str
    repo_type: str  # dataset or model
    revision: str  # a branch, or refs/pr/N

    @property
    def is_pull_request(self) -> bool:
        """True if the revision is a pull request."""
        return _PULL_REQUEST.fullmatch(self.revision) is not None

    @property
    def url(self) -> str:
        """URL of the page that shows the revision."""
        prefix = "" if self.repo_type == "model" else f"{self.repo_type}s/"
        base = f"{self.api.endpoint}/{prefix}{self.repo_id}"
        if self.is_pull_request:
            return f"{base}/discussions/{self.revision.rsplit('/', 1)[1]}"
        return base if self.revision == MAIN else f"{base}/tree/{self.revision}"

    def info(self, revision: str | None = None) -> ModelInfo | DatasetInfo | None:
        """Return the Hub's description of the repo, None if no such repo is visible."""
        try:
            return self._call(self.api.repo_info, revision=revision)  # type: ignore[return-value]
        except RepositoryNotFoundError:
            return None

    def head(self) -> str:
        """Return the commit that the revision points to."""
        info = self.info(self.revision)
        if info is None or info.sha is None:
            raise HubError(f"{self.repo_id} was deleted during the push; run the same command again")
        return info.sha

    def files(self, commit: str) -> dict[str, RepoFile]:
        """Return all files of a commit by path."""
        list_tree = self.api.list_repo_tree
        tree = with_retries(
            lambda: list(list_tree(self.repo_id, repo_type=self.repo_type, revision=commit, recursive=True))
        )
        return {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}

    def find_pull_request(self) -> str | None:
        """Return `refs/pr/N` of the newest open pull request that a push with this token opened, if there is one."""
        title = re.compile(re.escape(commit_title(self.repo_type, 1, 1)) + r"( \(1 of \d+\))?")
        author = with_retries(self.api.whoami)["name"]
        # The Hub's own filter for open pull requests may omit drafts.
        options = {"repo_type": self.repo_type, "author": author, "discussion_type": "pull_request"}
        discussions = with_retries(lambda: list(self.api.get_repo_discussions(self.repo_id, **options)))
        matches = [d for d in discussions if d.author == author and d.status in _OPEN and title.fullmatch(d.title)]
        return max(matches, key=lambda match: match.num).git_reference if matches else None

    def create(self, private: bool) -> None:
        """Create the repo."""
        self._call(self.api.create_repo, private=private or None, exist_ok=True)

    def create_branch(self) -> None:
        """Create the branch of the revision, unless it exists."""
        self._call(self.api.create_branch, branch=self.revision, exist_ok=True)

    def upload(self, additions: Sequence[CommitOperationAdd], create_pr: bool) -> None:
        """Send the content of large files to the Hub's storage, before a commit that may open a pull request."""
        self._call(
            self.api.preupload_lfs_files,
            additions=additions,
            revision=self.revision,
            create_pr=create_pr,
            free_memory=False,  # the commit still reads the small files
        )

    def commit(
        self, operations: Sequence[CommitOperationAdd | CommitOperationDelete], head: str, create_pr: bool, title: str
    ) -> tuple[str, str | None]:
        """Make one commit.

        Args:
            operations: The files that are added and deleted.
            head: The parent. If the revision points elsewhere by now, the Hub rejects the commit.
            create_pr: Open a pull request with the commit.
            title: First line of the message.

        Returns:
            The id of the commit, and `refs/pr/N` of the pull request that it opened, or None.
        """
        info = self._call(
            self.api.create_commit,
            operations=operations,
            commit_message=title,
            revision=self.revision,
            create_pr=create_pr,
            parent_commit=head,
            idempotent=not create_pr,  # a second commit on the same parent is rejected, a second pull request is not
        )
        return info.oid, info.pr_revision

    def tag(self, name: str, commit: str) -> None:
        """Let a tag point to a commit. The Hub cannot move a tag, so an old one is deleted first."""
        tags = {ref.name: ref.target_commit for ref in self._call(self.api.list_repo_refs).tags}
        if tags.get(name) == commit:
            return
        if name in tags:
            self._call(self.api.delete_tag, tag=name)
        self._call(self.api.create_tag, tag=name, revision=commit, exist_ok=True)

    def _call(self, method: Callable[..., _T], *, idempotent: bool = True, **options: Any) -> _T:
        """Call a method of the client for this repo, with retries."""
        return with_retries(lambda: method(self.repo_id, repo_type=self.repo_type, **options), idempotent=idempotent)
