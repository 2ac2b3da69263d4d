"""A population: models that are evaluated together."""

from dataclasses import dataclass

from torch import Tensor

SCRATCH, RANDOM = "scratch", "random init"


@dataclass(frozen=True, kw_only=True)
class Population:
    """Models that are evaluated together."""

    name: str
    description: str
    weights: Tensor  # (n, P)
    num_finetuned: int  # the first ones are fine-tuned
    is_sample: bool = False
    has_nulls: bool = False  # for samples: nulls are made at their distances
    matched_to: str = ""  # samples at whose distances this null is made
    matched_index: tuple[int, ...] = ()  # for each model, its counterpart among those samples
