"""What is kept of a cohort after an epoch: weights, of twins the pruned ones, and what they do on the splits.

M models, P numbers of a model, Q of a variational one
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..._util import METRIC_PREFIX
from ...architectures import get_architecture, initialize_weights, make_variational, pruned_state, sparsity
from ...seeds import keyed_generator
from ...weights import Layout
from ..base import METRICS, SPARSITY, Job, States
from .cohort_plan import module_of
from .evaluate import DeviceImages, measure
from .rng import demand
from .stacked import Population, Stack, called_together


class StateRecorder:
    """Turns weights of a cohort into states."""

    def __init__(
        self, architecture: str, resident: DeviceImages, jobs: Sequence[Job], metrics_on: Sequence[str]
    ) -> None:
        self._architecture, self._resident, self._jobs = architecture, resident, jobs
        self._splits = [split for split in metrics_on if split in resident.pixels]
        kinds = [(job.training.activation, job.training.dropout) for job in jobs]
        device, shape = resident.labels["train"].device, resident.images.input_shape
        first = get_architecture(architecture).module(*kinds[0])
        self._layout = Layout.from_module(first)
        slices = called_together(first, kinds, shape)
        plain = [get_architecture(architecture).module(*kinds[s.start]).to(device) for s in slices]
        self._populations = [Population(module, s) for module, s in zip(plain, slices, strict=True)]
        self._activations = demand(first, (1, *shape)).activations

    def states(self, members: Tensor, epoch: int, vectors: Tensor, running: tuple[Tensor, Tensor] | None) -> States:
        """After one epoch: weights (M, P), of twins (M, Q); running are loss and accuracy of the epoch, (M,) each."""
        nothing = torch.full((len(members),), float("nan"), dtype=torch.float64)
        metrics = {name: nothing.clone() for name in METRICS}
        if running is not None:
            metrics["train_loss"], metrics["train_acc"] = running
        weights = vectors
        if self._jobs[0].sparsify:
            weights, metrics[SPARSITY] = self._pruned(vectors, epoch)
        recall = nothing.unsqueeze(1).expand(-1, self._resident.images.classes).clone()
        stack = Stack.of(self._layout, weights, self._resident.labels["train"].device)
        for split in (s for s in self._splits if s != "train" or epoch == 0):
            found = measure(self._populations, stack, self._resident, split, self._activations)
            metrics[f"{METRIC_PREFIX[split]}_loss"], metrics[f"{METRIC_PREFIX[split]}_acc"] = found.loss, found.accuracy
            recall = found.recall if split == "test" else recall
        variational = vectors if self._jobs[0].sparsify else None
        return States(members, torch.full_like(members, epoch), weights, metrics, recall, variational)

    def _pruned(self, vectors: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        """What is kept of twins (M, P), and their sparsity (M,); at epoch 0 their parents' weights."""
        kept, shares = [], []
        for job, vector in zip(self._jobs, vectors, strict=True):
            module = module_of(self._architecture, job)
            state = Layout.from_module(module).unpack(vector)
            module.load_state_dict(state)
            pruned = pruned_state(module)
            plain = pruned if epoch > 0 else {name: state[name] for name in pruned}
            kept.append(
                Layout.from_module(
                    get_architecture(self._architecture).module(job.training.activation, job.training.dropout)
                ).pack(plain)
            )
            shares.append(sparsity(module) if epoch > 0 else 0.0)
        return torch.stack(kept), torch.tensor(shares, dtype=torch.float64)


def started(architecture: str, job: Job) -> Tensor:
    """The weights of a job before its first step (P,); of a twin with log sigma² (Q,)."""
    module = get_architecture(architecture).module(job.training.activation, job.training.dropout)
    # BatchNorm's own start is part of it, so a given start is put over a fresh one.
    initialize_weights(module, job.training.init, keyed_generator(job.seed, "init"))
    if job.initial_weights is not None:
        module.load_state_dict(Layout.from_module(module).unpack(job.initial_weights.clone()))
    if job.sparsify:
        make_variational(module)
    return Layout.from_module(module).pack(module.state_dict())
