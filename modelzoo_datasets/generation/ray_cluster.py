"""A connection to a Ray cluster, and checks of the options that name one. This module does not import torch."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .._util import one_line
from ..errors import DeviceError
from ..extras import translate_import_errors
from ..progress import Progress

_CONNECT_TIMEOUT = 10.0  # seconds
_MAX_CAUSE = 300  # characters of the text of an error


def check_ray_options(address: str, cpus: int, gpus: float, cohort_size: int) -> None:
    """Check at once what Ray would refuse only after minutes, or not at all.

    Args:
        address: HOST:PORT of the head of a cluster, "auto" or "local".
        cpus: Number of CPU cores of one task.
        gpus: Number of GPUs of one task, or its share of one GPU.
        cohort_size: Number of models of one task.

    Raises:
        MissingExtraError: Ray is not installed.
        DeviceError: A number is out of range, or no cluster answers at this address.
    """
    import_ray()
    for option, number in (("--ray-cpus", cpus), ("--ray-cohort", cohort_size)):
        if number < 1:
            raise DeviceError(f"{option} must be at least 1, got {number}")
    if gpus < 0 or (gpus > 1 and gpus != int(gpus)):
        raise DeviceError(f"--ray-gpus must be a share from 0 to 1, or a whole number, got {gpus}")
    head = os.environ.get("RAY_ADDRESS", address) if address == "auto" else address
    if head not in ("auto", "local"):
        _check_head(head)


def import_ray() -> Any:
    """Import Ray and return its module.

    Raises:
        MissingExtraError: Ray is not installed.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # Ray must not report its usage to anybody
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")  # no lines on stdout about lost workers; read on import
    with translate_import_errors("clusters", "ray"):
        import ray
    return ray


def _check_head(address: str) -> None:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdecimal() and int(port) < 2**16):
        raise DeviceError(f"--ray must be HOST:PORT, auto or local, got {address!r}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_TIMEOUT).close()
    except OSError as error:
        raise DeviceError(f"there is no Ray cluster at {address}: {error}") from error


@contextmanager
def connect_to_ray(address: str, progress: Progress) -> Iterator[Any]:
    """Connect to a cluster and give the module `ray`. A connection that the caller has made is used and kept.

    Args:
        address: HOST:PORT of the head of a cluster, "auto" or "local".
        progress: Display of the connection, which can take seconds.

    Raises:
        DeviceError: Ray cannot connect to the cluster.
    """
    ray = import_ray()
    if ray.is_initialized():
        yield ray
        return
    local: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
    with progress.start("connecting to Ray", 1) as task:
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **local)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise DeviceError(f"cannot use the Ray cluster {address}: {short_cause(error)}") from error
        task.update()
    try:
        yield ray
    finally:
        ray.shutdown()


def short_cause(error: object) -> str:
    """Return the text of an error on one line of at most 300 characters."""
    return one_line(error)[:_MAX_CAUSE]
