"""Samplers and baselines by name: what recipes, commands and cards say about them, without any of their code."""

from dataclasses import dataclass

from modelzoo_datasets.errors import ModelZooError, unknown

DEFAULT_SAMPLER = "normal"  # draws networks as accurate as the decoder was trained to make
DEFAULT_TOP_FRACTION = 0.3  # share of the training states to draw from, best first (S_KDE30 of 2209.14733)


@dataclass(frozen=True)
class SamplerInfo:
    """Name, description and requirements of one way to make new models."""

    name: str
    description: str
    min_states: int = 1  # fewest training states to draw from
    needs_weights: bool = False  # draws from training weights, which only the dataset has


_INFO = (
    SamplerInfo("uniform", "U(-1, 1) in every dimension"),
    SamplerInfo("kde", "kernel density per dimension, dimensions independent (as stated in 2209.14733)"),
    SamplerInfo("kde-shared", "a training embedding plus one scalar (what the published code does)"),
    SamplerInfo("kde-principal", "kernel density per principal axis, axes independent", 2),
    SamplerInfo("normal", "the normal distribution with mean and covariance of the embeddings", 2),
    SamplerInfo("interpolation", "points between two embeddings", 2),
    SamplerInfo("neighbour", "uniform in the cube of a 3-d UMAP of the embeddings, mapped back", 5),
    SamplerInfo("gan", "a generator trained against a critic on the embeddings", 2),
    # Baselines.
    SamplerInfo("reconstruction", "training states, encoded and decoded"),
    SamplerInfo("move", "training states, moved as the decoder moves when their embeddings do", needs_weights=True),
    SamplerInfo("noise", "training states with Gaussian noise of a given size", needs_weights=True),
    SamplerInfo("average", "means of two aligned training states of different models", needs_weights=True),
    SamplerInfo("kde-weights", "kernel density per weight of the aligned training states", needs_weights=True),
    SamplerInfo("fresh", "untrained models, initialised as the zoo's", needs_weights=True),
)
SAMPLER_INFO = {info.name: info for info in _INFO}


def check_sampler(name: str, *, with_weights: bool) -> SamplerInfo:
    """Return what is known about a sampler or baseline.

    Args:
        name: name of a sampler or baseline.
        with_weights: whether the training weights are at hand.

    Raises:
        ModelZooError: the name is unknown, or the baseline needs training weights and there are none.
    """
    if name not in SAMPLER_INFO:
        raise ModelZooError(unknown("sampler", name, tuple(SAMPLER_INFO)))
    info = SAMPLER_INFO[name]
    if info.needs_weights and not with_weights:
        raise ModelZooError(
            f"sampler {name} draws from training weights, which a hyper-representation does not carry; name the "
            "dataset that it was learned from"
        )
    return info


def parse_sampler(entry: str, top_fraction: float) -> tuple[str, float]:
    """Split an entry of a recipe into sampler and share of the training states.

    Args:
        entry: `kde`, or `kde@100` to draw from the best 100 % of the training states.
        top_fraction: share for entries that name none.

    Returns:
        Name of the sampler, and the share of the training states, best first, that it draws from.

    Raises:
        ModelZooError: the part behind the @ is not a percentage.
    """
    name, at, percent = entry.partition("@")
    if not at:
        return name, top_fraction
    if not percent.isascii() or not percent.isdigit() or not 0 < int(percent) <= 100:
        raise ModelZooError(f"{entry!r}: expected a percentage of the training states behind @, from 1 to 100")
    return name, int(percent) / 100
