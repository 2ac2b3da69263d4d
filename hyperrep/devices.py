"""Where a hyper-representation is trained: decided once, by name, when a command starts."""

import torch

from modelzoo_datasets.errors import DeviceError

DEVICES = ("auto", "cpu", "cuda")


def find_device(name: str = "auto") -> torch.device:
    """The device of that name; `auto` is `cuda` where torch sees a GPU, else `cpu`.

    Raises:
        DeviceError: no such device, or none here.
    """
    if name not in DEVICES:
        raise DeviceError(f"unknown device {name!r}; choose from {', '.join(DEVICES)}")
    if name == "cuda" and not torch.cuda.is_available():
        raise DeviceError("device 'cuda': torch sees no CUDA GPU here; use --device cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
