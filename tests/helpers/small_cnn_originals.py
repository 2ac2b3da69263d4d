"""The Small CNN Zoo as published: one array in TensorFlow's order of axes, and one table."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from modelzoo_datasets.zoo import ZooFolder

STEPS = (0, 1, 2)  # epochs that are published
RECIPE = """\
images = "fashion-mnist-5k"
architecture = "small-cnn"

[configs.hyp]
epochs = 2
batch_size = 256
seeds = "1-3"
activation = ["tanh", "relu"]
init = "xavier_normal"
optimizer = "adam"
lr = 1e-2
dropout = 0.2
"""
LAYERS = ("conv2d", "conv2d_1", "conv2d_2", "dense")


def tensorflow_row(zoo: ZooFolder, model_id: str, epoch: int) -> tuple[list[dict[str, Any]], np.ndarray[Any, Any]]:
    """layout.csv and the row of one state: bias before kernel, kernels as (H, W, I, O) and (I, O)."""
    state = zoo.layout.unpack(zoo.weights(model_id, epoch))
    modules = list(dict.fromkeys(name.rpartition(".")[0] for name in state))
    layout, row, start = [], [], 0
    for layer, module in zip(LAYERS, modules, strict=True):
        kernel = state[f"{module}.weight"].numpy()
        kernel = kernel.transpose(2, 3, 1, 0) if kernel.ndim == 4 else kernel.transpose(1, 0)
        for kind, array in (("bias", state[f"{module}.bias"].numpy()), ("kernel", kernel)):
            end = start + array.size
            name = f"sequential/{layer}/{kind}:0"
            layout.append(
                {"varname": name, "start_idx": start, "end_idx": end, "size": array.size, "shape": array.shape}
            )
            row.append(array.flatten())
            start = end
    return layout, np.concatenate(row)


def write_zoo(trained: Path, folder: Path, *, shuffled: bool = False) -> Path:
    """The three files; rows model by model, or in any order."""
    zoo = ZooFolder.open(trained)
    models = zoo.models.set_index("model_id")
    order = [(m, e) for m in models.index for e in STEPS]
    if shuffled:
        random.Random(1).shuffle(order)
    states = zoo.states.set_index(["model_id", "epoch"])
    metrics, rows = [], []
    for model_id, epoch in order:
        state, model = states.loc[(model_id, epoch)], models.loc[model_id]
        layout, row = tensorflow_row(zoo, model_id, epoch)
        rows.append(row)
        config = {
            **{"activation": model["activation"], "b_init": "zeros", "dataset": "mnist", "dnn_architecture": "cnn"},
            **{"dropout": model["dropout"], "epochs": 2, "init_std": 0.05, "l2reg": 1e-6, "learning_rate": model["lr"]},
            **{"num_layers": 3, "num_units": 16, "optimizer": "rmsprop", "random_seed": 42, "train_fraction": 0.25},
            "w_init": "RandomNormal",
        }
        metrics.append(
            {
                **{f"config.{key}": value for key, value in config.items()},
                **{"modeldir": f"/cns/models/{model_id}", "step": epoch, "laststep": epoch == STEPS[-1]},
                **{"test_accuracy": state["test_acc"], "test_loss": state["test_loss"] + 0.1},  # with its L2 penalty
                **{"train_accuracy": 0.5, "train_loss": 1.5},
            }
        )
    folder.mkdir()
    np.save(folder / "weights.npy", np.stack(rows).astype(np.float32))
    pd.DataFrame(metrics).to_csv(folder / "metrics.csv.gz")
    pd.DataFrame(layout).to_csv(folder / "layout.csv", index=False)
    return folder
