"""Hyper-representations in and out: config.json, `from_pretrained`, `save_pretrained` and `push_to_hub`, with a card.

Both a folder that `modelzoo-hyperrep train` wrote and one that `save_pretrained` wrote hold config.json and
model.safetensors, and so does the model repo that either is pushed to. config.json has the layout and the symmetry of
the networks' weights, so that nobody needs to have registered their architecture.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import jinja2
import torch
from huggingface_hub import DatasetCardData, ModelCard, ModelCardData, PyTorchModelHubMixin
from torch import nn

from modelzoo_datasets._util import one_line
from modelzoo_datasets.errors import FormatError
from modelzoo_datasets.hub import download_files, name_repo, parse_repo_id
from modelzoo_datasets.weights import Layout, Symmetry, symmetry_from_json, symmetry_to_json
from modelzoo_datasets.zoo import SafetensorsHeader, read_json, read_tensors

from ..json_record import JsonRecord

_BLOCK = re.compile(r"encoder\.layers\.(\d+)\..*")
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
HYPERREP_FORMAT = "modelzoo-hyperrep-2"
OLD_FORMAT = "modelzoo-hyperrep-1"  # without layout and symmetry, which are those of the registered architecture
LIBRARY, _TAGS = "modelzoo-datasets", ["hyper-representation", "neural-network-weights", "weight-space-learning"]
UNKNOWN = "unknown"  # the Hub's word for a licence that nobody named
_COUNTS = ("width", "blocks", "heads", "feedforward", "num_states")  # each is 1 or more
_NOT_SIZES = ("format", "layout", "symmetry")  # keys of config.json since format 2
_MAX_SIZE = 2**31  # no dimension of a network is larger


@dataclass(frozen=True, kw_only=True)
class RepresentationConfig(JsonRecord):
    """Networks and sizes of a hyper-representation (2209.14733, section 3).

    Example:
        >>> from hyperrep import HyperRepresentation, RepresentationConfig
        >>> sizes = {"width": 16, "blocks": 1, "heads": 2, "feedforward": 32, "bottleneck": "dense", "latent": 8}
        >>> config = RepresentationConfig(architecture="cnn-s", activation="tanh", dropout=0.0, num_states=1, **sizes)
        >>> HyperRepresentation(config).latent_dim
        8
    """

    ALIASES: ClassVar[Mapping[str, str]] = {"states": "num_states", "pooled": "pooled_dim", "unit": "token_scale"}

    architecture: str  # name of the networks' architecture
    activation: str  # activation of the networks
    dropout: float  # dropout of the networks
    width: int  # embedding dimension of the transformers
    blocks: int  # the encoder has so many, and so has the decoder
    heads: int
    feedforward: int
    bottleneck: str  # "dense" or "tokens", see `ModelRecipe`
    latent: float  # dense: size of the latent; tokens: size of a token's part as a fraction of the token's length
    num_states: int  # training states
    aligned: bool = True  # align weights to the reference before encoding
    signs: bool = False  # align signs too
    center: bool = True  # subtract the mean of the training states before encoding
    pooled_dim: int = 0  # latent numbers from mean and standard deviation of each layer's tokens
    statistics: bool = False  # append s(W), the statistics of the layers, to the latent vector
    token_scale: float = 1.0  # factor of the token part of z
    ranked_by: str = "validation"  # accuracy that the best states are chosen by: validation, train or nothing
    layout: Layout | None = None  # how the networks' weights lie; None for that of the registered architecture
    symmetry: Symmetry | None = None  # that weights are aligned by; None for that of the registered architecture

    @classmethod
    def from_json(cls, values: Any) -> Self:
        """Read config.json of this format, or of the one before it, which has neither layout nor symmetry."""
        if not isinstance(values, Mapping) or values.keys().isdisjoint(_NOT_SIZES):
            return super().from_json(values)
        sizes = {key: value for key, value in values.items() if key not in _NOT_SIZES}
        if (name := values.get("format")) != HYPERREP_FORMAT:
            raise FormatError(
                f"config.json: expected format {HYPERREP_FORMAT!r}, got {str(name)[:80]!r}; a later release may have "
                "written it: pip install -U modelzoo-datasets"
            )
        layout = Layout.from_json(values.get("layout", []))
        symmetry = symmetry_from_json(values.get("symmetry"), layout)
        return replace(super().from_json(sizes), layout=layout, symmetry=symmetry)

    def to_json(self) -> dict[str, Any]:
        """Return the content of config.json."""
        values = {**super().to_json(), "layout": None, "symmetry": None}
        if self.layout is not None and self.symmetry is not None:
            values |= {"layout": self.layout.to_json(), "symmetry": symmetry_to_json(self.symmetry)}
        return {"format": HYPERREP_FORMAT, **values}

    def check_numbers(self) -> None:
        """Check that a configuration from a file has numbers where sizes must be; raises FormatError."""
        for name in _COUNTS:
            if type(value := getattr(self, name)) is not int or not 1 <= value < _MAX_SIZE:
                raise FormatError(f"config.json: {name} must be a whole number from 1, got {value!r}")
        if type(self.pooled_dim) is not int or not 0 <= self.pooled_dim < _MAX_SIZE:
            raise FormatError(f"config.json: pooled must be a whole number from 0, got {self.pooled_dim!r}")
        if type(self.latent) not in (int, float) or not 0 < self.latent < _MAX_SIZE:
            raise FormatError(f"config.json: latent must be a number above 0, got {self.latent!r}")
        check_network(self.architecture, self.activation, self.dropout)
        if self.width % self.heads:
            raise FormatError(f"config.json: width {self.width} must be a multiple of heads {self.heads}")


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
        folder = locate_files(source, [CONFIG_FILE, WEIGHTS_FILE], revision=revision)
        if not folder.is_dir():
            raise FormatError(f"there is no folder {source}; expected a folder of modelzoo-hyperrep train, or ORG/NAME")
        try:
            config = RepresentationConfig.from_json(read_json(folder / CONFIG_FILE))
            config.check_numbers()
            header = SafetensorsHeader.read(folder / WEIGHTS_FILE)
            if config.layout is not None:
                _check_layout(config.layout, header)
            _check_blocks(config.blocks, header)  # first, because even modules without memory take time
            build: Any = partial(cls, config)
            check_tensors(build, header, strict=strict)
            rep = build()
            rep.load_state_dict(read_tensors(folder / WEIGHTS_FILE), strict=strict)
        except (FormatError, RuntimeError, TypeError, AssertionError) as error:
            raise FormatError(f"cannot read hyper-representation {source}: {one_line(error)}") from error
        rep.eval()
        return cast(Self, rep)

    def _save_pretrained(self, save_directory: Path) -> None:
        """Write config.json under the keys of files, and the weights; the mixin adds the card."""
        rep: Any = self
        (save_directory / CONFIG_FILE).write_text(json.dumps(rep.config.to_json(), sort_keys=True, indent=2))
        super()._save_pretrained(save_directory)

    def generate_model_card(
        self,
        *,
        repo_id: str | None = None,
        text: str | None = None,
        license: str | None = None,
        datasets: Sequence[str] = (),
    ) -> ModelCard:
        """Return the README.md of this hyper-representation.

        Args:
            repo_id: ORG/NAME for the example; None for an example that runs in the folder itself.
            text: Markdown below the example: origin and results; by default only what the model itself knows.
            license: license of the training data, in the Hub's words.
            datasets: repos of the Hub that it was trained on.
        """
        rep: Any = self
        data = ModelCardData(license=license or UNKNOWN, library_name=LIBRARY, tags=_TAGS, datasets=[*datasets] or None)
        values = {"rep": rep, "text": text, "sizes": rep.describe_sizes()}
        card = make_card(data, render_template("hyperrep.model", "representation.md.j2", **values))
        return card if repo_id is None else ModelCard(name_repo(str(card), repo_id, "model"))

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Push config, weights and a card whose example names the repo.

        Args:
            repo_id: ORG/NAME of the model repo.
            **options: those of `huggingface_hub.PyTorchModelHubMixin.push_to_hub`.

        Returns:
            The URL of the commit.
        """
        card = {"repo_id": repo_id, **(options.pop("model_card_kwargs", None) or {})}
        return str(super().push_to_hub(repo_id, model_card_kwargs=card, **options))


def locate_files(
    source: str | Path, patterns: Sequence[str], *, revision: str | None = None, repo_type: str = "model"
) -> Path:
    """Return a local folder as it is, or the folder that the files of a repo of the Hub are downloaded to.

    Args:
        source: a folder, or a repo such as ORG/NAME.
        patterns: patterns of the files to download.
        revision: branch, tag or commit of the repo; its main branch by default.
        repo_type: "model" or "dataset".

    Raises:
        FormatError: the source is a folder, and a revision is given.
        HubError: the repo does not exist, may not be read, or cannot be reached and is not in the cache.
    """
    repo_id = parse_repo_id(source)
    if repo_id is not None:
        return download_files(repo_id, patterns, revision=revision, repo_type=repo_type)
    if revision is not None:
        raise FormatError(f"{source} is a folder and has no revision {revision!r}; leave out `revision`")
    return Path(source)


def render_template(package: str, file: str, /, **values: Any) -> str:
    """Render a template of Jinja.

    Args:
        package: package that holds the template.
        file: its file name.
        **values: its variables.
    """
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string((files(package) / file).read_text(encoding="utf-8")).render(**values)


def make_card(data: ModelCardData | DatasetCardData, text: str) -> ModelCard:
    """Return a card for the Hub: metadata, and the text below."""
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text.rstrip()}\n")


def _check_layout(layout: Layout, header: SafetensorsHeader) -> None:
    """Raise FormatError unless a layout has as many numbers as the mean of the training states in a file."""
    shape = header.tensors["mean"].shape if "mean" in header.tensors else None
    if shape != (layout.size,):
        raise FormatError(f"config.json has a layout of {layout.size:,} weights, but their mean has the shape {shape}")


def check_network(architecture: Any, activation: Any, dropout: Any) -> None:
    """Check what a config.json says of networks.

    Args:
        architecture: A name.
        activation: A name, empty where it is not recorded.
        dropout: A number from 0 to 1.

    Raises:
        FormatError: A value is not of its kind.
    """
    if not isinstance(architecture, str):
        raise FormatError(f"config.json: architecture must be a name, got {architecture!r}")
    if not isinstance(activation, str) or type(dropout) not in (int, float) or not 0 <= dropout <= 1:
        values = f"{activation!r} and {dropout!r}"
        raise FormatError(f"config.json: activation must be a name and dropout a number from 0 to 1, got {values}")


def _check_blocks(num_blocks: int, header: SafetensorsHeader) -> None:
    """Raise FormatError unless a configuration has as many blocks as the file with this header."""
    blocks = len({match[1] for name in header.tensors if (match := _BLOCK.fullmatch(name))})
    if num_blocks != blocks:
        raise FormatError(f"config.json says {num_blocks:,} blocks, but the weights have {blocks:,}")


def check_tensors(build: Callable[[], nn.Module], header: SafetensorsHeader, *, strict: bool = True) -> None:
    """Check that the tensors of a configuration are those of a file, before memory is taken for them.

    A network of a width of 20,000 must not take memory because a small text file says so.

    Args:
        build: Builds the module of the configuration; it is called on the meta device, which has no memory.
        header: The header of the file.
        strict: Refuse tensors that are missing or superfluous.

    Raises:
        FormatError: A tensor has another shape, is missing or superfluous.
    """
    with torch.device("meta"):
        expected = {name: tuple(tensor.shape) for name, tensor in build().state_dict().items()}
    _compare_shapes(expected, {name: entry.shape for name, entry in header.tensors.items()}, strict=strict)


def _compare_shapes(
    expected: Mapping[str, tuple[int, ...]], shapes: Mapping[str, tuple[int, ...]], *, strict: bool
) -> None:
    for name, shape in expected.items():
        if name not in shapes and strict:
            raise FormatError(f"the weights have no tensor {name}, which config.json asks for")
        if shapes.get(name, shape) != shape:
            raise FormatError(f"config.json asks for {name} of shape {shape}, but the weights have {shapes[name]}")
    if strict and (extra := next((name for name in shapes if name not in expected), None)) is not None:
        raise FormatError(f"the weights have a tensor {extra}, which config.json does not ask for")
