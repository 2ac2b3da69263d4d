"""The device and the precision of the training of a hyper-representation, by name."""

from typing import TYPE_CHECKING

from modelzoo_datasets.errors import DeviceError

if TYPE_CHECKING:
    import torch

DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("auto", "float32", "bfloat16")


def find_device(name: str = "auto") -> "torch.device":
    """Return a device by its name; "auto" is "cuda" where torch sees a GPU, and "cpu" otherwise.

    Raises:
        DeviceError: The device is unknown, or this machine has none.
    """
    if name not in DEVICES:
        raise DeviceError(f"unknown device {name!r}; choose from {', '.join(DEVICES)}")
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise DeviceError("device 'cuda': torch sees no CUDA GPU here; use --device cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def multiplies_in_half(precision: str, device: "torch.device") -> bool:
    """Tell whether transformers multiply in bfloat16. "auto" does so on GPUs only, to keep results equal on all CPUs.

    Raises:
        DeviceError: The precision is unknown.
    """
    check_precision(precision)
    return precision == "bfloat16" or (precision == "auto" and device.type == "cuda")


def check_precision(precision: str) -> None:
    """Check that a precision is known.

    Raises:
        DeviceError: The precision is unknown.
    """
    if precision not in PRECISIONS:
        raise DeviceError(f"unknown precision {precision!r}; choose from {', '.join(PRECISIONS)}")
