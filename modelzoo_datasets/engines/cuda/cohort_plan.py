"""Which jobs are trained together: what must be equal in a cohort, in which order its models lie, how many there are.

All of it is a matter of speed: no result depends on it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ...architectures import get_architecture, make_variational
from ...weights import Layout
from ..base import Job

_USED_SHARE = 0.8  # of the free memory; the rest is for fragments and for what convolutions want beside
_ALL_OF_CPU = 1 << 30  # bytes that a cohort may take where there is no device memory to ask for


@dataclass(frozen=True)
class Key:
    """What the jobs of a cohort have in common: with it they take the same steps on tensors of the same shapes."""

    batch_size: int
    epochs: int
    augmentation: str
    sparsify: bool
    shapes: tuple[tuple[int, ...], ...]  # of parameters and buffers, in the order of the layout


def module_of(architecture: str, job: Job) -> nn.Module:
    """A module of the kind that the job trains, its weights not set; of a twin a variational one."""
    module = get_architecture(architecture).module(job.training.activation, job.training.dropout)
    return make_variational(module) if job.sparsify else module


def key_of(architecture: str, job: Job) -> Key:
    """See `Key`."""
    training = job.training
    shapes = tuple(slot.shape for slot in Layout.from_module(module_of(architecture, job)).slots)
    return Key(training.batch_size, training.epochs, training.augmentation, job.sparsify, shapes)


def groups(architecture: str, jobs: Sequence[Job]) -> list[list[int]]:
    """Indices of jobs that may be in one cohort, in lists; within each, equal networks lie beside each other.

    Jobs of other epochs or batch sizes are in other groups, so none waits for one that takes longer.
    """
    found: dict[Key, list[int]] = {}
    known: dict[tuple[object, ...], Key] = {}
    for index, job in enumerate(jobs):
        t = job.training
        short = (t.batch_size, t.epochs, t.augmentation, job.sparsify, t.activation, t.dropout)
        if short not in known:
            known[short] = key_of(architecture, job)
        found.setdefault(known[short], []).append(index)
    return [sorted(members, key=lambda index: _order(jobs[index])) for members in found.values()]


def _order(job: Job) -> tuple[str, float, bool]:
    """Equal networks first, then equal kinds of optimizers: each run of equals is one call on the device."""
    return job.training.activation, job.training.dropout, job.training.optimizer == "sgd"


def runs(values: Sequence[object]) -> list[slice]:
    """The longest slices of equal neighbours, in order."""
    found: list[slice] = []
    for place, value in enumerate(values):
        if found and values[found[-1].start] == value:
            found[-1] = slice(found[-1].start, place + 1)
        else:
            found.append(slice(place, place + 1))
    return found


def cohort_size(free_bytes: int, shared_bytes: int, model_bytes: int, models: int) -> int:
    """How many of the models fit at once, evenly spread: 10 models of which 6 fit are two cohorts of 5.

    Args:
        free_bytes: of the device.
        shared_bytes: taken once, whatever the number of models: the images.
        model_bytes: taken by one model in a step.
        models: all there are, at least 1.
    """
    fit = max(1, int(_USED_SHARE * free_bytes - shared_bytes) // model_bytes)
    cohorts = -(-models // fit)
    return -(-models // cohorts)


def free_bytes(device: torch.device) -> int:
    """Free memory of a GPU; a fixed amount on the CPU, where this engine is only tried out."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else _ALL_OF_CPU
