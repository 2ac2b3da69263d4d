"""Neighbour sampling: uniform in a UMAP of the embeddings, mapped back by its inverse (2209.14733, S_Neigh).

N training embeddings, n samples, D latent dimensions.
"""

import warnings
from typing import Any

import torch
from torch import Tensor

from modelzoo_datasets.engines import one_thread
from modelzoo_datasets.errors import ModelZooError

# As published.
_NEIGHBOURS, _MIN_DISTANCE, _COMPONENTS = 15, 0.01, 3


@one_thread()
def neighbour(z: Tensor, n: int, bandwidth: float, generator: torch.Generator) -> Tensor:
    """Draw (n, D) uniformly from a cube around the 3-d map of z (N, D), mapped back.

    The cube spans the smallest to the largest coordinate of the whole map, the same in all three dimensions, as
    published.

    Raises:
        ModelZooError: the extra `umap` is not installed.
    """
    seed = int(torch.randint(2**31 - 1, (), generator=generator))
    # UMAP needs more points than neighbours; with a seed it runs on one thread anyway.
    reducer = _import_umap().UMAP(
        n_neighbors=min(_NEIGHBOURS, len(z) - 1),
        min_dist=_MIN_DISTANCE,
        n_components=_COMPONENTS,
        metric="euclidean",
        random_state=seed,
        n_jobs=1,
    )
    projected = torch.from_numpy(reducer.fit_transform(z.numpy()))
    low, high = projected.min(), projected.max()
    points = low + (high - low) * torch.rand(n, _COMPONENTS, generator=generator)
    return torch.from_numpy(reducer.inverse_transform(points.numpy())).to(z.dtype)


def _import_umap() -> Any:
    """Import the library, which takes seconds, only when it is needed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ImportWarning)  # about another optional library
            import umap
    except ImportError:
        raise ModelZooError(
            "sampler neighbour needs umap-learn, which is not installed: pip install 'modelzoo-datasets[umap]'"
        ) from None
    return umap
