"""Plan cohorts: which jobs are trained together, in which order their models lie, and how many fit into memory.

The plan decides the speed alone: no result depends on it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ...architectures import make_variational
from ...weights import Layout
from ..base import Job
from ..common import build_job_module

_USED_SHARE = 0.8  # fraction of the free memory; the rest is for fragmentation and the workspace of convolutions
_CPU_BYTES = 1 << 30  # that a cohort may take on the CPU, where this engine is only tested


@dataclass(frozen=True)
class CohortKey:
    """The properties that all jobs of a cohort share, so that they take the same steps on tensors of equal shapes."""

    batch_size: int
    epochs: int
    augmentation: str
    sparsify: bool
    shapes: tuple[tuple[int, ...], ...]  # parameters and buffers, in the order of the layout


def build_training_module(architecture: str, job: Job) -> nn.Module:
    """Build a module of the kind that the job trains, variational for a twin; its weights are not set."""
    module = build_job_module(architecture, job)
    return make_variational(module) if job.sparsify else module


def group_jobs(architecture: str, jobs: Sequence[Job]) -> list[list[int]]:
    """Return lists of the indices of jobs that may share a cohort; within each list, equal networks are neighbors.

    Jobs with other numbers of epochs or batch sizes are in other groups, so that no job waits for a longer one.
    """
    groups: dict[CohortKey, list[int]] = {}
    keys: dict[tuple[object, ...], CohortKey] = {}
    for index, job in enumerate(jobs):
        t = job.training
        short = (t.batch_size, t.epochs, t.augmentation, job.sparsify, t.activation, t.dropout)
        if short not in keys:
            keys[short] = _make_key(architecture, job)
        groups.setdefault(keys[short], []).append(index)
    return [sorted(members, key=lambda index: _sort_key(jobs[index])) for members in groups.values()]


def _make_key(architecture: str, job: Job) -> CohortKey:
    training = job.training
    shapes = tuple(slot.shape for slot in Layout.from_module(build_training_module(architecture, job)).slots)
    return CohortKey(training.batch_size, training.epochs, training.augmentation, job.sparsify, shapes)


def _sort_key(job: Job) -> tuple[str, float, bool]:
    """Sort by network, then by kind of optimizer: every run of equal ones is one call on the device."""
    return job.training.activation, job.training.dropout, job.training.optimizer == "sgd"


def find_runs(values: Sequence[object]) -> list[slice]:
    """Return the longest slices of equal neighbors, in order."""
    runs: list[slice] = []
    for index, value in enumerate(values):
        if runs and values[runs[-1].start] == value:
            runs[-1] = slice(runs[-1].start, index + 1)
        else:
            runs.append(slice(index, index + 1))
    return runs


def choose_cohort_size(free_bytes: int, shared_bytes: int, model_bytes: int, num_models: int) -> int:
    """Return how many models to train at once, evenly distributed: 10 models, of which 6 fit, are two cohorts of 5.

    Args:
        free_bytes: Free memory of the device.
        shared_bytes: Memory taken once, whatever the number of models, e.g. by the images.
        model_bytes: Memory that one model takes in a step.
        num_models: Number of all models, at least 1.
    """
    max_models = max(1, int(_USED_SHARE * free_bytes - shared_bytes) // model_bytes)
    num_cohorts = -(-num_models // max_models)
    return -(-num_models // num_cohorts)


def free_memory(device: torch.device) -> int:
    """Return the free bytes of a GPU; a fixed amount for the CPU, where this engine is only tested."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else _CPU_BYTES
