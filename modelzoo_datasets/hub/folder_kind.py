"""What modelzoo-hyperrep writes and modelzoo-push takes: told apart by the file that names the format."""

from dataclasses import dataclass
from pathlib import Path

from ..zoo import FormatTag


@dataclass(frozen=True)
class FolderKind:
    """A kind of folder: the file that names its format, and what else it must hold."""

    what: str
    repo_type: str
    facts: str  # JSON with the key `format`
    formats: str  # how its formats begin
    needs: tuple[str, ...]
    maker: str

    def is_of(self, folder: Path) -> bool:
        """Whether a folder is of this kind, complete or not."""
        if not (folder / self.facts).is_file():
            return False
        return str(FormatTag.read(folder / self.facts).format).startswith(self.formats)

    def format_of(self, folder: Path) -> str:
        """The version that its facts name."""
        return str(FormatTag.read(folder / self.facts).format)


_MODEL = ("config.json", "model.safetensors")
_KINDS = (
    FolderKind(
        "hyper-representation", "model", "training.json", "modelzoo-hyperrep-", _MODEL, "modelzoo-hyperrep train"
    ),
    FolderKind(
        "table of samples",
        "dataset",
        "samples.json",
        "modelzoo-samples-",
        ("README.md", "samples.parquet"),
        "modelzoo-hyperrep sample",
    ),
    FolderKind(
        "sampled model",
        "model",
        "config.json",
        "modelzoo-sample-",
        ("README.md", *_MODEL),
        "modelzoo-hyperrep sample",
    ),
)


def kind_of(folder: Path) -> FolderKind | None:
    """The kind of a folder, None for what modelzoo-hyperrep has not written; FormatError for broken JSON."""
    return next((kind for kind in _KINDS if kind.is_of(folder)), None)
