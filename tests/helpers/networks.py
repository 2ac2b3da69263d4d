"""Which architectures tests go through, and populations of them with random states."""

from functools import cache

import torch
from torch import Tensor

from modelzoo_datasets.architectures import architecture_names, get_architecture, initialize_weights
from modelzoo_datasets.seeds import keyed_generator

ALL = architecture_names()
SMALL = [name for name in ALL if get_architecture(name).family != "resnet18"]
KINDS = [*SMALL, "resnet18"]  # one of each kind: the ResNets differ in their last layer alone


def random_states(name: str, n: int) -> Tensor:
    """Weights (n, P) of networks that are no special case: random biases and BatchNorm statistics, counters too."""
    return _random_states(name, n).clone()


@cache
def _random_states(name: str, n: int) -> Tensor:
    architecture = get_architecture(name)
    module, layout = architecture.module("tanh"), architecture.layout
    rows = []
    for seed in range(n):
        initialize_weights(module, "kaiming_normal", keyed_generator(seed, "init"))
        rows.append(layout.pack(module.state_dict()))
    weights = torch.stack(rows)
    weights += 0.1 * torch.randn(weights.shape, generator=keyed_generator(0, "noise"))
    for slot in layout.slots:
        if slot.name.endswith("running_var"):
            slot.select(weights).abs_().add_(0.5)
        if slot.name.endswith("num_batches_tracked"):
            slot.select(weights).copy_(torch.randint(1, 100_000, (n, 1), generator=keyed_generator(0, slot.name)))
    return weights
