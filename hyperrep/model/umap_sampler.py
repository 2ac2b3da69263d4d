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
def neighbour(z: Tensor, n: int, bandwidth: float, draws: torch.Generator) -> Tensor:
    """Points drawn uniformly from the cube that holds the 3-d map of the embeddings (N, D), mapped back: (n, D).

    The cube spans [smallest, largest] coordinate of the whole map, the same in all three dimensions, as published.

    Raises:
        ModelZooError: the extra `umap` is not installed.
    """
    seed = int(torch.randint(2**31 - 1, (), generator=draws))
    # UMAP needs more points than neighbours; n_jobs = 1 is what a seed means to it anyway.
    reducer = _umap().UMAP(
        n_neighbors=min(_NEIGHBOURS, len(z) - 1),
        min_dist=_MIN_DISTANCE,
        n_components=_COMPONENTS,
        metric="euclidean",
        random_state=seed,
        n_jobs=1,
    )
    map_ = torch.from_numpy(reducer.fit_transform(z.numpy()))
    low, high = map_.min(), map_.max()
    points = low + (high - low) * torch.rand(n, _COMPONENTS, generator=draws)
    return torch.from_numpy(reducer.inverse_transform(points.numpy())).to(z.dtype)


def _umap() -> Any:
    """The library, which takes seconds to import."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ImportWarning)  # that another, optional library is not there
            import umap
    except ImportError:
        raise ModelZooError(
            "sampler neighbour needs umap-learn, which is not installed: pip install 'modelzoo-datasets[umap]'"
        ) from None
    return umap
