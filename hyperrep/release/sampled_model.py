"""A sampled model as a plain module, from its folder or from the Hub."""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from modelzoo_datasets._util import one_line
from modelzoo_datasets.architectures import get_architecture
from modelzoo_datasets.errors import FormatError
from modelzoo_datasets.hub import download_files, parse_repo_id
from modelzoo_datasets.zoo import read_json

SAMPLE_FORMAT = "modelzoo-sample-1"
FILES = ("config.json", "model.safetensors")


class SampledModel:
    """The counterpart of `modelzoo-hyperrep sample`: what it wrote, or what was pushed of it, is loaded back."""

    @classmethod
    def from_pretrained(cls, source: str | Path, *, revision: str | None = None) -> nn.Module:
        """The network, a plain module in eval mode; every tensor must be there, and no other.

        Args:
            source: the folder of one sample, or a model repo such as `modelzoos/kde-0000`.
            revision: a branch, tag or commit of the repo; main if not given.

        Raises:
            FormatError: the source is no sampled model, or its tensors are not those of its architecture.
            HubError: the repo is not there, may not be seen, or cannot be reached and is not in the cache.
        """
        folder, config = cls._read(source, revision)
        module = get_architecture(config["architecture"]).module(config["activation"], config["dropout"])
        try:
            module.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
        except (OSError, SafetensorError, RuntimeError) as error:
            raise FormatError(f"cannot load sampled model {source}: {one_line(error)}") from error
        return module.eval()

    @classmethod
    def config(cls, source: str | Path, *, revision: str | None = None) -> dict[str, Any]:
        """What config.json says: architecture, lineage, novelty, and what was measured."""
        return cls._read(source, revision)[1]

    @staticmethod
    def _read(source: str | Path, revision: str | None) -> tuple[Path, dict[str, Any]]:
        repo_id = parse_repo_id(source)
        if repo_id is None and revision is not None:
            raise FormatError(f"{source} is a folder, which has no revision {revision!r}")
        folder = (
            Path(source) if repo_id is None else download_files(repo_id, FILES, revision=revision, repo_type="model")
        )
        found = read_json(folder / "config.json") if (folder / "config.json").is_file() else None
        if not isinstance(found, dict) or found.get("format") != SAMPLE_FORMAT:
            raise FormatError(
                f"{source} is no sampled model of format {SAMPLE_FORMAT!r}; modelzoo-hyperrep sample writes them"
            )
        return folder, found
