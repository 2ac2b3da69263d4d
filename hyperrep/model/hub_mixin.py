"""Hyper-representations in and out: `from_pretrained`, `save_pretrained` and `push_to_hub`, with a card.

Both a folder that `modelzoo-hyperrep train` wrote and one that `save_pretrained` wrote hold config.json and
model.safetensors, and so does the model repo that either is pushed to.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self, cast

from huggingface_hub import ModelCard, ModelCardData, PyTorchModelHubMixin

from modelzoo_datasets._util import one_line
from modelzoo_datasets.errors import FormatError
from modelzoo_datasets.hub import download_files, parse_repo_id
from modelzoo_datasets.zoo import read_json, read_tensors

from .representation_config import RepresentationConfig

if TYPE_CHECKING:
    from .autoencoder import HyperRepresentation

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
THIS_FOLDER = "."  # name on a card whose example runs in the folder of the card
_LIBRARY, _TAGS = "modelzoo-datasets", ["hyper-representation", "neural-network-weights", "weight-space-learning"]
_UNKNOWN = "unknown"  # the Hub's word for a licence that nobody named


class HubMixin(PyTorchModelHubMixin):
    """The Hub's mixin with strict loading, our errors, and a card that says what the model is."""

    @classmethod
    def from_pretrained(  # type: ignore[override]  # fewer options than the mixin's: the client's own settings hold
        cls, pretrained_model_name_or_path: str | Path, *, revision: str | None = None, strict: bool = True
    ) -> Self:
        """Load a hyper-representation from a folder or from a model repo of the Hub.

        Args:
            pretrained_model_name_or_path: a folder with config.json and model.safetensors, or a repo such as ORG/NAME.
            revision: branch, tag or commit of the repo; its main branch by default.
            strict: refuse tensors that are missing or superfluous.

        Returns:
            The hyper-representation on the CPU, in eval mode.

        Raises:
            FormatError: the source holds no hyper-representation, or its tensors do not fit its configuration.
            HubError: the repo does not exist, may not be read, or cannot be reached and is not in the cache.
        """
        source = pretrained_model_name_or_path
        repo_id = parse_repo_id(source)
        if repo_id is None and revision is not None:
            raise FormatError(f"{source} is a folder and has no revision {revision!r}; leave out `revision`")
        files = [CONFIG_FILE, WEIGHTS_FILE]
        folder = (
            Path(source) if repo_id is None else download_files(repo_id, files, revision=revision, repo_type="model")
        )
        if not folder.is_dir():
            raise FormatError(f"there is no folder {source}; expected a folder of modelzoo-hyperrep train, or ORG/NAME")
        try:
            rep = cls(RepresentationConfig.from_json(read_json(folder / CONFIG_FILE)))
            rep.load_state_dict(read_tensors(folder / WEIGHTS_FILE), strict=strict)  # type: ignore[attr-defined]
        except (FormatError, RuntimeError, TypeError, AssertionError) as error:
            raise FormatError(f"cannot read hyper-representation {source}: {one_line(error)}") from error
        rep.eval()  # type: ignore[attr-defined]
        return rep

    def _save_pretrained(self, save_directory: Path) -> None:
        """Write config.json under the keys of files, and the weights; the mixin adds the card."""
        config = cast("HyperRepresentation", self).config.to_json()
        (save_directory / CONFIG_FILE).write_text(json.dumps(config, sort_keys=True, indent=2))
        super()._save_pretrained(save_directory)

    def generate_model_card(
        self,
        *,
        name: str = THIS_FOLDER,
        text: str | None = None,
        license: str | None = None,
        datasets: Sequence[str] = (),
    ) -> ModelCard:
        """Return the README.md of this hyper-representation.

        Args:
            name: ORG/NAME, or "." for an example that runs in the folder itself.
            text: Markdown below the example: origin and results; by default only what the model itself knows.
            license: license of the training data, in the Hub's words.
            datasets: repos of the Hub that it was trained on.
        """
        rep = cast("HyperRepresentation", self)
        data = ModelCardData(
            license=license or _UNKNOWN, library_name=_LIBRARY, tags=_TAGS, datasets=list(datasets) or None
        )
        text = f"{markdown_table(describe_sizes(rep))}\n\n{_SAVED_FROM_MEMORY}" if text is None else text
        return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{_introduction(rep, name)}\n\n{text}\n")


_SAVED_FROM_MEMORY = """\
It was saved by `save_pretrained` or `push_to_hub`, which know neither the dataset nor the recipe that it was trained
with, and its samples were not evaluated. `modelzoo-push` publishes the folder that `modelzoo-hyperrep train` wrote,
with all of that on its card."""


def _introduction(rep: "HyperRepresentation", name: str) -> str:
    return f"""# A hyper-representation of {rep.architecture.name}

An auto-encoder of the weights of a model zoo (Schürholt et al., NeurIPS 2022, arXiv:2209.14733). It encodes the
{rep.layout.size:,} weights of a network as one vector of {rep.latent_dim:,} numbers, and decodes such vectors, also
ones drawn around its training embeddings, to new networks.

```python
import torch
from hyperrep import HyperRepresentation

rep = HyperRepresentation.from_pretrained("{name}", strict=True)  # a folder, or ORG/NAME on the Hub
generator = torch.Generator().manual_seed(0)
weights = rep.sample(10, sampler="kde", top_fraction=0.3, generator=generator)  # (10, {rep.layout.size})
z = rep.encode(weights)  # (10, {rep.latent_dim})
network = rep.architecture.module(rep.activation, rep.dropout)  # a plain torch.nn.Module
network.load_state_dict(rep.layout.unpack(weights[0]))
```"""


def describe_sizes(rep: "HyperRepresentation") -> dict[str, str]:
    """Return what a hyper-representation knows of itself: its networks, training states and size, as rows of a card."""
    return {
        "networks": f"`{rep.architecture.name}`, activation {rep.activation}, {rep.layout.size:,} weights",
        "training states": f"{len(rep.accuracy):,}",
        "auto-encoder": f"{sum(p.numel() for p in rep.parameters()):,} parameters, {rep.latent_dim:,} latent numbers",
    }


def markdown_table(rows: Mapping[str, str]) -> str:
    """Return a Markdown table of two columns without a header."""
    return "\n".join(["|  |  |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows.items())])
