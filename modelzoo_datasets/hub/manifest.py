"""The files of a folder to push, checked for completeness and for the rules of the Hub before anything is sent."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from huggingface_hub import metadata_load
from huggingface_hub.utils.sha import git_hash

from .._util import file_sha256, is_config_name_on_hub
from ..errors import FormatError
from ..zoo import DATASET_FORMAT, DatasetInfo, FormatTag

CARD = "README.md"
ZOO_INFO = "zoo.json"
# Limits of the Hub: files in one folder, and files in a repo, beyond which it slows down.
_MAX_FILES_PER_FOLDER = 10_000
_MAX_FILES = 100_000
_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.[a-z]+)")
_WEIGHTS = re.compile(r"weights/([^/]+)/.+\.safetensors")
_BUILD_AGAIN = "build it again with modelzoo-build"


@dataclass(frozen=True)
class FolderKind:
    """A kind of folder that modelzoo-hyperrep writes; the format in one of its JSON files tells it from others."""

    name: str
    repo_type: str  # on the Hub: dataset or model
    info_file: str  # JSON file with the key `format`
    format_prefix: str
    required: tuple[str, ...]  # other files that it must have
    command: str  # writes such a folder

    def read_format(self, folder: Path) -> str | None:
        """Return the format that a folder of this kind names, complete or not; None for other folders."""
        if not (folder / self.info_file).is_file():
            return None
        name = FormatTag.read(folder / self.info_file).format or ""
        return name if name.startswith(self.format_prefix) else None


_MODEL = ("config.json", "model.safetensors")
_TABLE = ("README.md", "samples.parquet")
_LEARN, _SAMPLE = "modelzoo-hyperrep train", "modelzoo-hyperrep sample"
_KINDS = (
    FolderKind("hyper-representation", "model", "training.json", "modelzoo-hyperrep-", _MODEL, _LEARN),
    FolderKind("table of samples", "dataset", "samples.json", "modelzoo-samples-", _TABLE, _SAMPLE),
    FolderKind("sampled model", "model", "config.json", "modelzoo-sample-", ("README.md", *_MODEL), _SAMPLE),
)


@dataclass(frozen=True)
class LocalFile:
    """A local file and its path in the repo."""

    path: str  # in the repo, with forward slashes
    source: Path
    size: int  # bytes

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the content, by which the Hub's large file storage names it."""
        return file_sha256(self.source)

    @cached_property
    def git_oid(self) -> str:
        """SHA-1 by which git names the content."""
        return git_hash(self.source.read_bytes())


@dataclass(frozen=True, kw_only=True)
class UploadManifest:
    """The files of a folder that can be pushed as it is."""

    folder: Path
    repo_type: str  # on the Hub: dataset or model
    format: str  # the repo gets a tag of this name
    configs: tuple[str, ...]  # each a folder of shards
    files: tuple[LocalFile, ...]  # sorted by path
    kind: str = "dataset"  # as messages call the folder

    @property
    def size(self) -> int:
        """Total size of all files in bytes."""
        return sum(file.size for file in self.files)

    def find_stale(self, remote_paths: Iterable[str]) -> list[str]:
        """Return the shards and weights of an earlier push that do not belong to the configs of this folder."""
        local_paths = {file.path for file in self.files}
        return [path for path in remote_paths if _find_config(path) in self.configs and path not in local_paths]

    def find_hidden_configs(self, remote_paths: Iterable[str]) -> list[str]:
        """Return the configs of the repo that this folder does not have, so that its card would hide them."""
        return sorted({name for path in remote_paths if (name := _find_config(path))} - {*self.configs})


def _find_config(path: str) -> str | None:
    """Return the config that a file of a repo is a shard of, or contains weights of; None for other files."""
    if weights := _WEIGHTS.match(path):
        return weights[1]
    folder, _, name = path.rpartition("/")
    return folder if folder and "/" not in folder and _SHARD.fullmatch(name) else None


def read_manifest(folder: str | Path, repo_id: str) -> UploadManifest:
    """Check a folder that modelzoo-build or modelzoo-hyperrep wrote, and list what a push of it would send.

    A dataset folder and a table of sampled models become dataset repos. A hyper-representation and a sampled model
    become model repos.

    Args:
        folder: The folder.
        repo_id: ORG/NAME of the repo.

    Returns:
        The files, and the type of their repo.

    Raises:
        FormatError: The folder is of no such kind, is incomplete or of another version, or the Hub would reject it.
    """
    folder = Path(folder)
    for kind in _KINDS:
        if (name := kind.read_format(folder)) is not None:
            return _read_hyperrep_folder(kind, name, folder, repo_id)
    if not (folder / ZOO_INFO).is_file():
        raise FormatError(f"{folder} is not a dataset folder: it has no {ZOO_INFO}; build one with modelzoo-build")
    if (name := FormatTag.read(folder / ZOO_INFO).format) != DATASET_FORMAT:
        raise FormatError(
            f"{folder} has format {name!r}, but modelzoo-push expects {DATASET_FORMAT!r}; build it from its zoo "
            "folders with modelzoo-build"
        )
    files = _list_files(folder)
    configs = _read_configs(folder, DatasetInfo.read(folder), [file.path for file in files])
    _check_accepted(files, repo_id, folder)
    return UploadManifest(folder=folder, repo_type="dataset", format=DATASET_FORMAT, configs=configs, files=files)


def _read_hyperrep_folder(kind: FolderKind, format_name: str, folder: Path, repo_id: str) -> UploadManifest:
    # Models in folders of their own are repos of their own.
    files = tuple(file for file in _list_files(folder) if "/" not in file.path)
    if missing := [name for name in kind.required if name not in {file.path for file in files}]:
        raise FormatError(f"{folder} is incomplete: it has no {missing[0]}; make it again with {kind.command}")
    _check_accepted(files, repo_id, folder)
    return UploadManifest(
        folder=folder, repo_type=kind.repo_type, format=format_name, configs=(), files=files, kind=kind.name
    )


def _list_files(folder: Path) -> tuple[LocalFile, ...]:
    """Return all files, sorted by path, without hidden ones, which are not part of any format."""

    def visible() -> Iterator[LocalFile]:
        for source in folder.rglob("*"):
            path = source.relative_to(folder)
            if source.is_file() and not any(part.startswith(".") for part in path.parts):
                yield LocalFile(path.as_posix(), source, source.stat().st_size)

    return tuple(sorted(visible(), key=lambda file: file.path))


def _read_configs(folder: Path, info: DatasetInfo, paths: list[str]) -> tuple[str, ...]:
    """Return the configs that the card lists, after checking that all of their files exist."""
    for name in (CARD, "layout.json"):
        if name not in paths:
            raise FormatError(f"{folder} is incomplete: it has no {name}; {_BUILD_AGAIN}")
    entries = _read_card_configs(folder / CARD)
    names = tuple(str(entry["config_name"]) for entry in entries)
    for name in names:
        check_config_name(name, folder)
    for config in info.configs:
        if missing := [name for name in (config, f"{config}_index") if name not in names]:
            raise FormatError(f"{folder} is incomplete: its {CARD} has no config {missing[0]!r}; {_BUILD_AGAIN}")
    for entry in entries:
        for part in entry["data_files"]:
            _check_shards(folder, str(part["path"]), paths)
    for config, zoo in info.configs.items():
        if zoo.weights == "files":
            _check_weight_files(folder, config, paths)
    return names


def check_config_name(name: str, folder: Path) -> None:
    """Check that the Hub and `datasets` accept the name of a config.

    Raises:
        FormatError: They do not; the message names the folder that the config is in.
    """
    if name.startswith(".") or not is_config_name_on_hub(name):
        raise FormatError(
            f"{folder}: the Hub does not accept {name!r} as the name of a config: it must not contain any of "
            "< > : / \\ | ? *, begin with a dot or be 'data'; rename the config in its recipe"
        )


def _read_card_configs(card: Path) -> list[dict[str, Any]]:
    """Return `configs:` of the YAML header of a card, as `datasets` reads them."""
    try:
        header = metadata_load(card)
    except (ValueError, yaml.YAMLError):
        header = None
    entries = header.get("configs") if isinstance(header, dict) else None
    if isinstance(entries, list) and entries and all(_is_card_config(entry) for entry in entries):
        return entries
    raise FormatError(f"{card} has no YAML header with the configs of the dataset; {_BUILD_AGAIN}")


def _is_card_config(entry: Any) -> bool:
    files = entry.get("data_files") if isinstance(entry, dict) else None
    return isinstance(files, list) and "config_name" in entry and all("path" in part for part in files)


def _check_shards(folder: Path, pattern: str, paths: list[str]) -> None:
    matches = [path for path in paths if fnmatchcase(path, pattern)]
    if not matches:
        raise FormatError(f"{folder} is incomplete: it has no {pattern}; {_BUILD_AGAIN}")
    for path in matches:
        if shard := _SHARD.fullmatch(path):
            stem, total, suffix = shard[1], int(shard[3]), shard[4]
            expected = [f"{stem}-{i:05d}-of-{total:05d}{suffix}" for i in range(total)]
            if missing := sorted({*expected} - {*matches}):
                raise FormatError(f"{folder} is incomplete: it has no {missing[0]}; {_BUILD_AGAIN}")
            if extra := sorted({*matches} - {*expected}):
                raise FormatError(f"{folder} has shards of two builds, such as {extra[0]}; {_BUILD_AGAIN}")


def _check_weight_files(folder: Path, config: str, paths: list[str]) -> None:
    """Check that the files exist that the tables of a config name as the place of their weights."""
    existing = {*paths}
    for path in (path for path in paths if _find_config(path) == config and path.endswith(".parquet")):
        try:
            column = pq.read_table(folder / path, columns=["weights_file"], partitioning=None)["weights_file"]
        except (OSError, pa.ArrowException) as error:
            raise FormatError(f"cannot read {folder / path}: {error}; {_BUILD_AGAIN}") from error
        if missing := [name for name in column.unique().to_pylist() if name not in existing]:
            raise FormatError(f"{folder} is incomplete: it has no {missing[0]}; {_BUILD_AGAIN}")


def _check_accepted(files: tuple[LocalFile, ...], repo_id: str, folder: Path) -> None:
    script = f"{repo_id.split('/')[-1]}.py"
    if any(file.path == script for file in files):
        raise FormatError(f"{folder}: `datasets` does not load a repo that contains {script}; delete this file")
    advice = "publish it as several datasets, or build it with larger shards"
    check_file_counts([file.path for file in files], folder, advice)


def check_file_counts(paths: Sequence[str], folder: Path, advice: str) -> None:
    """Check that the files of a dataset folder stay within the limits of the Hub.

    Args:
        paths: Paths in the folder, which need not exist yet.
        folder: The dataset folder, for the message.
        advice: End of the message, which says what to do.

    Raises:
        FormatError: They are too many for one repo, or too many in one folder of it.
    """
    if len(paths) > _MAX_FILES:
        raise FormatError(f"{folder}: {len(paths):,} files exceed the Hub's limit of {_MAX_FILES:,} a repo; {advice}")
    for parent, count in Counter(str(PurePosixPath(path).parent) for path in paths).most_common(1):
        if count > _MAX_FILES_PER_FOLDER:
            limit = f"the Hub's limit of {_MAX_FILES_PER_FOLDER:,} a folder"
            raise FormatError(f"{folder / parent}: {count:,} files exceed {limit}; {advice}")
