"""Push a folder to a repo of the Hub: only missing files are sent, and rerunning an interrupted push resumes it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, constants, get_token
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import get_session, hf_raise_for_status  # type: ignore[attr-defined]  # exported

from ..errors import ArgumentError, HubAccessError, HubError
from ..progress import NO_PROGRESS, Progress
from .download import get_client, is_repo_id
from .errors import CONFLICT, LOG_IN, translate_hub_errors, with_retries
from .manifest import CARD, ZOO_INFO, LocalFile, UploadManifest, identify_folder, read_manifest
from .repo import MAIN, Repo, commit_title
from .revision import clear_revisions

_COMMIT = re.compile(r"[0-9a-f]{40}")
_FILES_PER_COMMIT = 250  # with more files, the Hub may need longer than the time limit of a request
_FILES_PER_UPLOAD = 8  # the Hub keeps the files of every finished upload, so that an interrupted push can resume
_MAX_ROUNDS = 5  # attempts to reach the desired content while others change the repo


@dataclass(frozen=True, kw_only=True)
class PushResult:
    """The result of a push."""

    url: str  # page of the repo, of its branch or of the pull request
    commit: str
    sent: tuple[LocalFile, ...]
    unchanged: tuple[LocalFile, ...]
    deleted: tuple[str, ...]  # shards of an earlier push


def check_destination(repo_id: str, revision: str | None, create_pr: bool) -> None:
    """Check, without any request, that a push to a destination is possible; see `push_to_hub` for the arguments.

    Raises:
        ArgumentError: The name or the revision is invalid.
    """
    if not is_repo_id(repo_id):
        raise ArgumentError(f"{repo_id!r} is not a valid repo id; expected ORG/NAME, e.g. modelzoos/mnist-cnn-s")
    if revision is not None and _COMMIT.fullmatch(revision):
        raise ArgumentError(f"cannot push to a commit; --revision must be a branch, got {revision!r}")
    if create_pr and revision not in (None, MAIN):
        raise ArgumentError(
            "--create-pr opens a pull request against main and takes no other --revision; to update an open pull "
            "request, pass --revision refs/pr/N alone"
        )


def check_token(repo_id: str) -> None:
    """Check that there is a token, without any request; raises HubAccessError."""
    if get_token() is None:
        raise HubAccessError(f"pushing to {repo_id} needs a token with write access: {LOG_IN}")


def push_to_hub(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    card: str | None = None,
    progress: Progress = NO_PROGRESS,
) -> PushResult:
    """Make a repo of the Hub hold the files of a folder, and tag it with the format of the folder.

    The repo and the branch are created if they do not exist. Up to 250 changed files are one commit; of more files,
    the card comes with the last commit. Its examples name the repo, and the folder itself stays as it is. Files that
    the Hub has from an earlier push are not sent again, even if that push was interrupted before its commit.

    Args:
        folder: A dataset folder, or a folder with a card that modelzoo-hyperrep wrote.
        repo_id: ORG/NAME of the repo.
        private: Create a private repo. An existing repo must be private already.
        revision: Branch to push to; main by default. Only main is tagged.
        create_pr: Open a pull request instead of changing main. If an earlier push with the same token opened one
            that is still open, it is updated.
        card: Text to publish as the card; by default that of the folder.
        progress: Display for the number of files that are compared and sent.

    Returns:
        The URL and commit of the repo, and what was sent, unchanged and deleted.

    Raises:
        ArgumentError: The repo id or the revision is invalid.
        FormatError: The folder is incomplete, or the Hub would reject it.
        HubAccessError: The token is missing, invalid or lacks the permission.
        HubUnavailableError: The Hub cannot be reached or refuses requests for now.
        HubError: The Hub rejects the push, a repo of another type has this name, or a config would be lost.

    Example:
        >>> push_to_hub(dataset, "modelzoos/mnist-cnn-s", private=True).url  # doctest: +SKIP
        'https://huggingface.co/datasets/modelzoos/mnist-cnn-s'
        >>> push_to_hub(dataset, "mnist-cnn-s")
        Traceback (most recent call last):
        ...
        modelzoo_datasets.errors.ArgumentError: 'mnist-cnn-s' is not a valid repo id; expected ORG/NAME, ...
    """
    check_destination(repo_id, revision, create_pr)
    identify_folder(Path(folder))
    check_token(repo_id)
    manifest = read_manifest(folder, repo_id, card)
    repo = Repo(api=get_client(), repo_id=repo_id, repo_type=manifest.repo_type, revision=revision or MAIN)
    with translate_hub_errors(repo_id, revision, f"pushing to {repo_id}"):
        _validate_card(manifest)
        _create_if_missing(repo, private, create_pr)
        if create_pr and (pull_request := repo.find_pull_request()) is not None:
            repo, create_pr = replace(repo, revision=pull_request), False
        result = _update(manifest, repo, create_pr, progress)
        if repo.revision == MAIN and not create_pr:
            repo.tag(manifest.format, result.commit)
    clear_revisions(repo_id)
    return result


def _validate_card(manifest: UploadManifest) -> None:
    """Let the Hub check the card before hours of sending."""
    if manifest.card is None:
        return
    body = {"repoType": manifest.repo_type, "content": manifest.card}

    def validate() -> None:
        # Not by the client's `RepoCard.validate`, which ignores HF_ENDPOINT before release 1.0.
        url, headers = f"{constants.ENDPOINT}/api/validate-yaml", {"Accept": "text/plain"}
        hf_raise_for_status(get_session().post(url, json=body, headers=headers))

    try:
        with_retries(validate)
    except HfHubHTTPError as error:
        if error.response.status_code != HTTPStatus.BAD_REQUEST:
            raise
        text = error.response.text
        raise HubError(f"{manifest.folder / CARD}: the Hub rejects its YAML header: {text}") from error


def _create_if_missing(repo: Repo, private: bool, create_pr: bool) -> None:
    info = repo.info()
    if info is None:
        if create_pr or repo.is_pull_request:
            raise HubError(f"{repo.repo_id} does not exist, so no pull request can change it; omit --create-pr")
        other = "model" if repo.repo_type == "dataset" else "dataset"
        if replace(repo, repo_type=other).info() is not None:
            raise HubError(f"{repo.repo_id} is a {other} repo, not a {repo.repo_type} repo; choose another name")
        repo.create(private)
        info = repo.info()  # nothing is sent to a public repo that was to be private
    if private and not (info and info.private):
        raise HubError(f"{repo.repo_id} exists and is public; make it private in its settings or omit --private")
    if repo.revision != MAIN and not repo.is_pull_request:
        repo.create_branch()


def _update(manifest: UploadManifest, repo: Repo, create_pr: bool, progress: Progress) -> PushResult:
    """Compare and commit until nothing differs, so that the returned commit is known to hold the folder."""
    sent: dict[str, LocalFile] = {}
    deleted: dict[str, None] = {}
    for _ in range(_MAX_ROUNDS):
        head = repo.head()
        remote = repo.files(head)
        if hidden := manifest.find_hidden_configs(remote):
            raise HubError(
                f"{repo.repo_id} has a config {hidden[0]!r} that {manifest.folder} does not have, and the new card "
                "would hide it; build all zoos into one folder, or push to another --revision or repo"
            )
        changed = _find_changed(manifest, remote, progress)
        stale = manifest.find_stale(remote)
        if not changed and not stale:
            unchanged = tuple(file for file in manifest.files if file.path not in sent)
            return PushResult(
                url=repo.url, commit=head, sent=tuple(sent.values()), unchanged=unchanged, deleted=tuple(deleted)
            )
        try:
            repo = _commit_all(changed, stale, repo, head, create_pr, progress)
        except HfHubHTTPError as error:
            if error.response.status_code not in CONFLICT:
                raise
        else:
            create_pr = False  # it is open now
            sent |= {file.path: file for file in changed}
            deleted |= dict.fromkeys(stale)
    raise HubError(f"others keep changing {repo.repo_id} during the push; run the same command again later")


def _find_changed(manifest: UploadManifest, remote: dict[str, RepoFile], progress: Progress) -> list[LocalFile]:
    """Return the files that the repo does not have, or has with other content."""
    changed = []
    with progress.start("comparing", len(manifest.files)) as task:
        for file in manifest.files:
            if not _is_same(file, remote.get(file.path)):
                changed.append(file)
            task.update()
    return changed


def _is_same(file: LocalFile, remote: RepoFile | None) -> bool:
    if remote is None or remote.size != file.size:
        return False
    return file.sha256 == remote.lfs.sha256 if remote.lfs else file.git_oid == remote.blob_id


def _commit_all(
    changed: Sequence[LocalFile], stale: Sequence[str], repo: Repo, head: str, create_pr: bool, progress: Progress
) -> Repo:
    """Send and commit changed files and delete stale ones, card and zoo.json last; see `_update`.

    Returns:
        The repo with the revision of the commits, which is new if they opened a pull request.
    """
    last = [file for file in changed if file.path in (CARD, ZOO_INFO)]
    data = [file for file in changed if file not in last]
    commits = [data[i : i + _FILES_PER_COMMIT] for i in range(0, len(data), _FILES_PER_COMMIT)] or [[]]
    commits[-1] += last
    with progress.start("sending", len(changed)) as task:
        for number, files in enumerate(commits, 1):
            additions: list[CommitOperationAdd] = []
            for i in range(0, len(files), _FILES_PER_UPLOAD):
                part = files[i : i + _FILES_PER_UPLOAD]
                additions += _upload(part, repo, create_pr)
                task.update(len(part))
            deletions = [CommitOperationDelete(path) for path in stale] if number == len(commits) else []
            title = commit_title(repo.repo_type, number, len(commits))
            head, pull_request = repo.commit([*deletions, *additions], head, create_pr, title)
            if create_pr and pull_request is not None:
                repo, create_pr = replace(repo, revision=pull_request), False
    return repo


def _upload(files: Sequence[LocalFile], repo: Repo, create_pr: bool) -> list[CommitOperationAdd]:
    """Send the content of large files to the Hub's storage; small files are sent with the commit."""
    additions = [CommitOperationAdd(file.path, file.source) for file in files]
    for addition, file in zip(additions, files, strict=True):
        addition.upload_info.sha256 = bytes.fromhex(file.sha256)  # the client would read the whole file once more
    repo.upload(additions, create_pr)
    return additions
