"""The memory of the device: how many models fit at once, and what to do where it was too little."""

import gc
from collections.abc import Sequence

import torch

from ...images import Images
from ...weights import Layout
from ..base import Job
from .rng import measure_demand
from .stacked import build_training_module

_USED_SHARE = 0.8  # fraction of the free memory; the rest is for fragmentation and the workspace of convolutions
_CPU_BYTES = 1 << 30  # that a cohort may take on the CPU, where this engine is only tested
_WEIGHT_COPIES = 8  # in a step: weights, optimizer state, gradients and intermediate results
_ACTIVATION_COPIES = 4  # per output of a layer: itself, its gradient, and the workspace of convolutions


def choose_cohort_size(free_bytes: int, shared_bytes: int, model_bytes: int, num_models: int) -> int:
    """Return how many models to train at once, evenly distributed: 10 models, of which 6 fit, are two cohorts of 5.

    Args:
        free_bytes: Free memory of the device.
        shared_bytes: Memory that is still to be taken once, whatever the number of models, e.g. by the images.
        model_bytes: Memory that one model takes in a step.
        num_models: Number of all models, at least 1.
    """
    max_models = max(1, int(_USED_SHARE * free_bytes - shared_bytes) // model_bytes)
    num_cohorts = -(-num_models // max_models)
    return -(-num_models // num_cohorts)


def free_memory(device: torch.device, share: float = 1.0) -> int:
    """Return the bytes of a GPU that this process may still take; a fixed amount for the CPU.

    Blocks that torch keeps for later count as free, since it uses them before it asks the device for more.

    Args:
        device: The device.
        share: Share of the whole memory that belongs to this process.
    """
    if device.type != "cuda":
        return _CPU_BYTES
    free, total = torch.cuda.mem_get_info(device)
    used = torch.cuda.memory_allocated(device)
    reusable = torch.cuda.memory_reserved(device) - used
    return max(0, min(free + reusable, int(share * total) - used))


def estimate_model_bytes(architecture: str, images: Images, jobs: Sequence[Job]) -> int:
    """Return the device memory that one model of these jobs, all of one group, takes in a step, at most.

    Args:
        architecture: Name of the architecture.
        images: Training images.
        jobs: Jobs of one group.
    """
    batch_size = min(jobs[0].training.batch_size, len(images.labels("train")))
    largest = 0
    for job in {job.training.dropout: job for job in jobs}.values():
        module = build_training_module(architecture, job)
        demand = measure_demand(module, (batch_size, *images.input_shape))
        numbers = _WEIGHT_COPIES * Layout.from_module(module).size + _ACTIVATION_COPIES * demand.num_activations
        numbers += demand.num_uniforms + demand.num_normals + len(images.labels("train"))  # and the data order
        largest = max(largest, 4 * numbers)
    return largest


def is_out_of_memory(error: BaseException | None) -> bool:
    """Return whether an error, or one that it was raised from or during, is a lack of device memory."""
    while error is not None and not isinstance(error, torch.OutOfMemoryError):
        error = error.__cause__ or error.__context__
    return error is not None


def release_memory(device: torch.device) -> None:
    """Give back all device memory that nothing refers to any more."""
    gc.collect()  # a trainer and its steps refer to each other
    if device.type == "cuda":
        torch.cuda.empty_cache()
