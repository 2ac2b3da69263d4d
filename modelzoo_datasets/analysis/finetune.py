"""Fine-tune a population: every model goes on from given weights, all through one engine call."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..engines import Engine, Job
from ..images import Images
from ..progress import NO_PROGRESS, Progress
from ..recipes import Training


def fine_tune(
    engine: Engine,
    architecture: str,
    images: Images,
    weights: Tensor,  # (N, P)
    training: Training,
    seeds: Sequence[int],
    *,
    progress: Progress = NO_PROGRESS,
    what: str = "fine-tuning",
) -> tuple[Tensor, Tensor]:
    """Test accuracy (N, E + 1) after 0 (zero-shot) to E = `training.epochs` epochs, and the last weights (N, P).

    Each begins with a fresh optimizer.

    Args:
        seeds: one per model; keys its data order and dropout.
    """
    jobs = [
        Job(training=training, seed=seed, initial_weights=start) for seed, start in zip(seeds, weights, strict=True)
    ]
    accuracy = torch.full((len(jobs), training.epochs + 1), float("nan"), dtype=torch.float64)
    last = torch.empty_like(weights)
    with progress.start(what, len(jobs)) as task:
        for states in engine.train(architecture, images, jobs, metrics_on=("test",)):
            accuracy[states.jobs, states.epochs] = states.metrics["test_acc"]
            ended = states.epochs == training.epochs
            last[states.jobs[ended]] = states.weights[ended]
            task.update(int(ended.sum()))
    return accuracy, last
