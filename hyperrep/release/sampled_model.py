"""Sampled models as plain modules, from their folder or from the Hub."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from modelzoo_datasets._util import one_line
from modelzoo_datasets.architectures import get_architecture
from modelzoo_datasets.errors import FormatError
from modelzoo_datasets.hub import download_files, parse_repo_id

from .sample_info import SampleInfo

_FILES = ("config.json", "model.safetensors")


def load_sample(source: str | Path, *, revision: str | None = None) -> nn.Module:
    """Load a sampled model that `modelzoo-hyperrep sample` wrote, or that was pushed to the Hub.

    Args:
        source: the folder of one sample, or a model repo such as `modelzoos/kde-0000`.
        revision: a branch, tag or commit of the repo; main by default.

    Returns:
        A plain module in eval mode.

    Raises:
        FormatError: the source is not a sampled model, or its tensors are not those of its architecture.
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
        >>> network = load_sample(out / "samples" / "normal-0000")
        >>> network(torch.zeros(5, 1, 28, 28)).shape
        torch.Size([5, 10])
    """
    folder = _locate(source, revision)
    info = SampleInfo.read(folder, source)
    module = get_architecture(info.architecture).module(info.activation, info.dropout)
    try:
        module.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise FormatError(f"cannot load sampled model {source}: {one_line(error)}") from error
    return module.eval()


def read_sample_info(source: str | Path, *, revision: str | None = None) -> SampleInfo:
    """Read the origin, novelty and metrics of a sampled model; arguments and errors as for `load_sample`."""
    return SampleInfo.read(_locate(source, revision), source)


def _locate(source: str | Path, revision: str | None) -> Path:
    repo_id = parse_repo_id(source)
    if repo_id is None and revision is not None:
        raise FormatError(f"{source} is a folder and has no revisions; got revision {revision!r}")
    return Path(source) if repo_id is None else download_files(repo_id, _FILES, revision=revision, repo_type="model")
