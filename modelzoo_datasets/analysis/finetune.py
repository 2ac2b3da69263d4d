"""Fine-tuning of a population with one call of an engine."""

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
    weights: Tensor,
    training: Training,
    seeds: Sequence[int],
    *,
    progress: Progress = NO_PROGRESS,
    what: str = "fine-tuning",
) -> tuple[Tensor, Tensor]:
    """Fine-tune every model of a population, each with a fresh optimizer.

    Args:
        engine: The engine that trains.
        architecture: The name of the architecture.
        images: The images.
        weights: The initial weights (N, P).
        training: The hyperparameters; E = `training.epochs`.
        seeds: One seed per model, which determines the order of its images and its dropout.
        progress: Receives one task for all models.
        what: The description of the task.

    Returns:
        Test accuracies (N, E + 1) after 0 (zero-shot) to E epochs, float64, and the final weights (N, P).
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
