"""Sampled models: loading, and the content of config.json, samples.json and samples.parquet."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa
from torch import Tensor, nn

from modelzoo_datasets._util import one_line
from modelzoo_datasets.architectures import find_registered
from modelzoo_datasets.errors import FormatError, RecipeError
from modelzoo_datasets.plugins import use_plugin
from modelzoo_datasets.weights import Layout
from modelzoo_datasets.zoo import SafetensorsHeader, hash_weights, read_json, read_tensors

from ..json_record import JsonRecord
from ..model import CONFIG_FILE, WEIGHTS_FILE, check_network, check_tensors, locate_files

SAMPLE_FORMAT = "modelzoo-sample-1"
SAMPLES_FORMAT = "modelzoo-samples-2"
_FILES = (CONFIG_FILE, WEIGHTS_FILE)


@dataclass(frozen=True, kw_only=True)
class Lineage(JsonRecord):
    """Origin of a sample: hyper-representation, sampler and its options, parent zoo; None for unknown values."""

    ALIASES: ClassVar[Mapping[str, str]] = {
        "promise": "description",
        "quality": "top_fraction",
        "zoo": "zoo_repo",
        "hyperrep": "hyperrep_repo",
    }

    sampler: str
    description: str  # what the sampler draws
    top_fraction: float
    bandwidth: float
    sigma: float  # option of the sampler `noise`
    share: float  # option of the sampler `move`
    seed: int
    zoo_repo: str | None = None
    zoo_config: str
    zoo_revision: str | None = None
    license: str | None = None  # that of the zoo, in the Hub's words
    states_sha256: str  # hash of all states of the zoo
    hyperrep_repo: str | None = None
    hyperrep_revision: str | None = None
    hyperrep_sha256: str  # hash of its model.safetensors

    @property
    def option(self) -> str:
        """Name of the option that the sampler uses beside `top_fraction`; empty where it uses none."""
        options = {"noise": "sigma", "move": "share"}
        return options.get(self.sampler, "bandwidth" if self.sampler.startswith("kde") else "")


@dataclass(frozen=True, kw_only=True)
class NearestState(JsonRecord):
    """The training state that is nearest to a sample."""

    distance: float  # in layer standard deviations, root mean square over the weights, after alignment
    index: int | None  # number among the training states; known without the dataset
    model_id: str | None  # known with the dataset
    epoch: int | None
    measured_on_weights: bool  # False: measured on decoded training states


@dataclass(frozen=True, kw_only=True)
class SampleMetrics(JsonRecord):
    """Measurements of a sample on the test images of the parent zoo."""

    ALIASES: ClassVar[Mapping[str, str]] = {"error_similarity": "error_overlap"}
    IGNORES_UNKNOWN: ClassVar[bool] = True

    images: str  # name of the image dataset
    zero_shot: float  # test accuracy, a fraction
    error_overlap: float  # intersection over union of the errors with the most similar training state
    tuned: Mapping[str, float] = field(default_factory=dict)  # epochs of fine-tuning -> test accuracy after them

    def to_json(self) -> dict[str, Any]:
        """Return plain values under the keys of the file, without fine-tuning where there was none."""
        return {key: value for key, value in super().to_json().items() if value != {}}


@dataclass(frozen=True, kw_only=True)
class SampleInfo(JsonRecord):
    """One sampled model: its architecture, its origin, its novelty and its measurements."""

    ALIASES: ClassVar[Mapping[str, str]] = {"measured": "metrics"}
    IGNORES_UNKNOWN: ClassVar[bool] = True

    architecture: str
    activation: str
    dropout: float
    number: int  # among the samples of one call
    lineage: Lineage
    nearest: NearestState
    metrics: SampleMetrics | None  # None: not measured

    @property
    def name(self) -> str:
        """Name of the folder."""
        return f"{self.lineage.sampler}-{self.number:04d}"

    @classmethod
    def read(cls, folder: Path, source: str | Path) -> Self:
        """Read config.json of a sample; `source` is the name of the folder in messages.

        Raises:
            FormatError: the folder holds no sample of this format, or a malformed one.
        """
        path = folder / CONFIG_FILE
        values = read_json(path) if path.is_file() else None
        if not isinstance(values, dict) or values.get("format") != SAMPLE_FORMAT:
            raise FormatError(
                f"{source} is not a sampled model of format {SAMPLE_FORMAT!r}; modelzoo-hyperrep sample writes them"
            )
        try:
            info = cls.from_json({**values, "measured": values["measured"] or None})
            check_network(info.architecture, info.activation, info.dropout)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            reason = one_line(error) if isinstance(error, FormatError) else repr(error)
            raise FormatError(f"{source}: config.json is malformed ({reason}); draw the sample again") from error
        return info

    def to_json(self) -> dict[str, Any]:
        """Return plain values under the keys of the file."""
        measured = {} if self.metrics is None else self.metrics.to_json()
        return {"format": SAMPLE_FORMAT, **super().to_json(), "measured": measured}

    def to_table_json(self, layout: Layout) -> dict[str, Any]:
        """Return samples.json: the values that all samples of one call share, and the layout of their weights."""
        shared = {key: value for key, value in self.to_json().items() if key not in ("number", "nearest", "measured")}
        return {**shared, "format": SAMPLES_FORMAT, "layout": layout.to_json()}


def make_table(weights: Tensor, z: Tensor, samples: Sequence[SampleInfo]) -> pa.Table:
    """Return samples.parquet, a row per sample: origin, novelty, metrics, embedding and weights.

    Args:
        weights: weights (n, P).
        z: embeddings (n, D).
        samples: what is known of each sample.
    """
    metrics, nearest = [info.metrics for info in samples], [info.nearest for info in samples]
    columns: dict[str, Any] = {
        "sample": pa.array([info.name for info in samples]),
        "sampler": pa.array([info.lineage.sampler for info in samples]),
        "seed": pa.array([info.lineage.seed for info in samples], pa.int64()),
        "distance": pa.array([state.distance for state in nearest], pa.float64()),
        "nearest_model_id": pa.array([state.model_id for state in nearest], pa.string()),
        "nearest_epoch": pa.array([state.epoch for state in nearest], pa.int32()),
        "error_similarity": pa.array([m and m.error_overlap for m in metrics], pa.float64()),
        "test_acc": pa.array([m and m.zero_shot for m in metrics], pa.float64()),
        "tuned_epochs": pa.array([m and next(map(int, m.tuned), None) for m in metrics], pa.int32()),
        "tuned_test_acc": pa.array([m and next(iter(m.tuned.values()), None) for m in metrics], pa.float64()),
        "lineage": pa.array([json.dumps(info.lineage.to_json(), sort_keys=True) for info in samples]),
        "sha256": pa.array([hash_weights(row) for row in weights]),
        "z": _make_lists(z),
        "weights": _make_lists(weights),
    }
    return pa.table(columns)


def _make_lists(rows: Tensor) -> pa.FixedSizeListArray:
    """Return float32 rows (n, K) as fixed-size lists whose numbers cannot be null."""
    flat = pa.array(np.ascontiguousarray(rows.numpy()).reshape(-1), pa.float32())
    kind = pa.list_(pa.field("element", pa.float32(), nullable=False), rows.shape[1])
    return pa.FixedSizeListArray.from_arrays(flat, type=kind)


def load_sample(
    source: str | Path,
    module: nn.Module | None = None,
    *,
    revision: str | None = None,
    plugin: str | Path | None = None,
) -> nn.Module:
    """Load a sampled model that `modelzoo-hyperrep sample` wrote, or that was pushed to the Hub.

    Args:
        source: the folder of one sample, or a model repo such as `modelzoos/kde-0000`.
        module: module to load the weights into; built by the registered architecture if None.
        revision: a branch, tag or commit of the repo; main by default.
        plugin: a Python file that registers the architecture. It is run, so name only files that you trust; no sample
            runs code by itself.

    Returns:
        A plain module in eval mode.

    Raises:
        FormatError: the source is not a sampled model, or its tensors are not those of the module.
        PluginError: the plugin does not exist, or its import fails.
        RecipeError: no module was passed, and the architecture is not registered, or needs an activation that is not
            recorded.
        HubError: the repo does not exist, may not be read, or cannot be reached and is not cached.

    Example:
        >>> import dataclasses
        >>> import torch
        >>> from hyperrep import load_sample, read_hyper_recipe, train
        >>> from hyperrep.release import SampleRequest, export_samples
        >>> recipe = read_hyper_recipe("demo")
        >>> short = dataclasses.replace(
        ...     recipe.learning, epochs=1, batch_size=16, functional_weight=0.0, mixed_functional_weight=0.0
        ... )
        >>> data = dataclasses.replace(recipe.data, epochs=(1, 2))
        >>> rep = train(dataset, dataclasses.replace(recipe, data=data, learning=short), out / "hyperrep")
        >>> export_samples(out / "hyperrep", out / "samples", SampleRequest(n=1, sampler="normal"))
        True
        >>> network = load_sample(out / "samples" / "normal-0000")
        >>> network(torch.zeros(5, 1, 28, 28)).shape
        torch.Size([5, 10])
    """
    if plugin is not None:
        use_plugin(Path(plugin))
    folder = locate_files(source, _FILES, revision=revision)
    info = SampleInfo.read(folder, source)
    try:
        if module is None:
            build = _find_builder(info)
            check_tensors(build, SafetensorsHeader.read(folder / WEIGHTS_FILE))
            module = build()
        module.load_state_dict(read_tensors(folder / WEIGHTS_FILE), strict=True)
    except (FormatError, RuntimeError) as error:
        raise FormatError(f"cannot load sampled model {source}: {one_line(error)}") from error
    return module.eval()


def _find_builder(info: SampleInfo) -> Callable[[], nn.Module]:
    if (architecture := find_registered(info.architecture)) is None:
        raise RecipeError(
            f"architecture {info.architecture!r} is not registered, so that only its tensors are known: pass your own "
            "module, load_sample(source, module), or name a file that registers it, load_sample(source, plugin=FILE); "
            f"safetensors.torch.load_file reads the tensors of {WEIGHTS_FILE}"
        )
    architecture.check_activation(info.activation)
    return partial(architecture.module, info.activation, info.dropout)


def read_sample_info(source: str | Path, *, revision: str | None = None) -> SampleInfo:
    """Read the origin, novelty and metrics of a sampled model; source, revision and errors as for `load_sample`."""
    return SampleInfo.read(locate_files(source, _FILES, revision=revision), source)
