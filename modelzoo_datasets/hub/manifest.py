"""What a folder publishes: its files, whether they are all there, and whether the Hub will take them."""

import hashlib
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

from .._util import file_sha256, is_config_name_on_hub
from ..errors import FormatError
from ..zoo import DATASET_FORMAT, DatasetInfo, FormatTag
from .folder_kind import FolderKind, kind_of

CARD = "README.md"
FACTS = "zoo.json"
# The Hub's limits: entries of one folder, and files of a repo beyond which it slows down.
_MOST_IN_A_FOLDER = 10_000
_MOST_FILES = 100_000
_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.[a-z]+)")
_WEIGHTS = re.compile(r"weights/([^/]+)/.+\.safetensors")
_REMEDY = "build it again with modelzoo-build"


@dataclass(frozen=True)
class LocalFile:
    """A file as it will lie in the repo."""

    path: str  # in the repo, with forward slashes
    source: Path
    size: int  # bytes

    @cached_property
    def sha256(self) -> str:
        """The name of its content in the Hub's large file storage; read once."""
        return file_sha256(self.source)

    @cached_property
    def git_oid(self) -> str:
        """The name of its content in git."""
        content = self.source.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@dataclass(frozen=True, kw_only=True)
class UploadManifest:
    """A folder that can be pushed as it is."""

    folder: Path
    repo_type: str  # of the Hub: dataset or model
    format: str  # the version that the repo is tagged with
    configs: tuple[str, ...]  # each a folder of shards
    files: tuple[LocalFile, ...]  # by path
    what: str = "dataset"  # in the words of a user

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def leftovers(self, paths: Iterable[str]) -> list[str]:
        """Files of an earlier push that would be read as part of this one, or lie beside it for nothing."""
        mine = {file.path for file in self.files}
        return [path for path in paths if _config_of(path) in self.configs and path not in mine]

    def would_hide(self, paths: Iterable[str]) -> list[str]:
        """Configs that the repo holds and this folder does not: its card would hide them."""
        return sorted({name for path in paths if (name := _config_of(path))} - {*self.configs})


def _config_of(path: str) -> str | None:
    """The config that a file in a repo is a shard of, or holds weights of, if it does."""
    if weights := _WEIGHTS.match(path):
        return weights[1]
    folder, _, name = path.rpartition("/")
    return folder if folder and "/" not in folder and _SHARD.fullmatch(name) else None


def read_manifest(folder: Path, repo_id: str) -> UploadManifest:
    """What a folder publishes under a name; nothing is sent. Its format says of what kind it is.

    A dataset folder and the table of sampled models become dataset repos, a hyper-representation and a sampled model
    model repos.

    Raises:
        FormatError: it is none of them, is incomplete, of another format, or nothing the Hub would take.
    """
    if (kind := kind_of(folder)) is not None:
        return _of_hyperrep(kind, folder, repo_id)
    if not (folder / FACTS).is_file():
        raise FormatError(f"{folder} is no dataset folder: it has no {FACTS}; modelzoo-build makes one")
    found = FormatTag.read(folder / FACTS).format
    if found != DATASET_FORMAT:
        raise FormatError(
            f"{folder} has format {found!r}, but modelzoo-push takes {DATASET_FORMAT!r}; "
            "modelzoo-build makes one from zoo folders"
        )
    files = tuple(sorted(_files(folder), key=lambda file: file.path))
    configs = _configs(folder, DatasetInfo.read(folder), [file.path for file in files])
    _refuse_what_the_hub_does(files, repo_id, folder)
    return UploadManifest(folder=folder, repo_type="dataset", format=DATASET_FORMAT, configs=configs, files=files)


def _of_hyperrep(kind: FolderKind, folder: Path, repo_id: str) -> UploadManifest:
    """The files of a folder that modelzoo-hyperrep wrote, which says itself of which format it is."""
    found = tuple(sorted(_files(folder), key=lambda file: file.path))
    if missing := [name for name in kind.needs if name not in {file.path for file in found}]:
        raise FormatError(f"{folder} is incomplete: it has no {missing[0]}; make it again with {kind.maker}")
    # Models that lie in folders of their own are repos of their own.
    files = tuple(file for file in found if "/" not in file.path)
    _refuse_what_the_hub_does(files, repo_id, folder)
    return UploadManifest(
        folder=folder, repo_type=kind.repo_type, format=kind.format_of(folder), configs=(), files=files, what=kind.what
    )


def _files(folder: Path) -> Iterator[LocalFile]:
    """All files but hidden ones, which no part of the formats has."""
    for source in folder.rglob("*"):
        path = source.relative_to(folder)
        if source.is_file() and not any(part.startswith(".") for part in path.parts):
            yield LocalFile(path.as_posix(), source, source.stat().st_size)


def _configs(folder: Path, info: DatasetInfo, paths: list[str]) -> tuple[str, ...]:
    """The configs that the card names, all of whose files are there."""
    for name in (CARD, "layout.json"):
        if name not in paths:
            raise FormatError(f"{folder} is incomplete: it has no {name}; {_REMEDY}")
    entries = _entries(folder / CARD)
    names = tuple(str(entry["config_name"]) for entry in entries)
    for name in names:
        refuse_config_name(name, folder)
    for config in info.configs:
        if missing := [name for name in (config, f"{config}_index") if name not in names]:
            raise FormatError(f"{folder} is incomplete: its {CARD} has no config {missing[0]!r}; {_REMEDY}")
    for entry in entries:
        for part in entry["data_files"]:
            _refuse_missing_shards(folder, str(part["path"]), paths)
    for config, zoo in info.configs.items():
        if zoo.weights == "files":
            _refuse_missing_weights(folder, config, paths)
    return names


def refuse_config_name(name: str, folder: Path) -> None:
    """Raise FormatError for what is no name of a config to the Hub, found in this folder."""
    if name.startswith(".") or not is_config_name_on_hub(name):
        raise FormatError(
            f"{folder}: the Hub refuses {name!r} as the name of a config (none of < > : / \\ | ? *, no leading "
            "dot, not 'data'); name it otherwise in the recipe"
        )


def _entries(card: Path) -> list[dict[str, Any]]:
    """`configs:` of a card's header; raises FormatError where it has none that `datasets` could read."""
    try:
        header = metadata_load(card)
    except (ValueError, yaml.YAMLError):
        header = None
    entries = header.get("configs") if isinstance(header, dict) else None
    if isinstance(entries, list) and entries and all(_is_entry(entry) for entry in entries):
        return entries
    raise FormatError(f"{card} has no header with the configs of the dataset; {_REMEDY}")


def _is_entry(entry: Any) -> bool:
    files = entry.get("data_files") if isinstance(entry, dict) else None
    return isinstance(files, list) and "config_name" in entry and all("path" in part for part in files)


def _refuse_missing_shards(folder: Path, pattern: str, paths: list[str]) -> None:
    found = [path for path in paths if fnmatchcase(path, pattern)]
    if not found:
        raise FormatError(f"{folder} is incomplete: it has no {pattern}; {_REMEDY}")
    for path in found:
        if shard := _SHARD.fullmatch(path):
            stem, total, suffix = shard[1], int(shard[3]), shard[4]
            wanted = [f"{stem}-{i:05d}-of-{total:05d}{suffix}" for i in range(total)]
            if found != wanted:
                missing = sorted({*wanted} ^ {*found})[0]
                what = "has no" if missing in wanted else "must not have"
                raise FormatError(f"{folder} is incomplete: it {what} {missing}; {_REMEDY}")


def _refuse_missing_weights(folder: Path, config: str, paths: list[str]) -> None:
    """Of a config whose weights are in files beside its tables."""
    known = {*paths}
    for path in (path for path in paths if _config_of(path) == config and path.endswith(".parquet")):
        try:
            wanted = pq.read_table(folder / path, columns=["weights_file"], partitioning=None)["weights_file"]
        except (OSError, pa.ArrowException) as error:
            raise FormatError(f"cannot read {folder / path}: {error}; {_REMEDY}") from error
        if missing := [name for name in wanted.unique().to_pylist() if name not in known]:
            raise FormatError(f"{folder} is incomplete: it has no {missing[0]}; {_REMEDY}")


def _refuse_what_the_hub_does(files: tuple[LocalFile, ...], repo_id: str, folder: Path) -> None:
    script = f"{repo_id.split('/')[-1]}.py"
    if any(file.path == script for file in files):
        raise FormatError(f"{folder}: `datasets` refuses a repo with a {script} in it; remove the file")
    if problem := beyond_the_hub([file.path for file in files], folder):
        raise FormatError(f"{problem}; publish it as several datasets, or build it with larger shards")


def beyond_the_hub(paths: Sequence[str], folder: Path, has: str = "has") -> str | None:
    """Where these paths are more files than the Hub takes, in words."""
    if len(paths) > _MOST_FILES:
        return f"{folder} {has} {len(paths):,} files, a repo at most {_MOST_FILES:,}"
    fullest, entries = Counter(str(PurePosixPath(path).parent) for path in paths).most_common(1)[0]
    if entries > _MOST_IN_A_FOLDER:
        return f"{folder / fullest} {has} {entries:,} files, the Hub takes {_MOST_IN_A_FOLDER:,} in a folder"
    return None
