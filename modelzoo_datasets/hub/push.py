"""Folder -> repo: only what the repo does not hold is sent, and a push that was stopped goes on when run again."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    DatasetInfo,
    HfApi,
    ModelInfo,
    RepoCard,
    get_token,
)
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile

from ..errors import HubAccessError, HubError
from ..progress import NO_PROGRESS, Progress
from .download import REPO_ID, client, forget
from .errors import CHANGED, translate_hub_errors, with_retries
from .manifest import CARD, FACTS, LocalFile, UploadManifest, read_manifest
from .pull_request import commit_title, open_pull_request

_MAIN = "main"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_PULL_REQUEST = re.compile(r"refs/pr/\d+")
_PER_COMMIT = 250  # files: with more the Hub may take longer than a request may
_AT_ONCE = 8  # files: what was sent is kept by the Hub after so many, wherever a push is stopped
_ROUNDS = 5  # of looking what is missing and committing it, when others push at the same time


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """What a push did."""

    url: str  # of what the repo holds now, or of the pull request
    commit: str
    sent: tuple[LocalFile, ...]
    unchanged: tuple[LocalFile, ...]
    deleted: tuple[str, ...]  # shards of an earlier push


@dataclass(frozen=True, kw_only=True)
class _Target:
    api: HfApi
    repo_id: str
    repo_type: str
    revision: str

    def info(self, revision: str | None = None) -> ModelInfo | DatasetInfo | None:
        """What the Hub says of the repo at a revision; None where no such repo can be seen."""
        try:
            return with_retries(
                lambda: self.api.repo_info(self.repo_id, repo_type=self.repo_type, revision=revision)  # type: ignore[return-value]
            )
        except RepositoryNotFoundError:
            return None

    def head(self) -> str:
        """The commit that the revision points to."""
        info = self.info(self.revision)
        if info is None or info.sha is None:
            raise HubError(f"pushing to {self.repo_id}: the repo is gone; run the same command again")
        return info.sha

    def tree(self, commit: str) -> dict[str, RepoFile]:
        """Its files at a commit."""
        tree = self.api.list_repo_tree(self.repo_id, repo_type=self.repo_type, revision=commit, recursive=True)
        return {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}


@dataclass(frozen=True, kw_only=True)
class _Change:
    """What makes the repo hold what the folder does."""

    add: tuple[LocalFile, ...]
    delete: tuple[str, ...]

    @classmethod
    def between(cls, publication: UploadManifest, remote: Mapping[str, RepoFile], progress: Progress) -> "_Change":
        add = []
        with progress.start("comparing", len(publication.files)) as task:
            for file in publication.files:
                if not _holds(remote.get(file.path), file):
                    add.append(file)
                task.update()
        return cls(add=tuple(add), delete=tuple(publication.leftovers(remote)))


def _holds(remote: RepoFile | None, file: LocalFile) -> bool:
    if remote is None or remote.size != file.size:
        return False
    return file.sha256 == remote.lfs.sha256 if remote.lfs else file.git_oid == remote.blob_id


def check_destination(repo_id: str, revision: str | None, create_pr: bool) -> None:
    """Refuse, without the network, what no repo can be.

    Raises:
        HubError: a name or revision that cannot be pushed to.
    """
    if not REPO_ID.fullmatch(repo_id) or len(repo_id) > 96 or "--" in repo_id or ".." in repo_id:
        raise HubError(f"{repo_id!r} is no name of a repo; it must look like modelzoos/mnist-cnn-s")
    if revision is not None and _COMMIT.fullmatch(revision):
        raise HubError(f"a commit cannot be pushed to; --revision must be a branch, got {revision!r}")
    if create_pr and revision not in (None, _MAIN):
        raise HubError(
            "--create-pr opens a pull request against main; leave --revision out, or go on with one that is "
            "open by --revision refs/pr/N alone"
        )


def push_to_hub(
    folder: Path | str,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    progress: Progress = NO_PROGRESS,
) -> Pushed:
    """Make sure that a repo of the Hub holds what a folder does, and that its format is tagged.

    The repo and the branch are created where they do not exist. Up to 250 changed files are one commit; of more,
    the card comes with the last. What the Hub has of an earlier push is not sent again, committed or not.

    Args:
        private: of a repo that is created; one that exists must be private already.
        revision: the branch; main if not given, which alone is tagged.
        create_pr: open a pull request against main instead of changing it, or go on with the one that an earlier
            push with this token opened and that is still open.

    Raises:
        FormatError: the folder is not whole, or nothing that the Hub would take.
        HubAccessError: no token, a wrong one, or one without the permission.
        HubUnavailableError: the Hub cannot be reached or serves nothing for now.
        HubError: the Hub refuses, the name is taken by another type of repo, or a config would be lost.
    """
    check_destination(repo_id, revision, create_pr)
    publication = read_manifest(Path(folder), repo_id)
    if get_token() is None:
        raise HubAccessError(
            f"pushing to {repo_id} takes a token with write access: log in with `hf auth login` or set HF_TOKEN"
        )
    target = _Target(
        api=client(), repo_id=repo_id, repo_type=publication.repo_type, revision=revision if revision else _MAIN
    )
    with translate_hub_errors(repo_id, revision, f"pushing to {repo_id}"):
        _have_card_checked(publication)
        _make_ready(target, private, create_pr)
        if create_pr and (opened := open_pull_request(target.api, repo_id, target.repo_type)) is not None:
            target, create_pr = replace(target, revision=opened), False
        pushed = _bring_up_to_date(publication, target, create_pr, progress)
        if target.revision == _MAIN and not create_pr:
            _tag(target, publication.format, pushed.commit)
    forget(repo_id)
    return pushed


def _have_card_checked(publication: UploadManifest) -> None:
    """Ask the Hub whether it takes the card, if there is one, before hours of sending."""
    if not (path := publication.folder / CARD).is_file():
        return
    card = RepoCard(path.read_text(encoding="utf-8"), ignore_metadata_errors=True)
    try:
        with_retries(lambda: card.validate(repo_type=publication.repo_type))
    except ValueError as error:
        raise HubError(f"{path}: the Hub refuses its header: {error}") from error


def _make_ready(target: _Target, private: bool, create_pr: bool) -> None:
    """The repo and its branch, created if need be."""
    info = target.info()
    if info is None:
        if create_pr or _PULL_REQUEST.fullmatch(target.revision):
            raise HubError(f"there is no {target.repo_id} that a pull request could change; leave --create-pr out")
        other = "model" if target.repo_type == "dataset" else "dataset"
        if replace(target, repo_type=other).info() is not None:
            raise HubError(f"{target.repo_id} is a {other}, not a {target.repo_type}; choose another name")
        with_retries(
            lambda: target.api.create_repo(
                target.repo_id, repo_type=target.repo_type, private=private or None, exist_ok=True
            )
        )
    elif private and not info.private:
        raise HubError(
            f"{target.repo_id} exists and is public; make it private in its settings first, or leave --private out"
        )
    if target.revision != _MAIN and not _PULL_REQUEST.fullmatch(target.revision):
        with_retries(
            lambda: target.api.create_branch(
                target.repo_id, repo_type=target.repo_type, branch=target.revision, exist_ok=True
            )
        )


def _bring_up_to_date(publication: UploadManifest, target: _Target, create_pr: bool, progress: Progress) -> Pushed:
    """Look what is missing and commit it, until nothing is: what is returned was seen to be there."""
    sent: dict[str, LocalFile] = {}
    deleted: dict[str, None] = {}
    for _ in range(_ROUNDS):
        head = target.head()
        remote = target.tree(head)
        if hidden := publication.would_hide(remote):
            raise HubError(
                f"{target.repo_id} has config {hidden[0]!r}, which {publication.folder} has not and whose card would "
                "hide it; build all its zoos into one folder, or push to another --revision or name"
            )
        change = _Change.between(publication, remote, progress)
        if not change.add and not change.delete:
            unchanged = tuple(file for file in publication.files if file.path not in sent)
            return Pushed(
                url=_url(target), commit=head, sent=tuple(sent.values()), unchanged=unchanged, deleted=tuple(deleted)
            )
        try:
            target = _commit_all(change, target, head, create_pr, progress)
        except HfHubHTTPError as error:
            if error.response.status_code not in CHANGED:
                raise
        else:
            create_pr = False  # from here on it is there
            sent |= {file.path: file for file in change.add}
            deleted |= dict.fromkeys(change.delete)
    raise HubError(f"{target.repo_id} changes faster than it can be pushed to; run the same command again later")


def _commit_all(change: _Change, target: _Target, head: str, create_pr: bool, progress: Progress) -> _Target:
    """Send and commit a change; returns what is committed to, which a new pull request decides."""
    last = [file for file in change.add if file.path in (CARD, FACTS)]
    data = [file for file in change.add if file not in last]
    batches = [data[i : i + _PER_COMMIT] for i in range(0, len(data), _PER_COMMIT)] or [[]]
    batches[-1] += last
    with progress.start("sending", len(change.add)) as task:
        for number, files in enumerate(batches, 1):
            additions: list[CommitOperationAdd] = []
            for i in range(0, len(files), _AT_ONCE):
                part = files[i : i + _AT_ONCE]
                additions += _upload(part, target, create_pr)
                task.update(len(part))
            deletions = [CommitOperationDelete(path) for path in change.delete] if number == len(batches) else []
            what = commit_title(target.repo_type, number, len(batches))
            head, reference = _commit([*deletions, *additions], target, head, create_pr, what)
            if create_pr and reference is not None:
                target, create_pr = replace(target, revision=reference), False
    return target


def _upload(files: Sequence[LocalFile], target: _Target, create_pr: bool) -> list[CommitOperationAdd]:
    """Send the content of large files; the small ones go with the commit."""
    additions = [CommitOperationAdd(file.path, file.source) for file in files]
    for addition, file in zip(additions, files, strict=True):
        addition.upload_info.sha256 = bytes.fromhex(file.sha256)  # or the client reads the file for it once more
    target.api.preupload_lfs_files(
        target.repo_id,
        additions,
        repo_type=target.repo_type,
        revision=target.revision,
        create_pr=create_pr,
        free_memory=False,  # it would forget which files they are, and the commit reads the small ones
    )
    return additions


def _commit(
    operations: Sequence[CommitOperationAdd | CommitOperationDelete],
    target: _Target,
    head: str,
    create_pr: bool,
    what: str,
) -> tuple[str, str | None]:
    """One commit on top of `head`: its id, and the reference of the pull request if it opened one."""
    made = with_retries(
        lambda: target.api.create_commit(
            target.repo_id,
            operations,
            commit_message=what,
            repo_type=target.repo_type,
            revision=target.revision,
            create_pr=create_pr,
            parent_commit=head,
        ),
        twice_is_harmless=not create_pr,  # the second one on the same head is refused
    )
    return made.oid, made.pr_revision


def _url(target: _Target) -> str:
    prefix = "" if target.repo_type == "model" else f"{target.repo_type}s/"
    base = f"{target.api.endpoint}/{prefix}{target.repo_id}"
    if _PULL_REQUEST.fullmatch(target.revision):
        return f"{base}/discussions/{target.revision.rsplit('/', 1)[1]}"
    return base if target.revision == _MAIN else f"{base}/tree/{target.revision}"


def _tag(target: _Target, tag: str, commit: str) -> None:
    """Let the tag of the format name a commit; the Hub cannot move one."""
    api, name, kind = target.api, target.repo_id, target.repo_type
    tags = {ref.name: ref.target_commit for ref in with_retries(lambda: api.list_repo_refs(name, repo_type=kind)).tags}
    if tags.get(tag) == commit:
        return
    if tag in tags:
        with_retries(lambda: api.delete_tag(name, tag=tag, repo_type=kind))
    with_retries(lambda: api.create_tag(name, tag=tag, revision=commit, repo_type=kind, exist_ok=True))
