"""One revision of a repo on the Hub: what it holds, and the requests that change it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, DatasetInfo, HfApi, ModelInfo, RepoFile
from huggingface_hub.errors import RepositoryNotFoundError

from ..errors import HubError
from .errors import with_retries

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
            return with_retries(
                lambda: self.api.repo_info(self.repo_id, repo_type=self.repo_type, revision=revision)  # type: ignore[return-value]
            )
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
        tree = self.api.list_repo_tree(self.repo_id, repo_type=self.repo_type, revision=commit, recursive=True)
        return {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}

    def find_pull_request(self) -> str | None:
        """Return `refs/pr/N` of the newest open pull request that a push with this token opened, if there is one."""
        title = re.compile(re.escape(commit_title(self.repo_type, 1, 1)) + r"( \(1 of \d+\))?")
        author = with_retries(self.api.whoami)["name"]
        # The Hub's own filter for open pull requests may omit drafts.
        discussions = with_retries(
            lambda: list(
                self.api.get_repo_discussions(
                    self.repo_id, repo_type=self.repo_type, author=author, discussion_type="pull_request"
                )
            )
        )
        matches = [d for d in discussions if d.author == author and d.status in _OPEN and title.fullmatch(d.title)]
        return max(matches, key=lambda match: match.num).git_reference if matches else None

    def create(self, private: bool) -> None:
        """Create the repo."""
        with_retries(
            lambda: self.api.create_repo(self.repo_id, repo_type=self.repo_type, private=private or None, exist_ok=True)
        )

    def create_branch(self) -> None:
        """Create the branch of the revision, unless it exists."""
        with_retries(
            lambda: self.api.create_branch(self.repo_id, repo_type=self.repo_type, branch=self.revision, exist_ok=True)
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
        info = with_retries(
            lambda: self.api.create_commit(
                self.repo_id,
                operations,
                commit_message=title,
                repo_type=self.repo_type,
                revision=self.revision,
                create_pr=create_pr,
                parent_commit=head,
            ),
            idempotent=not create_pr,  # a second commit on the same parent is rejected, a second pull request is not
        )
        return info.oid, info.pr_revision

    def tag(self, name: str, commit: str) -> None:
        """Let a tag point to a commit. The Hub cannot move a tag, so an old one is deleted first."""
        api, repo_id, repo_type = self.api, self.repo_id, self.repo_type
        refs = with_retries(lambda: api.list_repo_refs(repo_id, repo_type=repo_type))
        tags = {ref.name: ref.target_commit for ref in refs.tags}
        if tags.get(name) == commit:
            return
        if name in tags:
            with_retries(lambda: api.delete_tag(repo_id, tag=name, repo_type=repo_type))
        with_retries(lambda: api.create_tag(repo_id, tag=name, revision=commit, repo_type=repo_type, exist_ok=True))
