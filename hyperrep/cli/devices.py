"""Where and how precisely a hyper-representation is trained: decided once, by name, when a command starts."""

import torch

from modelzoo_datasets.errors import DeviceError

DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("auto", "float32", "bfloat16")


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


def multiplies_in_half(precision: str, device: torch.device) -> bool:
    """Whether transformers multiply in bfloat16; `auto`: on GPUs alone, so that bits on CPUs do not depend on the CPU.

    Raises:
        DeviceError: no such precision.
    """
    if precision not in PRECISIONS:
        raise DeviceError(f"unknown precision {precision!r}; choose from {', '.join(PRECISIONS)}")
    return precision == "bfloat16" or (precision == "auto" and device.type == "cuda")
