"""The files of a folder to push, checked for completeness and for the rules of the Hub before anything is sent.

The kind of a folder is found out without torch, so that an error in the name of a folder comes at once.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from huggingface_hub import metadata_load

from .._util import file_sha256, is_config_name_on_hub, one_line
from ..errors import FormatError
from ..zoo import DATASET_FORMAT, FormatTag, check_plain_file, is_inside, read_json
from .snippets import name_repo

CARD = "README.md"
ZOO_INFO = "zoo.json"
# Limits of the Hub: files in one folder, and files in a repo, beyond which it slows down.
_MAX_FILES_PER_FOLDER = 10_000
_MAX_FILES = 100_000
_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.[a-z]+)")
_WEIGHTS = re.compile(r"weights/([^/]+)/.+\.safetensors")
_OPTIONAL = re.compile(r"code/[^/]+\.py|splits\.safetensors")  # files that not every dataset has
_BUILD_AGAIN = "build it again with modelzoo-build"


@dataclass(frozen=True)
class FolderKind:
    """A kind of folder that can be pushed; the format in one of its JSON files tells it from others."""

    name: str
    repo_type: str  # on the Hub: dataset or model
    info_file: str  # JSON file with the key `format`
    format_prefix: str
    required: tuple[str, ...]  # other files that it must have
    repair: str  # what to do about an incomplete folder


_MODEL = ("config.json", "model.safetensors")
_TABLE = ("README.md", "samples.parquet")
_TRAIN, _SAMPLE = "make it again with modelzoo-hyperrep train", "make it again with modelzoo-hyperrep sample"
_FILES = (CARD, "layout.json", "images.json")
_DATASET = FolderKind("dataset", "dataset", ZOO_INFO, DATASET_FORMAT, _FILES, _BUILD_AGAIN)
_HYPERREP_KINDS = (
    FolderKind("hyper-representation", "model", "training.json", "modelzoo-hyperrep-", _MODEL, _TRAIN),
    FolderKind("table of samples", "dataset", "samples.json", "modelzoo-samples-", _TABLE, _SAMPLE),
    FolderKind("sampled model", "model", "config.json", "modelzoo-sample-", ("README.md", *_MODEL), _SAMPLE),
)


@dataclass(frozen=True)
class LocalFile:
    """A local file and its path in the repo."""

    path: str  # in the repo, with forward slashes
    source: Path | bytes  # a file, or the content of a card that is written for the repo alone
    size: int  # bytes

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the content, by which the Hub's large file storage names it."""
        return file_sha256(self.source) if isinstance(self.source, Path) else hashlib.sha256(self.source).hexdigest()

    @cached_property
    def git_oid(self) -> str:
        """SHA-1 by which git names the content."""
        data = self.source.read_bytes() if isinstance(self.source, Path) else self.source
        return hashlib.sha1(b"blob %d\0%b" % (len(data), data), usedforsecurity=False).hexdigest()


@dataclass(frozen=True, kw_only=True)
class UploadManifest:
    """The files of a folder that can be pushed as it is."""

    folder: Path
    repo_type: str  # on the Hub: dataset or model
    format: str  # the repo gets a tag of this name
    configs: tuple[str, ...]  # each a folder of shards
    files: tuple[LocalFile, ...]  # sorted by path
    kind: str = "dataset"  # as messages call the folder
    card: str | None = None  # text of the card in the repo, if there is one

    @property
    def size(self) -> int:
        """Total size of all files in bytes."""
        return sum(file.size for file in self.files)

    def find_stale(self, remote_paths: Iterable[str]) -> list[str]:
        """Return the files of an earlier push that this folder does not have.

        They are the shards and weights of its configs, the source of another architecture, and splits of images.
        """
        local_paths = {file.path for file in self.files}
        return [path for path in remote_paths if self._is_written(path) and path not in local_paths]

    def _is_written(self, path: str) -> bool:
        """Tell whether modelzoo-build may write a file of this path for these configs; a user may add others."""
        return _find_config(path) in self.configs or (bool(self.configs) and _OPTIONAL.fullmatch(path) is not None)

    def find_hidden_configs(self, remote_paths: Iterable[str]) -> list[str]:
        """Return the configs of the repo that this folder does not have, so that its card would hide them."""
        return sorted({name for path in remote_paths if (name := _find_config(path))} - {*self.configs})


def _find_config(path: str) -> str | None:
    """Return the config that a file of a repo is a shard of, or contains weights of; None for other files."""
    if weights := _WEIGHTS.match(path):
        return weights[1]
    folder, _, name = path.rpartition("/")
    return folder if folder and "/" not in folder and _SHARD.fullmatch(name) else None


def identify_folder(folder: Path) -> tuple[FolderKind, str]:
    """Return the kind and the format of a folder, complete or not.

    Raises:
        FormatError: The folder does not exist, is of no such kind or of another version.
    """
    for kind in _HYPERREP_KINDS:
        if (folder / kind.info_file).is_file():
            name = FormatTag.read(folder / kind.info_file).format or ""
            if name.startswith(kind.format_prefix):
                return kind, name
    if not (folder / ZOO_INFO).is_file():
        reason = (
            f"it has no {ZOO_INFO}"
            if folder.is_dir()
            else "it is no folder"
            if folder.exists()
            else "it does not exist"
        )
        raise FormatError(f"{folder} is not a dataset folder: {reason}; build one with modelzoo-build")
    if (tag := FormatTag.read(folder / ZOO_INFO).format) != DATASET_FORMAT:
        raise FormatError(
            f"{folder} has format {tag!r}, but modelzoo-push expects {DATASET_FORMAT!r}; build it from its zoo "
            "folders with modelzoo-build"
        )
    return _DATASET, DATASET_FORMAT


def read_manifest(folder: str | Path, repo_id: str, card: str | None = None) -> UploadManifest:
    """Check a folder that modelzoo-build or modelzoo-hyperrep wrote, and list what a push of it would send.

    A dataset folder and a table of sampled models become dataset repos. A hyper-representation and a sampled model
    become model repos. The examples of the card name the repo; the folder itself stays as it is.

    Args:
        folder: The folder.
        repo_id: ORG/NAME of the repo.
        card: Text to publish as the card; by default that of the folder.

    Returns:
        The files, and the type of their repo.

    Raises:
        FormatError: The folder is of no such kind, is incomplete or of another version, or the Hub would reject it.
    """
    folder = Path(folder)
    kind, format_name = identify_folder(folder)
    files, card = _place_card(_list_files(folder), _write_card(folder, kind, repo_id, card))
    if kind is not _DATASET:  # models in folders of their own are repos of their own
        files = tuple(file for file in files if "/" not in file.path)
    paths = [file.path for file in files]
    if missing := [name for name in kind.required if name not in paths]:
        raise FormatError(f"{folder} is incomplete: it has no {missing[0]}; {kind.repair}")
    configs = _read_configs(folder, paths) if kind is _DATASET else ()
    _check_accepted(paths, repo_id, folder)
    return UploadManifest(
        folder=folder,
        repo_type=kind.repo_type,
        format=format_name,
        configs=configs,
        files=files,
        kind=kind.name,
        card=card,
    )


def _write_card(folder: Path, kind: FolderKind, repo_id: str, text: str | None) -> str | None:
    """Return the card for a repo, whose examples name the repo; None for a folder without a card."""
    if text is None and not (folder / CARD).is_file():
        return None
    try:
        text = (folder / CARD).read_text(encoding="utf-8") if text is None else text
    except UnicodeDecodeError as error:
        raise FormatError(f"{folder / CARD} is not UTF-8 text ({error}); {kind.repair}") from error
    info = read_json(folder / kind.info_file) if kind is _DATASET else {}
    former = info.get("repo_id") if isinstance(info, dict) else None
    return name_repo(text, repo_id, kind.repo_type, former if isinstance(former, str) else None)


def _place_card(files: Sequence[LocalFile], card: str | None) -> tuple[tuple[LocalFile, ...], str | None]:
    """Return the files with this card, and the card."""
    if card is None:
        return tuple(files), None
    content = card.encode()
    others = [file for file in files if file.path != CARD]
    return tuple(sorted([*others, LocalFile(CARD, content, len(content))], key=lambda file: file.path)), card


def _list_files(folder: Path) -> tuple[LocalFile, ...]:
    """Return all files, sorted by path, without hidden ones, which are not part of any format.

    Raises:
        FormatError: One is a pipe or a device, or a link that leads out of the folder, whose target is not published.
    """
    files = []
    for source in folder.rglob("*"):
        path = source.relative_to(folder)
        if any(part.startswith(".") for part in path.parts) or (source.is_dir() and not source.is_symlink()):
            continue
        if source.is_dir() and is_inside(source, folder, with_blobs=False):  # the files are listed where they are
            continue
        size = check_plain_file(source, folder, with_blobs=False)
        files.append(LocalFile(path.as_posix(), source, size))
    return tuple(sorted(files, key=lambda file: file.path))


def _read_configs(folder: Path, paths: list[str]) -> tuple[str, ...]:
    """Return the configs that the card lists, after checking that all of their files exist."""
    from ..zoo import DatasetInfo  # here, because it imports torch

    configs = DatasetInfo.read(folder).configs
    entries = read_card_header(folder / CARD)["configs"]
    names = tuple(entry["config_name"] for entry in entries)
    for name in names:
        check_config_name(name, folder)
    for config in configs:
        if missing := [name for name in (config, f"{config}_index") if name not in names]:
            raise FormatError(f"{folder} is incomplete: its {CARD} has no config {missing[0]!r}; {_BUILD_AGAIN}")
    for entry in entries:
        for part in entry["data_files"]:
            _check_shards(folder, part["path"], paths)
    for config, zoo in configs.items():
        if zoo.weights == "files":
            _check_weight_files(folder, config, paths)
    return names


def check_config_name(name: str, folder: Path) -> None:
    """Check that the Hub and `datasets` accept the name of a config.

    Raises:
        FormatError: They do not; the message names the folder that the config is in.
    """
    if name.startswith(".") or not name.isprintable() or not is_config_name_on_hub(name):
        raise FormatError(
            f"{folder}: the Hub does not accept {name!r} as the name of a config: it must not contain any of "
            "< > : / \\ | ? *, begin with a dot or be 'data'; rename the config in its recipe"
        )


def read_card_header(card: Path) -> dict[str, Any]:
    """Return the YAML header of a card, whose `configs` are as `datasets` reads them.

    Raises:
        FormatError: There is no such header, or it lists no configs with their files.
    """
    try:
        header: Any = metadata_load(card)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise FormatError(f"{card} has no YAML header that can be read ({one_line(error)}); {_BUILD_AGAIN}") from error
    entries = header.get("configs") if isinstance(header, dict) else None
    if not isinstance(header, dict) or not isinstance(entries, list) or not entries or not all(map(_is_entry, entries)):
        raise FormatError(f"{card} has no YAML header with `configs` and their `data_files`; {_BUILD_AGAIN}")
    return header


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("config_name"), str):
        return False
    parts = entry.get("data_files")
    return isinstance(parts, list) and all(
        isinstance(part, dict) and all(isinstance(part.get(key), str) for key in ("split", "path")) for part in parts
    )


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
    import pyarrow as pa

    from ..zoo import open_parquet, read_footers  # here, because they import pyarrow

    existing, footers = {*paths}, read_footers(folder)
    for path in (path for path in paths if _find_config(path) == config and path.endswith(".parquet")):
        try:
            with open_parquet(folder / path, footers.get(path)) as file:
                column = file.read(columns=["weights_file"])["weights_file"]
        except (OSError, pa.ArrowException, FormatError) as error:
            raise FormatError(f"cannot read {folder / path}: {one_line(error)}; {_BUILD_AGAIN}") from error
        if missing := [name for name in column.unique().to_pylist() if name not in existing]:
            raise FormatError(f"{folder} is incomplete: it has no {missing[0]}; {_BUILD_AGAIN}")


def _check_accepted(paths: Sequence[str], repo_id: str, folder: Path) -> None:
    if (script := f"{repo_id.split('/')[-1]}.py") in paths:
        raise FormatError(f"{folder}: `datasets` does not load a repo that contains {script}; delete this file")
    check_file_counts(paths, folder, "publish it as several datasets, or build it with larger shards")


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
