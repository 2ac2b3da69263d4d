"""Train and evaluate one model in plain PyTorch: the obviously right way that every other engine is held against."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..architectures import get_architecture, initialise
from ..architectures.modules import seed_dropout
from ..images import Images
from ..layout import Layout
from ..recipes import Training
from ..seeds import generator
from .interface import METRICS, Job, Network
from .threads import one_thread

_EVALUATION_BATCH = 500  # images; large enough to be fast, small enough for the caches
_COLUMN = {"train": "train", "validation": "val", "test": "test"}  # split -> prefix of its metrics


@dataclass(frozen=True)
class Inputs:
    """Images as the models see them, made once for all jobs of a worker."""

    images: Mapping[str, Tensor]  # per split (N, C, H, W) float32, channels-last
    labels: Mapping[str, Tensor]  # per split (N,)

    @classmethod
    def of(cls, images: Images) -> "Inputs":
        """Normalise every split."""
        # Pooling and convolution run about 1.4 times as fast in this memory format; values stay the same.
        last = {split: images.inputs(split).contiguous(memory_format=torch.channels_last) for split in images.splits}
        return cls(last, {split: images.labels(split) for split in images.splits})


def train_one(architecture: str, inputs: Inputs, job: Job, metrics_on: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Weights (E + 1, P) and METRICS (E + 1, 6) after epochs 0 to E; metrics of splits not asked for are NaN.

    Train metrics are running means over the epoch in train mode (as 2209.14764 defines); at epoch 0 they are measured.
    """
    training = job.training
    module = get_architecture(architecture).module(training.activation, training.dropout)
    layout = Layout.of(module)
    if job.start is None:
        initialise(module, training.init, generator(job.seed, "init"))
    else:
        module.load_state_dict(layout.unpack(job.start.clone()))
    module = module.to(memory_format=torch.channels_last)
    optimizer = _optimizer(module, training)
    weights, metrics = [], []
    with one_thread():
        for epoch in range(training.epochs + 1):
            row = dict.fromkeys(METRICS, float("nan"))
            if epoch > 0:
                found = _train_epoch(module, optimizer, inputs, job, epoch)
                row["train_loss"], row["train_acc"] = found
            for split in metrics_on:
                if split != "train" or epoch == 0:
                    loss, accuracy = _evaluate(module, inputs, split)
                    row[f"{_COLUMN[split]}_loss"], row[f"{_COLUMN[split]}_acc"] = loss, accuracy
            weights.append(layout.pack(module.state_dict()))
            metrics.append([row[name] for name in METRICS])
    return torch.stack(weights), torch.tensor(metrics, dtype=torch.float64)


def evaluate_one(
    architecture: str, inputs: Inputs, weights: Tensor, network: Network, split: str
) -> tuple[float, float]:
    """Mean loss and accuracy of one model, weights (P,), on a split."""
    module = get_architecture(architecture).module(network.activation, network.dropout)
    module.load_state_dict(Layout.of(module).unpack(weights.clone()))
    with one_thread():
        return _evaluate(module.to(memory_format=torch.channels_last), inputs, split)


def _train_epoch(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    inputs: Inputs,
    job: Job,
    epoch: int,
) -> tuple[float, float]:
    """One pass over the training images; the last batch may be smaller."""
    images, labels = inputs.images["train"], inputs.labels["train"]
    order = torch.randperm(len(labels), generator=generator(job.seed, "order", epoch))
    seed_dropout(module, generator(job.seed, "dropout", epoch))
    module.train()
    loss_sum, correct = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.int64)
    for index in order.split(job.training.batch_size):
        logits = module(images[index])
        loss = cross_entropy(logits, labels[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss_sum += loss.detach().double() * len(index)
        correct += (logits.detach().argmax(dim=1) == labels[index]).sum()
    return loss_sum.item() / len(labels), correct.item() / len(labels)


@torch.inference_mode()
def _evaluate(module: nn.Module, inputs: Inputs, split: str) -> tuple[float, float]:
    module.eval()
    loss_sum, correct, labels = 0.0, 0, inputs.labels[split]
    batches = (tensor.split(_EVALUATION_BATCH) for tensor in (inputs.images[split], labels))
    for x, y in zip(*batches, strict=True):
        logits = module(x)
        loss_sum += cross_entropy(logits, y, reduction="sum").item()
        correct += int((logits.argmax(dim=1) == y).sum())
    return loss_sum / len(labels), correct / len(labels)


def _optimizer(module: nn.Module, training: Training) -> torch.optim.Optimizer:
    parameters, lr, decay = module.parameters(), training.lr, training.weight_decay
    if training.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr, training.momentum, weight_decay=decay, fused=True)
    kind = torch.optim.AdamW if training.optimizer == "adamw" else torch.optim.Adam
    return kind(parameters, lr, weight_decay=decay, fused=True)
