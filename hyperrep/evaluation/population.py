"""A population: models that are evaluated together."""

from dataclasses import dataclass

from torch import Tensor

SCRATCH, RANDOM = "scratch", "random init"
TARGET_MEMBERS, TARGET_ZOO = "target members", "target zoo"  # rows that a target zoo adds to transfer


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
