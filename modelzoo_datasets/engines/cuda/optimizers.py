"""SGD, Adam and AdamW for stacked weights, every model with its own rates; torch's arithmetic, number for number.

What changes from step to step is worked out on the host in float64, as torch does it, and given as a table.

    M models, K steps, D trained numbers of a model
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...recipes import Training
from .cohort_plan import runs

BETA2, EPSILON = 0.999, 1e-8  # Adam's, torch's defaults
_BETA1 = 0.9
RATES = 5  # columns of a table: see `rates`


@dataclass(frozen=True)
class Schedule:
    """Learning rate, and momentum or beta 1, of every step; of a constant schedule one row stands for all."""

    values: Tensor  # (steps or 1, 2) float64

    @classmethod
    def of(cls, training: Training, images: int) -> "Schedule":
        """The schedule of a training on that many images, from torch's own scheduler."""
        inertia = training.momentum if training.optimizer == "sgd" else _BETA1
        if training.schedule == "constant":
            return cls(torch.tensor([[training.lr, inertia]], dtype=torch.float64))
        parameter = nn.Parameter(torch.zeros(()))
        optimizer = torch.optim.SGD([parameter], training.lr, momentum=inertia)
        steps = -(-images // training.batch_size)
        cycle = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, training.lr, epochs=training.epochs, steps_per_epoch=steps
        )
        rows, group = [], optimizer.param_groups[0]
        parameter.grad = torch.zeros(())
        for step in range(steps * training.epochs):
            rows.append((float(group["lr"]), float(group["momentum"])))
            optimizer.step()
            if step + 1 < steps * training.epochs:
                cycle.step()
        return cls(torch.tensor(rows, dtype=torch.float64))

    def rows(self, first: int, steps: int) -> Tensor:
        """(K, 2) of the steps from `first` on."""
        return self.values.expand(steps, 2) if len(self.values) == 1 else self.values[first : first + steps]


def schedules(trainings: Sequence[Training], images: int) -> list[Schedule]:
    """Of every training; equal ones are worked out once."""
    known: dict[tuple[object, ...], Schedule] = {}
    found = []
    for t in trainings:
        key = (t.optimizer == "sgd", t.lr, t.momentum, t.schedule, t.epochs, t.batch_size)
        if key not in known:
            known[key] = Schedule.of(t, images)
        found.append(known[key])
    return found


def rates(trainings: Sequence[Training], plans: Sequence[Schedule], first: int, steps: int) -> Tensor:
    """The table (K, M, 5) float32 of the steps from `first` on, counted from 0 over the whole training.

    Columns: weight decay as an L2 term; what weights are multiplied with before the step; momentum, of Adam
    1 - beta 1; learning rate, of Adam divided by its bias correction; square root of Adam's other bias correction.
    """
    lr, inertia = torch.stack([plan.rows(first, steps) for plan in plans], dim=1).unbind(2)  # (K, M)
    adam, decoupled = (
        torch.tensor([t.optimizer in kinds for t in trainings]) for kinds in (("adam", "adamw"), ("adamw",))
    )
    decay = torch.tensor([t.weight_decay for t in trainings], dtype=torch.float64)
    count = torch.arange(first + 1, first + steps + 1, dtype=torch.float64).unsqueeze(1)  # (K, 1)
    columns = (
        torch.where(decoupled, 0.0, decay).expand_as(lr),
        torch.where(decoupled, 1 - lr * decay, 1.0),
        torch.where(adam, 1 - inertia, inertia),
        torch.where(adam, lr / (1 - inertia**count), lr),
        (1 - BETA2**count).sqrt().expand_as(lr),
    )
    return torch.stack(columns, dim=2).float()


class Optimizers:
    """The optimizer state of M models, and their step."""

    def __init__(self, trainings: Sequence[Training], weights: Tensor) -> None:
        self.weights = weights  # (M, D), changed in place
        self.first, self.second = torch.zeros_like(weights), torch.zeros_like(weights)
        is_sgd = [t.optimizer == "sgd" for t in trainings]
        self._runs = [(run, is_sgd[run.start]) for run in runs(is_sgd)]

    def step(self, gradients: Tensor, table: Tensor) -> None:
        """One step with gradients (M, D) and rates (M, 5)."""
        for run, sgd in self._runs:
            w, first, second, g = (t[run] for t in (self.weights, self.first, self.second, gradients))
            l2, keep, inertia, rate, root = table[run].unsqueeze(2).unbind(1)  # (m, 1)
            g = torch.addcmul(g, w, l2)
            if sgd:
                first.mul_(inertia).add_(g)
                w.addcmul_(first, rate, value=-1)
                continue
            w.mul_(keep)
            first.lerp_(g, inertia.expand_as(g))
            second.mul_(BETA2).addcmul_(g, g, value=1 - BETA2)
            w.sub_(rate * first / (second.sqrt() / root + EPSILON))
