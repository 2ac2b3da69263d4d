"""The pull request that a push opened before it was stopped, found again by its title and by who opened it."""

import re

from huggingface_hub import HfApi

from .errors import with_retries

_OPEN = ("open", "draft")


def commit_title(repo_type: str, number: int, of: int) -> str:
    """The title of one of so many commits; the first one's is that of the pull request that it opens.

    It names the command: `datasets` titles its own "Upload dataset".
    """
    return f"Upload {repo_type} with modelzoo-push" + (f" ({number} of {of})" if of > 1 else "")


def open_pull_request(api: HfApi, repo_id: str, repo_type: str) -> str | None:
    """`refs/pr/N` of the newest one that is open and that a push to this repo with this token opened, if any is."""
    title = re.compile(re.escape(commit_title(repo_type, 1, 1)) + r"( \(1 of \d+\))?")
    author = with_retries(lambda: api.whoami())["name"]
    # By all states: the listing of what is open need not hold drafts.
    found = with_retries(
        lambda: list(
            api.get_repo_discussions(repo_id, repo_type=repo_type, author=author, discussion_type="pull_request")
        )
    )
    mine = [pull for pull in found if pull.author == author and pull.status in _OPEN and title.fullmatch(pull.title)]
    return max(mine, key=lambda pull: pull.num).git_reference if mine else None
