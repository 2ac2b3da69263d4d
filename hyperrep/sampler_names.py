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


@dataclass(frozen=True)
class SamplerEntry:
    """A sampler with the selections that are part of it: of training states before, and of draws after.

    Example:
        >>> SamplerEntry.parse("kde@30/20", 0.5)
        SamplerEntry(sampler='kde', top_fraction=0.3, keep_fraction=0.2)
        >>> SamplerEntry.parse("normal", 0.3).name
        'normal@30'
    """

    sampler: str
    top_fraction: float = 1.0  # share of the training states that are drawn from, best validation accuracy first
    keep_fraction: float = 1.0  # share of the draws that stay, best validation accuracy first

    @classmethod
    def parse(cls, text: str, top_fraction: float) -> "SamplerEntry":
        """Read an entry of a recipe: NAME[@PERCENT][/PERCENT].

        Args:
            text: `kde`, `kde@100` to draw from the best 100 % of the training states, or `kde@30/20` to keep the best
                20 % of the draws too.
            top_fraction: share for entries that name none.

        Raises:
            ModelZooError: a part behind @ or / is not a percentage.
        """
        rest, slash, keep = text.partition("/")
        sampler, at, top = rest.partition("@")
        keep_fraction = _parse_percent(text, keep, "draws behind /") if slash else 1.0
        share = _parse_percent(text, top, "training states behind @") if at else top_fraction
        return cls(sampler, share, keep_fraction)

    @property
    def name(self) -> str:
        """The entry with its selections, as reports show it; untrained models are drawn from no state."""
        share = "" if self.sampler == "fresh" else f"@{100 * self.top_fraction:g}"
        return self.sampler + share + (f"/{100 * self.keep_fraction:g}" if self.keep_fraction < 1 else "")

    def describe_selection(self) -> str:
        """Say which training states are drawn from, and which draws stay."""
        share = "all" if self.top_fraction == 1 else f"the best {self.top_fraction:.0%}"
        kept_draws = f", and the best {self.keep_fraction:.0%} of the draws stay" if self.keep_fraction < 1 else ""
        by = " by validation accuracy" if self.top_fraction < 1 or self.keep_fraction < 1 else ""
        return f"from {share} of the training states{kept_draws}{by}"


def _parse_percent(text: str, percent: str, what: str) -> float:
    if not percent.isascii() or not percent.isdigit() or not 0 < int(percent) <= 100:
        raise ModelZooError(f"{text!r}: expected a percentage of the {what}, from 1 to 100")
    return int(percent) / 100
