"""SGD, Adam and AdamW for stacked weights, where every model has its own rates; torch's arithmetic, number by number.

The host computes everything that changes from step to step in float64, as torch does, and hands it over as a table.

    M models, K steps, D trained numbers of a model
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ...recipes import Training
from ..common import tabulate_learning_rates

BETA2, EPSILON = 0.999, 1e-8  # torch's defaults for Adam
NUM_RATES = 5  # columns of a table, see `tabulate_rates`


def tabulate_schedules(trainings: Sequence[Training], num_images: int) -> list[Tensor]:
    """Return learning rate and momentum of every step (steps or 1, 2) for every training; equal ones share a table."""
    tables: dict[tuple[object, ...], Tensor] = {}
    schedules = []
    for t in trainings:
        key = (t.optimizer == "sgd", t.lr, t.momentum, t.schedule, t.epochs, t.batch_size)
        if key not in tables:
            tables[key] = tabulate_learning_rates(t, num_images)
        schedules.append(tables[key])
    return schedules


def tabulate_rates(trainings: Sequence[Training], schedules: Sequence[Tensor], first: int, steps: int) -> Tensor:
    """Return the table of rates (K, M, 5) float32 of some steps.

    Columns: weight decay as an L2 term; the factor of the weights before the step; momentum, for Adam 1 - beta 1;
    learning rate, for Adam divided by its bias correction; square root of Adam's other bias correction.

    Args:
        trainings: Hyperparameters of the M models.
        schedules: Tables of `tabulate_schedules`.
        first: First step, counted from 0 over the whole training.
        steps: Number of steps K.
    """
    rows = [s.expand(steps, 2) if len(s) == 1 else s[first : first + steps] for s in schedules]
    lr, momentum = torch.stack(rows, dim=1).unbind(2)  # (K, M)
    adam, decoupled = (
        torch.tensor([t.optimizer in kinds for t in trainings]) for kinds in (("adam", "adamw"), ("adamw",))
    )
    decay = torch.tensor([t.weight_decay for t in trainings], dtype=torch.float64)
    count = torch.arange(first + 1, first + steps + 1, dtype=torch.float64).unsqueeze(1)  # (K, 1)
    columns = (
        torch.where(decoupled, 0.0, decay).expand_as(lr),
        torch.where(decoupled, 1 - lr * decay, 1.0),
        torch.where(adam, 1 - momentum, momentum),
        torch.where(adam, lr / (1 - momentum**count), lr),
        (1 - BETA2**count).sqrt().expand_as(lr),
    )
    return torch.stack(columns, dim=2).float()


class StackedOptimizer:
    """The optimizers of M models, with their state."""

    def __init__(self, trainings: Sequence[Training], weights: Tensor) -> None:
        self.weights = weights  # (M, D), updated in place
        self.first_moment, self.second_moment = torch.zeros_like(weights), torch.zeros_like(weights)
        is_sgd = [t.optimizer == "sgd" for t in trainings]
        self._runs = [(run, is_sgd[run.start]) for run in find_runs(is_sgd)]

    def step(self, gradients: Tensor, rates: Tensor) -> None:
        """Take one step with gradients (M, D) and rates (M, 5)."""
        for run, sgd in self._runs:
            w, first, second, g = (t[run] for t in (self.weights, self.first_moment, self.second_moment, gradients))
            l2, shrink, momentum, lr, root = rates[run].unsqueeze(2).unbind(1)  # (m, 1)
            g = torch.addcmul(g, w, l2)
            if sgd:
                first.mul_(momentum).add_(g)
                w.addcmul_(first, lr, value=-1)
                continue
            w.mul_(shrink)
            first.lerp_(g, momentum.expand_as(g))
            second.mul_(BETA2).addcmul_(g, g, value=1 - BETA2)
            w.sub_(lr * first / (second.sqrt() / root + EPSILON))


def find_runs(values: Sequence[object]) -> list[slice]:
    """Return the longest slices of equal neighbors, in order."""
    runs: list[slice] = []
    for index, value in enumerate(values):
        if runs and values[runs[-1].start] == value:
            runs[-1] = slice(runs[-1].start, index + 1)
        else:
            runs.append(slice(index, index + 1))
    return runs
